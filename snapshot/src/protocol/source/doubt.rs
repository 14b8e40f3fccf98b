//! A token that was sent and not answered. The source does not poll until it is known that the target does not and will
//! not: the target is asked, then the controller, and over again, for as long as it takes.

use super::{Outcome, Reclaim, SourceCommand as Command, SourceEvent as Event};
use crate::protocol::{Reason, Standing};

/// A source that does not know whose the guest is.
pub(super) struct Doubt {
    controlled: bool,
    why: Reason,
    worker_ended: bool,
    /// How long the next rest is.
    rest_us: u64,
    /// How many times in a row the target said that the guest is not its, and the controller that it is not the
    /// source's.
    nobodys: u32,
    at: At,
}

#[derive(Clone, Copy)]
enum At {
    Ask,
    Reclaim { never: bool },
    Rest { until_us: u64 },
}

/// What came of an event.
pub(super) enum Verdict {
    /// The doubt goes on.
    Open(Option<Command>),
    /// It is over.
    Settled(Vec<Command>, Outcome),
}

impl Doubt {
    /// The target is asked at once.
    pub(super) fn asking(controlled: bool, why: Reason, worker_ended: bool) -> (Self, Command) {
        (Self { controlled, why, worker_ended, rest_us: REST_US_MIN, nobodys: 0, at: At::Ask }, Command::Ask)
    }

    /// The target is asked at the next tick.
    pub(super) fn at_rest(controlled: bool, why: Reason, until_us: u64) -> Self {
        Self { controlled, why, worker_ended: false, rest_us: REST_US_MIN, nobodys: 0, at: At::Rest { until_us } }
    }

    /// When it wants a tick.
    pub(super) fn rests_until_us(&self) -> Option<u64> {
        match self.at {
            At::Rest { until_us } => Some(until_us),
            At::Ask | At::Reclaim { .. } => None,
        }
    }

    pub(super) fn on(&mut self, event: Event, now_us: u64) -> Verdict {
        match (self.at, event) {
            (_, Event::WorkerEnded) => {
                self.worker_ended = true;
                Verdict::Open(None)
            }
            (At::Rest { .. }, Event::Tick) => {
                self.at = At::Ask;
                Verdict::Open(Some(Command::Ask))
            }
            (At::Ask, Event::Answered(answer)) => self.answered(answer, now_us),
            (At::Reclaim { never }, Event::Reclaimed(reclaim)) => self.reclaimed(reclaim, never, now_us),
            // What was still on its way when the connection was given up.
            _ => Verdict::Open(None),
        }
    }

    fn answered(&mut self, answer: Option<Standing>, now_us: u64) -> Verdict {
        let never = answer == Some(Standing::Never);
        if answer == Some(Standing::Taken) {
            return Verdict::Settled(vec![Command::LetGo], Outcome::Moved);
        }
        if self.controlled {
            self.at = At::Reclaim { never };
            return Verdict::Open(Some(Command::Reclaim { never }));
        }
        if never { self.back() } else { self.rest(now_us) }
    }

    fn reclaimed(&mut self, reclaim: Reclaim, never: bool, now_us: u64) -> Verdict {
        self.nobodys = if never && reclaim == Reclaim::Denied { self.nobodys + 1 } else { 0 };
        match reclaim {
            Reclaim::Granted => self.back(),
            Reclaim::Denied if self.nobodys == NOBODYS_MAX => {
                Verdict::Settled(vec![Command::LetGo], Outcome::Fenced(self.why.clone()))
            }
            Reclaim::Denied | Reclaim::Unknown => self.rest(now_us),
        }
    }

    /// The guest is the source's again.
    fn back(&mut self) -> Verdict {
        if self.worker_ended {
            return Verdict::Settled(Vec::new(), Outcome::Ended);
        }
        Verdict::Settled(vec![Command::Thaw], Outcome::Stayed(self.why.clone()))
    }

    fn rest(&mut self, now_us: u64) -> Verdict {
        self.at = At::Rest { until_us: now_us + self.rest_us };
        self.rest_us = (self.rest_us * 2).min(REST_US_MAX);
        Verdict::Open(None)
    }
}

/// How long it rests before it asks again: twice as long each time, up to a limit.
const REST_US_MIN: u64 = 200_000;
const REST_US_MAX: u64 = 2_000_000;
/// After so many times the guest is taken to be somebody else's: an operator moved its address.
const NOBODYS_MAX: u32 = 2;
