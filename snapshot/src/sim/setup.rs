//! What a run is.

use super::rng::Rng;
use crate::plan::{Divergence, Limits, PlanName};

/// What may go wrong. A host is the source's or the target's: 0 or 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The link between the hosts breaks, and heals after so many microseconds.
    Link(u64),
    /// A host's way to the controller breaks, and heals after so many microseconds.
    Way(usize, u64),
    /// A host's daemon dies, and starts again after so many microseconds.
    Daemon(usize, u64),
    /// A host's worker dies.
    Worker(usize),
    /// The controller dies, and starts again after so many microseconds.
    Controller(u64),
    /// Somebody cancels at a host.
    Cancel(usize),
    /// The next thing that is ordered at a host fails.
    Step(usize),
    /// A page is changed on its way.
    Corrupt,
}

/// A run: everything that happens follows from it.
#[derive(Clone, Debug)]
pub struct Setup {
    /// For all that is random.
    pub seed: u64,
    /// How the guest is moved.
    pub plan: PlanName,
    /// Within which limits.
    pub limits: Limits,
    /// Whether there is a controller.
    pub controlled: bool,
    /// How many of a hundred requests to the controller, and questions to the target, are late: by up to seconds. So many
    /// tokens seem not to be written, and half of those were.
    pub late_percent: u64,
    /// What goes wrong, by attempt: at which step (an event that is heeded, a command that is done), and what.
    pub faults: Vec<Vec<(u64, Fault)>>,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Migrations that were tried.
    pub attempts: u32,
    /// Those after which the guest was at the target.
    pub moved: u32,
    /// Those that were in doubt for a while.
    pub doubts: u32,
    /// Runs in which the guest was lost with the worker that had it.
    pub killed: u32,
    /// Faults that happened.
    pub faults: u32,
    /// Steps of the longest attempt.
    pub steps: u64,
    /// Frames that were delivered.
    pub frames: u64,
    /// Rounds that were acknowledged.
    pub rounds: u32,
}

impl Setup {
    /// A run in which nothing goes wrong, unless it is added.
    pub fn calm(seed: u64, plan: PlanName, controlled: bool) -> Self {
        let limits =
            Limits { downtime_us: 10_000, rounds_max: 12, timeout_us: 5_000_000, divergence: Divergence::Throttle };
        Self { seed, plan, limits, controlled, late_percent: 0, faults: Vec::new() }
    }

    /// The run of a seed: one to three attempts, with faults.
    pub fn of_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5eed);
        let plan = rng.one_of(&[PlanName::PreCopy, PlanName::PreCopy, PlanName::StopAndCopy]);
        let controlled = rng.percent(70);
        let mut setup = Self::calm(seed, plan, controlled);
        setup.limits.downtime_us = rng.one_of(&[2_000, 5_000, 10_000, 50_000]);
        setup.limits.divergence = rng.one_of(&[Divergence::Throttle, Divergence::GiveUp]);
        setup.late_percent = rng.one_of(&[0, 3, 20]);
        let steps_max = rng.one_of(&[30, 60, 100]);
        for _ in 0..rng.within(1, 3) {
            let faults = (0..rng.within(0, 4)).map(|_| (rng.within(1, steps_max), Fault::of(&mut rng)));
            setup.faults.push(faults.collect());
        }
        setup
    }
}

impl Fault {
    fn of(rng: &mut Rng) -> Self {
        let host = rng.within(0, 1) as usize;
        let heals_us = rng.one_of(&[500, 20_000, 300_000, 2_000_000, 12_000_000]);
        let heals_us = rng.within(heals_us / 2, heals_us);
        match rng.within(0, 11) {
            0..=2 => Self::Link(heals_us),
            3 => Self::Way(host, heals_us),
            4..=5 => Self::Daemon(host, heals_us),
            6 => Self::Worker(host),
            7..=8 => Self::Controller(heals_us),
            9 => Self::Cancel(host),
            10 => Self::Step(host),
            _ => Self::Corrupt,
        }
    }
}
