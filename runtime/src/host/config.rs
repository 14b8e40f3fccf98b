//! What a host daemon is told.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use roam_netstack::Cidr;

use super::OverlayConfig;
use crate::cert::TlsFiles;

/// Configuration of a host, checked.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// The host's name: a DNS label.
    pub name: String,
    /// What must outlive a reboot: database, modules, logs. Mode 0700.
    pub state_dir: PathBuf,
    /// What need not: control sockets. Mode 0700.
    pub run_dir: PathBuf,
    /// The bridge that guests' TAPs are plugged into. It must exist.
    pub bridge: String,
    /// Where IPv4 addresses are allocated from.
    pub pool4: Option<Pool<Ipv4Addr>>,
    /// Where IPv6 addresses are allocated from.
    pub pool6: Option<Pool<Ipv6Addr>>,
    /// IP MTU of guests that are not given another, bytes; where it is left out, what the tunnel carries, 1500 at most.
    pub mtu: Option<u16>,
    /// Size a guest's log may take, bytes; the oldest half goes when it is full.
    pub log_bytes_max: u64,
    /// Whether guests end with the daemon, instead of serving on until the next one adopts them.
    pub ephemeral: bool,
    /// Its part in an overlay, if a controller is to be followed.
    pub overlay: Option<OverlayConfig>,
    /// What it proves itself by to other hosts. Without, it takes part in no migrations.
    pub tls: Option<TlsFiles>,
    /// Where it takes guests from other hosts, if it does.
    pub migrate: Option<SocketAddr>,
    /// The program that is run as `roam worker`: this one, by `/proc/self/exe`, unless a test says otherwise.
    pub worker_program: PathBuf,
}

/// Addresses to allocate from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool<A> {
    /// The range.
    pub range: Cidr<A>,
    /// Prefix the guests get: that of the network the range is part of.
    pub prefix: u8,
    /// Default gateway of guests, if any.
    pub gateway: Option<A>,
}
