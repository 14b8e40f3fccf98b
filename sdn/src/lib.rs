//! Which host owns which address, and how the network is told.
//!
//! ```text
//!  events ──> Table::step ──> updates ──> Store      on disk before anybody is answered, but for early moves
//!             pure, no clock     │   └──> Feed       hosts and people follow
//!                                └──> Keeper ──> Plane   kernel (VXLAN, bridge) or ovs (OpenFlow)
//! ```
//!
//! In reading order: [`model`] (the words), [`table`] (what may happen), [`store`] (where it is kept), [`plane`] (what
//! carries frames, and how it is kept as it should be), [`front`] (doors for clients outside), [`controller`] (all of
//! them together, live).
//!
//! What holds at any time:
//! 1. An address has exactly one owner, and its generation only rises: through releases, crashes and new claims.
//! 2. A claim of a generation that is over is refused, and so is one of an address that overlaps another's.
//! 3. No clock decides who owns: a host that is silent is called lost and keeps what it has until somebody moves it.
//! 4. The planes follow the table, never the other way round: what differs is drift, and is mended.
//! 5. What was answered with success is on disk, but for a move that was answered early: a controller that may have
//!    forgotten such a one is of another incarnation, and says so; see [`controller`].
//!
//! Deliberately absent: HTTP and certificates (`roam-runtime` serves a [`Controller`]), and elections: of several
//! controllers on one store each is stopped by compare-and-swap, none by a lease.
#![forbid(unsafe_code)]

pub mod controller;
pub mod front;
pub mod model;
mod nft;
pub mod plane;
pub mod sentence;
pub mod store;
pub mod table;

pub use controller::Controller;
pub use model::{Mac, Name, NameError};

/// Of 19, the least urgent.
const GIVES_WAY: i32 = 10;

/// The calling thread, and what it starts, lets others have a processor first (setpriority(2)): moves are answered before
/// what it does, and guests stand still until they are.
fn give_way() {
    // Where it is not allowed, all stays as it is.
    let _ = rustix::process::setpriority_process(None, GIVES_WAY);
}
