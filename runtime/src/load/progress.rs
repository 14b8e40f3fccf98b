//! What can be seen of a run while it runs, and how to end it early.
use std::ops::ControlFlow;
use std::time::Duration;

use super::tally::Tally;

/// Told about ten times a second how a run goes.
pub trait Progress {
    /// `Break` ends the sending early, and a second one the waiting for late replies: the report still comes.
    fn update(&mut self, snapshot: &Snapshot<'_>) -> ControlFlow<()>;
}

/// A run nobody watches.
impl Progress for () {
    fn update(&mut self, _snapshot: &Snapshot<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// A run in the middle.
#[derive(Debug)]
pub struct Snapshot<'a> {
    /// Since the start of sending, warm-up included.
    pub elapsed: Duration,
    /// How long sending lasts, warm-up included.
    pub total: Duration,
    /// Whether sending is over and only late replies are waited for.
    pub draining: bool,
    pub(super) tally: &'a Tally,
}

impl Snapshot<'_> {
    /// Requests that fell due.
    pub fn sent(&self) -> u64 {
        self.tally.sent
    }

    /// Requests answered.
    pub fn received(&self) -> u64 {
        self.tally.received
    }

    /// Requests not answered yet: lost, or on their way.
    pub fn unanswered(&self) -> u64 {
        self.tally.sent - self.tally.received
    }

    /// Connections that broke.
    pub fn resets(&self) -> u64 {
        self.tally.resets
    }

    /// The 99th percentile of the latency so far, µs. Walks the histogram: tens of µs.
    pub fn rtt_us_p99(&self) -> f64 {
        self.tally.rtt_ns.value_at_quantile(0.99) as f64 / 1000.0
    }
}
