//! From a request to the host's API to the first reply of the guest it deploys.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::first_reply::FirstReply;
use super::{Run, Scenario, summary};
use crate::engines::{GuestKind, Host, START_LIMIT};
use crate::network::{Network, Seat};
use crate::output::{Column, Output, Results};
use crate::params::{Kind, Param};

pub(super) const SCENARIO: Scenario = Scenario {
    name: "deploy",
    question: "How long from asking a host for a guest whose module it has to the guest's first reply, through API, \
               jail, TAP and bridge?",
    params: &[
        Param { name: "guest", default: "echo", kind: Kind::Choice(GuestKind::NAMES), help: "what is deployed" },
        Param { name: "ip", default: "4", kind: Kind::Choice(&["4", "6"]), help: "IP version of the first request" },
        Param { name: "others", default: "0", kind: Kind::Count(0, 500), help: "guests the host already runs" },
    ],
    repeats: 20,
    columns: &[
        Column::new("first_reply_us_p50", "first reply µs p50"),
        Column::new("first_reply_us_min", "min"),
        Column::new("first_reply_us_max", "max"),
        Column::new("answered_us_p50", "API answers µs p50"),
        Column::new("answered_us_max", "max"),
        Column::new("deleted_us_p50", "delete µs p50"),
        Column::new("first_reply_us", "first reply µs"),
        Column::new("answered_us", "API answers µs"),
        Column::new("deleted_us", "delete µs"),
    ],
    run,
};

fn run(run: &Run, output: &mut Output) -> Result<()> {
    let network = Network::new(1500)?;
    let kind = GuestKind::named(run.params.word("guest"));
    let host = Host::start(&network, run.cores)?;
    let digest = host.put(&network, kind)?;
    let others = run.params.count("others");
    for number in 1..=others {
        host.deploy(digest, Seat::new(number), Duration::ZERO)?;
    }
    let seat = Seat::new(0);
    network.introduce(seat)?;
    let mut rounds = Vec::new();
    // The first, unmeasured, is for caches to fill.
    for round in 0..=run.repeats {
        let client = FirstReply::new(&network, kind, seat, run.params.word("ip"))?;
        let (over, asked) = (AtomicBool::new(false), Instant::now());
        let (answered, replied) = thread::scope(|scope| {
            let waiting = scope.spawn(|| first_reply(&client, asked, &over));
            let deployed = host.deploy(digest, seat, Duration::ZERO).map(|_| asked.elapsed());
            over.store(deployed.is_err(), Ordering::Relaxed);
            let replied = waiting.join().expect("a client does not panic");
            anyhow::Ok((deployed?, replied?))
        })?;
        let deleting = Instant::now();
        host.delete(seat)?;
        let us = |time: Duration| json!(time.as_micros() as u64);
        let results = Results::from_iter([
            ("first_reply_us".into(), us(replied)),
            ("answered_us".into(), us(answered)),
            ("deleted_us".into(), us(deleting.elapsed())),
        ]);
        if round > 0 {
            output.round("deploy", round, &results);
            rounds.push(results);
        }
    }
    output.summary("deploy", summary(&rounds));
    Ok(())
}

/// When the first reply came, counted from `since`.
fn first_reply(client: &FirstReply<'_>, since: Instant, over: &AtomicBool) -> Result<Duration> {
    while !client.is_there().context("the client")? {
        if over.load(Ordering::Relaxed) || since.elapsed() > START_LIMIT {
            bail!("the guest does not answer");
        }
    }
    Ok(since.elapsed())
}
