//! Finding the worker that serves a guest since before this daemon.

use std::fs;
use std::time::Duration;

use super::Worker;
use super::worker::{ANSWER_LIMIT, Line};
use crate::host::layout::Layout;
use crate::host::record::GuestId;
use crate::worker::{Control, ControlError, WorkerProcess};

/// How long a killed worker may take to be gone.
const KILLED_LIMIT: Duration = Duration::from_secs(5);

/// What is found behind a guest's control socket.
pub(crate) enum Found {
    /// Its worker. Whether it answers is another matter.
    Worker {
        worker: Worker,
        answers: bool,
    },
    /// Somebody who says to be another guest's.
    Stranger(WorkerProcess),
    Nobody,
}

/// Looks for a guest's worker. Takes [`ANSWER_LIMIT`] if that hangs.
pub(crate) async fn find(layout: &Layout, id: GuestId) -> Found {
    let path = layout.control(id);
    let Some((mut control, process)) = hold(layout, id).await else { return Found::Nobody };
    let (control, answers) = match control.hello(ANSWER_LIMIT).await {
        Ok((_, found)) if found == id.to_string() => (Some(control), true),
        Ok(_) => return Found::Stranger(process),
        Err(error) => {
            tracing::warn!(guest = %id, pid = process.pid(), %error, "a worker is taken over that does not answer");
            (None, false)
        }
    };
    let started = fs::read_to_string(layout.started(id)).ok().and_then(|text| text.parse().ok());
    let started_ms = started.unwrap_or_else(crate::host::shared::now_ms);
    Found::Worker { worker: Worker { process, line: Line::new(path, control), started_ms }, answers }
}

/// Connects, and holds the process by a descriptor. The second look proves that it is still the one that was held.
async fn hold(layout: &Layout, id: GuestId) -> Option<(Control, WorkerProcess)> {
    let path = layout.control(id);
    let connect = || async {
        match Control::connect(&path, ANSWER_LIMIT).await {
            Ok(control) => Some(control),
            Err(ControlError::NotThere { .. }) => None,
            Err(error) => {
                tracing::warn!(guest = %id, %error, "the control socket cannot be used");
                None
            }
        }
    };
    let first = connect().await?;
    let process = WorkerProcess::open(first.pid()).ok()?;
    // A worker serves one connection: the second replaces the first.
    let second = connect().await?;
    (second.pid() == process.pid() && !process.has_ended()).then_some((second, process))
}

/// Kills a worker that is nobody's, and waits until it is gone.
pub(crate) async fn end_stranger(process: &WorkerProcess) {
    tracing::warn!(pid = process.pid(), "a worker that no record knows is ended");
    if process.kill().is_ok() {
        let _ = tokio::time::timeout(KILLED_LIMIT, process.ended()).await;
    }
}
