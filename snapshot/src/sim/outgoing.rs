//! What a source's commands do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::guest::Mode;
use super::incoming::Incoming;
use super::link::{Connection, Item};
use super::world::{Mark, World};
use crate::protocol::source::{Source, SourceCommand as Command, SourceConfig, SourceEvent as Event};
use crate::protocol::{Encoding, Message, Offer, Reason, ReasonCode, SessionId, Token};

/// A migration that leaves a host.
pub(super) struct Outgoing {
    pub(super) machine: Source,
    inbox: VecDeque<Event>,
    todo: VecDeque<Command>,
    busy: bool,
    tick_us: Option<u64>,
    connection: Option<usize>,
    /// Pages that were taken from the log, and what was sent of them.
    in_flight: BTreeSet<usize>,
    sent: BTreeMap<usize, u64>,
    /// Frames that were sent, and those that came back.
    pub(super) frames_sent: Vec<u64>,
    pub(super) frames_back: Vec<u64>,
    pub(super) forwards: bool,
    pub(super) claimed: bool,
    pub(super) doubted: bool,
    /// The controller's start that was known before the token.
    pub(super) incarnation: u64,
}

impl Outgoing {
    pub(super) fn new(machine: Source, incarnation: u64) -> Self {
        Self {
            machine,
            inbox: VecDeque::new(),
            todo: VecDeque::new(),
            busy: false,
            tick_us: None,
            connection: None,
            in_flight: BTreeSet::new(),
            sent: BTreeMap::new(),
            frames_sent: Vec::new(),
            frames_back: Vec::new(),
            forwards: false,
            claimed: false,
            doubted: false,
            incarnation,
        }
    }

    pub(super) fn is_on(&self, connection: usize) -> bool {
        self.connection == Some(connection)
    }
}

impl World {
    /// Starts a migration of the guest to the other host.
    pub(super) fn begin_outgoing(&mut self) {
        let (host, setup) = (self.from, &self.setup);
        let shape = self.hosts[host].worker.as_ref().map(|worker| worker.shape()).unwrap_or_default();
        let offer = Offer {
            guest: vec![1],
            module: [1; 32],
            module_bytes: MODULE_PIECES.iter().map(|bytes| *bytes as u64).sum(),
            netstack: [2; 32],
            abi: 1,
            shape,
            plan: setup.plan,
            encoding: Encoding::Raw,
        };
        let config = SourceConfig {
            session: session_id(self.attempt),
            offer,
            plan: setup.plan.plan(setup.limits),
            limits: setup.limits,
            controlled: setup.controlled,
        };
        let source = Source::new(config, self.now_us);
        let incarnation = self.hosts[host].incarnation;
        self.hosts[host].outgoing = Some(Outgoing::new(source, incarnation));
        self.wait_source(host);
        let attempt = self.attempt;
        self.after_at(host, 2 * self.delay_us, move |world| world.connect(host, attempt));
    }

    fn connect(&mut self, host: usize, attempt: u64) {
        if self.attempt != attempt || self.hosts[host].outgoing.is_none() {
            return;
        }
        if !self.link_up || !self.hosts[1 - host].up {
            return self.tell_source(host, Event::Lost);
        }
        let connection = self.connections.len();
        self.connections.push(Connection::new());
        let from = self.hosts[host].disk.generation;
        self.hosts[1 - host].incoming = Some(Incoming::new(self.attempt, connection, from, self.now_us));
        self.wait_target(1 - host);
        if let Some(outgoing) = &mut self.hosts[host].outgoing {
            outgoing.connection = Some(connection);
        }
        self.tell_source(host, Event::Connected);
    }

    pub(super) fn tell_source(&mut self, host: usize, event: Event) {
        if let Some(outgoing) = &mut self.hosts[host].outgoing {
            outgoing.inbox.push_back(event);
            self.drive_source(host);
        }
    }

    /// One thing after the other: what was ordered, then what was heard.
    fn drive_source(&mut self, host: usize) {
        let now_us = self.now_us;
        while let Some(outgoing) = &mut self.hosts[host].outgoing {
            if outgoing.busy {
                return;
            }
            if let Some(command) = outgoing.todo.pop_front() {
                outgoing.busy = true;
                let takes_us = self.prepare_source(host, &command);
                return self.after_at(host, takes_us, move |world| world.did_source(host, command));
            }
            let Some(event) = outgoing.inbox.pop_front() else { return };
            if let Event::Received(Message::Frame(frame)) = &event {
                outgoing.frames_back.push(frame_number(frame));
            }
            outgoing.todo.extend(outgoing.machine.on(event, now_us));
            outgoing.doubted |= outgoing.machine.is_in_doubt();
            self.wait_source(host);
            self.step();
        }
    }

