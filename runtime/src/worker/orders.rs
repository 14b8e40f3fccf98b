//! The worker's end of the launch connection.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{MsgFlags, recv};
use nix::unistd::dup2_stdin;

use super::frame::{self, FrameError, PREFIX_BYTES};
use super::{Launch, Launched, MESSAGE_BYTES_MAX};
use crate::sys;

/// The connection to the daemon that started this process.
#[derive(Debug)]
pub struct Daemon {
    stream: UnixStream,
}

/// Why there are no orders.
#[derive(Debug, thiserror::Error)]
pub enum OrdersError {
    /// Not started by a daemon.
    #[error(
        "`roam worker` is started by `roam host`, with a connection as its standard input; to run a guest by hand: `roam run`"
    )]
    ByHand,
    /// The connection cannot be used.
    #[error("the connection to the daemon failed")]
    Io(#[from] io::Error),
    /// What came is no [`Launch`].
    #[error("the daemon's orders cannot be understood")]
    Frame(#[from] FrameError),
}

impl Daemon {
    /// Takes standard input over, and closes every descriptor but the standard ones. Call it first in `main`.
    pub fn from_stdin() -> Result<Self, OrdersError> {
        sys::process::close_inherited(3).map_err(io::Error::from)?;
        let socket = io::stdin().as_fd().try_clone_to_owned()?;
        let stream = UnixStream::from(socket);
        stream.peer_addr().map_err(|_no_socket| OrdersError::ByHand)?;
        // Standard input is what output is: nothing.
        dup2_stdin(io::stdout()).map_err(io::Error::from)?;
        Ok(Self { stream })
    }

    /// Waits for the orders and the descriptors that go with them.
    pub fn orders(&self) -> Result<(Launch, Vec<OwnedFd>), OrdersError> {
        let mut prefix = [0; PREFIX_BYTES];
        let (received, files) = sys::socket::receive(self.stream.as_fd(), &mut prefix)?;
        (&self.stream).read_exact(&mut prefix[received..])?;
        let mut body = vec![0; frame::length(prefix, MESSAGE_BYTES_MAX)?];
        (&self.stream).read_exact(&mut body)?;
        Ok((frame::decode(&body)?, files))
    }

    /// Says how far it is.
    pub fn tell(&self, launched: &Launched) -> io::Result<()> {
        let message = frame::encode(launched).map_err(io::Error::other)?;
        (&self.stream).write_all(&message)
    }

    /// The connection.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// A second hand on the connection, to see when the daemon goes.
    pub(super) fn watcher(&self) -> io::Result<Watcher> {
        Ok(Watcher(self.stream.as_fd().try_clone_to_owned()?))
    }
}

/// Sees whether the daemon goes.
#[derive(Debug)]
pub(super) struct Watcher(OwnedFd);

impl Watcher {
    /// Returns when it has.
    pub(super) fn wait_until_gone(&self) {
        while !self.is_gone() {
            let _ = ppoll(&mut [PollFd::new(self.as_fd(), PollFlags::POLLIN)], None, None);
        }
    }

    /// Whether the daemon has gone, or has given this worker up: it has nothing to say any more.
    pub(super) fn is_gone(&self) -> bool {
        let read = recv(self.0.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT);
        !matches!(read, Err(Errno::EAGAIN | Errno::EINTR))
    }
}

impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
