//! What a guest has used and done.

use std::collections::BTreeMap;

use roam_netstack::{SocketInfo, SocketKind};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Counters of one run of a guest: they start at 0 with each start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct GuestStats {
    /// How long it runs, milliseconds.
    pub uptime_ms: u64,
    /// CPU time of its worker, microseconds.
    pub cpu_us: u64,
    /// Resident memory of its worker, bytes.
    pub rss_bytes: u64,
    /// Linear memories of guest and netstack, bytes.
    pub memory_bytes: u64,
    /// Polls.
    pub polls: u64,
    /// How long polls took.
    pub poll_times: PollTimes,
    /// Frames received.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames sent. A frame of many segments counts once.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Received frames dropped: a wrong checksum or a full ring.
    pub rx_dropped: u64,
    /// Frames the kernel did not take.
    pub tx_dropped: u64,
    /// Log lines that could not be kept: disk full or too many.
    pub log_lines_dropped: u64,
    /// The netstack's own counters, by name.
    pub netstack: BTreeMap<String, u64>,
    /// Open sockets, at most 4096.
    pub sockets: Vec<SocketView>,
}

/// A histogram of poll times: `counts[i]` polls took at most `bound_ns(i)`, and longer than the bound before; the last
/// bucket has no bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PollTimes {
    /// Polls of each bucket.
    pub counts: Vec<u64>,
    /// All times together, nanoseconds.
    pub sum_ns: u64,
    /// Longest, nanoseconds.
    pub max_ns: u64,
}

impl PollTimes {
    /// Buckets, the one without a bound included: bounds from 1.024 µs to 2^33 ns, 8.6 s.
    pub const BUCKETS: usize = 25;

    /// Counts one poll.
    pub fn record(&mut self, time_ns: u64) {
        self.counts.resize(Self::BUCKETS, 0);
        // Bits above the first bound: a time of exactly a bound belongs to that bound's bucket.
        let index = (u64::BITS - (time_ns.max(1) - 1).leading_zeros()).saturating_sub(10) as usize;
        self.counts[index.min(Self::BUCKETS - 1)] += 1;
        self.sum_ns = self.sum_ns.saturating_add(time_ns);
        self.max_ns = self.max_ns.max(time_ns);
    }

    /// Upper bound of a bucket, nanoseconds: 2^(10 + index); none for the last.
    pub fn bound_ns(index: usize) -> Option<u64> {
        (index + 1 < Self::BUCKETS).then(|| 1 << (10 + index))
    }

    /// The bound below which that share of all polls is; `None` when there were none. The longest for the last bucket.
    pub fn quantile_ns(&self, quantile: f64) -> Option<u64> {
        let total = self.counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
        let rank = ((total as f64 * quantile).ceil() as u64).max(1);
        let mut seen = 0_u64;
        let reached = |count: &u64| {
            seen = seen.saturating_add(*count);
            seen >= rank
        };
        let index = self.counts.iter().position(reached)?;
        Some(Self::bound_ns(index).map_or(self.max_ns, |bound| bound.min(self.max_ns)))
    }
}

/// One open socket of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SocketView {
    /// `tcp`, `udp` or `icmp`.
    pub protocol: String,
    /// Its own address and port.
    pub local: String,
    /// The other side's, of a TCP connection.
    // Not skipped when absent: this type also travels as postcard, where every field has its place.
    #[serde(default)]
    pub peer: Option<String>,
    /// The TCP state as in RFC 9293 in lower case (`listen`, `established`, …); `open` for the others.
    pub state: String,
    /// Bytes received that the guest has not taken yet; of a listener, connections it has not accepted.
    pub rx_queued_bytes: u64,
    /// Bytes the guest sent that are not acknowledged (TCP) or not yet out (others); of a listener, half-open connections.
    pub tx_queued_bytes: u64,
}

impl From<SocketInfo> for SocketView {
    fn from(info: SocketInfo) -> Self {
        let (protocol, state) = match info.kind {
            SocketKind::Udp => ("udp", "open"),
            SocketKind::Icmp => ("icmp", "open"),
            SocketKind::Listen => ("tcp", "listen"),
            SocketKind::SynSent => ("tcp", "syn-sent"),
            SocketKind::SynReceived => ("tcp", "syn-received"),
            SocketKind::Established => ("tcp", "established"),
            SocketKind::FinWait1 => ("tcp", "fin-wait-1"),
            SocketKind::FinWait2 => ("tcp", "fin-wait-2"),
            SocketKind::CloseWait => ("tcp", "close-wait"),
            SocketKind::Closing => ("tcp", "closing"),
            SocketKind::LastAck => ("tcp", "last-ack"),
            SocketKind::TimeWait => ("tcp", "time-wait"),
            SocketKind::Closed => ("tcp", "closed"),
        };
        let connected = protocol == "tcp" && info.kind != SocketKind::Listen;
        Self {
            protocol: protocol.into(),
            local: info.local.to_string(),
            peer: connected.then(|| info.peer.to_string()),
            state: state.into(),
            rx_queued_bytes: info.rx_queued.into(),
            tx_queued_bytes: info.tx_queued.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_bucket_of_the_bound_above_it() {
        for index in 0..PollTimes::BUCKETS {
            let (above, bound) = (index.checked_sub(1).and_then(PollTimes::bound_ns), PollTimes::bound_ns(index));
            for time_ns in [above.map_or(0, |bound| bound + 1), bound.unwrap_or(u64::MAX)] {
                let mut times = PollTimes::default();
                times.record(time_ns);
                assert_eq!(times.counts.iter().position(|count| *count == 1), Some(index), "{time_ns}");
                assert_eq!((times.sum_ns, times.max_ns), (time_ns, time_ns));
            }
        }
    }

    #[test]
    fn quantiles_are_upper_bounds() {
        let mut times = PollTimes { counts: vec![0; PollTimes::BUCKETS], sum_ns: 0, max_ns: 3_000_000_000_000 };
        assert_eq!(times.quantile_ns(0.5), None);
        times.counts[0] = 90;
        times.counts[3] = 9;
        times.counts[24] = 1;
        assert_eq!(times.quantile_ns(0.5), Some(1024));
        assert_eq!(times.quantile_ns(0.99), Some(8192));
        assert_eq!(times.quantile_ns(1.0), Some(3_000_000_000_000));
        // What a hostile worker may count.
        times.counts = vec![u64::MAX; 3];
        assert_eq!(times.quantile_ns(0.5), Some(1024));
    }
}
