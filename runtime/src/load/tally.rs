//! Counters and latencies of one run.
use hdrhistogram::Histogram;

use super::ledger::Settled;
use super::samples::{Sample, Samples};
use super::silence::Silence;
use super::slices::Slices;

/// Sends later than this count as late: 1 ms.
pub const LATE_NS: u64 = 1_000_000;

/// Latencies above one hour are recorded as one hour.
const RTT_NS_MAX: u64 = 3_600_000_000_000;

/// Significant decimal digits of latencies.
const RTT_DIGITS: u8 = 3;

/// What was counted. Requests due before `from_ns` (warm-up) do not count.
#[derive(Debug)]
pub struct Tally {
    /// When counting begins.
    pub from_ns: u64,
    /// When sending ends; replies after that do not count towards rates.
    pub to_ns: u64,
    /// Requests that fell due.
    pub sent: u64,
    /// Requests that were answered.
    pub received: u64,
    /// Replies beyond the first.
    pub duplicated: u64,
    /// First replies that a later request's reply had overtaken.
    pub reordered: u64,
    /// Replies with wrong content.
    pub corrupted: u64,
    /// Connections that broke, or unreachable messages.
    pub resets: u64,
    /// Sends later than [`LATE_NS`].
    pub late_sends: u64,
    /// How late the latest send was.
    pub send_lag_ns_max: u64,
    /// Replies that came before sending ended.
    pub received_in_time: u64,
    /// Bytes of replies that came before sending ended.
    pub bytes_in_time: u64,
    /// From when a request was due to its reply, ns.
    pub rtt_ns: Histogram<u64>,
    /// From when a request was really sent to its reply, ns.
    pub rtt_from_send_ns: Histogram<u64>,
    /// Gaps between replies.
    pub silence: Silence,
    /// Latency over time.
    pub samples: Samples,
    /// Replies over time.
    pub slices: Slices,
}

impl Tally {
    /// All zero.
    pub fn new(from_ns: u64, to_ns: u64, samples_max: usize, slice_ns: Option<u64>) -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, RTT_NS_MAX, RTT_DIGITS).expect("1 to an hour in 3 digits is a valid range")
        };
        Self {
            from_ns,
            to_ns,
            sent: 0,
            received: 0,
            duplicated: 0,
            reordered: 0,
            corrupted: 0,
            resets: 0,
            late_sends: 0,
            send_lag_ns_max: 0,
            received_in_time: 0,
            bytes_in_time: 0,
            rtt_ns: histogram(),
            rtt_from_send_ns: histogram(),
            silence: Silence::new(from_ns),
            samples: Samples::new(samples_max),
            slices: Slices::new(from_ns, slice_ns),
        }
    }

    /// A request fell due at `due_ns` and was handed on at `now_ns`.
    pub fn sent(&mut self, due_ns: u64, now_ns: u64) {
        if due_ns < self.from_ns {
            return;
        }
        self.sent += 1;
        let lag_ns = now_ns.saturating_sub(due_ns);
        self.late_sends += u64::from(lag_ns > LATE_NS);
        self.send_lag_ns_max = self.send_lag_ns_max.max(lag_ns);
    }

    /// A reply with known request came.
    pub fn settled(&mut self, settled: Settled, now_ns: u64) {
        self.heard(now_ns);
        match settled {
            Settled::First { due_ns, sent_ns, reordered, .. } if due_ns >= self.from_ns => {
                self.answered(now_ns);
                self.reordered += u64::from(reordered);
                let rtt_ns = now_ns.saturating_sub(due_ns);
                self.rtt_ns.saturating_record(rtt_ns);
                self.rtt_from_send_ns.saturating_record(now_ns.saturating_sub(sent_ns));
                self.samples.add(Sample { sent_us: (due_ns - self.from_ns) / 1000, rtt_us: rtt_ns / 1000 });
            }
            Settled::Duplicate { due_ns } if due_ns >= self.from_ns => self.duplicated += 1,
            Settled::First { .. } | Settled::Duplicate { .. } | Settled::Expired => {}
            // It passed the content check, yet nobody asked: not ours to call a reply.
            Settled::NeverSent => self.corrupted(now_ns),
        }
    }

    /// A piece of a stream that runs at the server's own pace came: it was never due, so it has no latency.
    pub fn pulled(&mut self, now_ns: u64) {
        self.heard(now_ns);
        if (self.from_ns..self.to_ns).contains(&now_ns) {
            self.sent += 1;
            self.answered(now_ns);
        }
    }

    /// A reply's content was wrong.
    pub fn corrupted(&mut self, now_ns: u64) {
        self.heard(now_ns);
        self.corrupted += u64::from(now_ns >= self.from_ns);
    }

    /// A connection broke.
    pub fn reset(&mut self, now_ns: u64) {
        self.resets += u64::from(now_ns >= self.from_ns);
    }

    /// Bytes of replies came.
    pub fn bytes(&mut self, bytes: usize, now_ns: u64) {
        if (self.from_ns..self.to_ns).contains(&now_ns) {
            self.bytes_in_time += bytes as u64;
        }
    }

    /// Sending was cut short.
    pub fn end_at(&mut self, now_ns: u64) {
        self.to_ns = self.to_ns.min(now_ns).max(self.from_ns);
    }

    fn heard(&mut self, now_ns: u64) {
        self.silence.reply(now_ns);
        self.slices.reply(now_ns);
    }

    fn answered(&mut self, now_ns: u64) {
        self.received += 1;
        self.received_in_time += u64::from(now_ns < self.to_ns);
    }
}
