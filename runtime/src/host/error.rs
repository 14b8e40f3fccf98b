//! Why a host refuses or fails.

use crate::api::{ErrorCode, GuestName, SpecError};

/// Why a request to a host did not succeed. The text is for the peer; sources stay in the daemon's log.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// There is no such guest.
    #[error("there is no guest `{0}`")]
    NoGuest(GuestName),
    /// The specification is not possible anywhere.
    #[error(transparent)]
    Spec(#[from] SpecError),
}

impl HostError {
    /// Its stable name.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NoGuest(_) => ErrorCode::NotFound,
            Self::Spec(_) => ErrorCode::Invalid,
        }
    }
}

/// Why a host could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon has this state directory.
    #[error("another daemon runs on {0}; stop it, or choose another --state-dir")]
    Taken(std::path::PathBuf),
}
