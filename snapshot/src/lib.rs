//! What a frozen guest is, and how it travels.
//!
//! ```text
//!  source                                                     target
//!   dirty log ── rounds of pages ──> wire ──> pages ──> memories of a guest that waits
//!   plan: go on, stop, give up                  digest of all pages, kept on both sides as they change
//!   Source ─────── messages ──────────────────> Target        the token hands over the right to poll
//! ```
//!
//! In reading order: [`page`] (pages, ranges, sets), [`digest`] (one sum of all pages), [`dirty`] (take, commit, roll
//! back), [`plan`] (what to send next), [`protocol`] (who says what, and who may poll), [`image`] (the same in a file),
//! [`sys`] (what the kernel tracks and copies), [`sim`] (all of a migration in virtual time, for tests).
//!
//! Nothing here knows a WebAssembly engine or a TCP/IP stack; but for [`sys`] and [`image::file`], nothing opens a file, a
//! socket or a clock.
//!
//! What holds at any time:
//! 1. Exactly one side may poll a guest. A side that has sent the token does not poll unless it was told that the other
//!    never did and never will.
//! 2. A failed or cancelled migration leaves the source serving.
//! 3. A page counts as sent when the target has acknowledged it.
//! 4. Before the target's first poll both sides' digests are equal.

pub mod digest;
pub mod dirty;
pub mod image;
pub mod page;
pub mod plan;
pub mod protocol;
#[doc(hidden)]
pub mod sim;
pub mod sys;
