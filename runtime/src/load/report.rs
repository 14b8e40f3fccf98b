//! What a run found.
use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::plan::{Kind, Pace, Plan};
use super::samples::Sample;
use super::slices::Slice;
use super::tally::Tally;

/// The result of a run; as JSON, one flat object.
///
/// Always `sent == received + lost`. Latencies count from when a request was *due*. Rates count what came between
/// the end of the warm-up and the end of sending.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was spoken, for example `udp-echo`.
    pub kind: String,
    /// With whom.
    pub target: String,
    /// Requests per second asked for; absent in a closed loop.
    pub rate: Option<f64>,
    /// Bytes of a payload.
    pub payload: usize,
    /// Sockets.
    pub connections: usize,
    /// What content was derived from.
    pub seed: u64,
    /// Requests that fell due.
    pub sent: u64,
    /// Requests answered, whatever the content.
    pub received: u64,
    /// Requests never answered.
    pub lost: u64,
    /// Replies beyond the first to a request.
    pub duplicated: u64,
    /// First replies that came after the reply to a later request of the same connection.
    pub reordered: u64,
    /// Replies whose content differs from what it should be.
    pub corrupted: u64,
    /// Connections reset, refused, timed out or closed by the peer; unreachable messages.
    pub resets: u64,
    /// Median latency, µs.
    pub rtt_us_p50: f64,
    /// 99th percentile, µs.
    pub rtt_us_p99: f64,
    /// 99.9th percentile, µs.
    pub rtt_us_p999: f64,
    /// The slowest reply, µs.
    pub rtt_us_max: f64,
    /// The longest time without any reply, µs; up to the end of sending where something stayed unanswered.
    pub silence_us_max: u64,
    /// When that began, ms from the start of counting.
    pub silence_began_ms: u64,
    /// Replies per second.
    pub packets_per_s: f64,
    /// Bits per second of replies, above UDP or TCP.
    pub bits_per_s: f64,
    /// Sends more than 1 ms after they were due: above 0, the client itself was too slow.
    pub late_sends: u64,
    /// The latest send, µs after it was due.
    pub send_lag_us_max: u64,
    /// How long requests were sent and counted.
    pub duration_s: f64,
    /// The same latencies, from when requests were really sent.
    #[serde(skip)]
    pub from_send: Percentiles,
    /// Latency over time, if the plan asked for samples.
    #[serde(skip)]
    pub samples: Vec<Sample>,
    /// Replies over time, from the start of counting, if the plan asked for slices.
    #[serde(skip)]
    pub slices: Vec<Slice>,
    /// The first few different things that went wrong, in words.
    #[serde(skip)]
    pub problems: Vec<String>,
}

/// Latencies in µs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Percentiles {
    /// Median.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// 99.9th percentile.
    pub p999_us: f64,
    /// The largest.
    pub max_us: f64,
}

impl Percentiles {
    /// Of latencies in ns.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        let us = |ns: u64| ns as f64 / 1000.0;
        Self {
            p50_us: us(histogram.value_at_quantile(0.5)),
            p99_us: us(histogram.value_at_quantile(0.99)),
            p999_us: us(histogram.value_at_quantile(0.999)),
            max_us: us(histogram.max()),
        }
    }
}

impl Report {
    pub(super) fn new(plan: &Plan, tally: Tally, problems: Vec<String>) -> Self {
        let rtt = Percentiles::of(&tally.rtt_ns);
        let duration_s = (tally.to_ns - tally.from_ns) as f64 / 1e9;
        let per_second = |count: u64| if duration_s > 0.0 { count as f64 / duration_s } else { 0.0 };
        Self {
            kind: plan.kind.to_string(),
            target: plan.target.to_string(),
            rate: match plan.pace {
                Pace::PerSecond(rate) => Some(rate),
                Pace::Max { .. } => None,
            },
            payload: plan.payload_bytes,
            connections: plan.connections,
            seed: plan.seed,
            sent: tally.sent,
            received: tally.received,
            lost: tally.sent - tally.received,
            duplicated: tally.duplicated,
            reordered: tally.reordered,
            corrupted: tally.corrupted,
            resets: tally.resets,
            rtt_us_p50: rtt.p50_us,
            rtt_us_p99: rtt.p99_us,
            rtt_us_p999: rtt.p999_us,
            rtt_us_max: rtt.max_us,
            silence_us_max: tally.silence.longest_ns() / 1000,
            silence_began_ms: tally.silence.began_ns() / 1_000_000,
            packets_per_s: per_second(tally.received_in_time),
            bits_per_s: per_second(tally.bytes_in_time) * 8.0,
            late_sends: tally.late_sends,
            send_lag_us_max: tally.send_lag_ns_max / 1000,
            duration_s,
            from_send: Percentiles::of(&tally.rtt_from_send_ns),
            samples: tally.samples.into_kept(),
            slices: tally.slices.into_kept(),
            problems,
        }
    }

