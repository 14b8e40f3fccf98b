//! A worker that serves, as its supervisor holds it.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};
use tokio::time::timeout;

use crate::api::{GuestName, GuestStats};
use crate::host::record::GuestId;
use crate::host::shared::Shared;
use crate::jail::Cgroup;
use crate::sys::process::hurry_process;
use crate::worker::{Control, ControlError, WorkerProcess};

/// How long a worker may take to answer; longer, and it counts as hung.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// A serving worker.
pub(crate) struct Worker {
    pub(in crate::host) process: WorkerProcess,
    pub(super) line: Line,
    /// When it began to serve, milliseconds since 1970.
    pub(super) started_ms: u64,
}

impl Worker {
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Has it get a processor whenever it wants one, or as others do: its guest stands still until it has had one.
    pub(in crate::host) fn hurry(&self, shared: &Shared, id: GuestId, hurries: bool) {
        let group = Cgroup::existing(&shared.group, &id.to_string());
        // In this order: a group in which something hurries keeps its leave.
        if hurries {
            group.may_hurry(true);
        }
        hurry_process(self.pid(), hurries);
        if !hurries {
            group.may_hurry(false);
        }
    }

    /// Who it says it is.
    pub(crate) async fn hello(&self) -> Result<(GuestName, String), ControlError> {
        let mut held = self.line.hold().await?;
        let mut control = self.line.take(&mut held).await?;
        let answer = control.hello(ANSWER_LIMIT).await?;
        *held = Some(control);
        Ok(answer)
    }

    /// The guest's counters, with what the worker itself cannot know.
    pub(crate) async fn stats(&self) -> Result<GuestStats, ControlError> {
        let mut held = self.line.hold().await?;
        let mut control = self.line.take(&mut held).await?;
        let mut stats = control.stats(ANSWER_LIMIT).await?;
        *held = Some(control);
        // Ended meanwhile: what it said last still holds.
        let usage = self.process.usage().unwrap_or_default();
        (stats.cpu_us, stats.rss_bytes) = (usage.cpu_us, usage.rss_bytes);
        Ok(stats)
    }

    /// Ends it at once, because nobody wants it.
    pub(crate) async fn end(&self) {
        super::end_stranger(&self.process).await;
    }

    /// Asks it to end.
    pub(super) async fn stop(&self) -> Result<(), ControlError> {
        let mut held = self.line.hold().await?;
        self.line.take(&mut held).await?.stop(ANSWER_LIMIT).await
    }
}

/// The way to a worker's control socket: one connection, made at need, used by one at a time.
pub(super) struct Line {
    path: PathBuf,
    control: Mutex<Option<Control>>,
}

impl Line {
    pub(super) fn new(path: PathBuf, control: Option<Control>) -> Self {
        Self { path, control: Mutex::new(control) }
    }

    /// Waits its turn.
    async fn hold(&self) -> Result<MutexGuard<'_, Option<Control>>, ControlError> {
        timeout(ANSWER_LIMIT, self.control.lock()).await.map_err(|_elapsed| ControlError::TimedOut(ANSWER_LIMIT))
    }

    /// The connection. It is given back after an answer only: one cut short would answer the wrong question.
    async fn take(&self, held: &mut Option<Control>) -> Result<Control, ControlError> {
        match held.take() {
            Some(control) => Ok(control),
            None => Control::connect(&self.path, ANSWER_LIMIT).await,
        }
    }
}
