//! Source and target in virtual time, over a link that breaks, between processes that die: from a seed, and at every
//! boundary there is.
//!
//! A run that fails is printed, its seed first; `ROAM_SEED=n cargo test --release -p roam-snapshot --test pair` runs it alone, and
//! `ROAM_SEEDS=n` so many instead of the usual number.

use roam_snapshot::plan::PlanName;
use roam_snapshot::sim::{Fault, Report, Setup, run};

/// Runs of [`any_seed_settles`].
const SEEDS: u64 = 20_000;
/// More steps than an attempt has in which nothing fails.
const STEPS_MAX: u64 = 400;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
}

/// Says which run it was if it panics.
struct Named<'a>(&'a Setup);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{:?}", self.0);
        }
    }
}

/// Runs it. A broken invariant is a panic, after which the run is named.
fn must(setup: &Setup) -> Report {
    let _named = Named(setup);
    run(setup).unwrap_or_else(|broken| panic!("{broken}"))
}

fn add(sum: &mut Report, one: Report) {
    sum.attempts += one.attempts;
    sum.moved += one.moved;
    sum.doubts += one.doubts;
    sum.killed += one.killed;
    sum.faults += one.faults;
    sum.frames += one.frames;
    sum.rounds += one.rounds;
    sum.steps = sum.steps.max(one.steps);
}

#[test]
fn any_seed_settles() {
    if let Some(seed) = number("ROAM_SEED") {
        let setup = Setup::of_seed(seed);
        println!("{setup:#?}\n{:?}", must(&setup));
        return;
    }
    let mut sum = Report::default();
    for seed in 0..number("ROAM_SEEDS").unwrap_or(SEEDS) {
        add(&mut sum, must(&Setup::of_seed(seed)));
    }
    println!("{sum:?}");
    assert!(sum.doubts > 0 && sum.moved > 0 && sum.killed > 0, "the seeds see too little: {sum:?}");
}

#[test]
fn a_guest_moves_when_nothing_fails() {
    for plan in [PlanName::PreCopy, PlanName::StopAndCopy] {
        for controlled in [true, false] {
            let mut setup = Setup::calm(1, plan, controlled);
            setup.faults = vec![Vec::new(); 9];
            let report = must(&setup);
            assert_eq!((report.attempts, report.moved, report.doubts), (10, 10, 0), "{plan:?}: {report:?}");
        }
    }
}

/// Each fault at each boundary, twice in a row, and then none.
#[test]
fn any_fault_at_any_boundary_twice_in_a_row() {
    let (short_us, long_us) = (30_000, 8_000_000);
    let faults = [
        Fault::Link(short_us),
        Fault::Link(long_us),
        Fault::Way(0, long_us),
        Fault::Way(1, long_us),
        Fault::Daemon(0, short_us),
        Fault::Daemon(0, long_us),
        Fault::Daemon(1, short_us),
        Fault::Daemon(1, long_us),
        Fault::Worker(0),
        Fault::Worker(1),
        Fault::Controller(short_us),
        Fault::Controller(long_us),
        Fault::Cancel(0),
        Fault::Cancel(1),
        Fault::Step(0),
        Fault::Step(1),
        Fault::Corrupt,
    ];
    let mut sum = Report::default();
    for plan in [PlanName::PreCopy, PlanName::StopAndCopy] {
        for controlled in [true, false] {
            let steps = must(&Setup::calm(7, plan, controlled)).steps;
            assert!(steps < STEPS_MAX, "{steps} steps: {plan:?}, {controlled}");
            for fault in faults {
                for step in 1..=steps {
                    let mut setup = Setup::calm(7, plan, controlled);
                    setup.faults = vec![vec![(step, fault)]; 2];
                    add(&mut sum, must(&setup));
                }
            }
        }
    }
    println!("{sum:?}");
}