    /// Has the source told when its time is over.
    pub(super) fn wait_source(&mut self, host: usize) {
        let Some(outgoing) = &mut self.hosts[host].outgoing else { return };
        let tick_us = outgoing.machine.deadline_us();
        if let (true, Some(tick_us)) = (tick_us != outgoing.tick_us, tick_us) {
            outgoing.tick_us = Some(tick_us);
            self.after_at(host, tick_us - self.now_us, move |world| world.tell_source(host, Event::Tick));
        }
    }

    /// What is done as a command begins, and how long it takes.
    fn prepare_source(&mut self, host: usize, command: &Command) -> u64 {
        let quick_us = self.rng.within(1, 60);
        let page_us = self.page_us;
        let here = &mut self.hosts[host];
        let (Some(outgoing), Some(worker)) = (&mut here.outgoing, &mut here.worker) else { return quick_us };
        match command {
            Command::SendRound(_) => {
                if let Some(dirty) = &mut worker.dirty {
                    outgoing.in_flight.append(dirty);
                }
                quick_us + outgoing.in_flight.len() as u64 * page_us
            }
            Command::SendLast => {
                let pages = worker.dirty.as_ref().map_or(worker.memory.len(), BTreeSet::len);
                quick_us + pages as u64 * page_us
            }
            Command::Record => 1_000,
            _ => quick_us,
        }
    }

    fn did_source(&mut self, host: usize, command: Command) {
        if let Some(outgoing) = &mut self.hosts[host].outgoing {
            outgoing.busy = false;
            self.step();
            self.do_source(host, command);
            self.drive_source(host);
        }
    }

    fn do_source(&mut self, host: usize, command: Command) {
        let fallible = matches!(
            command,
            Command::SendModule
                | Command::Arm
                | Command::Count
                | Command::SendRound(_)
                | Command::Record
                | Command::Freeze
                | Command::SendLast
        );
        let here = &mut self.hosts[host];
        if fallible && (std::mem::take(&mut here.fails_next) || here.worker.is_none()) {
            let why = Reason::new(ReasonCode::Internal, "it could not be done");
            return self.tell_source(host, Event::Failed(why));
        }
        let Some(outgoing) = &mut here.outgoing else { return };
        let connection = outgoing.connection;
        match command {
            Command::Send(message) => {
                if message == Message::Claim {
                    outgoing.claimed = true;
                    here.disk.record = Some((self.attempt, outgoing.incarnation, Mark::Claim));
                }
                if message == Message::Bye {
                    self.forward(host);
                }
                if let Some(connection) = connection {
                    self.send(connection, host, Item::Message(message));
                }
            }
            Command::SendModule => {
                for bytes in MODULE_PIECES {
                    self.say(host, Message::Module(vec![0; bytes]));
                }
            }
            Command::Commit => {
                let sent = std::mem::take(&mut outgoing.sent);
                outgoing.in_flight.clear();
                let lacks = |(page, write): &(&usize, &u64)| self.given.get(page).is_none_or(|given| given < write);
                if let Some((page, _)) = sent.iter().find(lacks) {
                    self.broken(format!("page {page} is committed, and the target does not have it"));
                }
            }
            Command::Record => {
                here.disk.record = Some((self.attempt, outgoing.incarnation, Mark::None));
                self.tell_source(host, Event::Recorded);
            }
            Command::Forward => {
                outgoing.forwards = true;
                self.forward(host);
            }
            Command::Thaw => self.do_thaw(host),
            Command::Ask => self.ask(host),
            Command::Reclaim { never } => self.reclaim(host, never),
            Command::LetGo => {
                if !self.hosts[1 - host].disk.resumed.contains(&self.attempt) {
                    self.broken("the source lets go of a guest that the target was not told to poll".to_owned());
                }
                self.hosts[host].worker = None;
            }
            Command::Close => {
                outgoing.forwards = false;
                if let Some(connection) = connection {
                    self.close(connection, host);
                }
            }
            Command::Finish(outcome) => self.finish_source(host, &outcome),
            Command::SendRound(number) => self.send_round(host, number),
            Command::SendLast => self.send_last(host),
            Command::Arm | Command::Count | Command::RollBack | Command::Throttle(_) | Command::Freeze => {
                self.do_worker(host, &command);
            }
        }
    }

    /// What a worker is asked.
    fn do_worker(&mut self, host: usize, command: &Command) {
        let here = &mut self.hosts[host];
        let (Some(outgoing), Some(worker)) = (&mut here.outgoing, &mut here.worker) else { return };
        match command {
            Command::Arm => worker.dirty = Some((0..worker.memory.len()).collect()),
            Command::Count => {
                let dirty = worker.dirty.as_ref().map_or(0, BTreeSet::len) as u64;
                self.tell_source(host, Event::Counted(dirty));
            }
            Command::RollBack => {
                if let Some(dirty) = &mut worker.dirty {
                    dirty.append(&mut outgoing.in_flight);
                }
            }
            Command::Throttle(percent) => worker.throttle_percent = *percent,
            _ => {
                worker.mode = Mode::Frozen;
                self.frozen = Some((worker.memory.clone(), worker.polls));
                self.tell_source(host, Event::Frozen);
            }
        }
    }

