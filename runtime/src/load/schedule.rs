//! When requests are due, and whose turn it is.
//!
//! In an open loop request k is due at `start + k / rate`, whatever became of the others: a reply that comes late
//! delays nobody, and its latency counts from when its request was due, not from when a stalled client got round to
//! sending it ("coordinated omission": Gil Tene, How NOT to Measure Latency). In a closed loop a request is due as
//! soon as there is a credit: one per request that may be outstanding.
use std::collections::VecDeque;

use super::plan::{Kind, Pace, Plan};

/// A request whose time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Who sends it.
    pub connection: usize,
    /// When it should have been sent, in ns.
    pub due_ns: u64,
}

/// Hands out requests as they fall due, in turn over the connections.
#[derive(Debug)]
pub struct Schedule {
    pace: PaceState,
    connections: u64,
    start_ns: u64,
    end_ns: u64,
    handed_out: u64,
}

#[derive(Debug)]
enum PaceState {
    Open { interval_ns: f64 },
    Closed { credits: VecDeque<u32> },
}

impl Schedule {
    /// The schedule of `plan` from `start_ns` to `end_ns`.
    pub fn new(plan: &Plan, start_ns: u64, end_ns: u64) -> Self {
        let pace = match plan.pace {
            Pace::PerSecond(rate) => PaceState::Open { interval_ns: 1e9 / rate },
            // A stream at the server's pace asks for nothing.
            Pace::Max { .. } if plan.kind == Kind::HttpStream => PaceState::Closed { credits: VecDeque::new() },
            Pace::Max { window } => {
                let turn = |credit: usize| (credit % plan.connections) as u32;
                PaceState::Closed { credits: (0..window).map(turn).collect() }
            }
        };
        Self { pace, connections: plan.connections as u64, start_ns, end_ns, handed_out: 0 }
    }

    /// When request `sequence` of `connection` is due; the end of the run in a closed loop.
    pub fn due_ns(&self, connection: usize, sequence: u64) -> u64 {
        self.due_of(sequence * self.connections + connection as u64)
    }

    /// How many requests of `connection` are due before the end of an open loop.
    pub fn planned(&self, connection: usize) -> u64 {
        let PaceState::Open { interval_ns } = self.pace else { return 0 };
        let span_ns = self.end_ns.saturating_sub(self.start_ns);
        let mut all = (span_ns as f64 / interval_ns).ceil() as u64;
        // The division may be off by one in its last bit; what counts is what `take` will hand out.
        while self.due_of(all) < self.end_ns {
            all += 1;
        }
        while all > 0 && self.due_of(all - 1) >= self.end_ns {
            all -= 1;
        }
        all.saturating_sub(connection as u64).div_ceil(self.connections)
    }

    /// The next request, if its time has come and the run has not ended.
    pub fn take(&mut self, now_ns: u64) -> Option<Due> {
        if now_ns >= self.end_ns && !self.is_behind() {
            return None;
        }
        let due = match &mut self.pace {
            PaceState::Open { .. } => {
                let due_ns = self.due_of(self.handed_out);
                let connection = (self.handed_out % self.connections) as usize;
                (due_ns <= now_ns).then_some(Due { connection, due_ns })
            }
            PaceState::Closed { credits } => {
                credits.pop_front().map(|connection| Due { connection: connection as usize, due_ns: now_ns })
            }
        }?;
        self.handed_out += 1;
        Some(due)
    }

    /// Gives back the credit of a request that is settled; an open loop has none.
    pub fn give_back(&mut self, connection: usize) {
        if let PaceState::Closed { credits } = &mut self.pace {
            credits.push_back(connection as u32);
        }
    }

    /// When there is something to take next: `None` if only a reply or the end changes that.
    pub fn next_ns(&self) -> Option<u64> {
        match &self.pace {
            PaceState::Open { .. } => Some(self.due_of(self.handed_out)).filter(|due_ns| *due_ns < self.end_ns),
            PaceState::Closed { credits } => (!credits.is_empty()).then_some(self.start_ns),
        }
    }

