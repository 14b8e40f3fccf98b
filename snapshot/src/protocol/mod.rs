//! Who says what, and who may poll. Sans-IO: both sides are states that take events and give commands.
//!
//! ```text
//!  initiate   Hello ────────────>            version, session
//!                    <──────────── Welcome
//!  validate   Offer ────────────>            the guest, its modules by hash, what it needs
//!                    <──────────── Accepted   or Refused, which costs the guest nothing
//!             Module ... ───────>            if the target lacks it
//!  prepare           <──────────── Prepared   a worker waits; what its memories already have, by digest
//!  execute    Round, pages, RoundEnd ──────>  while the guest runs
//!                    <──────────── Applied    only now do they count as sent
//!             Claim ────────────>            the target asks for the address while the guest is stopped
//!             ... blackout: stop, last scan
//!             Last, pages, Frame ..., Token >  from here on only the target may poll
//!                    <──────────── Taken      or HandedBack: the right is the source's again
//!  complete   Frame ... ────────>            what still came to the source
//!                    <──────────── Switched   the route leads to the target
//!             Bye ──────────────>
//! ```
//!
//! **Ownership.** Before the token any failure leaves the source serving. After it, the source serves again only if
//! the target says that it never polled and never will ([`Message::HandedBack`], [`Standing::Never`]), or if the
//! controller grants the source the next generation. The target has that same generation before its first poll: so exactly one
//! of them gets it. It asks for it as soon as the source says that it stops the guest, for the answer takes as long as the
//! last pages do; a target that has it and never gets the token gives it back, and a source that never sent the token takes
//! it back. Where there is no controller, only the target's word counts. What the controller decided is not on disk yet when it answers; therefore a source in doubt is
//! refused by a controller that was restarted since: see `roam_sdn`. A target that was asked before it told its worker to go
//! on has decided by that: it never will. What a target says of a session stays so: it leaves word before it tells the
//! worker, and a restarted host ends a worker that waits.
//!
//! The states give commands and rely on what the commands' documentation promises; [`crate::sim`] keeps the same promises
//! in virtual time, and breaks everything else.
//!
//! In reading order: [`Message`], [`wire`] (how it travels), [`source`], [`target`].

mod message;
pub mod source;
pub mod target;
pub mod wire;

pub use message::{
    BASE_PAGES_MAX, BasePage, CHUNK_BYTES_MAX, Encoding, FRAME_BYTES_MAX, GUEST_BYTES_MAX, Greeting, MODULE_BYTES_MAX,
    Message, MessageError, Offer, REASON_BYTES_MAX, Reason, ReasonCode, STATE_BYTES_MAX, SessionId, Standing, Timings,
    Token, VERSION_MAX, VERSION_MIN,
};

use serde::{Deserialize, Serialize};

/// How far a migration is: the same words in code, messages, metrics and documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The two hosts meet.
    Initiate,
    /// Whether the target can have the guest.
    Validate,
    /// The target makes everything ready that is slow.
    Prepare,
    /// The plan runs, up to the token.
    Execute,
    /// The target serves; the route follows and late frames are forwarded.
    Complete,
    /// It is over and the guest is where it was, or in doubt.
    Failed,
}