    /// Whether every request was answered, once, rightly, and no connection broke. Reordering is no fault.
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.corrupted == 0 && self.resets == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = match self.rate {
            Some(rate) if rate.fract() == 0.0 || rate < 1.0 => format!("{rate}/s"),
            Some(rate) => format!("{rate:.1}/s"),
            None => "as fast as replies come".to_owned(),
        };
        let s = if self.connections == 1 { "" } else { "s" };
        writeln!(
            f,
            "{} {}: {rate}, payload {} B, {} connection{s}, {:.3} s, seed {}",
            self.kind, self.target, self.payload, self.connections, self.duration_s, self.seed
        )?;
        writeln!(f, "  sent       {:>12}   received   {:>12}   lost      {:>12}", self.sent, self.received, self.lost)?;
        writeln!(
            f,
            "  duplicated {:>12}   reordered  {:>12}   corrupted {:>12}   resets {:>6}",
            self.duplicated, self.reordered, self.corrupted, self.resets
        )?;
        let (rtt, send) = ((self.rtt_us_p50, self.rtt_us_p99, self.rtt_us_p999, self.rtt_us_max), self.from_send);
        let row = |f: &mut fmt::Formatter<'_>, name: &str, (p50, p99, p999, max): (f64, f64, f64, f64)| {
            let [p50, p99, p999, max] = [p50, p99, p999, max].map(time);
            writeln!(f, "  {name:<10} p50 {p50:>8}   p99 {p99:>8}   p99.9 {p999:>8}   max {max:>8}")
        };
        if self.kind == Kind::HttpStream.name() {
            // Nothing is asked for piece by piece: what is measured is how far the stream lags behind its pace.
            if self.rate.is_some() {
                row(f, "lateness", rtt)?;
            }
        } else {
            row(f, "RTT", rtt)?;
            row(f, "from send", (send.p50_us, send.p99_us, send.p999_us, send.max_us))?;
        }
        writeln!(
            f,
            "  longest silence {} from {:.3} s on",
            time(self.silence_us_max as f64),
            self.silence_began_ms as f64 / 1000.0
        )?;
        write!(f, "  {:.0} replies/s, {:.3} Mbit/s", self.packets_per_s, self.bits_per_s / 1e6)?;
        if self.late_sends > 0 {
            write!(
                f,
                "\n  note: this client fell behind: {} sends over 1 ms late, at most {}",
                self.late_sends,
                time(self.send_lag_us_max as f64)
            )?;
        }
        for problem in &self.problems {
            write!(f, "\n  problem: {problem}")?;
        }
        Ok(())
    }
}

/// Microseconds in the unit people would choose.
fn time(us: f64) -> String {
    match us {
        us if us < 1000.0 => format!("{us:.1} µs"),
        us if us < 1e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.3} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn report() -> Report {
        let plan = Plan::new(Kind::UdpEcho, SocketAddr::from(([10, 0, 0, 1], 7)));
        Report::new(&plan, Tally::new(0, 2_000_000_000, 0, None), vec!["connection refused".to_owned()])
    }

    #[test]
    fn json_has_exactly_the_agreed_keys() {
        let json = serde_json::to_value(report()).unwrap();
        let mut keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut agreed = [
            "kind",
            "target",
            "rate",
            "payload",
            "connections",
            "seed",
            "sent",
            "received",
            "lost",
            "duplicated",
            "reordered",
            "corrupted",
            "resets",
            "rtt_us_p50",
            "rtt_us_p99",
            "rtt_us_p999",
            "rtt_us_max",
            "silence_us_max",
            "silence_began_ms",
            "packets_per_s",
            "bits_per_s",
            "late_sends",
            "send_lag_us_max",
            "duration_s",
        ];
        keys.sort_unstable();
        agreed.sort_unstable();
        assert_eq!(keys, agreed);
    }

    #[test]
    fn text_says_what_went_wrong() {
        let mut report = report();
        assert!(report.is_clean());
        report.lost = 1;
        assert!(!report.is_clean());
        let text = report.to_string();
        assert!(text.contains("problem: connection refused"), "{text}");
        assert_eq!(time(12.34), "12.3 µs");
        assert_eq!(time(12_345.0), "12.35 ms");
        assert_eq!(time(2_345_600.0), "2.346 s");
    }
}
