//! What to send next. A plan is a type, not a flag: it sees how the rounds went and says what comes now.
//!
//! | plan | before the stop | in the blackout | after the resume |
//! | --- | --- | --- | --- |
//! | [`StopAndCopy`] | | all pages | |
//! | [`PreCopy`] | all pages, then rounds of dirty ones until the rest fits the downtime | the last dirty pages | |
//!
//! A plan that leaves pages behind says so in [`Plan::after`]; none does yet.

mod pre_copy;
mod stop_and_copy;

use serde::{Deserialize, Serialize};

pub use pre_copy::PreCopy;
pub use stop_and_copy::StopAndCopy;

/// What a plan is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlanName {
    /// Everything in the blackout.
    StopAndCopy,
    /// Rounds while the guest runs, the rest in the blackout.
    PreCopy,
}

/// What the user asked of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// How long the guest may be stopped, microseconds. A plan stops when it expects to need no longer.
    pub downtime_us: u64,
    /// Most rounds before the stop.
    pub rounds_max: u32,
    /// How long all of it may take until the stop, microseconds.
    pub timeout_us: u64,
    /// What is done when the guest dirties pages faster than they can be sent.
    pub divergence: Divergence,
}

/// What is done about a guest that dirties pages faster than they can be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Divergence {
    /// It gets less and less time to run, until it converges.
    #[default]
    Throttle,
    /// The migration fails, and the guest serves on where it is.
    GiveUp,
}

/// A round that the target has acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// From 1.
    pub number: u32,
    /// Pages it sent, those left out because the target had them not counted.
    pub pages: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
    /// From its scan to the target's acknowledgement, microseconds.
    pub took_us: u64,
    /// Pages that were dirty when it was acknowledged.
    pub dirty_after: u64,
}

/// How far a migration is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last acknowledged round, if there was one.
    pub last: Option<Round>,
    /// The round before that.
    pub before: Option<Round>,
    /// Since the first round began, microseconds.
    pub elapsed_us: u64,
    /// What a message there and back takes, microseconds; the least that was seen.
    pub round_trip_us: u64,
    /// How much of its time the guest is kept from running, percent.
    pub throttle_percent: u8,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A round: all pages if it is the first, else those dirtied since.
    Round,
    /// The same, with the guest kept from running for that much of its time, percent.
    Throttled(u8),
    /// The blackout.
    Stop,
    /// The migration fails.
    GiveUp(Diverged),
}

/// Why a plan gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Diverged {
    /// The guest dirties pages faster than they can be sent.
    #[error("the guest dirties pages faster than they can be sent")]
    Rate,
    /// The most rounds were made and the rest still does not fit the downtime.
    #[error("after the most rounds the rest still does not fit the downtime")]
    Rounds,
    /// A stop takes longer than that even with no page left: the downtime is too short, or the hosts too far apart.
    #[error("a stop takes longer than the downtime allows, even with no page left to send")]
    Floor,
    /// It took too long.
    #[error("the time was over before the rest fitted the downtime")]
    Timeout,
}

/// What is left to be sent once the target serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing.
    Nothing,
}

/// A way to migrate. Pure: it knows what [`Progress`] tells it.
pub trait Plan: Send {
    /// What it is called.
    fn name(&self) -> PlanName;
    /// Whether the target needs pages while the guest still runs: then what it writes is tracked.
    fn tracks(&self) -> bool;
    /// What comes next. Called before the first round and whenever one was acknowledged.
    fn next(&mut self, progress: &Progress) -> Step;
    /// What is left to do after the resume.
    fn after(&self) -> After;
}

impl PlanName {
    /// The plan of that name, held to those limits.
    pub fn plan(self, limits: Limits) -> Box<dyn Plan> {
        match self {
            Self::StopAndCopy => Box::new(StopAndCopy),
            Self::PreCopy => Box::new(PreCopy::new(limits)),
        }
    }
}
