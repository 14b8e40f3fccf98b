//! Which pages still have to be sent: the log, and the trackers that fill it.
//!
//! ```text
//!  Tracker ── collect, look ──> dirty ── take ──> in flight ── commit ──> the target's
//!                                 ^                   │
//!                                 └──── roll_back ────┘
//! ```

mod compare;
#[cfg(test)]
mod on_a_child;
mod tracker;
mod userfaults;

pub use compare::Compare;
pub use tracker::{Choice, Region, TrackError, Tracker, Untracked, choose};
pub use userfaults::Userfaults;

use crate::page::PageSet;

/// The dirty log: pages that changed and were not sent, and pages that were sent and not acknowledged. A page leaves it
/// by [`Self::commit`] only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirtyLog {
    dirty: PageSet,
    in_flight: PageSet,
}

impl DirtyLog {
    /// Pages that are to be sent. A tracker adds to them what it finds.
    pub fn dirty(&mut self) -> &mut PageSet {
        &mut self.dirty
    }

    /// How many pages are dirty, those in flight not counted.
    pub fn count(&self) -> u64 {
        self.dirty.count()
    }

    /// The dirty pages are in flight from now on: these are to be sent. What was in flight before and neither committed
    /// nor rolled back is sent again.
    pub fn take(&mut self) -> &PageSet {
        self.roll_back();
        std::mem::swap(&mut self.dirty, &mut self.in_flight);
        &self.in_flight
    }

    /// The target has what is in flight.
    pub fn commit(&mut self) {
        self.in_flight.clear();
    }

    /// The target does not have what is in flight: it is dirty again, with what became dirty meanwhile.
    pub fn roll_back(&mut self) {
        self.dirty.union(&self.in_flight);
        self.in_flight.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::{MemoryIndex, PageIndex, PageRange};
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(u32),
        /// What is in flight arrives, in part; the guest may write while it does.
        Take {
            arrives: bool,
            meanwhile: Vec<u32>,
        },
        Commit,
        RollBack,
    }

    fn step() -> impl Strategy<Value = Step> {
        let page = 0u32..80;
        prop_oneof![
            4 => page.clone().prop_map(Step::Write),
            2 => (any::<bool>(), proptest::collection::vec(page, 0..4)).prop_map(|(arrives, meanwhile)| Step::Take { arrives, meanwhile }),
            1 => Just(Step::Commit),
            1 => Just(Step::RollBack),
        ]
    }

    fn page(index: u32) -> PageRange {
        PageRange { memory: MemoryIndex(0), first: PageIndex(index), count: 1 }
    }

    fn pages(set: &PageSet) -> Vec<usize> {
        set.ranges(1).map(|range| range.first.0 as usize).collect()
    }

    proptest! {
        /// Whatever is committed, rolled back or taken twice: a page whose content the target lacks is in the log.
        #[test]
        fn no_page_is_lost(steps in proptest::collection::vec(step(), 0..60)) {
            let mut log = DirtyLog::default();
            let (mut source, mut target, mut arrived) = ([0u32; 80], [0u32; 80], false);
            for (now, step) in (1..).zip(steps) {
                let written = match &step {
                    Step::Write(index) => std::slice::from_ref(index),
                    Step::Take { meanwhile, .. } => meanwhile,
                    Step::Commit | Step::RollBack => &[],
                };
                match &step {
                    Step::Write(_) => {}
                    Step::Take { arrives, .. } => {
                        let taken = pages(log.take());
                        if *arrives {
                            taken.iter().for_each(|&index| target[index] = source[index]);
                        }
                        arrived = *arrives;
                    }
                    // A target that has not everything does not acknowledge.
                    Step::Commit if arrived => log.commit(),
                    Step::Commit | Step::RollBack => log.roll_back(),
                }
                for &index in written {
                    source[index as usize] = now;
                    log.dirty().insert(page(index));
                }
                let mut known = log.clone();
                let known = pages(known.take());
                for index in 0..source.len() {
                    prop_assert!(source[index] == target[index] || known.contains(&index), "page {index} is lost");
                }
            }
            // A round that arrives makes them equal, and then nothing is left to do.
            pages(log.take()).into_iter().for_each(|index| target[index] = source[index]);
            log.commit();
            prop_assert_eq!(source, target);
            prop_assert_eq!(log.take().count(), 0);
        }
    }
}
