//! The controller: who owns the guest's address. It decides in memory and writes a moment later; what was not written is
//! forgotten when it dies.

use std::cell::Cell;
use std::rc::Rc;

use super::world::World;

/// Who owns the address, by which generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) generation: u64,
    pub(super) owner: usize,
}

pub(super) struct Controller {
    pub(super) up: bool,
    /// New with each start: who asks for its guest back says which one it knew before the token.
    pub(super) incarnation: u64,
    memory: Row,
    disk: Row,
}

/// What a host wants of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Request {
    /// The generation after `from`, for a target. Answered before it is on disk, unless that is waited for.
    TakeOver { from: u64, durable: bool },
    /// The generation there is. Answered as granted.
    Look,
    /// The generation after `from`, for a source in doubt; on disk before it is answered.
    Reclaim { from: u64, incarnation: u64 },
    /// The generation after `from`, whoever has that, for a source whose target never polled; on disk before it is
    /// answered.
    TakeBack { from: u64 },
    /// That the generation after `from`, which a target has and makes no use of, ends, and the source has the next one; on
    /// disk before it is answered.
    GiveBack { from: u64 },
}

/// What it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Granted(u64),
    Denied,
    Unknown,
}

impl Controller {
    pub(super) fn new(owner: usize) -> Self {
        let row = Row { generation: 1, owner };
        Self { up: true, incarnation: 1, memory: row, disk: row }
    }

    fn decide(&mut self, host: usize, request: Request) -> Answer {
        let Row { generation, owner } = self.memory;
        let (from, free) = match request {
            Request::Look => return Answer::Granted(generation),
            Request::TakeOver { from, .. } => (from, generation == from && owner != host),
            Request::Reclaim { incarnation, .. } if incarnation != self.incarnation => return Answer::Unknown,
            // Given back by a target that had it and made no use of it.
            Request::Reclaim { from, .. } if owner == host && generation == from + 2 => {
                return Answer::Granted(generation);
            }
            Request::Reclaim { from, .. } => (from, generation == from && owner == host),
            Request::TakeBack { from } => (from, generation == from),
            Request::GiveBack { from } if owner == host && generation == from + 1 => {
                self.memory = Row { generation: from + 2, owner: 1 - host };
                return Answer::Granted(from + 2);
            }
            Request::GiveBack { .. } => return Answer::Denied,
        };
        let (next, mine) = (from + 1, owner == host && generation == from + 1);
        if free {
            self.memory = Row { generation: next, owner: host };
        }
        if free || mine { Answer::Granted(next) } else { Answer::Denied }
    }
}

impl World {
    /// Asks the controller. The answer is [`Answer::Unknown`] if none came in time, though it may have heeded the
    /// request, or may do so yet.
    pub(super) fn request(&mut self, host: usize, request: Request, then: impl FnOnce(&mut World, Answer) + 'static) {
        let then = Rc::new(Cell::new(Some(then)));
        let late = Rc::clone(&then);
        self.after_at(host, ANSWER_US_MAX, move |world| {
            if let Some(then) = late.take() {
                then(world, Answer::Unknown);
            }
        });
        let way_us = if self.rng.percent(self.setup.late_percent) {
            self.rng.within(1, 2_000_000)
        } else {
            self.rng.within(20, 400)
        };
        let epoch = self.hosts[host].epoch;
        self.after(way_us, move |world| {
            if !world.controller.up || !world.ways_up[host] {
                return;
            }
            let before = world.controller.memory;
            let answer = world.controller.decide(host, request);
            if world.controller.memory != before {
                world.route = world.controller.memory.owner;
            }
            let durable = !matches!(request, Request::Look | Request::TakeOver { durable: false, .. });
            let incarnation = world.controller.incarnation;
            let back_us = world.rng.within(20, 400);
            world.after(WRITE_US, move |world| {
                if world.controller.up && world.controller.incarnation == incarnation {
                    world.controller.disk = world.controller.memory;
                }
            });
            let written_us = if durable { WRITE_US + 1 } else { 0 };
            world.after(written_us + back_us, move |world| {
                let same = world.controller.up && world.controller.incarnation == incarnation;
                let heard = world.hosts[host].up && world.hosts[host].epoch == epoch && world.ways_up[host];
                if let Some(then) = (heard && (same || !durable)).then(|| then.take()).flatten() {
                    world.hosts[host].incarnation = incarnation;
                    then(world, answer);
                }
            });
        });
    }

    pub(super) fn kill_controller(&mut self, restarts_us: u64) {
        if !self.controller.up {
            return;
        }
        self.controller.up = false;
        self.after(restarts_us, |world| {
            let controller = &mut world.controller;
            controller.up = true;
            controller.incarnation += 1;
            controller.memory = controller.disk;
            if world.setup.controlled {
                world.route = controller.memory.owner;
            }
        });
    }
}

/// How long a host waits for an answer.
const ANSWER_US_MAX: u64 = 1_000_000;
/// How long it takes until a decision is on disk.
const WRITE_US: u64 = 1_000;
