//! Virtual time, the hosts, what fails, and what must hold.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashSet};

use super::controller::{Answer, Controller, Request};
use super::guest::{Mode, Worker};
use super::incoming::Incoming;
use super::link::Connection;
use super::outgoing::Outgoing;
use super::rng::Rng;
use super::setup::{Fault, Report, Setup};
use crate::protocol::source::SourceEvent;
use crate::protocol::target::TargetEvent;
use crate::protocol::{Reason, ReasonCode};

/// All there is.
pub(super) struct World {
    pub(super) setup: Setup,
    pub(super) rng: Rng,
    pub(super) now_us: u64,
    happenings: BinaryHeap<Reverse<Happening>>,
    scheduled: u64,

    pub(super) hosts: [Host; 2],
    pub(super) controller: Controller,
    pub(super) connections: Vec<Connection>,
    pub(super) link_up: bool,
    /// Each host's way to the controller.
    pub(super) ways_up: [bool; 2],
    pub(super) delay_us: u64,
    pub(super) page_us: u64,
    /// The host that clients' frames are sent to.
    pub(super) route: usize,

    /// Of this attempt: the source, its number, when it began, its steps, what is still to fail.
    pub(super) from: usize,
    pub(super) attempt: u64,
    pub(super) attempt_began_us: u64,
    steps: u64,
    faults: Vec<(u64, Fault)>,
    /// What the source was when it was stopped.
    pub(super) frozen: Option<(Vec<u64>, u64)>,
    /// The pages the target was given.
    pub(super) given: BTreeMap<usize, u64>,
    pub(super) polled_at_target: bool,
    /// Whether the next page that travels is changed, and whether one was.
    pub(super) corrupts: bool,
    pub(super) corrupted: bool,
    /// Whether a worker was killed that had, or may have had, the guest.
    gone: bool,

    pub(super) writes: u64,
    pub(super) frames: u64,
    pub(super) delivered: HashSet<u64>,
    /// Whether frames may have been lost with who had them.
    pub(super) lossy: bool,
    pub(super) report: Report,
    violation: Option<String>,
}

/// A host.
pub(super) struct Host {
    /// Whether its daemon runs.
    pub(super) up: bool,
    /// Which daemon it is.
    pub(super) epoch: u32,
    pub(super) worker: Option<Worker>,
    pub(super) outgoing: Option<Outgoing>,
    pub(super) incoming: Option<Incoming>,
    pub(super) disk: Disk,
    /// The controller's start it last heard of.
    pub(super) incarnation: u64,
    pub(super) restarted_us: u64,
    /// Whether the next thing that is ordered fails.
    pub(super) fails_next: bool,
}

/// What a daemon leaves to the next.
#[derive(Default)]
pub(super) struct Disk {
    /// The generation it knows the guest by.
    pub(super) generation: u64,
    /// A session that is under way, the controller's start that was known before, and how far it may be.
    pub(super) record: Option<(u64, u64, Mark)>,
    /// Sessions whose guest was told to go on here.
    pub(super) resumed: BTreeSet<u64>,
    /// What is to be asked of the controller until it has it on disk.
    pub(super) address: Option<Address>,
}

/// What may have been said in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    /// Neither claim nor token.
    None,
    Claim,
    Token,
}

/// What a host that polls makes sure of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// That the generation after this one is its own.
    TakeOver(u64),
    /// That the one a target was granted and did not use is not in the way.
    TakeBack,
}

struct Happening {
    at_us: u64,
    number: u64,
    act: Box<dyn FnOnce(&mut World)>,
}

impl PartialEq for Happening {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Happening {}

impl PartialOrd for Happening {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Happening {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_us, self.number).cmp(&(other.at_us, other.number))
    }
}

impl World {
    pub(super) fn new(setup: &Setup) -> Self {
        let mut rng = Rng::new(setup.seed);
        let (delay_us, page_us) = (rng.one_of(&[50, 200, 2_000]), rng.one_of(&[2, 30, 300]));
        Self {
            setup: setup.clone(),
            rng,
            now_us: 0,
            happenings: BinaryHeap::new(),
            scheduled: 0,
            hosts: [Host::new(), Host::new()],
            controller: Controller::new(0),
            connections: Vec::new(),
            link_up: true,
            ways_up: [true; 2],
            delay_us,
            page_us,
            route: 0,
            from: 0,
            attempt: 0,
            attempt_began_us: 0,
            steps: 0,
            faults: Vec::new(),
            frozen: None,
            given: BTreeMap::new(),
            polled_at_target: false,
            corrupts: false,
            corrupted: false,
            gone: false,
            writes: 0,
            frames: 0,
            delivered: HashSet::new(),
            lossy: false,
            report: Report::default(),
            violation: None,
        }
    }

