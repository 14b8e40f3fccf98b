//! One process per guest: `roam worker`, started by the host daemon, jailed, and independent of it from then on.
//!
//! ```text
//!  daemon                                       worker (pid 1 of its own pid namespace)
//!   spawn ── Launch, descriptors ──────────────> jail ─> map modules ─> threads ─> lock seccomp ─> serve
//!         <─ Launched ─────────────────────────
//!   connect(control.sock) ── Request ──────────> control thread ── mailbox ──> main thread, between polls
//!         <─ Reply ─────────────────────────────
//!   hold the datapath ── Ask ──────────────────────────────────────────> main thread, between polls
//!         <─ Told ──────────────────────────────
//! ```
//!
//! The launch connection is the worker's standard input. Until `Launched` the worker ends when it closes: a worker
//! whose daemon died half-way does not stay. From then on the daemon reaches it through a listening socket in the
//! guest's directory, which a restarted daemon finds again; the peer's credentials name the worker's process. The log,
//! and how it ended, are files: nothing is lost while no daemon runs.
//!
//! A guest is moved by a daemon that reads and writes its memories from outside, by process_vm_readv(2) and a
//! userfaultfd that the worker made before its jail was closed; the worker itself only freezes the guest, tells and takes
//! what it is beside its memories, and begins to poll ([`Hold`]).

mod answer;
mod compile;
mod control;
mod datapath;
mod end;
mod frame;
mod hold;
mod launch;
mod line;
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
pub use hold::{Hold, HoldError};
pub use launch::{Descriptor, ImageMap, Launch, LaunchError, Launched, Task};
pub use log::{LogReader, append_log, open_log};
pub use message::{Ask, Frozen, MESSAGE_BYTES_MAX, Renewal, Reply, Request, Told, WorkerLayout, WorkerMemory};
pub use orders::{Daemon, OrdersError};
pub use process::{Usage, WorkerProcess, become_subreaper};
pub use run::run;
pub use spawn::{Spawn, SpawnError, spawn};

/// A message from exactly its bytes: a door for the fuzz targets.
#[cfg(fuzzing)]
pub fn decode<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    frame::decode(body)
}
