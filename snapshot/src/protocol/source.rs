//! The source's side: events in, commands out.
//!
//! ```text
//!  connect, greet, offer, prepare, record, (round, count)*, claim, freeze      any failure: the guest serves on here
//!    └─ SendLast ─ await ─┬─ Taken ── switch ── Moved
//!                         ├─ HandedBack, Cancel ── Stayed
//!                         └─ nothing, or nonsense ── doubt: ask the target, then the controller, for ever
//! ```

mod before;
mod doubt;
mod machine;
#[cfg(test)]
mod tests;

use super::{Message, Offer, Reason, SessionId, Standing};
use crate::plan::{Limits, Plan};

pub use machine::Source;

/// What a source is asked to do.
pub struct SourceConfig {
    /// This attempt.
    pub session: SessionId,
    /// What is moved.
    pub offer: Offer,
    /// How.
    pub plan: Box<dyn Plan>,
    /// Within which limits.
    pub limits: Limits,
    /// Whether a controller grants addresses: then it settles doubts.
    pub controlled: bool,
}

/// What happens to a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// The connection stands, TLS included.
    Connected,
    /// The target said something.
    Received(Message),
    /// The connection is lost, or could not be made.
    Lost,
    /// Somebody wants it cancelled; heeded before the token.
    Cancel(Reason),
    /// The worker ended.
    WorkerEnded,
    /// To [`SourceCommand::Count`]: pages that are dirty now.
    Counted(u64),
    /// To [`SourceCommand::SendRound`] and [`SourceCommand::SendLast`]: written to the connection.
    Sent {
        /// Pages.
        pages: u64,
        /// Their bytes on the wire.
        bytes: u64,
    },
    /// To [`SourceCommand::Record`]: it is on disk.
    Recorded,
    /// To [`SourceCommand::Freeze`]: the guest is stopped between two polls.
    Frozen,
    /// To [`SourceCommand::Ask`]; `None` if the target could not be asked.
    Answered(Option<Standing>),
    /// To [`SourceCommand::Reclaim`].
    Reclaimed(Reclaim),
    /// A step that was ordered could not be done here. To [`SourceCommand::SendLast`] only if not a byte of the token was
    /// written, else it is [`SourceEvent::Lost`].
    Failed(Reason),
    /// Time has passed: [`Source::deadline_us`].
    Tick,
}

/// What the controller says to a source that wants its guest back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reclaim {
    /// It is the source's, and nobody else gets that generation.
    Granted,
    /// It is somebody else's.
    Denied,
    /// It cannot be asked, or does not know either.
    Unknown,
}

/// What a source has done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceCommand {
    /// Say this.
    Send(Message),
    /// Send the module in pieces.
    SendModule,
    /// Begin to track what the guest writes. All its pages count as dirty.
    Arm,
    /// How many pages are dirty? Answer: [`SourceEvent::Counted`].
    Count,
    /// Take the dirty pages from the log and send them. Answer: [`SourceEvent::Sent`].
    SendRound(u32),
    /// The target has the pages of the round: they are clean.
    Commit,
    /// It has not: they are dirty again.
    RollBack,
    /// Keep the guest from running for that much of its time, percent.
    Throttle(u8),
    /// Put on disk that the guest is being moved. Answer: [`SourceEvent::Recorded`]. From then on a restarted daemon knows
    /// whether [`Message::Claim`] and [`SourceCommand::SendLast`]'s token may have been said: word of that is left before, where it
    /// outlives the daemon, though not the machine.
    Record,
    /// Stop the guest between two polls. Answer: [`SourceEvent::Frozen`].
    Freeze,
    /// Send what is dirty still (all pages, if nothing was tracked), the frames that came meanwhile, and the token.
    /// Answer: [`SourceEvent::Sent`].
    SendLast,
    /// Have the guest go on; give it the frames that were taken from it; what was put on disk is void; it is neither tracked
    /// nor throttled. Also said of a guest that runs, if it may be tracked or throttled or something was put on disk.
    ///
    /// The frames are those that the target sent back, then those that were sent to it and that it did not send back (it
    /// never had them, or cannot be heard), then those that still wait here. None is given twice, and none that comes from
    /// then on is forwarded.
    ///
    /// If [`Message::Claim`] may have been said, the address may be the target's: what follows is that it becomes the source's
    /// again, as by [`SourceCommand::Reclaim`] with `never`, however long that takes.
    Thaw,
    /// From now on frames that come to the guest go to the target; those that came before [`Message::Bye`] before it.
    Forward,
    /// Ask the target, over a connection of its own, what became of the session. Answer: [`SourceEvent::Answered`].
    Ask,
    /// Ask the controller for the guest's address. Answer, once it is on disk there: [`SourceEvent::Reclaimed`].
    Reclaim {
        /// The target says that it never polled. Then its own grant, if it got one, is no obstacle, nor is it that the
        /// controller may have forgotten such a grant. Else only the generation that follows the source's own will do.
        never: bool,
    },
    /// The guest is the target's, or ([`Outcome::Fenced`]) another's: end the worker, forget the guest.
    LetGo,
    /// The connection is of no further use.
    Close,
    /// It is over.
    Finish(Outcome),
}

/// How a migration ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target serves.
    Moved,
    /// The guest is where it was, and serves.
    Stayed(Reason),
    /// The worker ended while the guest was the source's: there is nothing to move. What was put on disk is void, and its
    /// supervisor decides what follows.
    Ended,
    /// The guest is another's by now; the worker here was ended.
    Fenced(Reason),
}
