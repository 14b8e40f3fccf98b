//! The roam runtime: runs servers as WebAssembly guests that own their whole TCP/IP stack.
//!
//! ```text
//!  roam deploy, ps, … ─ api/client ──HTTP──> serve/ ─ host/       roam host: the daemon
//!                       cert/  who may ask over TCP            │     records, modules, addresses, supervisors
//!                                                              │ worker/  launch, control socket, log, end
//!                                                              ▼
//!  roam route, front ─ api/client ──HTTP──> controller/   roam sdn: `roam_sdn`'s Controller, served
//!                      serve/  HTTP, TLS and limits of both daemons
//!
//!  roam worker, one process per guest ─ jail/: namespaces, empty root, no rights, seccomp, control group
//!      engine/  bytes to a module whose state is visible   ┐
//!      guest/   module + netstack in one store: step()     │ pure: time, randomness and frames are arguments
//!      net/     TAP ⇄ rings, offload, watchdog             ┘ (engine and guest)
//!
//!  roam run    a guest in the foreground, without daemon and jail
//!  roam lab    lab/standing: namespaces with a daemon in each; lab/ itself is for demo, tests and benchmarks
//!  roam demo   demo/: what a newcomer sees          roam load   load/: open-loop client
//! ```
//!
//! The command line is `cli/`, one file a command; the only unsafe is in `sys/`. Read [`guest`] first: it is what
//! everything else serves; then [`worker`], [`jail`] and [`host`]. Invariants:
//!
//! - Between polls all state of a guest is its memories, its globals, its clock, its random generator and the frames
//!   in its rings ([`guest`]); what could not be saved is refused when a module is loaded ([`engine`]).
//! - The same inputs give the same outputs ([`guest::Inputs`], [`guest::Outputs`]).
//! - A guest has one worker at most, whatever daemon or machine did meanwhile; workers outlive daemons ([`host`]).
//! - What the host's API reports as done is on disk, twice; no crash loses it (`host::registry`).
//! - A worker can do nothing but compute and use the descriptors it was given ([`jail`]); nothing it says or writes is
//!   trusted ([`worker`]). An unauthenticated peer reaches no handler ([`serve`]).
//! - Whatever a guest, a worker, a peer, a frame or a file does ends in a typed error or a counter, never in a panic of the host.

mod ambient;
pub mod api;
pub mod cert;
pub mod cli;
pub mod controller;
pub mod demo;
pub mod engine;
pub mod guest;
pub mod host;
pub mod jail;
pub mod lab;
pub mod load;
pub mod modules;
pub mod net;
mod sentence;
pub mod serve;
mod sys;
pub mod worker;
