//! What a run shall do: one checked value that command line and benchmark both build.
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

/// What is spoken with the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A decimal number in a UDP datagram, answered by its square.
    UdpSquare,
    /// UDP datagrams that come back unchanged (RFC 862).
    UdpEcho,
    /// Messages on TCP connections that come back unchanged (RFC 862).
    TcpEcho,
    /// The memcached text protocol: `get` and `set`.
    Kv,
    /// A paced HTTP/1.1 byte stream, checked by offset.
    HttpStream,
}

impl Kind {
    /// All kinds, in the order help texts show them.
    pub const ALL: [Self; 5] = [Self::UdpSquare, Self::UdpEcho, Self::TcpEcho, Self::Kv, Self::HttpStream];

    /// The name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::UdpSquare => "udp-square",
            Self::UdpEcho => "udp-echo",
            Self::TcpEcho => "tcp-echo",
            Self::Kv => "kv",
            Self::HttpStream => "http-stream",
        }
    }

    /// The port where roam's own guest of that kind listens.
    pub fn default_port(self) -> u16 {
        match self {
            Self::UdpSquare => 7000,
            Self::UdpEcho | Self::TcpEcho => 7,
            Self::Kv => 11211,
            Self::HttpStream => 80,
        }
    }

    /// The payload when none is chosen, in bytes.
    pub fn default_payload_bytes(self) -> usize {
        match self {
            Self::UdpSquare => 16,
            Self::UdpEcho | Self::TcpEcho | Self::Kv => 64,
            Self::HttpStream => 1024,
        }
    }

    /// The payloads that can be checked, in bytes, both ends included.
    ///
    /// `udp-square`: decimal digits, enough that numbers do not repeat, few enough that squares fit 128 bits.
    /// `udp-echo` and `kv`: at least a [header](super::content), at most a datagram or memcached's usual item limit.
    pub fn payload_bytes_range(self) -> (usize, usize) {
        match self {
            Self::UdpSquare => (12, 19),
            Self::UdpEcho => (16, 65_507),
            Self::TcpEcho => (1, 1 << 20),
            Self::Kv => (16, 1_000_000),
            Self::HttpStream => (1, 1 << 20),
        }
    }

    /// Whether replies come as datagrams, which can be lost, doubled and overtaken.
    pub fn is_datagram(self) -> bool {
        matches!(self, Self::UdpSquare | Self::UdpEcho)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| PlanError::UnknownKind(text.to_owned()))
    }
}

/// How fast requests leave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Open loop: so many per second over all connections, whether replies come or not. For `http-stream`, chunks of
    /// one payload per second.
    PerSecond(f64),
    /// Closed loop: as fast as replies come, with so many outstanding over all connections. For `http-stream`: as
    /// fast as the server sends; the window has no meaning.
    Max {
        /// Requests outstanding.
        window: usize,
    },
}

/// One run of the load client. [`Plan::new`] has the defaults; [`Plan::check`] says what cannot be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// What is spoken.
    pub kind: Kind,
    /// With whom.
    pub target: SocketAddr,
    /// How fast.
    pub pace: Pace,
    /// Bytes of a datagram, message, value or chunk; decimal digits for `udp-square`.
    pub payload_bytes: usize,
    /// Sockets, each with its own sequence.
    pub connections: usize,
    /// How long requests are sent and counted.
    pub duration: Duration,
    /// How long requests are sent before counting starts.
    pub warmup: Duration,
    /// How long late replies are waited for after the last request.
    pub drain: Duration,
    /// What the content of requests is derived from.
    pub seed: u64,
    /// `kv`: the share of requests that are `get`, 0 to 1. A key's first use is always a `set`.
    pub reads: f64,
    /// `kv`: distinct keys over all connections (at least one per connection).
    pub keys: usize,
    /// UDP: hand the kernel batches of datagrams as one, to be cut into datagrams at the device (`UDP_SEGMENT`). The
    /// client then needs much less processor time; a server on the kernel's stack may, too, as a virtual link carries
    /// the batch uncut to it. Without effect where the kernel or the payload does not allow it.
    pub segmentation: bool,
    /// How many [samples](super::samples::Samples) the report keeps; 0 for none.
    pub samples_max: usize,
    /// How long a [slice](super::slices::Slice) of the report is; without one it keeps none.
    pub slice: Option<Duration>,
}

impl Plan {
    /// 1000 requests per second for 10 s on one connection.
    pub fn new(kind: Kind, target: SocketAddr) -> Self {
        Self {
            kind,
            target,
            pace: Pace::PerSecond(1000.0),
            payload_bytes: kind.default_payload_bytes(),
            connections: 1,
            duration: Duration::from_secs(10),
            warmup: Duration::ZERO,
            drain: Duration::from_secs(2),
            seed: 1,
            reads: 0.9,
            keys: 1000,
            segmentation: false,
            samples_max: 0,
            slice: None,
        }
    }

