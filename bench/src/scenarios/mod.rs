//! What can be measured. A scenario is data and one function; all look the same.

mod contest;
mod datapath_tcp;
mod datapath_udp;
mod density;
mod deploy;
mod first_reply;
mod guest_start;

use anyhow::Result;
use serde_json::json;

use crate::output::{Column, Output, Results};
use crate::params::{Param, Params};
use crate::process::Cores;
use crate::stats::Spread;

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
pub(crate) const SCENARIOS: &[Scenario] =
    &[datapath_udp::SCENARIO, datapath_tcp::SCENARIO, guest_start::SCENARIO, deploy::SCENARIO, density::SCENARIO];

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

#[cfg(test)]
mod tests {
    use super::*;

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
