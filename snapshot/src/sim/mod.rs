//! A guest, two hosts and a controller in virtual time, from one seed: what the two sides of a migration do when anything
//! fails at any moment.
//!
//! ```text
//!  setup ─> world: events in virtual time
//!             hosts: daemon (may die), disk, worker (may die), Source, Target
//!             link between the hosts: delay, bandwidth, breaks, heals
//!             controller: decides in memory, writes later, may die
//! ```
//!
//! Checked at each step: no two workers poll, and no source polls once its target did; a page is committed only if the
//! target has it; the target's first poll finds the source's memories and state; no frame is delivered twice. When all
//! that failed is healed: within bounded time it is settled, exactly one side polls unless the worker that had the guest
//! was killed, no frame is lost unless somebody who had it died or gave up, or the link broke, and the guest can migrate again.
//!
//! In reading order: [`setup`] (what a run is), world (events, hosts, faults), guest, link, controller, and what commands
//! do: outgoing, settle and incoming.

mod controller;
mod guest;
mod incoming;
mod link;
mod outgoing;
mod rng;
mod settle;
pub mod setup;
mod world;

pub use setup::{Fault, Report, Setup};

/// Runs it. An error says which invariant was broken, and when.
pub fn run(setup: &Setup) -> Result<Report, String> {
    world::World::new(setup).run()
}
