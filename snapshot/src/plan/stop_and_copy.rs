//! Everything in the blackout.

use super::{After, Plan, PlanName, Progress, Step};

/// Stops the guest, sends all of it, has it go on at the target.
#[derive(Clone, Copy, Debug)]
pub struct StopAndCopy;

impl Plan for StopAndCopy {
    fn name(&self) -> PlanName {
        PlanName::StopAndCopy
    }

    fn tracks(&self) -> bool {
        false
    }

    fn next(&mut self, _progress: &Progress) -> Step {
        Step::Stop
    }

    fn after(&self) -> After {
        After::Nothing
    }
}