    /// One attempt after another, a last one in which nothing fails.
    pub(super) fn run(mut self) -> Result<Report, String> {
        let mut worker = Worker::waiting(0);
        worker.mode = Mode::Polls;
        self.hosts[0].worker = Some(worker);
        self.poll(0, 0);
        self.client();
        let mut attempts = self.setup.faults.clone();
        attempts.push(Vec::new());
        for faults in attempts {
            self.begin_attempt(faults);
            self.until(|world| world.settled(), SETTLE_US_MAX)?;
            self.report.steps = self.report.steps.max(self.steps);
            let polling: Vec<_> = (0..2).filter(|host| self.polls(*host)).collect();
            match polling[..] {
                [host] => (self.from, self.polled_at_target) = (host, false),
                [] if self.gone => {
                    self.report.killed += 1;
                    return Ok(self.report);
                }
                _ => return Err(format!("{} hosts poll at the end of attempt {}", polling.len(), self.attempt)),
            }
        }
        let end_us = self.now_us + 500_000;
        self.until(|world| world.now_us >= end_us, SETTLE_US_MAX)?;
        self.report.frames = self.delivered.len() as u64;
        let waiting: HashSet<_> = self.hosts.iter().flat_map(|host| &host.worker).flat_map(Worker::queued).collect();
        let lost: Vec<_> =
            (1..=self.frames).filter(|frame| !self.delivered.contains(frame) && !waiting.contains(frame)).collect();
        if !self.lossy && !lost.is_empty() {
            return Err(format!("of {} frames these are lost: {lost:?}", self.frames));
        }
        Ok(self.report)
    }

    fn begin_attempt(&mut self, faults: Vec<(u64, Fault)>) {
        (self.attempt, self.attempt_began_us, self.steps, self.faults) = (self.attempt + 1, self.now_us, 0, faults);
        (self.frozen, self.polled_at_target, self.corrupts, self.corrupted) = (None, false, false, false);
        self.given.clear();
        self.hosts.iter_mut().for_each(|host| host.fails_next = false);
        self.report.attempts += 1;
        self.begin_outgoing();
    }

    /// Lets things happen until `done`.
    fn until(&mut self, done: impl Fn(&Self) -> bool, us_max: u64) -> Result<(), String> {
        let end_us = self.now_us + us_max;
        while !done(self) {
            let Some(Reverse(next)) = self.happenings.pop() else { return Err("nothing happens any more".to_owned()) };
            self.now_us = next.at_us;
            (next.act)(self);
            if let Some(violation) = self.violation.take() {
                return Err(format!("attempt {}, step {}, {} us: {violation}", self.attempt, self.steps, self.now_us));
            }
            if self.now_us > end_us {
                return Err(format!("attempt {}, step {}: it is never settled", self.attempt, self.steps));
            }
        }
        Ok(())
    }

    /// Whether all that failed is healed and nobody waits for anything.
    fn settled(&self) -> bool {
        let calm = |host: &Host| {
            host.up
                && host.outgoing.is_none()
                && host.disk.address.is_none()
                && host.incoming.as_ref().is_none_or(Incoming::is_over)
        };
        self.link_up && self.ways_up == [true; 2] && self.controller.up && self.hosts.iter().all(calm)
    }

    fn polls(&self, host: usize) -> bool {
        self.hosts[host].worker.as_ref().is_some_and(|worker| worker.mode == Mode::Polls)
    }

