//! UDP echo: guest, native netstack and kernel sockets.

use std::time::{Duration, Instant};

use anyhow::Result;
use roam_runtime::load::{self, Kind as Load, Pace, Plan};
use serde_json::{Value, json};

use super::contest::{self, BUSY_POLL_US, ENGINES, JAIL, RATIOS, Rules};
use super::{Run, Scenario};
use crate::engines::{ECHO_PORT, Options, Server};
use crate::network::Network;
use crate::output::{Column, Output, Results};
use crate::params::{Kind, Param};
use crate::process::thread_cpu_time;

pub(super) const SCENARIO: Scenario = Scenario {
    name: "datapath-udp",
    question: "How many datagrams a second does a guest echo, and how soon, beside its netstack without a sandbox and \
               beside kernel sockets?",
    params: &[
        Param { name: "payload", default: "64", kind: Kind::Count(16, 65_507), help: "bytes of a datagram" },
        Param { name: "seconds", default: "2", kind: Kind::Seconds(0.05, 3600.0), help: "each engine in each round" },
        Param { name: "warmup_seconds", default: "0.3", kind: Kind::Seconds(0.0, 60.0), help: "before each of them" },
        Param { name: "rate", default: "max", kind: Kind::Rate, help: "datagrams; max: as fast as replies come" },
        Param {
            name: "window",
            default: "128",
            kind: Kind::Count(1, 65_536),
            help: "outstanding at rate=max; 1 for one at a time",
        },
        Param { name: "connections", default: "1", kind: Kind::Count(1, 4096), help: "client sockets" },
        Param { name: "ip", default: "4", kind: Kind::Choice(&["4", "6"]), help: "IP version" },
        BUSY_POLL_US,
        ENGINES,
        JAIL,
    ],
    repeats: 5,
    columns: &[
        Column::scaled("packets_per_s", "k packets/s", 1e3),
        Column::scaled("packets_per_s_min", "min", 1e3),
        Column::scaled("packets_per_s_max", "max", 1e3),
        Column::new("ratio_to_kernel", "to kernel"),
        Column::new("ratio_to_native", "to native"),
        Column::new("ratio_to_guest", "to guest"),
        Column::new("cpu_us_per_packet", "server CPU µs/packet"),
        Column::new("server_cpu_share", "server CPU"),
        Column::new("client_cpu_share", "client CPU"),
        Column::new("rtt_us_p50", "RTT µs p50"),
        Column::new("rtt_us_p99", "p99"),
        Column::new("rtt_us_p999", "p99.9"),
        Column::new("rtt_us_max", "max"),
        Column::new("lost", "lost"),
        Column::new("corrupted", "corrupted"),
    ],
    run,
};

const RULES: Rules = Rules { metric: "packets_per_s", ratios: RATIOS };

/// How long late replies are waited for.
const DRAIN: Duration = Duration::from_millis(500);

fn run(run: &Run, output: &mut Output) -> Result<()> {
    let params = &run.params;
    let network = Network::new(1500)?;
    let options = Options { busy_poll: Duration::from_micros(params.count("busy_poll_us") as u64) };
    contest::run(run, output, &network, &contest::engines(run), options, &RULES, |server| {
        let plan = plan(run, server);
        // Apart from the run that counts, so that CPU time and packets are of the same span.
        let warmup = Plan { duration: params.seconds("warmup_seconds"), ..plan.clone() };
        if !warmup.duration.is_zero() {
            network.client().run(|| load::run(&warmup, &mut ()))??;
        }
        measure(&network, &plan, server)
    })
}

fn plan(run: &Run, server: &Server) -> Plan {
    let params = &run.params;
    let connections = params.count("connections");
    let mut plan = Plan::new(Load::UdpEcho, server.seat().at(params.word("ip"), ECHO_PORT));
    plan.pace = match params.rate("rate") {
        Some(rate) => Pace::PerSecond(rate),
        None => Pace::Max { window: params.count("window").max(connections) },
    };
    plan.payload_bytes = params.count("payload");
    plan.connections = connections;
    plan.duration = params.seconds("seconds");
    plan.drain = DRAIN;
    plan.seed = run.seed;
    plan
}

fn measure(network: &Network, plan: &Plan, server: &mut Server) -> Result<Results> {
    let (started, server_before) = (Instant::now(), server.cpu_time()?);
    let (report, client_cpu) = network.client().run(|| {
        let before = thread_cpu_time()?;
        let report = load::run(plan, &mut ())?;
        anyhow::Ok((report, thread_cpu_time()?.saturating_sub(before)))
    })??;
    let elapsed = started.elapsed().as_secs_f64();
    let server_cpu = server.cpu_time()?.saturating_sub(server_before).as_secs_f64();
    let Value::Object(mut results) = serde_json::to_value(&report)? else { unreachable!("a report is an object") };
    // What was asked for stands in the parameters.
    for key in ["kind", "target", "rate", "payload", "connections", "seed", "duration_s"] {
        results.remove(key);
    }
    results.insert("cpu_us_per_packet".into(), json!(server_cpu * 1e6 / report.received.max(1) as f64));
    results.insert("server_cpu_share".into(), json!(server_cpu / elapsed));
    results.insert("client_cpu_share".into(), json!(client_cpu.as_secs_f64() / elapsed));
    Ok(results)
}