    /// Refuses what cannot be run, naming the first thing that is wrong.
    pub fn check(&self) -> Result<(), PlanError> {
        let (least, most) = self.kind.payload_bytes_range();
        if !(least..=most).contains(&self.payload_bytes) {
            return Err(PlanError::Payload { kind: self.kind, given: self.payload_bytes, least, most });
        }
        if !(1..=CONNECTIONS_MAX).contains(&self.connections) {
            return Err(PlanError::Connections(self.connections));
        }
        match self.pace {
            Pace::PerSecond(rate) if !(RATE_PER_S_MIN..=RATE_PER_S_MAX).contains(&rate) => {
                return Err(PlanError::Rate(rate));
            }
            Pace::Max { window } if !(self.connections..=WINDOW_MAX).contains(&window) => {
                return Err(PlanError::Window { window, connections: self.connections });
            }
            Pace::PerSecond(_) | Pace::Max { .. } => {}
        }
        if self.duration.is_zero() {
            return Err(PlanError::NoDuration);
        }
        if !(0.0..=1.0).contains(&self.reads) {
            return Err(PlanError::Reads(self.reads));
        }
        if !(1..=KEYS_MAX).contains(&self.keys) {
            return Err(PlanError::Keys(self.keys));
        }
        if self.samples_max > SAMPLES_MAX {
            return Err(PlanError::Samples(self.samples_max));
        }
        if self.slice.is_some_and(|slice| slice.is_zero()) {
            return Err(PlanError::NoSlice);
        }
        Ok(())
    }
}

/// Sockets of one run.
pub const CONNECTIONS_MAX: usize = 4096;
/// Requests outstanding in a closed loop.
pub const WINDOW_MAX: usize = 65_536;
/// The slowest open loop: one request in about three hours.
pub const RATE_PER_S_MIN: f64 = 1e-4;
/// The fastest open loop.
pub const RATE_PER_S_MAX: f64 = 1e8;
/// Keys of a `kv` run.
pub const KEYS_MAX: usize = 1 << 20;
/// Samples a report keeps.
pub const SAMPLES_MAX: usize = 1 << 20;

/// A plan that cannot be run.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// Not one of [`Kind::ALL`].
    #[error("`{0}` is not a kind of load: choose udp-square, udp-echo, tcp-echo, kv or http-stream")]
    UnknownKind(String),
    /// A payload that cannot be checked.
    #[error("{kind} takes a payload of {least} to {most} bytes, not {given}")]
    Payload {
        /// For which kind.
        kind: Kind,
        /// What was asked for.
        given: usize,
        /// The smallest possible.
        least: usize,
        /// The largest possible.
        most: usize,
    },
    /// None, or too many.
    #[error("{0} connections: choose 1 to {CONNECTIONS_MAX}")]
    Connections(usize),
    /// Not a rate that can be kept.
    #[error("a rate of {0}/s: choose {RATE_PER_S_MIN} to {RATE_PER_S_MAX:e} per second")]
    Rate(f64),
    /// Fewer outstanding requests than connections, or too many.
    #[error("a window of {window}: choose {connections} (one per connection) to {WINDOW_MAX}")]
    Window {
        /// What was asked for.
        window: usize,
        /// The least: one each.
        connections: usize,
    },
    /// Nothing to do.
    #[error("a duration of zero: choose how long to send, for example 10s")]
    NoDuration,
    /// Not a share.
    #[error("a share of reads of {0}: choose 0 to 1")]
    Reads(f64),
    /// None, or too many.
    #[error("{0} keys: choose 1 to {KEYS_MAX}")]
    Keys(usize),
    /// Too many.
    #[error("{0} samples: choose at most {SAMPLES_MAX}")]
    Samples(usize),
    /// Nothing fits into it.
    #[error("slices of no length: choose how long one is, for example 10ms")]
    NoSlice,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(kind: Kind) -> Plan {
        Plan::new(kind, SocketAddr::from(([10, 0, 0, 1], 7)))
    }

    #[test]
    fn defaults_can_be_run() {
        for kind in Kind::ALL {
            assert_eq!(plan(kind).check(), Ok(()), "{kind}");
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert!("smtp".parse::<Kind>().is_err());
    }

    #[test]
    fn what_cannot_be_run_is_named() {
        let base = plan(Kind::UdpEcho);
        let check = |change: &dyn Fn(&mut Plan)| {
            let mut plan = base.clone();
            change(&mut plan);
            plan.check().unwrap_err()
        };
        assert!(matches!(check(&|p| p.payload_bytes = 3), PlanError::Payload { least: 16, .. }));
        assert!(matches!(check(&|p| p.connections = 0), PlanError::Connections(0)));
        assert!(matches!(check(&|p| p.pace = Pace::PerSecond(f64::NAN)), PlanError::Rate(_)));
        assert!(matches!(check(&|p| p.pace = Pace::PerSecond(0.0)), PlanError::Rate(_)));
        assert!(matches!(check(&|p| p.pace = Pace::Max { window: 0 }), PlanError::Window { .. }));
        assert!(matches!(check(&|p| p.duration = Duration::ZERO), PlanError::NoDuration));
        assert!(matches!(check(&|p| p.reads = 1.5), PlanError::Reads(_)));
        assert!(matches!(check(&|p| p.keys = 0), PlanError::Keys(0)));
        assert!(matches!(check(&|p| p.slice = Some(Duration::ZERO)), PlanError::NoSlice));
    }
}
