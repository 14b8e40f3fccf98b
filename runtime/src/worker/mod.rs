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

mod control;
mod frame;
mod launch;
mod message;
mod process;
mod spawn;

pub use control::{Control, ControlError, bind};
pub use frame::FrameError;
pub use launch::{Descriptor, Launch, LaunchError, Launched, Task};
pub use message::{MESSAGE_BYTES_MAX, Reply, Request};
pub use process::{Usage, WorkerProcess, become_subreaper};
pub use spawn::{Spawn, SpawnError, spawn};
