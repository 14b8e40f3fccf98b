//! The roam runtime: runs servers as WebAssembly guests that own their whole TCP/IP stack.
//!
//! ```text
//!  roam run ── cli/ ──> engine/  bytes to a module whose state is visible   ┐
//!                       guest/   module + netstack in one store: step()     │ pure: time, randomness
//!                       net/     TAP ⇄ rings, offload, watchdog             │ and frames are arguments
//!                       sys/     the only unsafe                            ┘ (engine and guest)
//!  roam load ─ cli/ ──> load/    open-loop client
//!  roam demo ─ cli/ ──> demo/    what a newcomer sees, on lab/: namespaces that clean up after themselves
//! ```
//!
//! Read [`guest`] first: it is what everything else serves. Invariants:
//!
//! - Between polls all state of a guest is its memories, its globals, its clock, its random generator and the frames
//!   in its rings ([`guest`]); what could not be saved is refused when a module is loaded ([`engine`]).
//! - The same inputs give the same outputs ([`guest::Inputs`], [`guest::Outputs`]).
//! - Whatever a guest, a frame or a file does ends in a typed error or a counter, never in a panic of the host.

pub mod api;
pub mod cert;
pub mod cli;
pub mod demo;
pub mod engine;
pub mod guest;
pub mod host;
pub mod jail;
pub mod lab;
pub mod load;
pub mod modules;
pub mod net;
mod sys;
pub mod worker;
