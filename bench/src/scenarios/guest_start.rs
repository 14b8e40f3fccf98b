//! From nothing to the first reply.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use roam_netstack::{Cidr, Config};
use roam_runtime::engine::Engine;
use roam_runtime::guest::{Guest, GuestConfig};
use roam_runtime::lab::Process;
use serde_json::{Value, json};

use super::first_reply::FirstReply;
use super::{Run, Scenario, summary};
use crate::engines::{GuestKind, START_LIMIT, roam_run};
use crate::network::{Network, Seat};
use crate::output::{Column, Output, Results};
use crate::params::{Kind, Param};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "guest-start",
    question: "How long from starting a guest to its first reply, compiled anew and from the cache, and which step \
               takes it?",
    params: &[
        Param { name: "guest", default: "echo", kind: Kind::Choice(GuestKind::NAMES), help: "what is started" },
        Param { name: "ip", default: "4", kind: Kind::Choice(&["4", "6"]), help: "IP version of the first request" },
    ],
    repeats: 10,
    columns: &[
        Column::new("first_reply_us_p50", "first reply µs p50"),
        Column::new("first_reply_us_min", "min"),
        Column::new("first_reply_us_max", "max"),
        Column::new("ready_us_p50", "ready µs"),
        Column::new("engine_us_p50", "engine µs"),
        Column::new("module_us_p50", "module µs"),
        Column::new("netstack_us_p50", "netstack µs"),
        Column::new("instance_us_p50", "instance µs"),
        Column::new("first_poll_us_p50", "first poll µs"),
        Column::new("first_reply_us", "first reply µs"),
        Column::new("ready_us", "ready µs"),
        Column::new("engine_us", "engine µs"),
        Column::new("module_us", "module µs"),
        Column::new("netstack_us", "netstack µs"),
        Column::new("instance_us", "instance µs"),
        Column::new("first_poll_us", "first poll µs"),
    ],
    run,
};

/// The engines: how the module comes to be.
const WAYS: [&str; 2] = ["cold", "cached"];

fn run(run: &Run, output: &mut Output) -> Result<()> {
    let network = Network::new(1500)?;
    let kind = GuestKind::named(run.params.word("guest"));
    let seat = Seat::new(0);
    network.tap(seat)?;
    network.introduce(seat)?;
    // Fills the cache, and the system's own.
    start(run, &network, kind, seat, "cache")?;
    let mut rounds = [Vec::new(), Vec::new()];
    for round in 1..=run.repeats {
        for (way, rounds) in WAYS.iter().zip(&mut rounds) {
            let cache = if *way == "cold" { format!("cold{round}") } else { "cache".into() };
            let mut results = start(run, &network, kind, seat, &cache)?;
            if *way == "cold" {
                std::fs::remove_dir_all(network.scratch().join(&cache)).context("the cache is ours")?;
            }
            results.append(&mut steps(&network, kind, &cache)?);
            output.round(way, round, &results);
            rounds.push(results);
        }
    }
    let [cold, cached] = rounds.map(|rounds| summary(&rounds));
    let (mut cold, mut cached) = (cold, cached);
    let ready = |results: &Results| results.get("ready_us_p50").cloned().unwrap_or_default();
    cold.insert("start_us_cold".into(), ready(&cold));
    cached.insert("start_us_cached".into(), ready(&cached));
    output.summary("cold", cold);
    output.summary("cached", cached);
    Ok(())
}

/// One `roam run`, from the moment it is spawned: `ready_us` until it says so, `first_reply_us` until a client that
/// keeps trying has a reply.
fn start(run: &Run, network: &Network, kind: GuestKind, seat: Seat, cache: &str) -> Result<Results> {
    let client = FirstReply::new(network, kind, seat, run.params.word("ip"))?;
    let command = roam_run(network, kind, seat, cache)?;
    run.cores.enter_server()?;
    let spawned = Instant::now();
    let mut process = Process::spawn(command)?;
    run.cores.enter_client()?;
    let (mut ready, mut replied) = (None, None);
    while ready.is_none() || replied.is_none() {
        if replied.is_none() && client.is_there()? {
            replied = Some(spawned.elapsed());
        }
        if ready.is_none() && process.stderr().contains("ready") {
            ready = Some(spawned.elapsed());
        }
        if spawned.elapsed() > START_LIMIT || process.wait(Duration::ZERO)?.is_some() {
            bail!("`{}` does not answer: {}", process.line(), process.stderr().trim());
        }
    }
    let us = |time: Option<Duration>| json!(time.unwrap_or_default().as_micros() as u64);
    Ok(Results::from_iter([("ready_us".into(), us(ready)), ("first_reply_us".into(), us(replied))]))
}

/// The same steps in a process of its own that times each.
fn steps(network: &Network, kind: GuestKind, cache: &str) -> Result<Results> {
    let mut command = Command::new(std::env::current_exe().context("this program cannot find itself")?);
    command.arg("__start").arg(kind.file(network)?).arg(network.scratch().join(cache));
    let finished = Process::spawn(command)?.finish(b"", START_LIMIT)?.success()?;
    if cache != "cache" {
        std::fs::remove_dir_all(network.scratch().join(cache)).context("the cache is ours")?;
    }
    Ok(serde_json::from_slice(&finished.stdout)?)
}

/// What to start.
#[derive(Debug, clap::Args)]
pub(crate) struct StartArguments {
    module: PathBuf,
    cache: PathBuf,
}

/// Starts a guest without a TAP and prints how long each step took.
pub(crate) fn start_once(arguments: &StartArguments) -> Result<()> {
    let bytes = std::fs::read(&arguments.module)?;
    let mut steps = Results::new();
    let mut last = Instant::now();
    let mut done = |name: &str| {
        steps.insert(name.into(), json!(last.elapsed().as_nanos() as f64 / 1e3));
        last = Instant::now();
    };
    let engine = Engine::new(Some(arguments.cache.clone()))?;
    done("engine_us");
    let module = engine.load(&bytes)?;
    done("module_us");
    let netstack = engine.load_netstack()?;
    done("netstack_us");
    let mut network = Config::new(Seat::new(0).mac());
    network.ipv4 = Some(Cidr { address: Seat::new(0).ipv4(), prefix: 16 });
    network.ipv6 = Some(Cidr { address: Seat::new(0).ipv6(), prefix: 64 });
    let config = GuestConfig {
        args: vec!["guest".into()],
        env: Vec::new(),
        network,
        memory_bytes_max: 256 << 20,
        seed: [7; 32],
        epoch_ns: 0,
    };
    let mut guest = Guest::start(&engine, &module, &netstack, &config)?;
    done("instance_us");
    guest.poll(0)?;
    done("first_poll_us");
    println!("{}", Value::Object(steps));
    Ok(())
}
