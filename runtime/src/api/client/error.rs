//! Why a request did not succeed, and what to do about it.

use std::error::Error;
use std::io;
use std::time::Duration;

use super::Endpoint;
use crate::api::{ErrorBody, ErrorCode};
use crate::cert::explain;

/// Why a request did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error("cannot reach {endpoint}; {hint}")]
    Unreachable {
        /// Whom.
        endpoint: String,
        /// What to do.
        hint: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Certificates: ours, or the host's.
    #[error("{endpoint}: {explanation}")]
    Tls {
        /// Whom.
        endpoint: String,
        /// What is wrong, and what to do.
        explanation: String,
        /// What TLS said.
        source: rustls::Error,
    },
    /// The host said no.
    #[error("{}", body.message)]
    Refused {
        /// HTTP status.
        status: u16,
        /// Code and reason.
        body: ErrorBody,
    },
    /// No answer in time.
    #[error("{endpoint} did not answer within {} s", limit.as_secs())]
    TimedOut {
        /// Whom.
        endpoint: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The connection ended before the answer did: what was asked for may have been done.
    #[error("{endpoint} ended the connection before it had answered{hint}")]
    Lost {
        /// Whom.
        endpoint: String,
        /// What to look at, when there is a guess.
        hint: &'static str,
        /// What HTTP said.
        source: hyper::Error,
    },
    /// The answer is not what roam says.
    #[error("{endpoint} does not speak as roam does")]
    Protocol {
        /// Whom.
        endpoint: String,
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The file that was to be sent or written: a module's or an image's.
    #[error("the file cannot be read or written")]
    File(#[source] io::Error),
}

impl ClientError {
    /// The host's own code, when it refused.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { body, .. } => Some(body.code),
            _ => None,
        }
    }

    /// Whether nothing was heard from the host: it is not there, not trusted, or silent.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Tls { .. } | Self::TimedOut { .. })
    }
}

impl Endpoint {
    pub(super) fn unreachable(&self, source: io::Error) -> ClientError {
        if let Some(error) = tls(&source) {
            return self.untrusted(error);
        }
        let hint = match (self, source.kind()) {
            (Self::Unix(_), io::ErrorKind::PermissionDenied) => {
                "you may not use its socket: become root, or join the group that `roam host --socket-group` names"
            }
            (Self::Unix(_), _) => "does the daemon run? `roam host` starts a host's, `roam sdn` the controller",
            (Self::Tls { .. }, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                "it does not speak TLS as a roam host does, or does not take this certificate"
            }
            (Self::Tls { .. }, _) => "does the daemon run there with --listen, and does nothing block the port?",
        };
        ClientError::Unreachable { endpoint: self.to_string(), hint, source }
    }

    pub(super) fn timed_out(&self, limit: Duration) -> ClientError {
        ClientError::TimedOut { endpoint: self.to_string(), limit }
    }

    /// A connection that ended. A host that does not take our certificate says so only now (TLS 1.3).
    pub(super) fn lost(&self, source: hyper::Error) -> ClientError {
        match tls(&source) {
            Some(error) => self.untrusted(error),
            None => ClientError::Lost { endpoint: self.to_string(), hint: "", source },
        }
    }

    /// The same on the first request of a connection, where the certificate is the likely reason.
    pub(super) fn lost_at_once(&self, source: hyper::Error) -> ClientError {
        match (self.lost(source), self) {
            (ClientError::Lost { endpoint, source, .. }, Self::Tls { .. }) => {
                let hint = "; if that happens each time, it does not take this certificate: look with `roam cert show`";
                ClientError::Lost { endpoint, hint, source }
            }
            (error, _) => error,
        }
    }

    /// A body that ended too early, or was longer than any answer is.
    pub(super) fn lost_body(&self, error: Box<dyn Error + Send + Sync>) -> ClientError {
        match error.downcast::<hyper::Error>() {
            Ok(source) => self.lost(*source),
            Err(source) => self.protocol(source),
        }
    }

    pub(super) fn protocol(&self, source: impl Into<Box<dyn Error + Send + Sync>>) -> ClientError {
        ClientError::Protocol { endpoint: self.to_string(), source: source.into() }
    }

    fn untrusted(&self, source: rustls::Error) -> ClientError {
        ClientError::Tls { endpoint: self.to_string(), explanation: explain(&source), source }
    }
}

/// What TLS said, however deep it is wrapped.
fn tls(error: &(dyn Error + 'static)) -> Option<rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<rustls::Error>() {
            return Some(error.clone());
        }
        // The source of an `io::Error` is the source of what it wraps, not that itself.
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}
