//! Guests that move between two hosts while their clients keep asking.
//!
//! Read `rig` (two hosts, a controller, a client; guests, their memory filled, and how they move), `clients` (who asks
//! all the time), `verdict` (what the clients noticed of each migration).

mod clients;
mod rig;
mod verdict;

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use roam_runtime::load::{Kind as Load, Pace, Plan};
use roam_snapshot::plan::PlanName;
use serde_json::json;

use super::{Run, Scenario};
use crate::engines::GuestKind;
use crate::network::socket_drops;
use crate::output::{Column, Output};
use crate::params::{Kind, Param, Params};
use clients::Client;
use rig::{Migration, Rig};
use verdict::Noticed;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "migrate",
    question: "What do clients notice of a guest that moves to another host and back while they keep asking, and where \
               does the time go?",
    params: &[
        Param {
            name: "plan",
            default: "pre_copy",
            kind: Kind::Choice(&["pre_copy", "stop_and_copy"]),
            help: "how the guest goes",
        },
        Param { name: "guest", default: "kv", kind: Kind::Choice(&["kv", "square", "web"]), help: "what moves" },
        Param { name: "memory", default: "256MiB", kind: Kind::Bytes(2 << 20, 2 << 30), help: "of values in kv" },
        Param {
            name: "dirty_pages_per_ms",
            default: "10",
            kind: Kind::Count(0, 1000),
            help: "about what kv's clients have it change; results say how many it was",
        },
        Param { name: "connections", default: "50", kind: Kind::Count(1, 4000), help: "of kv's or web's clients" },
        Param {
            name: "requests_per_s",
            default: "10000",
            kind: Kind::Count(1, 1_000_000),
            help: "on all of them; of web: KiB of its streams",
        },
        Param {
            name: "udp_per_s",
            default: "5000",
            kind: Kind::Count(0, 1_000_000),
            help: "datagrams to square, which moves too; 0: there is no square",
        },
        Param { name: "link", default: "unlimited", kind: Kind::Link, help: "of each host, both ways" },
        Param { name: "ip", default: "4", kind: Kind::Choice(&["4", "6"]), help: "IP version of the clients" },
        Param {
            name: "downtime_us",
            default: "2000",
            kind: Kind::Count(100, 60_000_000),
            help: "what pre_copy aims at",
        },
        Param {
            name: "settle_seconds",
            default: "6",
            kind: Kind::Seconds(0.0, 600.0),
            help: "of load before anything is measured",
        },
        Param {
            name: "steady_seconds",
            default: "5",
            kind: Kind::Seconds(0.1, 600.0),
            help: "of load without migrations, to compare with",
        },
        Param { name: "pause_ms", default: "300", kind: Kind::Count(0, 60_000), help: "between migrations" },
    ],
    repeats: 20,
    columns: COLUMNS,
    run,
};

const COLUMNS: &[Column] = &[
    Column::new("migrations", "migrations"),
    Column::new("migrations_failed", "failed"),
    Column::new("lost", "lost"),
    Column::new("duplicated", "dup"),
    Column::new("corrupted", "corrupted"),
    Column::new("resets", "resets"),
    Column::new("blackout_us", "blackout µs"),
    Column::new("blackout_us_p50", "blackout µs p50"),
    Column::new("blackout_us_p99", "p99"),
    Column::new("silence_us", "silence µs"),
    Column::new("silence_us_p50", "silence µs p50"),
    Column::new("silence_us_p99", "p99"),
    Column::new("steady_silence_us_max", "steady max"),
    Column::new("precopy_to_steady", "replies pre-copying to steady"),
    Column::new("precopy_to_steady_p50", "replies pre-copying to steady p50"),
    Column::scaled("total_us", "total ms", 1e3),
    Column::scaled("total_us_p50", "total ms p50", 1e3),
    Column::new("total_to_link_p50", "to link p50"),
    Column::new("rounds", "rounds"),
    Column::new("rounds_p50", "rounds p50"),
    Column::scaled("bytes_on_wire", "MB", 1e6),
    Column::scaled("bytes_on_wire_p50", "MB p50", 1e6),
    Column::new("dirty_pages_per_ms", "dirty pages/ms"),
    Column::new("dirty_pages_per_ms_p50", "dirty pages/ms p50"),
    Column::new("frames_carried_p50", "carried p50"),
    Column::new("frames_forwarded_p50", "forwarded p50"),
];

/// Bytes of a value that clients set. It fits into one segment: larger ones dirty more of sockets' buffers than of values.
const VALUE_BYTES: usize = 1000;
/// Pages that one `set` dirties, as measured: the values' old and new places, and neighbours in the order of use.
const PAGES_PER_SET: f64 = 2.5;
/// Of the values' memory, how much is set anew and again: enough that pages are rarely dirtied twice in one round.
const CHANGING_SHARE: f64 = 0.125;
/// Bytes of a chunk of web's streams.
const CHUNK_BYTES: usize = 1024;
/// How long late replies are waited for: what a machine that is too slow has not sent yet is not lost.
const DRAIN: Duration = Duration::from_secs(20);
/// How long one run of a client may take; it is ended long before.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// After so many failures in a row nothing better is to be expected.
const FAILURES_MAX: usize = 3;

