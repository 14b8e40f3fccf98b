//! TCP bulk in one direction: guest, native netstack and kernel sockets.

use std::time::Duration;

use anyhow::Result;

use super::contest::{self, BUSY_POLL_US, ENGINES, JAIL, RATIOS, Rules};
use super::{Run, Scenario};
use crate::bulk::Bulk;
use crate::engines::{CHARGEN_PORT, DISCARD_PORT, Options};
use crate::network::Network;
use crate::output::{Column, Output};
use crate::params::{Kind, Param};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "datapath-tcp",
    question: "How many bits a second does a guest send or receive in bulk, beside its netstack without a sandbox and \
               beside kernel sockets?",
    params: &[
        Param {
            name: "direction",
            default: "down",
            kind: Kind::Choice(&["down", "up"]),
            help: "down: the server sends (chargen); up: it receives (discard)",
        },
        Param { name: "connections", default: "1", kind: Kind::Count(1, 256), help: "at once" },
        Param { name: "mtu", default: "1500", kind: Kind::Count(1280, 9216), help: "IP MTU of the path, bytes" },
        Param { name: "seconds", default: "2", kind: Kind::Seconds(0.05, 3600.0), help: "each engine in each round" },
        Param { name: "warmup_seconds", default: "0.3", kind: Kind::Seconds(0.0, 60.0), help: "before each of them" },
        Param { name: "ip", default: "4", kind: Kind::Choice(&["4", "6"]), help: "IP version" },
        BUSY_POLL_US,
        ENGINES,
        JAIL,
    ],
    repeats: 5,
    columns: &[
        Column::scaled("bits_per_s", "Gbit/s", 1e9),
        Column::scaled("bits_per_s_min", "min", 1e9),
        Column::scaled("bits_per_s_max", "max", 1e9),
        Column::new("ratio_to_kernel", "to kernel"),
        Column::new("ratio_to_native", "to native"),
        Column::new("ratio_to_guest", "to guest"),
        Column::new("cpu_us_per_mib", "server CPU µs/MiB"),
        Column::new("server_cpu_share", "server CPU"),
        Column::new("client_cpu_share", "client CPU"),
        Column::scaled("silence_us_max", "longest silence ms", 1e3),
        Column::new("corrupted", "corrupted"),
        Column::new("resets", "resets"),
    ],
    run,
};

const RULES: Rules = Rules { metric: "bits_per_s", ratios: RATIOS };

fn run(run: &Run, output: &mut Output) -> Result<()> {
    let params = &run.params;
    let network = Network::new(params.count("mtu") as u16)?;
    let options = Options { busy_poll: Duration::from_micros(params.count("busy_poll_us") as u64) };
    let bulk = Bulk {
        down: params.word("direction") == "down",
        warmup: params.seconds("warmup_seconds"),
        duration: params.seconds("seconds"),
        connections: params.count("connections"),
    };
    contest::run(run, output, &network, &contest::engines(run), options, &RULES, |server| {
        let port = if bulk.down { CHARGEN_PORT } else { DISCARD_PORT };
        let target = server.seat().at(params.word("ip"), port);
        network.client().run(|| bulk.measure(target, server))?
    })
}
