//! Many guests on one machine: what each costs idle, and what they do together.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use roam_runtime::load::plan::SAMPLES_MAX;
use roam_runtime::load::{self, Kind as Load, Pace, Plan, Report};
use serde_json::json;

use super::{Run, Scenario};
use crate::engines::{ECHO_PORT, GuestKind, Host};
use crate::network::{Network, SEATS_MAX, Seat};
use crate::output::{Column, Output, Results};
use crate::params::{Kind, Param};
use crate::process::{self, Memory};
use crate::stats::{Spread, quantile};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "density",
    question: "What memory and CPU do many guests on one host take while idle, the daemon included, and how do they \
               answer when all are asked?",
    params: &[
        Param { name: "guests", default: "200", kind: Kind::Count(1, SEATS_MAX as u64), help: "deployed echo guests" },
        Param { name: "settle_seconds", default: "2", kind: Kind::Seconds(0.0, 60.0), help: "after the last start" },
        Param {
            name: "idle_seconds",
            default: "5",
            kind: Kind::Seconds(0.1, 600.0),
            help: "how long idleness is watched",
        },
        Param { name: "seconds", default: "5", kind: Kind::Seconds(0.1, 600.0), help: "how long the load lasts" },
        Param {
            name: "rate",
            default: "5000",
            kind: Kind::Count(1, 1_000_000),
            help: "datagrams a second, all together",
        },
        Param { name: "payload", default: "64", kind: Kind::Count(16, 65_507), help: "bytes of a datagram" },
    ],
    repeats: 1,
    columns: &[
        Column::new("guests", "guests"),
        Column::new("rss_kib_p50", "RSS KiB p50"),
        Column::new("pss_kib_p50", "PSS KiB p50"),
        Column::new("private_kib_p50", "private KiB p50"),
        Column::new("private_kib_max", "max"),
        Column::new("cpu_us_per_s_each", "CPU µs/s each"),
        Column::new("cpu_us_per_s_each_max", "max"),
        Column::new("host_cpu_share", "whole host's CPU"),
        Column::new("daemon_rss_kib", "daemon RSS KiB"),
        Column::new("sleeps_per_s_each", "sleeps/s each"),
        Column::new("answering", "answering"),
        Column::new("packets_per_s", "packets/s"),
        Column::new("lost", "lost"),
        Column::new("rtt_us_p50", "RTT µs p50"),
        Column::new("rtt_us_p99", "p99"),
        Column::new("rtt_us_max", "max"),
        Column::new("cpu_us_per_packet", "CPU µs/packet"),
    ],
    run,
};

const WARMUP: Duration = Duration::from_millis(500);

fn run(run: &Run, output: &mut Output) -> Result<()> {
    let network = Network::new(1500)?;
    let count = run.params.count("guests");
    output.progress(&format!("starting {count} guests"));
    let host = Host::start(&network, run.cores)?;
    let guests = deploy(&network, &host, count)?;
    thread::sleep(run.params.seconds("settle_seconds"));
    for round in 1..=run.repeats {
        let idle = idle(run, &host, &guests)?;
        output.round("idle", round, &idle);
        let loaded = loaded(run, &network, &guests)?;
        output.round("loaded", round, &loaded);
        if round == run.repeats {
            output.summary("idle", idle);
            output.summary("loaded", loaded);
        }
    }
    Ok(())
}

/// The workers' processes.
fn deploy(network: &Network, host: &Host, count: usize) -> Result<Vec<u32>> {
    let digest = host.put(network, GuestKind::ECHO)?;
    let deploy = |number| {
        let view = host.deploy(digest, Seat::new(number), Duration::ZERO)?;
        view.pid.context("a guest that serves has a process")
    };
    (0..count).map(deploy).collect()
}

/// What a guest has used so far.
struct Used {
    cpu: Duration,
    sleeps: u64,
}

fn used(guests: &[u32]) -> Result<Vec<Used>> {
    let used = |guest: &u32| Ok(Used { cpu: process::cpu_time(*guest)?, sleeps: process::sleeps(*guest)? });
    guests.iter().map(used).collect()
}

