//! Write a roam guest as if it were an ordinary async server.
//!
//! ```text
//!  host: roam_poll(now) ──► reactor (who waits for which socket) ─┐
//!                           timers  (who waits for which time)  ──┼──► executor ──► your tasks
//!        next deadline ◄──────────────────────────────────────────┘        │
//!                                 imports: send, recv, accept, … ◄─────────┘
//! ```
//!
//! Reading order: [`main!`], [`net`], [`time`], [`task`], [`future`], then [`mod@env`], [`log`] and [`random`].
//!
//! Invariants:
//! - Between two polls nothing of a guest is on the stack: executor, timers and futures are data in linear memory, so
//!   the host can freeze, move and resume the guest there, and the guest does not notice.
//! - All input is an argument or an import's answer: the same inputs give the same memory on every machine.
//! - No operation allocates per datagram or segment.
//!
//! Deliberately absent: threads, files, processes, `std::time`, `std::net`. On targets other than wasm32 every socket
//! call fails with [`NOSYS`](abi::Errno::NOSYS), so that the pure parts of a guest can be tested natively.

pub use roam_abi as abi;

pub mod env;
mod error;
mod executor;
pub mod future;
mod guest;
pub mod log;
pub mod net;
pub mod random;
mod reactor;
mod sys;
pub mod task;
pub mod time;
mod timers;

pub use error::{Error, Result};
pub use executor::TASK_POLLS_MAX;
#[doc(hidden)]
pub use guest::{Outcome, poll};
