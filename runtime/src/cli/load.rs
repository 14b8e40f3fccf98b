//! `roam load`: offers requests to a server and accounts for every one.

use std::io::{IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::units;
use crate::load::{self, Kind, LoadError, Pace, Plan, Progress, Snapshot, units as rates};

/// Offer requests to a server at a set rate and account for every one.
///
/// Open loop: requests leave by the clock, whether replies come or not, and latency counts from when a request was
/// due. Prints what was sent, received, lost, duplicated, reordered, corrupted and reset, the round-trip times and
/// the longest silence. Ctrl-C ends the run early and still prints; a second one stops waiting for late replies.
///
/// Exit codes: 0 all answered once and rightly; 1 something was lost, duplicated, corrupted or reset, or the target
/// could not be reached; 2 usage.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// What to speak: udp-square, udp-echo, tcp-echo, kv (memcached) or http-stream.
    kind: Kind,
    /// Address, with a port where it is not the usual one: 10.90.0.10, 10.90.0.10:7000, fd00::10 or [fd00::10]:7
    /// [default ports: udp-square 7000, echo 7, kv 11211, http-stream 80].
    target: String,
    /// Requests per second over all connections, for example 500, 10k or 2.5/s; `max`: as fast as replies come, with
    /// --window outstanding.
    #[arg(long, default_value = "1000", value_parser = rate, conflicts_with = "bandwidth")]
    rate: Rate,
    /// With --rate max: how many requests are outstanding.
    #[arg(long, default_value_t = 64, value_name = "REQUESTS")]
    window: usize,
    /// http-stream: bits per second over all connections, for example 10Mbit; `max`: all the server can send.
    #[arg(long, default_value = "10Mbit", value_parser = bandwidth, value_name = "RATE")]
    bandwidth: Rate,
    /// Size of a datagram, message, value or chunk, for example 64 or 1KiB; for udp-square decimal digits
    /// [default: 64, udp-square 16, http-stream 1KiB].
    #[arg(long, value_parser = units::bytes, value_name = "SIZE")]
    payload: Option<usize>,
    /// Sockets, each with its own sequence of requests.
    #[arg(long, default_value_t = 1, value_name = "COUNT")]
    connections: usize,
    /// How long to send and count, for example 500ms, 10s or 2m.
    #[arg(long, default_value = "10s", value_parser = units::duration)]
    duration: Duration,
    /// How long to send before counting starts.
    #[arg(long, default_value = "0s", value_parser = units::duration, value_name = "DURATION")]
    warmup: Duration,
    /// How long to wait for late replies at the end.
    #[arg(long, default_value = "2s", value_parser = units::duration, value_name = "DURATION")]
    drain: Duration,
    /// What content is derived from [default: another one each time; the report names it].
    #[arg(long)]
    seed: Option<u64>,
    /// kv: the share of requests that read, 0 to 1.
    #[arg(long, default_value_t = 0.9, value_name = "SHARE")]
    reads: f64,
    /// kv: how many keys are used.
    #[arg(long, default_value_t = 1000, value_name = "COUNT")]
    keys: usize,
    /// UDP: give the kernel batches to cut into datagrams (UDP_SEGMENT), to offer more with less processor time.
    #[arg(long)]
    segmentation: bool,
    /// Print the report as one line of JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(arguments: Arguments) -> Result<ExitCode> {
    let checked = arguments.plan().and_then(|plan| plan.check().map(|()| plan).map_err(anyhow::Error::from));
    let plan = match checked {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("roam load: {error:#}");
            return Ok(ExitCode::from(2));
        }
    };
    let mut watcher = Watcher::new(&plan)?;
    let report = match load::run(&plan, &mut watcher) {
        Err(error @ LoadError::Connect { .. }) => {
            return Err(error).with_context(|| format!("roam load {}", plan.kind));
        }
        report => report?,
    };
    watcher.bar.finish_and_clear();
    let mut stdout = std::io::stdout().lock();
    if arguments.json {
        serde_json::to_writer(&mut stdout, &report)?;
        writeln!(stdout)?;
    } else {
        writeln!(stdout, "{report}")?;
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Arguments {
    fn plan(&self) -> Result<Plan> {
        let target = target(&self.target, self.kind.default_port())?;
        let mut plan = Plan::new(self.kind, target);
        plan.payload_bytes = self.payload.unwrap_or(plan.payload_bytes);
        plan.pace = match (self.kind, self.rate, self.bandwidth) {
            (Kind::HttpStream, _, Rate::PerSecond(bits)) => Pace::PerSecond(bits / 8.0 / plan.payload_bytes as f64),
            (Kind::HttpStream, _, Rate::Max) => Pace::Max { window: self.window.max(self.connections) },
            (_, Rate::PerSecond(rate), _) => Pace::PerSecond(rate),
            (_, Rate::Max, _) => Pace::Max { window: self.window },
        };
        plan.connections = self.connections;
        plan.duration = self.duration;
        plan.warmup = self.warmup;
        plan.drain = self.drain;
        plan.seed = self.seed.unwrap_or_else(any_seed);
        plan.reads = self.reads;
        plan.keys = self.keys;
        plan.segmentation = self.segmentation;
        Ok(plan)
    }
}

/// A number of something per second, or no bound.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rate {
    PerSecond(f64),
    Max,
}

fn rate(text: &str) -> Result<Rate, rates::UnitError> {
    if text == "max" { Ok(Rate::Max) } else { rates::per_second(text).map(Rate::PerSecond) }
}

