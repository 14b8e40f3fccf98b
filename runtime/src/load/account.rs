//! The pure core of a run: what is due, what is outstanding, what became of it. Time is an argument, in ns on any
//! clock that only goes forward; sockets are somebody else's business.
use super::content::Check;
use super::ledger::{Ledger, Settled};
use super::plan::{Kind, Pace, Plan};
use super::report::Report;
use super::schedule::Schedule;
use super::tally::Tally;

/// Requests of which the fate is remembered, over all connections; older unanswered ones are lost.
pub const IN_FLIGHT_MAX: usize = 1 << 20;

/// The least a connection's share of [`IN_FLIGHT_MAX`] can be.
const IN_FLIGHT_EACH_MIN: usize = 64;

/// In a closed loop, fates are remembered for this many windows: replies to requests given up may come late.
const CLOSED_LEDGER_WINDOWS: usize = 64;

/// In a closed loop over datagrams, a request unanswered for 250 ms gives its place to the next.
pub const GIVE_UP_AFTER_NS: u64 = 250_000_000;

/// One run's books.
///
/// A request goes through [`take`](Self::take) when it falls due, [`open`](Self::open) when it is sent, and
/// [`reply`](Self::reply) when it is answered. Over TCP, requests may wait between the first two: for the connection
/// to come back, or for room; that is part of their latency.
#[derive(Debug)]
pub struct Account {
    plan: Plan,
    schedule: Schedule,
    ledgers: Vec<Ledger>,
    tally: Tally,
    taken: u64,
    settled: u64,
    problems: Vec<String>,
}

impl Account {
    /// Opens the books of a run that starts at `start_ns`. The plan has been [checked](Plan::check).
    pub fn new(plan: &Plan, start_ns: u64) -> Self {
        let (schedule, tally) = timed(plan, start_ns);
        let in_flight_max = in_flight_each(plan);
        let window = match plan.pace {
            Pace::PerSecond(_) => usize::try_from(schedule.planned(0)).unwrap_or(usize::MAX).clamp(1, in_flight_max),
            Pace::Max { window } => (window * CLOSED_LEDGER_WINDOWS).clamp(IN_FLIGHT_EACH_MIN, in_flight_max),
        };
        Self {
            plan: plan.clone(),
            schedule,
            ledgers: (0..plan.connections).map(|_| Ledger::new(window)).collect(),
            tally,
            taken: 0,
            settled: 0,
            problems: Vec::new(),
        }
    }

    /// Puts off the start of a run of which nothing was taken yet: making the books takes time, too.
    pub fn start_at(&mut self, start_ns: u64) {
        assert_eq!(self.taken, 0, "a run that has begun cannot begin later");
        (self.schedule, self.tally) = timed(&self.plan, start_ns);
    }

    /// The next request whose time has come: whose turn it is.
    pub fn take(&mut self, now_ns: u64) -> Option<usize> {
        let due = self.schedule.take(now_ns)?;
        self.taken += 1;
        self.tally.sent(due.due_ns, now_ns);
        Some(due.connection)
    }

    /// Sends the oldest request of `connection` that was taken and not sent: its sequence number.
    pub fn open(&mut self, connection: usize, now_ns: u64) -> u64 {
        let ledger = &mut self.ledgers[connection];
        let due_ns = match self.plan.pace {
            Pace::PerSecond(_) => self.schedule.due_ns(connection, ledger.next()),
            Pace::Max { .. } => now_ns,
        };
        ledger.open(due_ns, now_ns)
    }

    /// A reply came on `connection`.
    pub fn reply(&mut self, connection: usize, check: Check, now_ns: u64) {
        let (sequence, intact) = match check {
            Check::Intact(sequence) => (sequence, true),
            Check::Damaged(sequence) => (sequence, false),
            Check::Unknown => return self.tally.corrupted(now_ns),
        };
        let settled = self.ledgers[connection].settle(sequence);
        if let Settled::First { given_up, .. } = settled {
            self.settled += 1;
            if !given_up {
                self.schedule.give_back(connection);
            }
        }
        if !intact {
            self.tally.corrupted(now_ns);
        }
        self.tally.settled(settled, now_ns);
    }