fn run(run: &Run, output: &mut Output) -> Result<()> {
    let params = &run.params;
    let kinds = kinds(params)?;
    output.progress("raising two hosts and a controller");
    let rig = Rig::new(params.link("link"))?;
    for (seat, kind) in kinds.iter().enumerate() {
        output.progress(&format!("deploying {}", kind.name()));
        rig.deploy(seat, *kind, params.count("memory"))?;
        if kind.name() == "kv" {
            output.progress("filling it");
            rig.fill(seat, params.count("memory"), run.seed)?;
        }
    }
    let plans =
        kinds.iter().enumerate().map(|(seat, kind)| plan(run, rig.target(seat, *kind, params.word("ip")), kind));
    let clients = plans.map(|plan| Client::start(&rig.client, plan?)).collect::<Result<Vec<_>>>()?;
    output.progress("letting clients ask without migrations");
    thread::sleep(params.seconds("settle_seconds"));
    let steady_from = Instant::now();
    thread::sleep(params.seconds("steady_seconds"));
    let steady = steady_from..Instant::now();
    let moved = migrations(run, output, &rig, &kinds)?;
    clients.iter().for_each(Client::stop);
    for ((client, kind), migrations) in clients.into_iter().zip(&kinds).zip(moved) {
        let asked = client.finish()?;
        let noticed = Noticed::new(&asked, &steady);
        for (round, migration) in (1..).zip(&migrations) {
            if let Some(results) = noticed.of(migration, params.link("link")) {
                output.round(kind.name(), round, &results);
            }
        }
        let mut summary = noticed.summary(&migrations, params.link("link"))?;
        if kind.name() == "square" {
            summary.insert("socket_drops".into(), json!(socket_drops(&rig.client)?));
        }
        output.summary(kind.name(), summary);
    }
    Ok(())
}

/// Has all guests move in turn, there and back; what came of it, by guest.
fn migrations(run: &Run, output: &Output, rig: &Rig, kinds: &[GuestKind]) -> Result<Vec<Vec<Migration>>> {
    let mut moved: Vec<Vec<Migration>> = kinds.iter().map(|_| Vec::new()).collect();
    let mut hosts = vec![0; kinds.len()];
    let mut failures = 0;
    for round in 1..=run.repeats {
        for (seat, kind) in kinds.iter().enumerate() {
            let migration = rig.migrate(seat, *kind, hosts[seat], &request(&run.params))?;
            match &migration.view.reason {
                Some(reason) => {
                    failures += 1;
                    eprintln!("roam-bench: {}, round {round}: {}: {}", kind.name(), reason.code, reason.message);
                    ensure!(failures < FAILURES_MAX, "{failures} migrations in a row failed");
                }
                None => (hosts[seat], failures) = (1 - hosts[seat], 0),
            }
            if let Some(report) = &migration.view.report {
                let (blackout, total_ms) = (report.blackout_us, report.total_us / 1000);
                output.progress(&format!("round {round}: {} in {total_ms} ms, blackout {blackout} µs", kind.name()));
            }
            moved[seat].push(migration);
            thread::sleep(Duration::from_millis(run.params.count("pause_ms") as u64));
        }
    }
    Ok(moved)
}

fn request(params: &Params) -> rig::How {
    let plan = if params.word("plan") == "pre_copy" { PlanName::PreCopy } else { PlanName::StopAndCopy };
    rig::How { plan, downtime_us: params.count("downtime_us") as u64 }
}

/// The guest in question, and square beside it.
fn kinds(params: &Params) -> Result<Vec<GuestKind>> {
    let (guest, udp) = (params.word("guest"), params.count("udp_per_s"));
    match (guest, udp) {
        ("square", 0) => bail!("guest=square and udp_per_s=0: nobody would ask it"),
        ("square", _) | (_, 0) => Ok(vec![GuestKind::named(guest)]),
        _ => Ok(vec![GuestKind::named(guest), GuestKind::named("square")]),
    }
}

/// What the clients of a guest do.
fn plan(run: &Run, target: std::net::SocketAddr, kind: &GuestKind) -> Result<Plan> {
    let params = &run.params;
    let load = match kind.name() {
        "square" => Load::UdpSquare,
        "kv" => Load::Kv,
        _ => Load::HttpStream,
    };
    let mut plan = Plan::new(load, target);
    plan.duration = LONGEST;
    plan.seed = run.seed;
    plan.slice = Some(clients::SLICE);
    plan.drain = DRAIN;
    if load == Load::UdpSquare {
        plan.pace = Pace::PerSecond(params.count("udp_per_s") as f64);
        return Ok(plan);
    }
    let requests_per_s = params.count("requests_per_s") as f64;
    plan.pace = Pace::PerSecond(requests_per_s);
    plan.connections = params.count("connections");
    plan.payload_bytes = CHUNK_BYTES;
    if load == Load::Kv {
        let sets_per_s = params.count("dirty_pages_per_ms") as f64 * 1000.0 / PAGES_PER_SET;
        if sets_per_s > requests_per_s {
            bail!(
                "{requests_per_s} requests a second change {:.1} pages/ms at most",
                requests_per_s * PAGES_PER_SET / 1000.0
            );
        }
        plan.payload_bytes = VALUE_BYTES;
        plan.reads = 1.0 - sets_per_s / requests_per_s;
        plan.keys = (params.count("memory") as f64 * CHANGING_SHARE / VALUE_BYTES as f64) as usize;
    }
    plan.check().context("this load")?;
    Ok(plan)
}
