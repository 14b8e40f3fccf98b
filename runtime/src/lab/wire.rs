//! A wire with faults: loses, duplicates and reorders frames between two ports, from a seed.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::{LabError, Port};

/// Frames under way in one direction; what comes on top is dropped and counted as lost, as by a full queue.
const FRAMES_MAX: usize = 4096;
/// Frames taken from one port before the other gets its turn.
const BATCH_FRAMES: usize = 64;
/// How soon a wire notices that it is to stop.
const STOP_STEP: Duration = Duration::from_millis(50);

/// What a wire does to frames, each direction on its own. The default does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Impairment {
    /// Frames lost, of a thousand.
    pub loss_permille: u32,
    /// Frames sent twice, of a thousand.
    pub duplicate_permille: u32,
    /// Frames held back by `reorder_by`, of a thousand, so that later ones overtake them.
    pub reorder_permille: u32,
    /// How long those are held back.
    pub reorder_by: Duration,
    /// How long every frame takes.
    pub delay: Duration,
    /// What the choices are drawn from.
    pub seed: u64,
}

/// A running wire. Dropping it cuts it; both devices go.
#[derive(Debug)]
pub struct Wire {
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Counts {
    carried: AtomicU64,
    lost: AtomicU64,
    duplicated: AtomicU64,
    reordered: AtomicU64,
}

impl Wire {
    pub(super) fn start(near: Port, far: Port, impairment: Impairment) -> Result<Self, LabError> {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
        let (stopped, counted) = (stop.clone(), counts.clone());
        let carry = move || carry(&[near, far], impairment, &stopped, &counted);
        let thread =
            thread::Builder::new().name("wire".into()).spawn(carry).map_err(LabError::io("starting a wire"))?;
        Ok(Self { stop, counts, thread: Some(thread) })
    }

    /// Frames delivered so far, both directions, second copies included.
    pub fn carried(&self) -> u64 {
        self.counts.carried.load(Ordering::Relaxed)
    }

    /// Frames lost so far, both directions.
    pub fn lost(&self) -> u64 {
        self.counts.lost.load(Ordering::Relaxed)
    }

    /// Frames sent twice so far, both directions.
    pub fn duplicated(&self) -> u64 {
        self.counts.duplicated.load(Ordering::Relaxed)
    }

    /// Frames held back so far, both directions.
    pub fn reordered(&self) -> u64 {
        self.counts.reordered.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic, and a wire that did has been cut all the same.
            let _ = thread.join();
        }
    }
}

fn carry(ports: &[Port; 2], impairment: Impairment, stop: &AtomicBool, counts: &Counts) {
    let start = Instant::now();
    let mut ways = [Way::new(impairment, 0), Way::new(impairment, 1)];
    while !stop.load(Ordering::Relaxed) {
        for (index, way) in ways.iter_mut().enumerate() {
            for _ in 0..BATCH_FRAMES {
                // A device that is down or gone has nothing for us and takes nothing: so is a cut wire.
                let Ok(Some(frame)) = ports[index].try_receive() else { break };
                way.offer(frame, start.elapsed(), counts);
            }
            while let Some(frame) = way.take(start.elapsed()) {
                match ports[1 - index].send(&frame) {
                    Ok(()) => counts.carried.fetch_add(1, Ordering::Relaxed),
                    Err(_) => counts.lost.fetch_add(1, Ordering::Relaxed),
                };
            }
        }
        let now = start.elapsed();
        let next = ways.iter().filter_map(Way::next_due).min().unwrap_or(Duration::MAX);
        let pause = next.saturating_sub(now).min(STOP_STEP);
        let timeout = PollTimeout::try_from(pause.as_micros().div_ceil(1000) as i32).unwrap_or(PollTimeout::ZERO);
        let mut fds = [0, 1].map(|index: usize| PollFd::new(ports[index].as_fd(), PollFlags::POLLIN));
        // An interrupted wait is a short one.
        let _ = poll(&mut fds, timeout);
    }
}

