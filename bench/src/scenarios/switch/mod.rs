//! What clients notice when an address changes hands: an open-loop load while the owner is switched back and forth.
//!
//! In reading order: [`rig`] (namespaces, two hosts that answer alike), [`gateway`] (the data plane under test),
//! [`client`] (the load), [`switching`] (the controller), [`verdict`] (what it all comes to).

mod client;
mod gateway;
mod rig;
mod switching;
mod verdict;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;

use super::{Run, Scenario, put_times, together};
use crate::output::{Column, Output, Results};
use crate::params::{Kind, Param};
use gateway::Way;
use rig::Rig;

/// By the kernel's bridge and VXLAN device.
pub(super) const KERNEL: Scenario = Scenario {
    name: "switch-kernel",
    question: "What do clients notice when an address changes hands, and how long does it take, with the kernel's own \
               data plane?",
    params: PARAMS,
    repeats: 1,
    columns: COLUMNS,
    run: |run, output| measure(run, output, Way::Kernel),
};

/// By Open vSwitch.
pub(super) const OVS: Scenario = Scenario {
    name: "switch-ovs",
    question: "What do clients notice when an address changes hands, and how long does it take, with Open vSwitch?",
    params: PARAMS,
    repeats: 1,
    columns: COLUMNS,
    run: |run, output| measure(run, output, Way::Ovs),
};

const PARAMS: &[Param] = &[
    Param { name: "switches", default: "1000", kind: Kind::Count(1, 100_000), help: "back and forth" },
    Param { name: "rate", default: "20000", kind: Kind::Count(1, 1_000_000), help: "datagrams a second" },
    Param { name: "payload", default: "64", kind: Kind::Count(32, 1400), help: "bytes of a datagram" },
    Param { name: "pause_ms", default: "10", kind: Kind::Count(0, 60_000), help: "between two switches" },
    Param { name: "applies", default: "1000", kind: Kind::Count(1, 100_000), help: "switches of the plane alone" },
];

const COLUMNS: &[Column] = &[
    Column::new("switches", "switches"),
    Column::new("sent", "sent"),
    Column::new("lost", "lost"),
    Column::new("duplicated", "dup"),
    Column::new("stale_replies", "stale"),
    Column::new("stale_us_max", "stale µs max"),
    Column::new("apply_us_p50", "apply µs p50"),
    Column::new("apply_us_p99", "p99"),
    Column::new("plane_us_p50", "plane µs p50"),
    Column::new("plane_us_p99", "p99"),
    Column::new("plane_us_max", "max"),
    Column::new("durable_us_p50", "durable µs p50"),
    Column::new("durable_us_p99", "p99"),
    Column::new("rtt_us_p50", "RTT µs p50"),
    Column::new("rtt_us_p99", "p99"),
    Column::new("rtt_us_max", "max"),
];

fn measure(run: &Run, output: &mut Output, way: Way) -> Result<()> {
    output.progress("making namespaces");
    let rig = Rig::new(way)?;
    let mut rounds = Vec::new();
    for round in 1..=run.repeats {
        let results = self::round(run, output, &rig, round).with_context(|| format!("round {round}"))?;
        output.round(way.name(), round, &results);
        rounds.push(results);
    }
    output.summary(way.name(), together(&rounds));
    Ok(())
}

fn round(run: &Run, output: &Output, rig: &Rig, round: u32) -> Result<Results> {
    output.progress("switching the plane alone");
    let mut applies = rig.gateway.inside.run(|| switching::applies(rig, run.params.count("applies")))??;
    let plan = client::Plan {
        rate: run.params.count("rate") as f64,
        payload_bytes: run.params.count("payload"),
        epoch: Instant::now(),
    };
    let before = rig.dropped()?;
    let (stop, begin) = (AtomicBool::new(false), AtomicBool::new(false));
    let (log, switched) = thread::scope(|scope| {
        let client = scope.spawn(|| rig.client.run(|| client::run(&plan, &begin, &stop)));
        let switched = rig.gateway.inside.run(|| switching::run(rig, run, round, plan.epoch, &begin));
        // Also when that failed: the client is not to wait for ever.
        begin.store(true, Ordering::Release);
        stop.store(true, Ordering::Release);
        let log = client.join().expect("the client does not panic");
        anyhow::Ok((log??, switched??))
    })?;
    let mut results = verdict::verdict(&log, &switched.switches).into_results();
    results.insert("troubles".into(), json!(switched.troubles));
    results.insert("socket_drops".into(), json!(rig.dropped()? - before));
    put_times(&mut results, "apply", &mut applies);
    put_times(&mut results, "plane", &mut switched.switches.iter().map(|s| s.plane_us * 1000).collect::<Vec<_>>());
    put_times(&mut results, "durable", &mut switched.switches.iter().map(|s| s.durable_us * 1000).collect::<Vec<_>>());
    put_times(&mut results, "rtt", &mut log.round_trips_ns());
    Ok(results)
}
