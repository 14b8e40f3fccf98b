//! What can be measured. A scenario is data and one function; all look the same.

mod contest;
mod datapath_tcp;
mod datapath_udp;
mod density;
mod deploy;
mod first_reply;
mod guest_start;
mod migrate;
mod sdn_scale;
mod switch;

use anyhow::Result;
use serde_json::json;

use crate::output::{Column, Output, Results};
use crate::params::{Param, Params};
use crate::process::Cores;
use crate::stats::{Spread, quantile};

pub(crate) use guest_start::{StartArguments, start_once};

/// Something to find out, and how.
#[derive(Debug)]
pub(crate) struct Scenario {
    /// What `run` calls it.
    pub(crate) name: &'static str,
    /// What it answers.
    pub(crate) question: &'static str,
    /// What can be set; the defaults are the canonical form.
    pub(crate) params: &'static [Param],
    /// Rounds, where nothing else is asked for.
    pub(crate) repeats: u32,
    /// What of the results people see.
    pub(crate) columns: &'static [Column],
    /// Measures and records.
    pub(crate) run: fn(&Run, &mut Output) -> Result<()>,
}

/// What a scenario's function is told.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) params: Params,
    pub(crate) repeats: u32,
    pub(crate) seed: u64,
    pub(crate) cores: Cores,
}

/// All scenarios.
pub(crate) const SCENARIOS: &[Scenario] = &[
    datapath_udp::SCENARIO,
    datapath_tcp::SCENARIO,
    guest_start::SCENARIO,
    deploy::SCENARIO,
    density::SCENARIO,
    migrate::SCENARIO,
    sdn_scale::SCENARIO,
    switch::KERNEL,
    switch::OVS,
];

/// Median, least and most of each.
fn summary(rounds: &[Results]) -> Results {
    let mut summary = Results::new();
    for key in rounds.first().into_iter().flat_map(|first| first.keys()) {
        if let Some(spread) = Spread::of(rounds.iter().filter_map(|results| results.get(key)?.as_f64())) {
            summary.insert(format!("{key}_p50"), json!(spread.median));
            summary.insert(format!("{key}_min"), json!(spread.min));
            summary.insert(format!("{key}_max"), json!(spread.max));
        }
    }
    summary
}

/// All rounds as one: what is counted is summed, of the greatest the greatest is taken, of the rest the median.
fn together(rounds: &[Results]) -> Results {
    let mut together = Results::new();
    for key in rounds.first().into_iter().flat_map(|first| first.keys()) {
        let values = || rounds.iter().filter_map(|results| results.get(key)?.as_f64());
        let Some(spread) = Spread::of(values()) else { continue };
        let value = match key {
            key if key.ends_with("_max") => json!(spread.max),
            key if key.contains("_us_") => json!(spread.median),
            _ => json!(values().sum::<f64>() as u64),
        };
        together.insert(key.clone(), value);
    }
    together
}

/// Puts how long something took, many times over: median, 99 and 99.9 percent, most (µs), and how often it was
/// measured.
fn put_times(results: &mut Results, name: &str, times_ns: &mut [u64]) {
    for (suffix, share) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)] {
        results.insert(format!("{name}_us_{suffix}"), json!(quantile(times_ns, share) as f64 / 1000.0));
    }
    results.insert(format!("{name}_count"), json!(times_ns.len()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_put_together_by_what_they_count() {
        let mut rounds = [Results::new(), Results::new(), Results::new()];
        for (round, times) in rounds.iter_mut().zip([[1000, 2000], [3000, 9000], [2000, 4000]]) {
            put_times(round, "move", &mut times.clone());
        }
        let together = Results::from_iter(together(&rounds).into_iter().filter(|(key, _)| !key.contains("99")));
        let expected = json!({"move_us_p50": 2.0, "move_us_max": 9.0, "move_count": 6});
        assert_eq!(serde_json::Value::Object(together), expected);
    }

    #[test]
    fn scenarios_are_well_formed() {
        for scenario in SCENARIOS {
            Params::new(scenario.params, &[]).unwrap_or_else(|error| panic!("{}: {error}", scenario.name));
            assert!(scenario.question.ends_with('?'), "{}", scenario.name);
            assert_eq!(SCENARIOS.iter().filter(|other| other.name == scenario.name).count(), 1);
            for param in scenario.params {
                assert_eq!(scenario.params.iter().filter(|other| other.name == param.name).count(), 1);
            }
        }
    }
}
