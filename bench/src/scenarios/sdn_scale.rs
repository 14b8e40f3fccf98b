//! The controller with a full table: what a change of owner takes, without a data plane and without a network.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use roam_sdn::controller::{Config, Move};
use roam_sdn::model::{Address, Generation, Kind as Node, Update};
use roam_sdn::plane::Ports;
use roam_sdn::store::{MemoryStore, RedbStore, Store};
use roam_sdn::table::{Command, Event, Table};
use roam_sdn::{Controller, Mac, Name};

use super::{Run, Scenario, put_times, together};
use crate::network::Scratch;
use crate::output::{Column, Output, Results};
use crate::params::{Kind, Param};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "sdn-scale",
    question: "What does a change of owner take in a table of many addresses: in the pure core, and through a \
               controller that keeps it in memory or on disk?",
    params: &[
        Param { name: "addresses", default: "10000", kind: Kind::Count(1, 100_000), help: "claimed before it begins" },
        Param { name: "hosts", default: "100", kind: Kind::Count(2, 1000), help: "that own them" },
        Param { name: "moves", default: "10000", kind: Kind::Count(1, 1_000_000), help: "in the core" },
        Param { name: "calls", default: "1000", kind: Kind::Count(1, 100_000), help: "moves through a controller" },
    ],
    repeats: 3,
    columns: &[
        Column::new("move_us_p50", "move µs p50"),
        Column::new("move_us_p99", "p99"),
        Column::new("move_us_max", "max"),
        Column::new("orders_us_p50", "orders µs p50"),
        Column::new("orders_us_p99", "p99"),
        Column::new("claim_us_p50", "claim µs p50"),
        Column::new("claim_us_p99", "p99"),
        Column::new("decided_us_p50", "decided µs p50"),
        Column::new("decided_us_p99", "p99"),
        Column::new("answered_us_p50", "answered µs p50"),
        Column::new("answered_us_p99", "p99"),
        Column::new("answered_us_max", "max"),
    ],
    run,
};

/// Nobody is to be called lost meanwhile.
const LOST_AFTER: Duration = Duration::from_secs(24 * 3600);

fn run(run: &Run, output: &mut Output) -> Result<()> {
    let scratch = Scratch::new()?;
    let hosts: Vec<Name> = (0..run.params.count("hosts")).map(host).collect::<Result<_>>()?;
    output.progress("claiming all addresses");
    let full = full_table(&hosts, run.params.count("addresses"))?;
    let mut rounds: [Vec<Results>; 3] = Default::default();
    const ENGINES: [&str; 3] = ["core", "memory", "redb"];
    for round in 1..=run.repeats {
        for (engine, rounds) in ENGINES.iter().zip(&mut rounds) {
            let results = match *engine {
                "core" => core(run, full.clone(), &hosts)?,
                "memory" => controller(run, Box::new(MemoryStore::new(full.clone())), &hosts)?,
                _ => {
                    let mut store = RedbStore::open(&scratch.path().join(format!("sdn-{round}.redb")))?;
                    let all = Update { revision: full.revision(), changes: full.rows().collect() };
                    store.commit(Default::default(), &[all])?;
                    controller(run, Box::new(store), &hosts)?
                }
            };
            output.round(engine, round, &results);
            rounds.push(results);
        }
    }
    for (engine, rounds) in ENGINES.iter().zip(&rounds) {
        output.summary(engine, together(rounds));
    }
    Ok(())
}

fn host(number: usize) -> Result<Name> {
    Ok(format!("host-{number}").parse()?)
}

fn address(number: usize) -> Address {
    let [_, a, b, c] = (number as u32).to_be_bytes();
    let ip = Some(Ipv4Addr::new(10, a, b, c)).filter(|ip| !ip.is_unspecified());
    let ip6 = format!("fd90::1:{a:x}:{b:x}{c:02x}").parse().ok();
    Address { mac: Mac([2, 0, 0, a, b, c]), ip, ip6, name: None }
}

