//! A guest's log as a stream.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use futures_util::stream;
use tokio::sync::watch;

use super::supervisor::Seen;
use super::{HostError, LogLines};
use crate::api::LogEntry;
use crate::worker::LogReader;

/// How often a log that is followed is looked at.
const LOOK_STEP: Duration = Duration::from_millis(100);

struct Follower {
    reader: LogReader,
    lines: VecDeque<LogEntry>,
    /// Closed when the guest is deleted, or the host goes down. `None`: not followed.
    guest: Option<watch::Receiver<Seen>>,
}

/// The lines of a log from where the reader is, and those to come while there is a `guest` to follow.
pub(super) fn lines(reader: LogReader, guest: Option<watch::Receiver<Seen>>) -> LogLines {
    let follower = Follower { reader, lines: VecDeque::new(), guest };
    Box::pin(stream::unfold(Some(follower), |follower| async {
        match follower?.next().await {
            Ok(Some((entry, follower))) => Some((Ok(entry), Some(follower))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    }))
}

impl Follower {
    async fn next(mut self) -> Result<Option<(LogEntry, Self)>, HostError> {
        loop {
            if let Some(entry) = self.lines.pop_front() {
                return Ok(Some((entry, self)));
            }
            // Seen before the read: then what is read reaches to the end.
            let over = self.guest.as_ref().is_none_or(|guest| guest.has_changed().is_err());
            self = self.read().await?;
            if self.lines.is_empty() {
                if over {
                    return Ok(None);
                }
                tokio::time::sleep(LOOK_STEP).await;
            }
        }
    }

    /// Reads a piece, on a thread that may wait for the disk.
    async fn read(mut self) -> Result<Self, HostError> {
        let read = tokio::task::spawn_blocking(move || {
            self.lines = self.reader.read()?.into();
            Ok::<_, io::Error>(self)
        });
        match read.await {
            Ok(result) => result.map_err(HostError::io("reading a log")),
            // The runtime is being shut down.
            Err(_) => Err(HostError::Closing),
        }
    }
}
