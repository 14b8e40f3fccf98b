//! A worker and the guest in it: pages that are versions, frames that are numbers.

use std::collections::{BTreeSet, VecDeque};

use super::world::World;
use crate::page::Shape;

/// What a worker does with its guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// It waits for one.
    Waits,
    /// It polls it.
    Polls,
    /// It does not.
    Frozen,
}

/// A worker, its guest and its TAP.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    /// Tells it from those before.
    pub(super) number: u64,
    pub(super) mode: Mode,
    /// By page: the number of the write that made it what it is.
    pub(super) memory: Vec<u64>,
    /// Polls so far: the state beside the memory.
    pub(super) polls: u64,
    /// Frames that wait; `None` once it takes none any more.
    pub(super) tap: Option<VecDeque<u64>>,
    /// Pages written since they were taken, if that is tracked.
    pub(super) dirty: Option<BTreeSet<usize>>,
    pub(super) throttle_percent: u8,
}

impl Worker {
    pub(super) fn waiting(number: u64) -> Self {
        Self {
            number,
            mode: Mode::Waits,
            memory: vec![0; PAGES_FRESH],
            polls: 0,
            tap: Some(VecDeque::new()),
            dirty: None,
            throttle_percent: 0,
        }
    }

    pub(super) fn shape(&self) -> Shape {
        Shape(vec![u32::try_from(self.memory.len()).unwrap_or(u32::MAX)])
    }

    /// The frames that wait.
    pub(super) fn queued(&self) -> impl Iterator<Item = u64> + '_ {
        self.tap.iter().flatten().copied()
    }

    /// Takes the frames that wait.
    pub(super) fn drain(&mut self) -> Vec<u64> {
        self.tap.iter_mut().flat_map(|tap| tap.drain(..)).collect()
    }

    /// Neither tracked nor throttled any more.
    pub(super) fn leave_alone(&mut self) {
        (self.dirty, self.throttle_percent) = (None, 0);
    }
}

/// Pages of a memory that nothing was written to.
pub(super) const PAGES_FRESH: usize = 8;
/// How long guest and clients are busy from an attempt's beginning on: then they are so quiet that hours pass quickly.
const BUSY_US: u64 = 100_000;
/// Pages of a guest at most.
const PAGES_MOST: usize = 48;

impl World {
    /// Has the worker of a host poll now, and then again and again while it may.
    pub(super) fn poll(&mut self, host: usize, number: u64) {
        let Some(mut worker) = self.hosts[host].worker.take() else { return };
        if worker.number != number || worker.mode != Mode::Polls {
            self.hosts[host].worker = Some(worker);
            return;
        }
        if self.hosts[1 - host].worker.as_ref().is_some_and(|other| other.mode == Mode::Polls) {
            self.broken(format!("both hosts poll; {host} now"));
        }
        if self.polled_at_target && host == self.from {
            self.broken("the source polls after the target did".to_owned());
        }
        worker.polls += 1;
        for frame in worker.drain() {
            if !self.delivered.insert(frame) {
                self.broken(format!("frame {frame} is delivered twice"));
            }
        }
        if worker.memory.len() < PAGES_MOST && self.rng.percent(2) {
            worker.memory.push(0);
            let grown = worker.memory.len() - 1;
            self.write(&mut worker, grown);
        }
        for _ in 0..self.rng.within(0, 2) {
            let page = self.rng.within(0, worker.memory.len() as u64 - 1) as usize;
            self.write(&mut worker, page);
        }
        let busy_us = if self.now_us < self.attempt_began_us + BUSY_US { 1_000 } else { 40_000 };
        let rests_us = busy_us * 100 / u64::from(100 - worker.throttle_percent.min(99));
        let next_us = self.rng.within(rests_us / 2, rests_us);
        self.hosts[host].worker = Some(worker);
        self.after(next_us, move |world| world.poll(host, number));
    }

    fn write(&mut self, worker: &mut Worker, page: usize) {
        self.writes += 1;
        worker.memory[page] = self.writes;
        if let Some(dirty) = &mut worker.dirty {
            dirty.insert(page);
        }
    }

    /// A client sends a frame, to where the route leads; then the next.
    pub(super) fn client(&mut self) {
        if let Some(tap) = self.hosts[self.route].worker.as_mut().and_then(|worker| worker.tap.as_mut()) {
            self.frames += 1;
            tap.push_back(self.frames);
            let host = self.route;
            self.after(50, move |world| world.forward(host));
        }
        let busy_us = if self.now_us < self.attempt_began_us + BUSY_US { 700 } else { 60_000 };
        let next_us = self.rng.within(1, busy_us);
        self.after(next_us, World::client);
    }
}
