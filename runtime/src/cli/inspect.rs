//! `roam inspect`: all there is to know about a guest.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use super::config::Config;
use super::exit;
use super::target::{HostFlags, Targets};
use super::{block_on, print, ps};
use crate::api::{GuestName, GuestState, GuestStats, GuestView, PollTimes};

/// Show a guest: state, network, memory, poll times and sockets.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::HELP)]
pub(super) struct Arguments {
    /// The guest.
    name: GuestName,
    #[command(flatten)]
    host: HostFlags,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    host: String,
    guest: GuestView,
    /// There while it runs and answers.
    stats: Option<GuestStats>,
}

/// Sockets shown; JSON has them all.
const SOCKETS_SHOWN_MAX: usize = 50;

pub(super) fn run(arguments: Arguments, config: &Config) -> Result<ExitCode> {
    let target = Targets::new(&arguments.host, config).one()?;
    block_on(async {
        let guest = target.client.inspect(&arguments.name).await?;
        let runs = guest.state == GuestState::Running && guest.responsive;
        // It may end in between: then there are no counters, and that is no failure.
        let stats = if runs { target.client.stats(&arguments.name).await.ok() } else { None };
        let report = Report { host: target.name.clone(), guest, stats };
        if arguments.json {
            print::json(&report)?;
        } else {
            print::text(&show(&report))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn show(report: &Report) -> String {
    let Report { host, guest, stats } = report;
    let spec = &guest.spec;
    let mut rows = vec![
        ("name", spec.name.to_string()),
        ("host", host.clone()),
        ("id", guest.id.clone()),
        ("state", state(guest)),
        ("deployed", print::moment(guest.created_ms)),
        ("module", spec.module.to_string()),
        ("restart", format!("{}, {} so far", serde_word(&spec.restart), guest.restarts)),
    ];
    if let Some(migration) = &guest.migration {
        rows.push(("migration", format!("{} ({})", ps::migration(migration), migration.id)));
    }
    if let Some(end) = &guest.last_end {
        rows.push(("last end", format!("{} at {}", print::plain(&end.reason), print::moment(end.at_ms))));
    }
    rows.extend(guest.pid.map(|pid| ("process", pid.to_string())));
    rows.extend(network(guest));
    if !spec.args.is_empty() {
        rows.push(("arguments", arguments(&spec.args)));
    }
    rows.extend(spec.env.iter().map(|(key, value)| ("environment", print::plain(&format!("{key}={value}")))));
    rows.push(("limits", limits(guest)));
    match stats {
        Some(stats) => rows.extend(counters(stats)),
        None => rows.push(("counters", "none: it does not run, or does not answer".into())),
    }
    let mut text = String::new();
    for (name, value) in rows {
        let _ = writeln!(text, "{name:<12} {value}");
    }
    if let Some(stats) = stats {
        text += &sockets(stats);
    }
    text
}

fn state(guest: &GuestView) -> String {
    let name = &guest.spec.name;
    let what_next = match guest.state {
        GuestState::Parked => format!("; it ended too often to go on: `roam start {name}` tries again"),
        GuestState::Fenced => format!("; `roam start {name}` claims its address anew"),
        GuestState::InDoubt => "; which host has it is being settled: `roam migrations` says why".to_owned(),
        GuestState::Ended | GuestState::Stopped => format!("; `roam start {name}` starts it"),
        _ => String::new(),
    };
    format!("{}, for {}{what_next}", ps::state(guest), print::age(guest.since_ms))
}

fn network(guest: &GuestView) -> Vec<(&'static str, String)> {
    let network = &guest.network;
    let mut rows = Vec::new();
    rows.extend(network.ip.map(|ip| ("ip", ip.to_string())));
    rows.extend(network.ip6.map(|ip6| ("ip6", ip6.to_string())));
    rows.push(("mac", format!("{}, device {}, MTU {}", network.mac, network.tap, network.mtu)));
    rows.extend(network.gateway.map(|gateway| ("gateway", gateway.to_string())));
    rows.extend(network.gateway6.map(|gateway6| ("gateway6", gateway6.to_string())));
    rows
}

/// As one would write them for a shell, if need be.
fn arguments(args: &[String]) -> String {
    let clear = |c: char| c.is_alphanumeric() || "-_=+.,:/@%".contains(c);
    let word = |arg: &String| {
        if !arg.is_empty() && arg.chars().all(clear) {
            arg.clone()
        } else {
            format!("'{}'", arg.replace('\'', "'\\''"))
        }
    };
    print::plain(&args.iter().map(word).collect::<Vec<_>>().join(" "))
}

fn limits(guest: &GuestView) -> String {
    let spec = &guest.spec;
    let cpus = spec.cpus_max.map_or_else(|| "no limit of".to_owned(), |cpus| cpus.to_string());
    format!(
        "memory {}, socket buffers {}, {cpus} cores, {} a poll",
        print::size(spec.memory_bytes_max),
        print::size(spec.socket_memory_bytes_max),
        print::nanoseconds(spec.poll_budget_us.saturating_mul(1000)),
    )
}

fn counters(stats: &GuestStats) -> Vec<(&'static str, String)> {
    let frames = |frames, bytes, dropped| format!("{frames} frames, {}, {dropped} dropped", print::size(bytes));
    let memory = format!("{} linear, {} resident", print::size(stats.memory_bytes), print::size(stats.rss_bytes));
    let mut rows = vec![
        ("memory", memory),
        ("cpu", format!("{} in {}", time_us(stats.cpu_us), time_us(stats.uptime_ms.saturating_mul(1000)))),
        ("polls", polls(stats.polls, &stats.poll_times)),
        ("received", frames(stats.rx_frames, stats.rx_bytes, stats.rx_dropped)),
        ("sent", frames(stats.tx_frames, stats.tx_bytes, stats.tx_dropped)),
    ];
    if stats.log_lines_dropped > 0 {
        rows.push(("log", format!("{} lines dropped", stats.log_lines_dropped)));
    }
    rows
}

fn polls(count: u64, times: &PollTimes) -> String {
    let at = |quantile| times.quantile_ns(quantile).map_or_else(|| "-".into(), print::nanoseconds);
    format!("{count}: p50 {}, p99 {}, max {}", at(0.5), at(0.99), print::nanoseconds(times.max_ns))
}

fn time_us(us: u64) -> String {
    print::nanoseconds(us.saturating_mul(1000))
}

fn sockets(stats: &GuestStats) -> String {
    let row = |socket: &crate::api::SocketView| {
        let peer = socket.peer.clone().unwrap_or_else(|| "-".into());
        let queued = [socket.rx_queued_bytes, socket.tx_queued_bytes].map(|bytes| bytes.to_string());
        let [rx, tx] = queued;
        vec![socket.protocol.clone(), socket.state.clone(), rx, tx, socket.local.clone(), peer]
    };
    let rows: Vec<_> = stats.sockets.iter().take(SOCKETS_SHOWN_MAX).map(row).collect();
    let mut text = "\n".to_owned();
    text += &print::table(&["SOCKET", "STATE", "RX QUEUE", "TX QUEUE", "LOCAL", "PEER"], &rows);
    if let Some(more) = stats.sockets.len().checked_sub(SOCKETS_SHOWN_MAX).filter(|more| *more > 0) {
        let _ = writeln!(text, "and {more} more; --json shows all");
    }
    text
}

/// The word that stands for a value in the interface.
fn serde_word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_can_be_pasted() {
        let args = ["--memory", "64m", "a b", "", "it's"].map(String::from);
        assert_eq!(arguments(&args), r"--memory 64m 'a b' '' 'it'\''s'");
    }
}
