//! Why a socket operation failed.

use std::io::ErrorKind;

use roam_abi::Errno;

/// The result of a socket operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a socket operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Error {
    /// The host said no.
    #[error(transparent)]
    Host(#[from] Errno),
    /// The peer finished before [`read_exact`](crate::net::TcpStream::read_exact) had what it was asked for.
    #[error("the peer finished early")]
    UnexpectedEof,
}

impl Error {
    /// The nearest kind of the standard library.
    pub fn kind(self) -> ErrorKind {
        let errno = match self {
            Self::UnexpectedEof => return ErrorKind::UnexpectedEof,
            Self::Host(errno) => errno,
        };
        match errno {
            Errno::ACCES => ErrorKind::PermissionDenied,
            Errno::ADDRINUSE => ErrorKind::AddrInUse,
            Errno::ADDRNOTAVAIL => ErrorKind::AddrNotAvailable,
            Errno::AGAIN => ErrorKind::WouldBlock,
            Errno::CONNABORTED => ErrorKind::ConnectionAborted,
            Errno::CONNREFUSED => ErrorKind::ConnectionRefused,
            Errno::CONNRESET => ErrorKind::ConnectionReset,
            Errno::INVAL | Errno::FAULT | Errno::MSGSIZE => ErrorKind::InvalidInput,
            Errno::NOENT => ErrorKind::NotFound,
            Errno::NOMEM => ErrorKind::OutOfMemory,
            Errno::NOSYS | Errno::NOTSUP | Errno::AFNOSUPPORT => ErrorKind::Unsupported,
            Errno::NOTCONN => ErrorKind::NotConnected,
            Errno::PIPE => ErrorKind::BrokenPipe,
            Errno::TIMEDOUT => ErrorKind::TimedOut,
            _ => ErrorKind::Other,
        }
    }

    /// Whether the connection ended from the other side: nothing a server has to report.
    pub fn is_disconnect(self) -> bool {
        use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, TimedOut, UnexpectedEof};
        matches!(
            self.kind(),
            BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | TimedOut | UnexpectedEof
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_those_of_std() {
        assert_eq!(Error::from(Errno::CONNRESET).kind(), ErrorKind::ConnectionReset);
        assert_eq!(Error::UnexpectedEof.kind(), ErrorKind::UnexpectedEof);
        assert_eq!(Error::from(Errno::from_raw(999)).kind(), ErrorKind::Other);
        assert!(Error::from(Errno::PIPE).is_disconnect());
        assert!(!Error::from(Errno::MFILE).is_disconnect());
    }
}