fn full_table(hosts: &[Name], addresses: usize) -> Result<Table> {
    let mut table = Table::default();
    for (number, host) in hosts.iter().enumerate() {
        let [.., high, low] = (number as u32 + 1).to_be_bytes();
        let vtep = Ipv4Addr::new(172, 30, high, low).into();
        table.step(&Event::Joined { host: host.clone(), kind: Node::Host, vtep, migrate: None })?;
    }
    for number in 0..addresses {
        let host = hosts[number % hosts.len()].clone();
        table.step(&Event::Claimed { address: address(number), host, held: None, at_ms: 0 })?;
    }
    Ok(table)
}

/// Numbers without an order, the same in each run.
struct Choice(u64);

impl Choice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    /// Any of the hosts but that one.
    fn other<'a>(&mut self, hosts: &'a [Name], than: &Name) -> &'a Name {
        let at = self.below(hosts.len());
        let chosen = &hosts[at];
        if chosen == than { &hosts[(at + 1) % hosts.len()] } else { chosen }
    }
}

fn core(run: &Run, mut table: Table, hosts: &[Name]) -> Result<Results> {
    let (mut choice, ports, count) = (Choice(run.seed), Ports::new(), table.len());
    let (mut moves, mut orders, mut claims) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..run.params.count("moves") {
        let mac = address(choice.below(count)).mac;
        let placement = &table.route(mac).context("all are claimed")?.placement;
        let to = choice.other(hosts, &placement.host).clone();
        let event = Event::Moved { mac, from: placement.generation, to, drain: false, at_ms: 1 };
        let commands = timed(&mut moves, || table.step(&event))?;
        let Some(Command::Program(touched)) = commands.last() else { bail!("a move that touches no plane") };
        // For a node that is neither owner: the gateway's part.
        let asked = timed(&mut orders, || table.orders(&hosts[0], &ports, touched));
        if asked.len() != 1 {
            bail!("{} orders for a move", asked.len());
        }
    }
    for _ in 0..run.params.count("moves") {
        let address = address(choice.below(count));
        let route = table.route(address.mac).context("all are claimed")?;
        let (host, generation) = (route.placement.host.clone(), route.placement.generation);
        table.step(&Event::Released { mac: address.mac, generation })?;
        let event = Event::Claimed { address, host, held: None, at_ms: 2 };
        timed(&mut claims, || table.step(&event))?;
    }
    let mut results = Results::new();
    put_times(&mut results, "move", &mut moves);
    put_times(&mut results, "orders", &mut orders);
    put_times(&mut results, "claim", &mut claims);
    Ok(results)
}

/// Does something, and notes how long it took.
fn timed<R>(times_ns: &mut Vec<u64>, work: impl FnOnce() -> R) -> R {
    let began = Instant::now();
    let result = work();
    times_ns.push(began.elapsed().as_nanos() as u64);
    result
}

fn controller(run: &Run, store: Box<dyn Store>, hosts: &[Name]) -> Result<Results> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().context("no tokio runtime")?;
    let config = Config { node: "gateway".parse()?, vtep: None, lost_after: LOST_AFTER, own: Vec::new() };
    runtime.block_on(async {
        let controller = Controller::open(config, store, None, None).await?;
        let mut choice = Choice(run.seed);
        let addresses = run.params.count("addresses");
        let (mut decided, mut answered) = (Vec::new(), Vec::new());
        for _ in 0..run.params.count("calls") {
            let mac = address(choice.below(addresses)).mac;
            let placement = controller.find(&mac.to_string())?.placement;
            let to = choice.other(hosts, &placement.host).clone();
            let began = Instant::now();
            let accepted = controller.move_to(mac, Move::new(to, placement.generation)).await?;
            answered.push(began.elapsed().as_nanos() as u64);
            decided.push(accepted.plane_us * 1000);
            let generation = accepted.route.map(|route| route.placement.generation);
            if generation != Some(Generation(placement.generation.0 + 1)) {
                bail!("moved to generation {generation:?} from {}", placement.generation);
            }
        }
        let mut results = Results::new();
        put_times(&mut results, "decided", &mut decided);
        put_times(&mut results, "answered", &mut answered);
        Ok(results)
    })
}