    fn say(&mut self, host: usize, message: Message) {
        if let Some(connection) = self.hosts[host].outgoing.as_ref().and_then(|outgoing| outgoing.connection) {
            self.send(connection, host, Item::Message(message));
        }
    }

    fn say_pages(&mut self, host: usize, pages: &BTreeSet<usize>) {
        let here = &self.hosts[host];
        let (Some(outgoing), Some(worker)) = (&here.outgoing, &here.worker) else { return };
        let mut pages: Vec<_> = pages.iter().map(|page| (*page, worker.memory[*page])).collect();
        let Some(connection) = outgoing.connection else { return };
        if let (true, Some(last)) = (self.corrupts, pages.last_mut()) {
            (self.corrupts, self.corrupted) = (false, true);
            last.1 = u64::MAX;
        }
        self.send(connection, host, Item::Pages(pages));
    }

    /// Whether writing to the connection shows that it is lost.
    fn write_fails(&mut self, host: usize) -> bool {
        let connection = self.hosts[host].outgoing.as_ref().and_then(|outgoing| outgoing.connection);
        let Some(line) = connection.map(|connection| self.connections[connection]) else { return true };
        !line.open[host] || !line.open[1 - host] || line.broken && self.rng.percent(50)
    }

    fn send_round(&mut self, host: usize, number: u32) {
        if self.write_fails(host) {
            return self.tell_source(host, Event::Lost);
        }
        let here = &mut self.hosts[host];
        let (Some(outgoing), Some(worker)) = (&mut here.outgoing, &mut here.worker) else { return };
        let pages = outgoing.in_flight.clone();
        outgoing.sent = pages.iter().map(|page| (*page, worker.memory[*page])).collect();
        let shape = worker.shape();
        self.say(host, Message::Round { number, shape });
        self.say(host, Message::Log(vec![b'x']));
        self.say_pages(host, &pages);
        self.say(host, Message::RoundEnd { number });
        let pages = pages.len() as u64;
        self.tell_source(host, Event::Sent { pages, bytes: pages * 4_096 });
    }

    /// The last pages, frames, and the token. If writing fails it may have been before the token, within, or after all of
    /// it.
    fn send_last(&mut self, host: usize) {
        let fails = self.write_fails(host) || self.rng.percent(self.setup.late_percent);
        if fails && self.rng.percent(50) {
            let why = Reason::new(ReasonCode::Link, "the connection was lost before the token was written");
            return self.tell_source(host, Event::Failed(why));
        }
        self.lossy |= fails;
        let here = &mut self.hosts[host];
        let (Some(outgoing), Some(worker)) = (&mut here.outgoing, &mut here.worker) else { return };
        here.disk.record = Some((self.attempt, outgoing.incarnation, Mark::Token));
        let pages = worker.dirty.clone().unwrap_or_else(|| (0..worker.memory.len()).collect());
        let (frames, shape, polls) = (worker.drain(), worker.shape(), worker.polls);
        outgoing.frames_sent.extend(&frames);
        self.say(host, Message::Last { shape });
        self.say_pages(host, &pages);
        for frame in frames {
            self.say(host, Message::Frame(frame.to_le_bytes().to_vec()));
        }
        let state = polls.to_le_bytes().to_vec();
        self.say(host, Message::Token(Token { state, digest: [0; 16], stopped_ns: 0 }));
        let pages = pages.len() as u64;
        let event = if fails { Event::Lost } else { Event::Sent { pages, bytes: pages * 4_096 } };
        self.tell_source(host, event);
    }

    /// Frames that wait at a source that forwards go to its target.
    pub(super) fn forward(&mut self, host: usize) {
        let here = &mut self.hosts[host];
        let (true, Some(outgoing), Some(worker)) = (here.up, &mut here.outgoing, &mut here.worker) else { return };
        if !outgoing.forwards {
            return;
        }
        let frames = worker.drain();
        outgoing.frames_sent.extend(&frames);
        for frame in frames {
            self.say(host, Message::Frame(frame.to_le_bytes().to_vec()));
        }
    }
}

pub(super) fn session_id(number: u64) -> SessionId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_le_bytes());
    SessionId(id)
}

pub(super) fn frame_number(frame: &[u8]) -> u64 {
    frame.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The module's way, in pieces.
const MODULE_PIECES: [usize; 2] = [4, 6];