    /// Notes that an invariant does not hold.
    pub(super) fn broken(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// Has it happen so many microseconds from now.
    pub(super) fn after(&mut self, us: u64, act: impl FnOnce(&mut Self) + 'static) {
        self.scheduled += 1;
        let (at_us, number) = (self.now_us + us, self.scheduled);
        self.happenings.push(Reverse(Happening { at_us, number, act: Box::new(act) }));
    }

    /// The same, if the host's daemon is still the same then.
    pub(super) fn after_at(&mut self, host: usize, us: u64, act: impl FnOnce(&mut Self) + 'static) {
        let epoch = self.hosts[host].epoch;
        self.after(us, move |world| {
            if world.hosts[host].up && world.hosts[host].epoch == epoch {
                act(world);
            }
        });
    }

    /// An event was heeded or a command done: what is to fail now fails next.
    pub(super) fn step(&mut self) {
        self.steps += 1;
        let steps = self.steps;
        let due: Vec<_> = self.faults.extract_if(.., |(step, _)| *step <= steps).collect();
        for (_, fault) in due {
            self.report.faults += 1;
            self.after(0, move |world| world.fail(fault));
        }
    }

    fn fail(&mut self, fault: Fault) {
        let host_of = |role: usize| if role == 0 { self.from } else { 1 - self.from };
        let cancelled = Reason::new(ReasonCode::Cancelled, "somebody cancelled it");
        match fault {
            Fault::Link(heals_us) => {
                self.lossy = true;
                self.break_link();
                self.after(heals_us, |world| world.link_up = true);
            }
            Fault::Way(role, heals_us) => {
                let host = host_of(role);
                self.ways_up[host] = false;
                self.after(heals_us, move |world| world.ways_up[host] = true);
            }
            Fault::Daemon(role, restarts_us) => self.kill_daemon(host_of(role), restarts_us),
            Fault::Worker(role) => self.kill_worker(host_of(role)),
            Fault::Controller(restarts_us) => self.kill_controller(restarts_us),
            Fault::Cancel(0) => self.tell_source(self.from, SourceEvent::Cancel(cancelled)),
            Fault::Cancel(_) => self.tell_target(1 - self.from, TargetEvent::Cancel(cancelled)),
            Fault::Step(role) => self.hosts[host_of(role)].fails_next = true,
            Fault::Corrupt => self.corrupts = true,
        }
    }

    fn kill_worker(&mut self, host: usize) {
        self.lossy = true;
        if self.hosts[host].worker.take().is_none() {
            return;
        }
        // A source's worker has the guest until the target's polls; the target's may have it once it is told to.
        let told = self.hosts[host].disk.resumed.contains(&self.attempt);
        self.gone |= if host == self.from { !self.polled_at_target } else { told };
        self.tell_source(host, SourceEvent::WorkerEnded);
        self.tell_target(host, TargetEvent::WorkerEnded);
    }

    fn kill_daemon(&mut self, host: usize, restarts_us: u64) {
        self.lossy = true;
        let dying = &mut self.hosts[host];
        if !dying.up {
            return;
        }
        // What would have known that a worker that ended had not been told to poll.
        self.gone |= dying.worker.is_none() && dying.disk.resumed.contains(&self.attempt);
        (dying.up, dying.epoch) = (false, dying.epoch + 1);
        (dying.outgoing, dying.incoming, dying.fails_next) = (None, None, false);
        for connection in 0..self.connections.len() {
            self.close(connection, host);
        }
        self.after(restarts_us, move |world| world.restart_daemon(host));
    }

    /// What a daemon finds when it starts.
    fn restart_daemon(&mut self, host: usize) {
        self.hosts[host].restarted_us = self.now_us;
        self.hosts[host].up = true;
        let mode = self.hosts[host].worker.as_ref().map(|worker| worker.mode);
        match (mode, self.hosts[host].disk.record) {
            (Some(Mode::Waits), _) => {
                self.hosts[host].worker = None;
                self.hosts[host].disk.resumed.remove(&self.attempt);
            }
            (_, Some((session, incarnation, mark))) => {
                self.resume_source(host, session, incarnation, mark);
                if mode.is_none() {
                    self.tell_source(host, SourceEvent::WorkerEnded);
                }
            }
            (Some(_), None) => self.thaw(host, Vec::new()),
            (None, None) => {}
        }
        self.keep_address(host);
    }

    /// Has the worker of a host poll.
    pub(super) fn thaw(&mut self, host: usize, frames: Vec<u64>) {
        let Some(worker) = &mut self.hosts[host].worker else { return };
        worker.leave_alone();
        let tap = worker.tap.get_or_insert_default();
        for frame in frames.into_iter().rev() {
            tap.push_front(frame);
        }
        if worker.mode == Mode::Polls {
            return;
        }
        worker.mode = Mode::Polls;
        let number = worker.number;
        if !self.setup.controlled {
            self.route = host;
        }
        self.poll(host, number);
    }

    /// Asks the controller until what a host makes sure of is so.
    pub(super) fn keep_address(&mut self, host: usize) {
        match self.hosts[host].disk.address {
            None => {}
            // Who does not poll has nothing to make sure of.
            Some(_) if !self.setup.controlled || !self.polls(host) => self.hosts[host].disk.address = None,
            Some(Address::TakeOver(from)) => {
                let request = Request::TakeOver { from, durable: true };
                self.request(host, request, move |world, answer| world.kept_address(host, answer));
            }
            Some(Address::TakeBack) => self.take_back(host, move |world, answer| world.kept_address(host, answer)),
        }
    }

    /// The generation after the one there is, whoever has it.
    pub(super) fn take_back(&mut self, host: usize, then: impl FnOnce(&mut Self, Answer) + 'static) {
        self.request(host, Request::Look, move |world, seen| match seen {
            Answer::Granted(from) => world.request(host, Request::TakeBack { from }, then),
            other => then(world, other),
        });
    }

    fn kept_address(&mut self, host: usize, answer: Answer) {
        match (answer, self.hosts[host].disk.address) {
            (Answer::Granted(generation), Some(_)) => {
                let kept = &mut self.hosts[host];
                (kept.disk.generation, kept.disk.address) = (generation, None);
                self.tell_route(host);
            }
            (Answer::Denied, Some(Address::TakeOver(from))) if self.polls(host) => {
                self.broken(format!("host {host} polls and is denied the generation after {from}"));
            }
            _ => self.after_at(host, 300_000, move |world| world.keep_address(host)),
        }
    }
}

impl Host {
    fn new() -> Self {
        Self {
            up: true,
            epoch: 0,
            worker: None,
            outgoing: None,
            incoming: None,
            disk: Disk { generation: 1, ..Disk::default() },
            incarnation: 1,
            restarted_us: 0,
            fails_next: false,
        }
    }
}

/// How long it may take until all is settled, with what heals and every limit of time.
const SETTLE_US_MAX: u64 = 200_000_000;
