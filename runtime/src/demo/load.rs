//! What clients ask the guests all the while they move: `roam load`, one thread a guest, and a download by curl.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use roam_abi::pattern;

use super::checks::Outcome;
use super::stage::{KV, Role, SQUARE, Stage, WEB};
use super::{DemoError, interrupted};
use crate::lab::{Finished, require};
use crate::load::{self, Kind, Pace, Plan, Progress, Report, Snapshot};

/// How long requests are sent before they count.
const WARMUP: Duration = Duration::from_millis(300);
/// Points of a guest's curve in the picture.
const SAMPLES_MAX: usize = 4000;
/// What curl loads a second, and at most.
const DOWNLOAD_BYTES_PER_S: u64 = 1 << 20;
const DOWNLOAD_BYTES_MAX: u64 = 48 << 20;
/// What the download may take beyond the duration.
const MARGIN: Duration = Duration::from_secs(20);

/// What one guest is asked for.
pub(super) struct Offer {
    pub(super) role: Role,
    pub(super) plan: Plan,
    /// What its samples are, for the picture.
    pub(super) measured: &'static str,
}

/// One guest's load when it is over.
pub(super) struct Run {
    pub(super) offer: Offer,
    pub(super) report: Report,
    /// When counting began.
    pub(super) began: Instant,
}

/// Rates that leave a small machine idle most of the time: the demo shows that all is well, not how much goes.
pub(super) fn offers(duration: Duration) -> [Offer; 3] {
    let offer = |role: Role, kind: Kind, per_s: f64, connections, measured| {
        let ip = role.ip.parse().expect("a constant address");
        let mut plan = Plan::new(kind, SocketAddr::new(ip, kind.default_port()));
        (plan.pace, plan.connections) = (Pace::PerSecond(per_s), connections);
        (plan.duration, plan.warmup, plan.samples_max) = (duration, WARMUP, SAMPLES_MAX);
        Offer { role, plan, measured }
    };
    [
        offer(SQUARE, Kind::UdpSquare, 2000.0, 1, "round trips"),
        offer(KV, Kind::Kv, 2000.0, 20, "round trips, 20 connections"),
        // A stream has no round trips: how late its pieces come.
        offer(WEB, Kind::HttpStream, 1000.0, 2, "lateness of 2 streams"),
    ]
}

impl Offer {
    /// The command that does the same.
    pub(super) fn typed(&self) -> String {
        let Plan { kind, connections, duration, .. } = &self.plan;
        let Pace::PerSecond(rate) = self.plan.pace else { unreachable!("all offers have a pace") };
        let pace = match kind {
            Kind::HttpStream => format!("--bandwidth {}kbit", rate * self.plan.payload_bytes as f64 * 8.0 / 1000.0),
            _ => format!("--rate {rate}"),
        };
        format!("roam load {kind} {} {pace} --connections {connections} --duration {duration:?}", self.role.ip)
    }

    /// Does it, on this thread, as a client.
    pub(super) fn run(self, stage: &Stage) -> Result<Run, DemoError> {
        let began = Mutex::new(None);
        let report = stage.client.run(|| load::run(&self.plan, &mut Watch(&began)))?;
        let report = report.map_err(|source| DemoError::Load { guest: self.role.name, source })?;
        let sending = began.into_inner().ok().flatten().unwrap_or_else(Instant::now);
        Ok(Run { report, began: sending + self.plan.warmup, offer: self })
    }
}

/// Notes when sending began, and ends it early when somebody asks for that.
struct Watch<'a>(&'a Mutex<Option<Instant>>);

impl Progress for Watch<'_> {
    fn update(&mut self, snapshot: &Snapshot<'_>) -> ControlFlow<()> {
        if let Ok(mut began) = self.0.lock() {
            began.get_or_insert_with(|| Instant::now() - snapshot.elapsed);
        }
        if interrupted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// One file of curl's, which takes as long as all the rest.
pub(super) struct Download {
    bytes: usize,
    line: String,
}

impl Download {
    pub(super) fn new(duration: Duration) -> Self {
        let bytes = (DOWNLOAD_BYTES_PER_S * duration.as_millis() as u64 / 1000).min(DOWNLOAD_BYTES_MAX);
        let line = format!("curl -sSf --limit-rate 1M http://[{}]/stream?bytes={bytes}", WEB.ip6);
        Self { bytes: bytes as usize, line }
    }

    pub(super) fn typed(&self) -> &str {
        &self.line
    }

    pub(super) fn run(&self, stage: &Stage, duration: Duration) -> Outcome {
        let (passed, detail) = match require("curl", "curl") {
            Err(missing) => (None, missing.to_string()),
            Ok(_) => match stage.client.call(&self.line, b"", duration + MARGIN).and_then(Finished::success) {
                Ok(got) => self.judge(&got.stdout),
                Err(error) => (Some(false), error.line()),
            },
        };
        Outcome { name: "one download by curl meanwhile", passed, detail }
    }

    fn judge(&self, got: &[u8]) -> (Option<bool>, String) {
        let right = pattern::matching(got, 0);
        if got.len() == self.bytes && right == self.bytes {
            return (
                Some(true),
                format!("{:.1} MiB over IPv6, every byte as it should be", self.bytes as f64 / 1048576.0),
            );
        }
        (Some(false), format!("{} bytes of {} came, {right} of them right", got.len(), self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_byte_of_the_download_fails() {
        let download = Download::new(Duration::from_secs(1));
        let mut bytes = vec![0; download.bytes];
        pattern::fill(&mut bytes, 0);
        assert_eq!(download.judge(&bytes).0, Some(true));
        bytes[1000] ^= 1;
        assert_eq!(download.judge(&bytes).0, Some(false));
        assert_eq!(download.judge(&bytes[..1000]).0, Some(false));
    }

    #[test]
    fn offers_are_possible_and_are_shown_as_one_would_type_them() {
        let offers = offers(Duration::from_secs(20));
        assert!(offers.iter().all(|offer| offer.plan.check().is_ok()));
        assert_eq!(offers[1].typed(), "roam load kv 10.90.0.12 --rate 2000 --connections 20 --duration 20s");
        assert!(offers[2].typed().contains("--bandwidth 8192kbit "), "{}", offers[2].typed());
    }
}