    /// Whether requests are outstanding by credit rather than by time.
    pub fn is_closed(&self) -> bool {
        matches!(self.pace, PaceState::Closed { .. })
    }

    /// Ends the run at `now_ns` if it would last longer: nothing more falls due.
    pub fn end_at(&mut self, now_ns: u64) {
        self.end_ns = self.end_ns.min(now_ns);
    }

    /// When sending ends.
    pub fn end_ns(&self) -> u64 {
        self.end_ns
    }

    /// In an open loop, requests that fell due before the end are sent even if the client comes late.
    fn is_behind(&self) -> bool {
        matches!(self.pace, PaceState::Open { .. }) && self.next_ns().is_some()
    }

    fn due_of(&self, request: u64) -> u64 {
        match self.pace {
            PaceState::Open { interval_ns } => self.start_ns + (request as f64 * interval_ns) as u64,
            PaceState::Closed { .. } => self.end_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::super::plan::Kind;
    use super::*;

    fn schedule(pace: Pace, connections: usize, end_ns: u64) -> Schedule {
        let mut plan = Plan::new(Kind::UdpEcho, SocketAddr::from(([127, 0, 0, 1], 7)));
        plan.pace = pace;
        plan.connections = connections;
        Schedule::new(&plan, 1000, end_ns)
    }

    #[test]
    fn requests_fall_due_by_the_clock_alone() {
        let mut schedule = schedule(Pace::PerSecond(1e6), 2, 1_000_000);
        assert_eq!(schedule.take(999), None);
        assert_eq!(schedule.take(1000), Some(Due { connection: 0, due_ns: 1000 }));
        assert_eq!(schedule.take(1000), None);
        assert_eq!(schedule.next_ns(), Some(2000));
        // A client that slept gets all that fell due meanwhile, each with its own time.
        assert_eq!(schedule.take(9000), Some(Due { connection: 1, due_ns: 2000 }));
        assert_eq!(schedule.take(9000), Some(Due { connection: 0, due_ns: 3000 }));
        assert_eq!(schedule.due_ns(0, 1), 3000);
    }

    #[test]
    fn a_closed_loop_hands_out_its_window() {
        let mut schedule = schedule(Pace::Max { window: 3 }, 2, 1_000_000);
        let turns: Vec<_> = std::iter::from_fn(|| schedule.take(2000)).map(|due| due.connection).collect();
        assert_eq!(turns, [0, 1, 0]);
        assert_eq!(schedule.next_ns(), None);
        schedule.give_back(1);
        assert_eq!(schedule.take(3000), Some(Due { connection: 1, due_ns: 3000 }));
        schedule.give_back(0);
        assert_eq!(schedule.take(1_000_000), None, "the run is over");
    }

    #[test]
    fn an_interrupted_run_hands_out_nothing_more() {
        let mut schedule = schedule(Pace::PerSecond(1e6), 1, 1_000_000);
        assert!(schedule.take(1000).is_some());
        schedule.end_at(1500);
        assert_eq!(schedule.take(9000), None);
        assert_eq!(schedule.next_ns(), None);
    }

    proptest! {
        #[test]
        fn all_that_is_planned_is_handed_out(rate in 1.0_f64..1e6, connections in 1_usize..9, span in 1_u64..5_000_000) {
            let end_ns = 1000 + span;
            let mut schedule = schedule(Pace::PerSecond(rate), connections, end_ns);
            let planned: Vec<u64> = (0..connections).map(|connection| schedule.planned(connection)).collect();
            let mut taken = vec![0_u64; connections];
            while let Some(due) = schedule.take(end_ns + 5) {
                prop_assert_eq!(due.due_ns, schedule.due_ns(due.connection, taken[due.connection]));
                taken[due.connection] += 1;
            }
            prop_assert_eq!(taken, planned);
        }
    }
}
