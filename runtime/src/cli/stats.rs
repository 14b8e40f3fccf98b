//! `roam stats`: what guests do right now.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use super::config::Config;
use super::exit;
use super::fleet;
use super::target::{HostFlags, Target, Targets};
use super::{block_on, print, units};
use crate::api::{GuestName, GuestState, GuestStats};

/// Show what guests use and do: rates over a moment.
///
/// Of the host that --host names, else of all that are known. With --watch it goes on until Ctrl-C, which is no
/// failure.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::HELP)]
pub(super) struct Arguments {
    /// One guest [default: all that run].
    name: Option<GuestName>,
    /// Go on, and on a terminal show each moment in place of the one before.
    #[arg(long, short)]
    watch: bool,
    /// How long a moment is.
    #[arg(long, default_value = "1s", value_parser = units::duration, value_name = "TIME")]
    interval: Duration,
    #[command(flatten)]
    host: HostFlags,
    /// Print JSON: an array of guests, with --watch one line a moment.
    #[arg(long)]
    json: bool,
}

const INTERVAL_MIN: Duration = Duration::from_millis(100);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// A guest's counters at one time.
struct Sample {
    at: Instant,
    stats: GuestStats,
}

type Samples = BTreeMap<(String, GuestName), Sample>;

/// What a guest did between two samples.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    host: String,
    name: GuestName,
    polls_per_s: f64,
    frames_per_s: f64,
    bits_per_s: f64,
    cpu_percent: f64,
    memory_bytes: u64,
    rss_bytes: u64,
    sockets: usize,
    dropped: u64,
}

pub(super) fn run(arguments: Arguments, config: &Config) -> Result<ExitCode> {
    if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&arguments.interval) {
        return Err(exit::Usage(format!("--interval {:?}: 100ms to 1h", arguments.interval)).into());
    }
    let targets = Targets::new(&arguments.host, config);
    // One guest is one host's.
    let targets = if arguments.name.is_some() { vec![targets.one()?] } else { targets.all()? };
    block_on(async {
        tokio::select! {
            result = show(&targets, &arguments) => result,
            asked = tokio::signal::ctrl_c(), if arguments.watch => {
                asked.context("waiting for Ctrl-C")?;
                Ok(ExitCode::SUCCESS)
            }
        }
    })
}

async fn show(targets: &[Target], arguments: &Arguments) -> Result<ExitCode> {
    let (mut before, _) = sample(targets, arguments.name.as_ref()).await?;
    loop {
        tokio::time::sleep(arguments.interval).await;
        let (now, complete) = sample(targets, arguments.name.as_ref()).await?;
        let rows: Vec<Row> = now.iter().filter_map(|(key, now)| Row::between(key, before.get(key)?, now)).collect();
        if arguments.json {
            if arguments.watch { print::json_line(&rows)? } else { print::json(&rows)? }
        } else {
            // Home, and clear what is below.
            let clear = if arguments.watch && print::to_terminal() { "\x1b[H\x1b[J" } else { "" };
            print::text(&format!("{clear}{}", table(&rows)))?;
        }
        if !arguments.watch {
            complete?;
            return Ok(ExitCode::SUCCESS);
        }
        before = now;
    }
}

/// The counters of all guests that run, and whether all hosts answered.
async fn sample(targets: &[Target], name: Option<&GuestName>) -> Result<(Samples, Result<()>)> {
    let name = name.cloned();
    let asked = fleet::ask(targets, |target| of_host(target, name.clone())).await?;
    let complete = asked.complete();
    Ok((asked.answers.into_iter().flat_map(|(_, samples)| samples).collect(), complete))
}

async fn of_host(target: Target, name: Option<GuestName>) -> Result<Vec<((String, GuestName), Sample)>> {
    let Target { name: host, client } = target;
    let one = |name: GuestName, stats| ((host.clone(), name), Sample { at: Instant::now(), stats });
    if let Some(name) = name {
        let stats = client.stats(&name).await?;
        return Ok(vec![one(name, stats)]);
    }
    let mut samples = Vec::new();
    for guest in client.list().await? {
        if guest.state == GuestState::Running && guest.responsive {
            // One that has ended since, or hangs, has no row.
            samples.extend(client.stats(&guest.spec.name).await.ok().map(|stats| one(guest.spec.name, stats)));
        }
    }
    Ok(samples)
}

impl Row {
    /// `None` when it was started anew in between: its counters began at 0 again.
    fn between((host, name): &(String, GuestName), before: &Sample, now: &Sample) -> Option<Self> {
        let seconds = now.at.saturating_duration_since(before.at).as_secs_f64();
        let (was, is) = (&before.stats, &now.stats);
        if seconds <= 0.0 || is.uptime_ms < was.uptime_ms {
            return None;
        }
        let per_s = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let bytes = |stats: &GuestStats| stats.rx_bytes + stats.tx_bytes;
        let frames = |stats: &GuestStats| stats.rx_frames + stats.tx_frames;
        Some(Self {
            host: host.clone(),
            name: name.clone(),
            polls_per_s: per_s(is.polls, was.polls),
            frames_per_s: per_s(frames(is), frames(was)),
            bits_per_s: per_s(bytes(is), bytes(was)) * 8.0,
            cpu_percent: per_s(is.cpu_us, was.cpu_us) / 10_000.0,
            memory_bytes: is.memory_bytes,
            rss_bytes: is.rss_bytes,
            sockets: is.sockets.len(),
            dropped: is.rx_dropped + is.tx_dropped,
        })
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.to_string(),
            self.host.clone(),
            format!("{:.1} %", self.cpu_percent),
            print::size(self.memory_bytes),
            print::size(self.rss_bytes),
            print::rate(self.polls_per_s),
            print::rate(self.frames_per_s),
            print::bit_rate(self.bits_per_s),
            self.sockets.to_string(),
            self.dropped.to_string(),
        ]
    }
}

fn table(rows: &[Row]) -> String {
    let head = ["NAME", "HOST", "CPU", "MEMORY", "RESIDENT", "POLLS/S", "FRAMES/S", "RATE", "SOCKETS", "DROPPED"];
    print::table(&head, &rows.iter().map(Row::cells).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_over_time() {
        let key = ("a".to_owned(), "kv".parse().unwrap());
        let at = Instant::now();
        let was = GuestStats { uptime_ms: 1000, polls: 10, cpu_us: 0, rx_bytes: 100, ..GuestStats::default() };
        let is = GuestStats { uptime_ms: 3000, polls: 30, cpu_us: 1_000_000, rx_bytes: 350, ..GuestStats::default() };
        let before = Sample { at, stats: was };
        let now = Sample { at: at + Duration::from_secs(2), stats: is };
        let row = Row::between(&key, &before, &now).unwrap();
        assert_eq!((row.polls_per_s, row.cpu_percent, row.bits_per_s), (10.0, 50.0, 1000.0));
        // Started anew: less uptime than before.
        assert_eq!(Row::between(&key, &now, &Sample { at: at + Duration::from_secs(4), stats: before.stats }), None);
    }
}
