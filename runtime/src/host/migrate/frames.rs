//! A guest's frames while its worker does not take them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::unistd::read;
use roam_snapshot::protocol::FRAME_BYTES_MAX;

use crate::sys::packet::PacketSocket;

/// The TAP of a guest whose worker is frozen, waits, or is gone. Frames carry their virtio-net header, so that what the
/// kernel left to be done (checksums, segmentation) is done where the guest is.
pub(in crate::host) struct Frames {
    tap: OwnedFd,
    door: PacketSocket,
    buffer: Vec<u8>,
}

impl Frames {
    /// Of the worker's open TAP, and the device's name here.
    pub(in crate::host) fn open(tap: OwnedFd, device: &str) -> io::Result<Self> {
        let door = PacketSocket::open(if_nametoindex(device)?)?;
        Ok(Self { tap, door, buffer: vec![0; FRAME_BYTES_MAX] })
    }

    /// The next frame that came for the guest. Only while its worker reads none.
    pub(in crate::host) fn take(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            match read(&self.tap, &mut self.buffer) {
                Ok(bytes) => return Ok(Some(&self.buffer[..bytes])),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Puts a frame behind those that wait for the guest. `false` if there was no room.
    pub(in crate::host) fn give(&self, frame: &[u8]) -> io::Result<bool> {
        self.door.send(frame)
    }

    /// Readable when a frame has come.
    pub(in crate::host) fn bell(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }
}
