//! Finding the worker that serves a guest since before this daemon.
//!
//! A worker is found by its control socket. One that has become hostile may hang, or close that: it is still in the
//! guest's control group, or runs as the guest's user, which it cannot change. So none is lost sight of.

use std::fs;
use std::time::Duration;

use super::Worker;
use super::worker::{ANSWER_LIMIT, Line};
use crate::host::record::GuestId;
use crate::host::shared::Shared;
use crate::jail::{self, Cgroup};
use crate::worker::{Control, ControlError, WorkerProcess};

/// How long a killed worker may take to be gone.
const KILLED_LIMIT: Duration = Duration::from_secs(5);

/// What is found of a guest.
pub(crate) enum Found {
    /// Its worker. Whether it answers is another matter.
    Worker {
        worker: Worker,
        answers: bool,
    },
    /// Processes that cannot be taken over: one that says to be another guest's, or does not listen.
    Strangers(Vec<WorkerProcess>),
    Nobody,
}

/// What is behind a control socket.
enum Behind {
    Worker(Control, WorkerProcess),
    /// Somebody who takes no connections.
    Deaf,
    Nobody,
}

/// Looks for a guest's worker. Takes some [`ANSWER_LIMIT`]s if that hangs.
pub(crate) async fn find(shared: &Shared, id: GuestId) -> Found {
    match look(shared, id).await {
        Behind::Worker(control, process) => greet(shared, id, control, process).await,
        Behind::Deaf => match residents(shared, id) {
            processes if processes.len() > 1 => Found::Strangers(processes),
            processes => processes.into_iter().next().map_or(Found::Nobody, |process| deaf(shared, id, process)),
        },
        Behind::Nobody => match residents(shared, id) {
            processes if processes.is_empty() => Found::Nobody,
            processes => Found::Strangers(processes),
        },
    }
}

async fn greet(shared: &Shared, id: GuestId, mut control: Control, process: WorkerProcess) -> Found {
    match control.hello(ANSWER_LIMIT).await {
        Ok((_, found)) if found == id.to_string() => {
            Found::Worker { worker: worker(shared, id, process, Some(control)), answers: true }
        }
        Ok(_) => Found::Strangers(vec![process]),
        Err(_) => deaf(shared, id, process),
    }
}

fn deaf(shared: &Shared, id: GuestId, process: WorkerProcess) -> Found {
    tracing::warn!(guest = %id, pid = process.pid(), "a worker is taken over that does not answer");
    Found::Worker { worker: worker(shared, id, process, None), answers: false }
}

fn worker(shared: &Shared, id: GuestId, process: WorkerProcess, control: Option<Control>) -> Worker {
    let started = fs::read_to_string(shared.layout.started(id)).ok().and_then(|text| text.parse().ok());
    let started_ms = started.unwrap_or_else(crate::ambient::now_ms);
    let worker = Worker { process, line: Line::new(shared.layout.control(id), control), started_ms };
    // The last daemon may have been ended while it did.
    worker.hurry(shared, id, false);
    worker
}

/// Connects, and holds the process by a descriptor. The second look proves that it is still the one that was held.
async fn look(shared: &Shared, id: GuestId) -> Behind {
    let path = shared.layout.control(id);
    let connect = || async {
        Control::connect(&path, ANSWER_LIMIT).await.map_err(|error| match error {
            ControlError::NotThere { .. } => Behind::Nobody,
            error => {
                tracing::warn!(guest = %id, %error, "the control socket cannot be used");
                Behind::Deaf
            }
        })
    };
    let first = match connect().await {
        Ok(first) => first,
        Err(behind) => return behind,
    };
    let Ok(process) = WorkerProcess::open(first.pid()) else { return Behind::Nobody };
    match connect().await {
        Ok(second) if second.pid() == process.pid() && !process.has_ended() => Behind::Worker(second, process),
        Ok(_) => Behind::Nobody,
        Err(behind) => behind,
    }
}

/// The processes that are a guest's whatever they say: by its control group, or where there are no groups its user.
fn residents(shared: &Shared, id: GuestId) -> Vec<WorkerProcess> {
    let name = id.to_string();
    held(|| match jail::has_groups() {
        true => Cgroup::existing(&shared.group, &name).processes(),
        false if shared.own_uids => jail::processes_of(id.uid()),
        false => Vec::new(),
    })
}

/// Ends all processes in groups of this host but those of the guests to `keep`: nobody knows them. Before the first
/// worker is started.
pub(crate) async fn end_strays(group: &str, keep: &[&str]) {
    for process in held(|| jail::strays(group, keep)) {
        end_stranger(&process).await;
    }
}

/// Holds what is listed by descriptors. The second look proves that the ids have not come to mean others.
fn held(list: impl Fn() -> Vec<u32>) -> Vec<WorkerProcess> {
    let mut processes: Vec<_> = list().into_iter().filter_map(|pid| WorkerProcess::open(pid).ok()).collect();
    if !processes.is_empty() {
        let still = list();
        processes.retain(|process| still.contains(&process.pid()) && !process.has_ended());
    }
    processes
}

/// Kills a worker that is nobody's, and waits until it is gone.
pub(crate) async fn end_stranger(process: &WorkerProcess) {
    tracing::warn!(pid = process.pid(), "a worker that cannot be kept is ended");
    if process.kill().is_ok() {
        let _ = tokio::time::timeout(KILLED_LIMIT, process.ended()).await;
    }
}
