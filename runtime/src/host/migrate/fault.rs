//! Why a command could not be carried out, and waiting for several things at once.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollTimeout, poll};
use roam_snapshot::dirty::TrackError;
use roam_snapshot::protocol::{Reason, ReasonCode};

use super::channel::ChannelError;
use super::memory::MemoryError;
use super::reason;
use crate::worker::HoldError;

/// What ends a command that could not be carried out.
pub(super) enum Fault {
    /// The connection is of no further use.
    Link(ChannelError),
    /// Something here.
    Here(Reason),
    /// Something else has happened: there are events.
    Interrupted,
}

impl From<ChannelError> for Fault {
    fn from(error: ChannelError) -> Self {
        Self::Link(error)
    }
}

impl From<Reason> for Fault {
    fn from(reason: Reason) -> Self {
        Self::Here(reason)
    }
}

impl From<HoldError> for Fault {
    fn from(error: HoldError) -> Self {
        Self::Here(reason(ReasonCode::Worker, &error))
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Here(reason(ReasonCode::Internal, &error))
    }
}

impl From<TrackError> for Fault {
    fn from(error: TrackError) -> Self {
        Self::Here(reason(ReasonCode::Internal, &error))
    }
}

impl From<MemoryError> for Fault {
    fn from(error: MemoryError) -> Self {
        Self::Here(reason(ReasonCode::Internal, &error))
    }
}

/// Waits for one of these at most so long, for ever if `None`; which are ready.
pub(in crate::host) fn wait_for<const COUNT: usize>(
    mut fds: [PollFd<'_>; COUNT],
    timeout: Option<Duration>,
) -> [bool; COUNT] {
    // Rounded up: else the last millisecond would be spent looking.
    let timeout = timeout.map_or(PollTimeout::NONE, |timeout| {
        PollTimeout::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => tracing::error!(%error, "a migration cannot wait"),
    }
    fds.map(|fd| fd.any().unwrap_or(false))
}
