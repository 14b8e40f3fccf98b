//! The open-loop load client: offers requests at a set rate, whatever becomes of them, and accounts for every one.
//!
//! ```text
//!  plan ──► run ──► account (pure: schedule, ledgers, tally) ──► report
//!            │  due, sent, replied: times in ns as arguments
//!            ├── udp   datagrams, many a system call
//!            └── tcp   connections; a dialogue each: echo, kv, http
//! ```
//!
//! Read [`plan`] (what can be asked for), [`schedule`] (when requests are due), [`ledger`] (what became of each),
//! [`tally`] and [`report`] (what is counted), [`account`] (these together), then the edge: [`run`](run()).
//!
//! - Requests are due by the clock alone; latency counts from then. A slow server, a client that was not scheduled and
//!   a connection that is away all show in it.
//! - Every reply is matched to its request by number, and its content to what that request must give. Each request
//!   is answered or lost: `sent == received + lost`.
//! - Memory is bounded by the plan, not by what the server does; so is the time a run takes.
//!
//! One thread does all. Deliberately absent: TLS and name resolution.
pub mod account;
pub mod content;
pub mod ledger;
pub mod plan;
mod poller;
pub mod progress;
pub mod report;
mod run;
pub mod samples;
pub mod schedule;
pub mod silence;
pub mod slices;
pub mod square;
pub mod tally;
mod tcp;
mod udp;
pub mod units;

pub use plan::{Kind, Pace, Plan, PlanError};
pub use progress::{Progress, Snapshot};
pub use report::{Percentiles, Report};
pub use run::{CONNECT_TIMEOUT, LoadError, run};
pub use samples::Sample;
pub use slices::Slice;

#[cfg(test)]
mod tests;