fn bandwidth(text: &str) -> Result<Rate, rates::UnitError> {
    if text == "max" { Ok(Rate::Max) } else { rates::bits_per_second(text).map(Rate::PerSecond) }
}

/// An address with or without port; IPv6 with brackets or, where there is no port, without.
fn target(text: &str, default_port: u16) -> Result<SocketAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse::<IpAddr>()
        .map(|address| SocketAddr::new(address, default_port))
        .with_context(|| format!("`{text}` is not an address: write for example 10.90.0.10:{default_port}"))
}

/// Different each time: replies to an earlier run must not pass for replies to this one.
fn any_seed() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Below 2^53, so that every reader of JSON gets it right.
    (since_1970.as_nanos() as u64 ^ u64::from(std::process::id()) << 32) & ((1 << 53) - 1)
}

/// Shows a bar on a terminal, and listens for Ctrl-C.
struct Watcher {
    bar: ProgressBar,
    signals: SignalFd,
}

impl Watcher {
    fn new(plan: &Plan) -> Result<Self> {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGINT);
        mask.add(Signal::SIGTERM);
        mask.thread_block().context("cannot block signals")?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .context("cannot listen for signals")?;
        let target =
            if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let total = plan.warmup + plan.duration;
        let bar = ProgressBar::with_draw_target(Some(total.as_millis() as u64), target);
        let style = ProgressStyle::with_template("{prefix} [{bar:30}] {elapsed} {msg}").expect("a valid template");
        bar.set_style(style.progress_chars("=> "));
        bar.set_prefix(format!("{} {}", plan.kind, plan.target));
        Ok(Self { bar, signals })
    }
}

impl Progress for Watcher {
    fn update(&mut self, snapshot: &Snapshot<'_>) -> ControlFlow<()> {
        if !self.bar.is_hidden() {
            self.bar.set_position(snapshot.elapsed.min(snapshot.total).as_millis() as u64);
            self.bar.set_message(message(snapshot));
        }
        match self.signals.read_signal() {
            Ok(Some(_)) => ControlFlow::Break(()),
            Ok(None) | Err(_) => ControlFlow::Continue(()),
        }
    }
}

fn message(snapshot: &Snapshot<'_>) -> String {
    let share = 100.0 * snapshot.unanswered() as f64 / (snapshot.sent().max(1)) as f64;
    let draining = if snapshot.draining { ", waiting for late replies" } else { "" };
    format!(
        "{} received, {} missing ({share:.2} %), {} resets, p99 {:.0} µs{draining}",
        snapshot.received(),
        snapshot.unanswered(),
        snapshot.resets(),
        snapshot.rtt_us_p99()
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        load: Arguments,
    }

    fn plan(line: &str) -> Result<Plan> {
        let words = std::iter::once("load").chain(line.split_whitespace());
        Cli::try_parse_from(words)?.load.plan()
    }

    #[test]
    fn options_as_people_write_them() {
        let plan = plan(
            "udp-echo 10.90.0.10 --rate 10k/s --payload 1KiB --connections 4 --duration 500ms --warmup 1s --drain 0s \
             --seed 7",
        )
        .unwrap();
        assert_eq!(plan.target, "10.90.0.10:7".parse().unwrap());
        assert_eq!(plan.pace, Pace::PerSecond(10_000.0));
        assert_eq!((plan.payload_bytes, plan.connections, plan.seed), (1024, 4, 7));
        assert_eq!((plan.duration, plan.warmup), (Duration::from_millis(500), Duration::from_secs(1)));
        assert_eq!(plan.check(), Ok(()));
    }

    #[test]
    fn every_kind_has_its_defaults() {
        for (line, target) in [
            ("udp-square [fd00::10]:7", "[fd00::10]:7"),
            ("udp-square fd00::10", "[fd00::10]:7000"),
            ("tcp-echo [fd00::10]", "[fd00::10]:7"),
            ("kv 10.0.0.1 --reads 0.5 --keys 10", "10.0.0.1:11211"),
            ("http-stream 10.0.0.1:8080", "10.0.0.1:8080"),
        ] {
            let plan = plan(line).unwrap();
            assert_eq!(plan.target, target.parse().unwrap(), "{line}");
            assert_eq!(plan.check(), Ok(()), "{line}");
        }
    }

    #[test]
    fn bandwidth_becomes_chunks() {
        let paced = plan("http-stream 10.0.0.1 --bandwidth 8Mbit --payload 1000").unwrap();
        assert_eq!(paced.pace, Pace::PerSecond(1000.0));
        let unpaced = plan("http-stream 10.0.0.1 --bandwidth max").unwrap();
        assert!(matches!(unpaced.pace, Pace::Max { .. }));
        assert_eq!(plan("udp-echo 10.0.0.1 --rate max --window 9").unwrap().pace, Pace::Max { window: 9 });
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "smtp 10.0.0.1",
            "udp-echo somewhere",
            "udp-echo 10.0.0.1:99999",
            "udp-echo 10.0.0.1 --rate fast",
            "udp-echo 10.0.0.1 --duration 5parsecs",
            "udp-echo",
            "",
        ] {
            assert!(plan(line).is_err(), "{line}");
        }
        assert!(plan("udp-echo 10.0.0.1 --payload 3").unwrap().check().is_err());
        assert!(plan("udp-echo 10.0.0.1 --rate 0").unwrap().check().is_err());
        assert!(plan("udp-echo 10.0.0.1 --duration 0s").unwrap().check().is_err());
    }
}
