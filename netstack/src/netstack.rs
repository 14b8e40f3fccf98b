//! The whole stack.

use core::net::SocketAddr;

use alloc::{vec, vec::Vec};
use roam_abi::{Errno, Event, SocketOption};

use crate::{Config, ConfigError, Ring, Stats};

/// A socket's handle. Never negative as an `i32`; one that is closed is never mistaken for a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u32);

/// What [`Netstack::poll`] leaves to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Polled {
    /// [`Netstack::ready`] has events.
    pub ready: bool,
    /// Frames remain to be received or sent: take frames out of the tx ring, then poll again.
    pub again: bool,
}

/// A network interface and its sockets.
#[derive(Debug)]
pub struct Netstack {
    rx: Vec<u8>,
    tx: Vec<u8>,
    stats: Stats,
}

#[allow(missing_docs, unused_variables)]
impl Netstack {
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        config.check()?;
        let (mut rx, mut tx) = (vec![0; config.rx_ring_bytes as usize], vec![0; config.tx_ring_bytes as usize]);
        Ring::format(&mut rx).expect("the size was checked");
        Ring::format(&mut tx).expect("the size was checked");
        Ok(Self { rx, tx, stats: Stats::default() })
    }
    pub fn poll(&mut self, now_ns: i64) -> Polled {
        Polled::default()
    }
    pub fn deadline(&mut self) -> Option<i64> {
        None
    }
    pub fn rx(&mut self) -> Ring<'_> {
        Ring::attach(&mut self.rx).expect("formatted")
    }
    pub fn tx(&mut self) -> Ring<'_> {
        Ring::attach(&mut self.tx).expect("formatted")
    }
    pub fn ready(&mut self, out: &mut [Event]) -> usize {
        0
    }
    pub fn udp_open(&mut self, local: SocketAddr, rx_bytes: usize, tx_bytes: usize) -> Result<SocketId, Errno> {
        Err(Errno::NOSYS)
    }
    pub fn icmp_open(&mut self, ident: u16, rx_bytes: usize, tx_bytes: usize) -> Result<SocketId, Errno> {
        Err(Errno::NOSYS)
    }
    pub fn send_to(&mut self, id: SocketId, to: SocketAddr, len: usize) -> Result<&mut [u8], Errno> {
        Err(Errno::NOSYS)
    }
    pub fn recv_from(&mut self, id: SocketId) -> Result<(&[u8], SocketAddr), Errno> {
        Err(Errno::NOSYS)
    }
    pub fn tcp_listen(
        &mut self,
        local: SocketAddr,
        backlog: usize,
        rx_bytes: usize,
        tx_bytes: usize,
    ) -> Result<SocketId, Errno> {
        Err(Errno::NOSYS)
    }
    pub fn accept(&mut self, id: SocketId) -> Result<(SocketId, SocketAddr), Errno> {
        Err(Errno::NOSYS)
    }
    pub fn tcp_connect(&mut self, to: SocketAddr, rx_bytes: usize, tx_bytes: usize) -> Result<SocketId, Errno> {
        Err(Errno::NOSYS)
    }
    pub fn send(&mut self, id: SocketId, len_max: usize) -> Result<&mut [u8], Errno> {
        Err(Errno::NOSYS)
    }
    pub fn recv(&mut self, id: SocketId, cap: usize) -> Result<&[u8], Errno> {
        Err(Errno::NOSYS)
    }
    pub fn shutdown(&mut self, id: SocketId) -> Result<(), Errno> {
        Err(Errno::NOSYS)
    }
    pub fn close(&mut self, id: SocketId) -> Result<(), Errno> {
        Err(Errno::NOSYS)
    }
    pub fn abort(&mut self, id: SocketId) -> Result<(), Errno> {
        Err(Errno::NOSYS)
    }
    pub fn set_option(&mut self, id: SocketId, option: SocketOption, value: i64) -> Result<(), Errno> {
        Err(Errno::NOSYS)
    }
    pub fn local_addr(&self, id: SocketId) -> Result<SocketAddr, Errno> {
        Err(Errno::NOSYS)
    }
    pub fn peer_addr(&self, id: SocketId) -> Result<SocketAddr, Errno> {
        Err(Errno::NOSYS)
    }
    #[cfg(target_arch = "wasm32")]
    pub(crate) fn ring_memory(&self) -> (&[u8], &[u8]) {
        (&self.rx, &self.tx)
    }
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}
