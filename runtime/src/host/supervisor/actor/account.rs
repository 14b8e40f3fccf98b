//! What follows from the end of a run.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::time::Instant;

use super::{Actor, State};
use crate::ambient::now_ms;
use crate::api::End;
use crate::host::error::in_full;
use crate::host::record::Standing;
use crate::host::supervisor::ended::{Traces, Watched, explain};
use crate::host::supervisor::policy::{Next, QUICK, decide};
use crate::host::supervisor::{Worker, clear};
use crate::jail::Cgroup;
use crate::worker::read_end;

/// How much of a worker's last words is told.
const SAID_BYTES_MAX: u64 = 1024;

impl Actor {
    /// The worker ended by itself.
    pub(super) async fn ended(&mut self, worker: &Worker, status: Option<ExitStatus>) -> State {
        let end = self.end(Watched::Ended(status));
        clear(&self.shared, self.record.id).await;
        if matches!(self.record.standing, Standing::Stopped | Standing::Deleted) {
            // It was to end, but took its time.
            return State::Resting;
        }
        let ran = Duration::from_millis(end.at_ms.saturating_sub(worker.started_ms));
        self.account(end, ran).await
    }

    /// It ended while no daemon watched, or the machine went down under it.
    pub(super) async fn missed(&mut self, rebooted: bool) -> State {
        match self.settle(&mut None).await {
            Ok(None) => {}
            Ok(Some(state)) => return state,
            // Before it is started again that is tried once more.
            Err(error) => tracing::error!(guest = %self.record.spec.name, error = in_full(&error), "it stays in doubt"),
        }
        let end = self.end(Watched::Nothing { rebooted });
        let started = fs::read_to_string(self.shared.layout.started(self.record.id)).ok();
        let started_ms: Option<u64> = started.and_then(|text| text.parse().ok());
        let ran = started_ms.map_or(QUICK, |at| Duration::from_millis(end.at_ms.saturating_sub(at)));
        clear(&self.shared, self.record.id).await;
        self.account(end, ran).await
    }

    /// Decides what comes after an end, and puts it on record.
    pub(super) async fn account(&mut self, end: End, ran: Duration) -> State {
        let (next, quick_ends) = decide(self.record.spec.restart, &end, ran, self.record.quick_ends);
        tracing::warn!(guest = %self.record.spec.name, reason = end.reason, ?next, "ended");
        let standing = match next {
            Next::Stay => Standing::Ended,
            Next::Again(_) => Standing::Again,
            Next::Park => Standing::Parked,
        };
        let next_record = self.record.changed(|record| {
            (record.standing, record.quick_ends) = (standing, quick_ends);
            record.last_end = Some(end);
        });
        self.keep_if_possible(next_record).await;
        match next {
            Next::Again(pause) => State::Waiting(Instant::now() + pause),
            Next::Stay | Next::Park => State::Resting,
        }
    }

    /// How the last run ended.
    pub(super) fn end(&self, watched: Watched) -> End {
        let id = self.record.id;
        // What is on record already is of an earlier run: the last one did not come to write.
        let written = read_end(&self.shared.layout.end(id)).unwrap_or_default();
        let written = written.filter(|end| Some(end) != self.record.last_end.as_ref());
        let said = tail(&self.shared.layout.stderr(id)).unwrap_or_default();
        let memory_kills = Cgroup::existing(&self.shared.group, &id.to_string()).memory_kills();
        let asked = matches!(self.record.standing, Standing::Stopped | Standing::Deleted);
        explain(Traces { written, asked, watched, memory_kills, said }, now_ms())
    }
}

/// The end of a file, which may be long, as text.
fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    file.seek(SeekFrom::Start(bytes.saturating_sub(SAID_BYTES_MAX)))?;
    let mut said = Vec::new();
    file.take(SAID_BYTES_MAX).read_to_end(&mut said)?;
    let show = |c: char| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c };
    Ok(String::from_utf8_lossy(&said).trim().chars().map(show).collect())
}
