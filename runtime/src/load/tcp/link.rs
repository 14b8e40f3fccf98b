//! One TCP connection that comes and goes.
use std::io;
use std::net::{SocketAddr, TcpStream};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket, sockopt};
use std::os::fd::AsRawFd;

/// How long one attempt to connect may take: 3 s, two SYN retransmissions.
const ATTEMPT_NS: u64 = 3_000_000_000;

/// The pause before trying again: doubled after each failure, between these.
const PAUSE_NS_MIN: u64 = 10_000_000;
const PAUSE_NS_MAX: u64 = 500_000_000;

/// A connection, its making, or its absence.
#[derive(Debug)]
pub(crate) enum Link {
    /// Nothing before `retry_ns`.
    Down {
        /// When to try (again).
        retry_ns: u64,
        /// How long to wait if that fails.
        pause_ns: u64,
    },
    /// On the way.
    Connecting {
        /// The socket.
        stream: TcpStream,
        /// When the attempt is given up.
        deadline_ns: u64,
        /// How long to wait then.
        pause_ns: u64,
    },
    /// Connected.
    Up(TcpStream),
    /// Over, and not to be made again: the server has said all it had to.
    Finished,
}

impl Link {
    /// To be connected at once.
    pub(crate) fn new() -> Self {
        Self::Down { retry_ns: 0, pause_ns: PAUSE_NS_MIN }
    }

    /// After an established connection broke.
    pub(crate) fn broken(now_ns: u64) -> Self {
        Self::Down { retry_ns: now_ns + PAUSE_NS_MIN, pause_ns: PAUSE_NS_MIN * 2 }
    }

    /// Starts connecting. The socket is to be watched for writing then.
    pub(crate) fn connect(target: SocketAddr, now_ns: u64, pause_ns: u64) -> io::Result<Self> {
        let family = if target.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(family, SockType::Stream, flags, None)?;
        // Buffers are left to the kernel: TCP's own tuning goes beyond what a fixed size may.
        setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
        match connect(socket.as_raw_fd(), &SockaddrStorage::from(target)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(Self::Connecting { stream: TcpStream::from(socket), deadline_ns: now_ns + ATTEMPT_NS, pause_ns })
    }

    /// After an attempt that failed.
    pub(crate) fn failed(now_ns: u64, pause_ns: u64) -> Self {
        Self::Down { retry_ns: now_ns + pause_ns, pause_ns: (pause_ns * 2).min(PAUSE_NS_MAX) }
    }

    /// When something is to be done even if the socket stays quiet.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        match self {
            Self::Down { retry_ns, .. } => Some(*retry_ns),
            Self::Connecting { deadline_ns, .. } => Some(*deadline_ns),
            Self::Up(_) | Self::Finished => None,
        }
    }
}
