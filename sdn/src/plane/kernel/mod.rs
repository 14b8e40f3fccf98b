//! Linux's own: a VXLAN device (RFC 7348) in a bridge.
//!
//! The hand and the eye each have netlink sockets of their own, bound to the network namespace of the thread that opens
//! them. Where an address lives is one message: VXLAN and bridge entry together. Only what changes rarely goes through
//! `nft`, which is a process and takes milliseconds; it runs in the caller's namespace, so all calls must come from the
//! same one.

mod devices;
mod eye;
mod generation;
mod hand;
mod message;
mod rules;
mod shared;
mod socket;

use std::io;

use nix::errno::Errno;

use super::{PlaneError, Planes};
use crate::model::Kind;
use eye::Eye;
use generation::Generations;
use hand::Hand;
use shared::Shared;
use socket::{Link, News};

/// Which devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The VXLAN device, for example `vx0`.
    pub tunnel: String,
    /// The bridge it is in, for example `br0`.
    pub bridge: String,
    /// What the node is for.
    ///
    /// A gateway's bridge knows of each address that it is beyond the tunnel, and answers who asks for it. A host's does
    /// not: what comes out of a host's tunnel is for one of its ports, whether the host has heard of a move yet or not,
    /// and an entry that says otherwise would have the bridge drop it. So an address may move before its new host knows.
    /// What a host sends to addresses elsewhere is unknown to its bridge, and goes to the tunnel, which knows; its guests'
    /// ports are spared it, for each has an entry of its own. Questions go to all, and so do announcements.
    pub kind: Kind,
}

/// Connects to the kernel. Nothing is changed, nor are the devices looked at, before [`Plane::prepare`].
///
/// [`Plane::prepare`]: super::Plane::prepare
pub fn open(config: Config) -> Result<Planes, PlaneError> {
    for device in [&config.tunnel, &config.bridge] {
        check_name(device)?;
    }
    let no_socket = |source| PlaneError::Refused { doing: "open a netlink socket".into(), source };
    let hands = Link::open().map_err(no_socket)?;
    let eyes = Link::open().map_err(no_socket)?;
    let news = News::open(&[RTNLGRP_LINK, RTNLGRP_NEIGH]).map_err(no_socket)?;
    let generations = Generations::open().map_err(no_socket)?;
    let shared = Shared::new(hands.port());
    let hand = Hand::new(config.clone(), hands, shared.clone());
    Ok((Box::new(hand), Box::new(Eye::new(config, eyes, news, shared, generations))))
}

/// Notifications of devices.
const RTNLGRP_LINK: u32 = 1;
/// Notifications of neighbours and forwarding entries.
const RTNLGRP_NEIGH: u32 = 3;

/// Names are put into nft's commands.
fn check_name(device: &str) -> Result<(), PlaneError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
    if (1..=15).contains(&device.len()) && device.bytes().all(plain) {
        return Ok(());
    }
    let device: String = device.chars().take(80).collect();
    let how = "is no name of a device: 1 to 15 of letters, digits, -, _, . and @";
    Err(PlaneError::Device { device, how: how.into() })
}

/// What the kernel said, in our words.
fn refused(source: io::Error, doing: impl FnOnce() -> String) -> PlaneError {
    let doing = doing();
    match source.raw_os_error() {
        Some(code) if code == Errno::EPERM as i32 => PlaneError::Permission { doing },
        _ => PlaneError::Refused { doing, source },
    }
}