    /// A piece of a stream came that follows the server's pace, not ours.
    pub fn pulled(&mut self, intact: bool, now_ns: u64) {
        if !intact {
            self.tally.corrupted(now_ns);
        }
        self.tally.pulled(now_ns);
    }

    /// Bytes of replies came.
    pub fn bytes(&mut self, bytes: usize, now_ns: u64) {
        self.tally.bytes(bytes, now_ns);
    }

    /// A connection broke; `in_flight` requests that were sent on it will not be answered.
    pub fn broken(&mut self, connection: usize, in_flight: u64) {
        self.settled += in_flight;
        for _ in 0..in_flight {
            self.schedule.give_back(connection);
        }
    }

    /// A connection was reset, refused or timed out, or the target was unreachable.
    pub fn reset(&mut self, now_ns: u64) {
        self.tally.reset(now_ns);
    }

    /// The peer said something that makes no sense.
    pub fn nonsense(&mut self, now_ns: u64) {
        self.tally.corrupted(now_ns);
    }

    /// Keeps the first [`PROBLEMS_MAX`] different things that went wrong, for the report's reader.
    pub fn problem(&mut self, problem: &dyn std::fmt::Display) {
        if self.problems.len() < PROBLEMS_MAX {
            let problem = problem.to_string();
            if !self.problems.contains(&problem) {
                self.problems.push(problem);
            }
        }
    }

    /// In a closed loop over datagrams, lets others have the places of requests that seem lost. Call now and then.
    pub fn sweep(&mut self, now_ns: u64) {
        if !self.schedule.is_closed() || !self.plan.kind.is_datagram() {
            return;
        }
        let before_ns = now_ns.saturating_sub(GIVE_UP_AFTER_NS);
        for (connection, ledger) in self.ledgers.iter_mut().enumerate() {
            for _ in 0..ledger.give_up(before_ns) {
                self.schedule.give_back(connection);
            }
        }
    }

    /// Whether every request taken is answered, or lost for certain.
    pub fn is_settled(&self) -> bool {
        self.settled == self.taken
    }

    /// When there is something to take next: `None` if only a reply or the end changes that.
    pub fn next_ns(&self) -> Option<u64> {
        self.schedule.next_ns()
    }

    /// How many requests `connection` has until the end, answered ones included; 0 in a closed loop.
    pub fn planned(&self, connection: usize) -> u64 {
        self.schedule.planned(connection)
    }

    /// Whether sending is over: the end has come and nothing that was due is left.
    pub fn is_over(&self, now_ns: u64) -> bool {
        now_ns >= self.schedule.end_ns() && (self.schedule.is_closed() || self.schedule.next_ns().is_none())
    }

    /// Ends sending now.
    pub fn end_at(&mut self, now_ns: u64) {
        self.schedule.end_at(now_ns);
        self.tally.end_at(now_ns);
    }

    /// What was counted so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Closes the books at `now_ns`. What fell due and could not even be taken, as the kernel took no more, is lost.
    pub fn finish(mut self, now_ns: u64) -> Report {
        while self.take(now_ns).is_some() {}
        if self.tally.received < self.tally.sent {
            self.tally.silence.end(self.tally.to_ns);
        }
        Report::new(&self.plan, self.tally, self.problems)
    }
}

/// Different problems a report lists.
pub const PROBLEMS_MAX: usize = 5;

/// How many requests of one connection may be in flight before the oldest are forgotten.
pub fn in_flight_each(plan: &Plan) -> usize {
    (IN_FLIGHT_MAX / plan.connections).max(IN_FLIGHT_EACH_MIN)
}

/// What depends on when a run starts.
fn timed(plan: &Plan, start_ns: u64) -> (Schedule, Tally) {
    let from_ns = start_ns + nanoseconds(plan.warmup);
    let to_ns = from_ns + nanoseconds(plan.duration);
    // A stream's chunk is due when its last byte is: one chunk's time after its first.
    let first_ns = match (plan.kind, plan.pace) {
        (Kind::HttpStream, Pace::PerSecond(rate)) => start_ns + (1e9 / rate) as u64,
        _ => start_ns,
    };
    (Schedule::new(plan, first_ns, to_ns), Tally::new(from_ns, to_ns, plan.samples_max, plan.slice.map(nanoseconds)))
}

fn nanoseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests;
