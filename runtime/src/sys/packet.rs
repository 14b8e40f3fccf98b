//! Handing a frame to a network device (packet(7)).
#![allow(unsafe_code)]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, send};

/// A socket whose frames go out of one device. It receives nothing.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    file: OwnedFd,
}

impl PacketSocket {
    /// For the device of that index, in the network namespace of the calling thread. Takes CAP_NET_RAW there.
    pub(crate) fn open(device: u32) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: the call takes numbers only. Protocol 0 receives nothing.
        let file = Errno::result(unsafe { libc::socket(libc::AF_PACKET, kind, 0) })?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
        let file = unsafe { OwnedFd::from_raw_fd(file) };
        let on: libc::c_int = 1;
        let (level, option) = (libc::SOL_PACKET, libc::PACKET_VNET_HDR);
        let bytes = mem::size_of_val(&on) as libc::socklen_t;
        // SAFETY: the pointer is to a live `int`, whose size is given.
        Errno::result(unsafe { libc::setsockopt(file.as_raw_fd(), level, option, (&raw const on).cast(), bytes) })?;
        // SAFETY: a `sockaddr_ll` is plain numbers, for all of which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as libc::sa_family_t;
        address.sll_ifindex = libc::c_int::try_from(device).map_err(|_too_large| Errno::ENODEV)?;
        let bytes = mem::size_of_val(&address) as libc::socklen_t;
        // SAFETY: the pointer is to a live `sockaddr_ll`, whose size is given.
        Errno::result(unsafe { libc::bind(file.as_raw_fd(), (&raw const address).cast(), bytes) })?;
        Ok(Self { file })
    }

    /// Sends a frame behind its virtio-net header of ten bytes. `false`: the device did not take it.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<bool> {
        match send(self.file.as_raw_fd(), frame, MsgFlags::MSG_DONTWAIT) {
            Ok(_) => Ok(true),
            Err(Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS | Errno::ENOMEM | Errno::EINVAL | Errno::ENETDOWN) => {
                Ok(false)
            }
            Err(errno) => Err(errno.into()),
        }
    }
}
