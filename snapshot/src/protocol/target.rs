//! The target's side: events in, commands out.
//!
//! ```text
//!  greet, offer, check, module, prepare, (round)*, claim, last      any failure: the source keeps the guest
//!    └─ Token ─ install, granted ──┬─ both good ── Resume ── Taken ── Switched
//!                                  └─ else, or the source asks first ── HandedBack: never polled here
//! ```
//!
//! A connection whose greeting is [`super::Greeting::Settle`] has no target of its own: who accepts connections reads the
//! greeting, gives [`TargetEvent::Asked`] to the target of that session, and sends what it is told. Where that session has
//! no target any more, [`TargetCommand::Finish`] tells what is answered: [`Standing::Taken`] after `Ok`, else
//! [`Standing::Never`]; also for a session that was never heard of. After a restart it is [`Standing::Taken`] if
//! [`TargetCommand::Resume`] left word and its worker does not wait, else [`Standing::Never`] once that worker has ended. It is [`Standing::Open`] while a host that was
//! restarted does not know yet which of its workers serve.

mod before;
mod machine;
#[cfg(test)]
mod tests;

use super::{BasePage, Message, Offer, Reason, Standing, Timings, Token};
use crate::page::Shape;

pub use machine::Target;

/// What happens to a target. Pages are written to the waiting guest as they arrive, in order with the messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetEvent {
    /// The source said something.
    Received(Message),
    /// The connection is lost.
    Lost,
    /// To [`TargetCommand::Check`]: whether it can have the guest, and lacks its module.
    Checked {
        /// It does.
        needs_module: bool,
    },
    /// To [`TargetCommand::Prepare`].
    Ready {
        /// Its memories as they are.
        shape: Shape,
        /// What they have.
        base: Vec<BasePage>,
    },
    /// To [`TargetCommand::Claim`].
    Claimed(Grant),
    /// To [`TargetCommand::Install`]: memories and state are in place, and the digests are the same.
    Installed,
    /// To [`TargetCommand::Resume`]: the first poll is over; or the worker was told, and ended.
    Resumed(Timings),
    /// To [`TargetCommand::AwaitRoute`].
    Switched {
        /// From the first poll until then.
        route_us: u64,
    },
    /// The source asks, over another connection, what became of this session; also after [`TargetCommand::Finish`].
    /// Answer: [`TargetCommand::Tell`].
    Asked,
    /// Somebody here wants it cancelled; heeded before the token.
    Cancel(Reason),
    /// The worker ended.
    WorkerEnded,
    /// A step that was ordered, or writing pages, could not be done; also pages that came when none were expected. To
    /// [`TargetCommand::Resume`] only if the worker was certainly not told.
    Failed(Reason),
    /// Time has passed: [`Target::deadline_us`].
    Tick,
}

/// What the controller says to a target that has all of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// The address is the target's. Also where there is no controller.
    Granted,
    /// It is somebody else's: the source has it again, or an operator moved it.
    Denied,
    /// It cannot be asked.
    Unknown,
}

/// What a target has done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetCommand {
    /// Say this.
    Send(Message),
    /// Look whether it can have that guest. Answer: [`TargetEvent::Checked`] or [`TargetEvent::Failed`].
    Check(Box<Offer>),
    /// Keep a piece of the module; the last one completes it. A wrong one is [`TargetEvent::Failed`].
    KeepModule(Vec<u8>),
    /// Make a worker that waits, its network included. Answer: [`TargetEvent::Ready`] or [`TargetEvent::Failed`].
    Prepare,
    /// Have the memories be that large.
    Grow(Shape),
    /// Add lines to the guest's log.
    AddLog(Vec<u8>),
    /// Give the guest a frame.
    Inject(Vec<u8>),
    /// Ask the controller for the address. Answer: [`TargetEvent::Claimed`]. Goes on while pages come and
    /// [`Self::Install`] is done.
    Claim,
    /// Put the state in place and compare the digests. Answer: [`TargetEvent::Installed`] or [`TargetEvent::Failed`].
    Install(Box<Token>),
    /// Leave word for a restarted host that the guest may have been polled here, where it outlives the daemon, though not
    /// the machine: the blackout does not wait for a disk. Then have the guest go on. Answer: [`TargetEvent::Resumed`], or
    /// [`TargetEvent::Failed`] if the worker was certainly not told.
    Resume,
    /// Tell when the route leads here. Answer: [`TargetEvent::Switched`].
    AwaitRoute,
    /// Send back the frames that came here for the guest ([`Message::Frame`]).
    ReturnFrames,
    /// End the worker that waits, take back what was left for a restarted host, and forget the guest: it is never polled
    /// here. Then, if its address was asked for, give that to the source, however long that takes: one that can ask nobody but
    /// the controller knows by that.
    Discard,
    /// Tell who asked what became of the session.
    Tell(Standing),
    /// The connection is of no further use.
    Close,
    /// It is over: whether the guest is here, or was when it ended.
    Finish(Result<(), Reason>),
}