/// One direction: time comes as an argument.
struct Way {
    impairment: Impairment,
    random: ChaCha8Rng,
    queue: BinaryHeap<Reverse<(Duration, u64, Vec<u8>)>>,
    accepted: u64,
}

impl Way {
    fn new(impairment: Impairment, direction: u64) -> Self {
        let random = ChaCha8Rng::seed_from_u64(impairment.seed.wrapping_mul(2).wrapping_add(direction));
        Self { impairment, random, queue: BinaryHeap::new(), accepted: 0 }
    }

    fn offer(&mut self, frame: Vec<u8>, now: Duration, counts: &Counts) {
        let Impairment { loss_permille, duplicate_permille, reorder_permille, reorder_by, delay, .. } = self.impairment;
        // Every frame draws three times, so that one rate does not shift what another one hits.
        let lost = self.hit(loss_permille) || self.queue.len() + 2 > FRAMES_MAX;
        let duplicated = self.hit(duplicate_permille);
        let reordered = self.hit(reorder_permille);
        if lost {
            counts.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let mut due = now + delay;
        if reordered {
            counts.reordered.fetch_add(1, Ordering::Relaxed);
            due += reorder_by;
        }
        if duplicated {
            counts.duplicated.fetch_add(1, Ordering::Relaxed);
            self.push(due, frame.clone());
        }
        self.push(due, frame);
    }

    fn take(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.next_due()? > now {
            return None;
        }
        self.queue.pop().map(|Reverse((_, _, frame))| frame)
    }

    fn next_due(&self) -> Option<Duration> {
        self.queue.peek().map(|Reverse((due, _, _))| *due)
    }

    fn push(&mut self, due: Duration, frame: Vec<u8>) {
        self.queue.push(Reverse((due, self.accepted, frame)));
        self.accepted += 1;
    }

    fn hit(&mut self, permille: u32) -> bool {
        self.random.next_u32() % 1000 < permille
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// What comes out when frame `n` goes in at millisecond `n`.
    fn pass(impairment: Impairment, frames: u32) -> (Vec<u32>, Counts) {
        let (mut way, counts, mut out) = (Way::new(impairment, 0), Counts::default(), Vec::new());
        for step in 0..frames + 100 {
            if step < frames {
                way.offer(step.to_be_bytes().to_vec(), MS * step, &counts);
            }
            while let Some(frame) = way.take(MS * step) {
                out.push(u32::from_be_bytes(frame.try_into().unwrap()));
            }
        }
        (out, counts)
    }

    #[test]
    fn a_wire_without_faults_changes_nothing() {
        let (out, _) = pass(Impairment { delay: MS * 7, ..Impairment::default() }, 500);
        assert!(out.into_iter().eq(0..500));
    }

    #[test]
    fn what_is_not_counted_as_lost_arrives_once_or_is_counted_as_duplicated() {
        let faults = Impairment {
            loss_permille: 100,
            duplicate_permille: 50,
            reorder_permille: 50,
            reorder_by: MS * 5,
            ..Impairment::default()
        };
        let (mut out, counts) = pass(faults, 10_000);
        let (lost, duplicated) = (counts.lost.into_inner(), counts.duplicated.into_inner());
        assert!((800..1200).contains(&lost) && (350..550).contains(&duplicated), "{lost} lost, {duplicated} twice");
        assert_eq!(out.len() as u64, 10_000 - lost + duplicated);
        assert!(out.windows(2).any(|pair| pair[0] > pair[1]), "nothing was reordered");
        out.sort_unstable();
        out.dedup();
        assert_eq!(out.len() as u64, 10_000 - lost);
    }

    #[test]
    fn the_same_seed_makes_the_same_faults() {
        let faults = Impairment { loss_permille: 300, seed: 9, ..Impairment::default() };
        assert_eq!(pass(faults, 1000).0, pass(faults, 1000).0);
        assert_ne!(pass(faults, 1000).0, pass(Impairment { seed: 10, ..faults }, 1000).0);
    }
}