fn idle(run: &Run, host: &Host, guests: &[u32]) -> Result<Results> {
    let (started, before, daemon_before) = (Instant::now(), used(guests)?, process::cpu_time(host.id())?);
    thread::sleep(run.params.seconds("idle_seconds"));
    let (seconds, after) = (started.elapsed().as_secs_f64(), used(guests)?);
    let daemon = process::cpu_time(host.id())? - daemon_before;
    let memory = guests.iter().map(|guest| process::memory(*guest)).collect::<Result<Vec<_>>>()?;
    let whole: Duration =
        daemon + after.iter().zip(&before).map(|(after, before)| after.cpu - before.cpu).sum::<Duration>();
    let cpu = after.iter().zip(&before).map(|(after, before)| (after.cpu - before.cpu).as_secs_f64() * 1e6 / seconds);
    let sleeps = after.iter().zip(&before).map(|(after, before)| (after.sleeps - before.sleeps) as f64 / seconds);
    let mut results = Results::new();
    results.insert("guests".into(), json!(guests.len()));
    results.insert("host_cpu_share".into(), json!(whole.as_secs_f64() / seconds));
    results.insert("daemon_rss_kib".into(), json!(process::memory(host.id())?.rss_kib));
    let mut put = |key: &str, values: Vec<f64>| {
        if let Some(spread) = Spread::of(values) {
            results.insert(key.into(), json!(spread.median));
            let stem = key.strip_suffix("_p50").unwrap_or(key);
            results.insert(format!("{stem}_max"), json!(spread.max));
        }
    };
    let kib = |of: fn(&Memory) -> u64| memory.iter().map(|memory| of(memory) as f64).collect();
    put("rss_kib_p50", kib(|memory| memory.rss_kib));
    put("pss_kib_p50", kib(|memory| memory.pss_kib));
    put("private_kib_p50", kib(|memory| memory.private_kib));
    put("private_dirty_kib_p50", kib(|memory| memory.private_dirty_kib));
    put("cpu_us_per_s_each", cpu.collect());
    put("sleeps_per_s_each", sleeps.collect());
    Ok(results)
}

/// All guests at once. The first time, unmeasured, is for addresses to be resolved and memory to be touched.
fn loaded(run: &Run, network: &Network, guests: &[u32]) -> Result<Results> {
    let mut plans: Vec<Plan> = (0..guests.len()).map(|number| plan(run, Seat::new(number), guests.len())).collect();
    plans.iter_mut().for_each(|plan| plan.duration = WARMUP);
    load_all(network, &plans)?;
    plans.iter_mut().for_each(|plan| plan.duration = run.params.seconds("seconds"));
    let before = used(guests)?;
    let reports = load_all(network, &plans)?;
    let cpu: f64 =
        used(guests)?.iter().zip(&before).map(|(after, before)| (after.cpu - before.cpu).as_secs_f64()).sum();
    Ok(together(&reports, cpu))
}

/// Each plan has a client of its own, on a thread of its own.
fn load_all(network: &Network, plans: &[Plan]) -> Result<Vec<Report>> {
    let reports = network.client().run(|| {
        thread::scope(|scope| {
            let clients: Vec<_> = plans.iter().map(|plan| scope.spawn(|| load::run(plan, &mut ()))).collect();
            let reports = clients.into_iter().map(|client| client.join().expect("a client does not panic"));
            reports.collect::<Result<Vec<_>, _>>()
        })
    })?;
    reports.context("a client failed")
}

fn plan(run: &Run, seat: Seat, guests: usize) -> Plan {
    let params = &run.params;
    let mut plan = Plan::new(Load::UdpEcho, seat.at("4", ECHO_PORT));
    let rate = params.count("rate") as f64 / guests as f64;
    plan.pace = Pace::PerSecond(rate);
    plan.payload_bytes = params.count("payload");
    plan.seed = run.seed;
    // Room for every reply, so that percentiles of all guests together can be told.
    let replies = (rate * params.seconds("seconds").as_secs_f64()) as usize;
    plan.samples_max = (replies + 2).next_multiple_of(2).min(SAMPLES_MAX);
    plan
}

fn together(reports: &[Report], cpu_seconds: f64) -> Results {
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    let mut rtt_us: Vec<u64> =
        reports.iter().flat_map(|report| report.samples.iter().map(|sample| sample.rtt_us)).collect();
    let received = sum(|report| report.received);
    Results::from_iter([
        ("guests".into(), json!(reports.len())),
        ("answering".into(), json!(reports.iter().filter(|report| report.received > 0).count())),
        ("sent".into(), json!(sum(|report| report.sent))),
        ("received".into(), json!(received)),
        ("lost".into(), json!(sum(|report| report.lost))),
        ("duplicated".into(), json!(sum(|report| report.duplicated))),
        ("corrupted".into(), json!(sum(|report| report.corrupted))),
        ("resets".into(), json!(sum(|report| report.resets))),
        ("late_sends".into(), json!(sum(|report| report.late_sends))),
        ("packets_per_s".into(), json!(reports.iter().map(|report| report.packets_per_s).sum::<f64>())),
        ("bits_per_s".into(), json!(reports.iter().map(|report| report.bits_per_s).sum::<f64>())),
        ("silence_us_max".into(), json!(reports.iter().map(|report| report.silence_us_max).max())),
        ("rtt_us_p50".into(), json!(quantile(&mut rtt_us, 0.5))),
        ("rtt_us_p99".into(), json!(quantile(&mut rtt_us, 0.99))),
        ("rtt_us_p999".into(), json!(quantile(&mut rtt_us, 0.999))),
        ("rtt_us_max".into(), json!(quantile(&mut rtt_us, 1.0))),
        ("cpu_us_per_packet".into(), json!(cpu_seconds * 1e6 / received.max(1) as f64)),
    ])
}
