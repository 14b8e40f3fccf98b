//! One process per guest: `roam worker`, started by the host daemon, jailed, and independent of it from then on.
//!
//! ```text
//!  daemon                                       worker (pid 1 of its own pid namespace)
//!   spawn ── Launch, descriptors ──────────────> jail ─> map modules ─> threads ─> lock seccomp ─> serve
//!         <─ Launched ─────────────────────────
//!   connect(control.sock) ── Request ──────────> control thread ── mailbox ──> main thread, between polls
//!         <─ Reply ─────────────────────────────
//! ```
//!
//! The launch connection is the worker's standard input. Until `Launched` the worker ends when it closes: a worker
//! whose daemon died half-way does not stay. From then on the daemon reaches it through a listening socket in the
//! guest's directory, which a restarted daemon finds again; the peer's credentials name the worker's process. The log,
//! and how it ended, are files: nothing is lost while no daemon runs.

mod answer;
mod compile;
mod control;
mod end;
mod frame;
mod launch;
mod log;
mod mailbox;
mod message;
mod orders;
mod process;
mod run;
mod serve;
mod spawn;
mod stats;

pub use control::{Control, ControlError, bind};
pub use end::read_end;
pub use frame::FrameError;
pub use launch::{Descriptor, Launch, LaunchError, Launched, Task};
pub use log::{LogReader, open_log};
pub use message::{MESSAGE_BYTES_MAX, Reply, Request};
pub use orders::{Daemon, OrdersError};
pub use process::{Usage, WorkerProcess, become_subreaper};
pub use run::run;
pub use spawn::{Spawn, SpawnError, spawn};

/// A message from exactly its bytes: a door for the fuzz targets.
#[cfg(fuzzing)]
pub fn decode<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    frame::decode(body)
}
