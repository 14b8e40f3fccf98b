//! Several engines doing the same, in turns: whatever disturbs the machine hits all alike.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Run;
use crate::engines::{JAILED, NAMES, Options, Server};
use crate::network::{Network, Seat};
use crate::output::{Output, Results};
use crate::params::{Kind, Param};
use crate::stats::Spread;

/// Every contest's parameter: busy polling of the engines that have it.
pub(super) const BUSY_POLL_US: Param = Param {
    name: "busy_poll_us",
    default: "0",
    kind: Kind::Count(0, 1_000_000),
    help: "how long guest and native look for frames before they sleep",
};
/// Every contest's parameter: who takes part.
pub(super) const ENGINES: Param =
    Param { name: "engines", default: "guest,native,kernel", kind: Kind::Subset(NAMES), help: "who is measured" };

/// Every contest's parameter: whether the guest takes part once more, in its jail.
pub(super) const JAIL: Param = Param {
    name: "jail",
    default: "off",
    kind: Kind::Choice(&["off", "on"]),
    help: "on: a deployed guest too, in its jail under a host daemon",
};

/// Who takes part.
pub(super) fn engines(run: &Run) -> Vec<&'static str> {
    let jailed = (run.params.word("jail") == "on").then_some(JAILED);
    jailed.into_iter().chain(run.params.words("engines").iter().copied()).collect()
}

/// Results that are summed over rounds; of the others the median is taken.
const COUNTS: [&str; 6] = ["sent", "received", "lost", "duplicated", "corrupted", "resets"];

/// What decides, and against whom.
pub(super) struct Rules {
    /// The result in which engines are compared.
    pub(super) metric: &'static str,
    /// Name of a ratio, and whose value is its denominator.
    pub(super) ratios: [(&'static str, &'static str); 3],
}

/// Against whom each is compared.
pub(super) const RATIOS: [(&str, &str); 3] =
    [("ratio_to_kernel", "kernel"), ("ratio_to_native", "native"), ("ratio_to_guest", "guest")];

/// Starts `engines`, lets each be measured once a round, and records rounds and summaries.
pub(super) fn run(
    run: &Run,
    output: &mut Output,
    network: &Network,
    engines: &[&'static str],
    options: Options,
    rules: &Rules,
    mut measure: impl FnMut(&mut Server) -> Result<Results>,
) -> Result<()> {
    let mut servers = Vec::new();
    for (index, name) in engines.iter().enumerate() {
        output.progress(&format!("starting {name}"));
        let server = Server::start(network, name, Seat::new(index), options, run.cores);
        servers.push(server.with_context(|| format!("starting {name}"))?);
    }
    let mut rounds: Vec<Vec<Results>> = servers.iter().map(|_| Vec::new()).collect();
    for round in 1..=run.repeats {
        let mut results = Vec::new();
        for server in &mut servers {
            results.push(measure(server).with_context(|| format!("{}, round {round}", server.name()))?);
        }
        for index in 0..servers.len() {
            let mut own = results[index].clone();
            for (key, against) in rules.ratios {
                let other = position(engines, against).map(|other| &results[other]);
                if let Some(ratio) = other.and_then(|other| ratio(&own, other, rules.metric)) {
                    own.insert(key.into(), json!(ratio));
                }
            }
            output.round(engines[index], round, &own);
            rounds[index].push(own);
        }
    }
    for (name, own) in engines.iter().zip(&rounds) {
        output.summary(name, summary(own, rules, |against| position(engines, against).map(|at| &rounds[at][..])));
    }
    Ok(())
}

fn position(engines: &[&str], name: &str) -> Option<usize> {
    engines.iter().position(|engine| *engine == name)
}

/// Sums of what is counted, medians of the rest; for the metric and the ratios the least and the most too.
fn summary<'a>(own: &[Results], rules: &Rules, others: impl Fn(&str) -> Option<&'a [Results]>) -> Results {
    let mut summary = Results::new();
    for key in own.first().into_iter().flat_map(|first| first.keys()) {
        if COUNTS.contains(&key.as_str()) {
            let sum: u64 = own.iter().filter_map(|results| results.get(key)?.as_u64()).sum();
            summary.insert(key.clone(), json!(sum));
        } else if let Some(spread) = spread(own, key) {
            summary.insert(key.clone(), json!(spread.median));
            if key == rules.metric || rules.ratios.iter().any(|(ratio, _)| ratio == key) {
                summary.insert(format!("{key}_min"), json!(spread.min));
                summary.insert(format!("{key}_max"), json!(spread.max));
            }
        }
    }
    // Not the median of the rounds' ratios, but the ratio of the medians.
    for (key, against) in rules.ratios {
        let other = others(against).and_then(|other| spread(other, rules.metric));
        if let (Some(own), Some(other)) = (spread(own, rules.metric), other.filter(|other| other.median > 0.0)) {
            summary.insert(key.into(), json!(own.median / other.median));
        }
    }
    summary
}

fn spread(rounds: &[Results], key: &str) -> Option<Spread> {
    Spread::of(rounds.iter().filter_map(|results| results.get(key).and_then(Value::as_f64)))
}

fn ratio(own: &Results, other: &Results, metric: &str) -> Option<f64> {
    let (own, other) = (own.get(metric)?.as_f64()?, other.get(metric)?.as_f64()?);
    (other > 0.0).then_some(own / other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { metric: "packets_per_s", ratios: super::RATIOS };

    fn rounds(rates: [f64; 3]) -> Vec<Results> {
        let round = |rate| json!({"packets_per_s": rate, "lost": 2}).as_object().unwrap().clone();
        rates.map(round).to_vec()
    }

    #[test]
    fn a_summary_has_medians_sums_and_ratios_of_medians() {
        let (own, kernel) = (rounds([90.0, 100.0, 50.0]), rounds([100.0, 200.0, 150.0]));
        let summary = summary(&own, &RULES, |name| (name == "kernel").then_some(&kernel[..]));
        let expected = json!({
            "packets_per_s": 90.0, "packets_per_s_min": 50.0, "packets_per_s_max": 100.0,
            "lost": 6, "ratio_to_kernel": 0.6,
        });
        assert_eq!(Value::Object(summary), expected);
    }
}
