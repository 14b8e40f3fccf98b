//! What a target's commands do.

use std::collections::VecDeque;

use super::controller::{Answer, Request};
use super::guest::{Mode, Worker};
use super::link::Item;
use super::outgoing::frame_number;
use super::world::{Address, World};
use crate::protocol::source::SourceEvent;
use crate::protocol::target::{Grant, Target, TargetCommand as Command, TargetEvent as Event};
use crate::protocol::{Message, Reason, ReasonCode, Standing, Timings, Token};

/// Whom a standing is told.
type Asker = Box<dyn FnOnce(&mut World, Standing)>;

/// A migration that comes to a host.
pub(super) struct Incoming {
    machine: Target,
    session: u64,
    connection: usize,
    /// The generation the guest comes with.
    from: u64,
    inbox: VecDeque<Heard>,
    todo: VecDeque<Command>,
    busy: bool,
    tick_us: Option<u64>,
    askers: Vec<Asker>,
    awaits_route: bool,
    claim: Claim,
    over: bool,
}

/// What was asked of the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Claim {
    Nothing,
    /// For the address, and not answered yet.
    Asked,
    /// The same, but nothing will be made of it.
    Discarded,
    Answered,
}

enum Heard {
    Event(Event),
    Pages(Vec<(usize, u64)>),
}

impl Incoming {
    pub(super) fn new(session: u64, connection: usize, from: u64, now_us: u64) -> Self {
        Self {
            machine: Target::new(now_us),
            session,
            connection,
            from,
            inbox: VecDeque::new(),
            todo: VecDeque::new(),
            busy: false,
            tick_us: None,
            askers: Vec::new(),
            awaits_route: false,
            claim: Claim::Nothing,
            over: false,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }
}

impl World {
    /// Something came on a connection.
    pub(super) fn arrived(&mut self, host: usize, connection: usize, item: Item) {
        let here = &mut self.hosts[host];
        if here.outgoing.as_ref().is_some_and(|outgoing| outgoing.is_on(connection)) {
            if let Item::Message(message) = item {
                self.tell_source(host, SourceEvent::Received(message));
            }
        } else if let Some(incoming) = here.incoming.as_mut().filter(|incoming| incoming.connection == connection) {
            incoming.inbox.push_back(match item {
                Item::Message(message) => Heard::Event(Event::Received(message)),
                Item::Pages(pages) => Heard::Pages(pages),
            });
            self.drive_target(host);
        }
    }

    pub(super) fn heard_lost(&mut self, host: usize, connection: usize) {
        let here = &self.hosts[host];
        if here.outgoing.as_ref().is_some_and(|outgoing| outgoing.is_on(connection)) {
            self.tell_source(host, SourceEvent::Lost);
        } else if here.incoming.as_ref().is_some_and(|incoming| incoming.connection == connection) {
            self.tell_target(host, Event::Lost);
        }
    }

    pub(super) fn tell_target(&mut self, host: usize, event: Event) {
        if let Some(incoming) = &mut self.hosts[host].incoming {
            incoming.inbox.push_back(Heard::Event(event));
            self.drive_target(host);
        }
    }

    /// A source wants to know what became of a session.
    pub(super) fn asked(&mut self, host: usize, session: u64, asker: Asker) {
        let here = &mut self.hosts[host];
        if let Some(incoming) = here.incoming.as_mut().filter(|incoming| incoming.session == session) {
            incoming.askers.push(asker);
            return self.tell_target(host, Event::Asked);
        }
        let standing = if self.now_us < here.restarted_us + LOOKS_US {
            Standing::Open
        } else if here.disk.resumed.contains(&session) {
            Standing::Taken
        } else {
            Standing::Never
        };
        asker(self, standing);
    }

    fn drive_target(&mut self, host: usize) {
        let now_us = self.now_us;
        loop {
            let here = &mut self.hosts[host];
            let Some(incoming) = &mut here.incoming else { return };
            if incoming.busy {
                return;
            }
            if let Some(command) = incoming.todo.pop_front() {
                incoming.busy = true;
                // What a restarted daemon goes by: left before the worker is told.
                if command == Command::Resume {
                    here.disk.resumed.insert(incoming.session);
                }
                let takes_us = self.rng.within(1, 60);
                return self.after_at(host, takes_us, move |world| world.did_target(host, command));
            }
            let Some(heard) = incoming.inbox.pop_front() else { return };
            let event = match heard {
                Heard::Event(event) => Some(event),
                Heard::Pages(pages) => self.write_pages(host, &pages),
            };
            let Some(incoming) = &mut self.hosts[host].incoming else { return };
            if let Some(event) = event {
                incoming.todo.extend(incoming.machine.on(event, now_us));
            }
            self.wait_target(host);
            self.step();
        }
    }

    /// Has the target told when its time is over.
    pub(super) fn wait_target(&mut self, host: usize) {
        let Some(incoming) = &mut self.hosts[host].incoming else { return };
        let tick_us = incoming.machine.deadline_us();
        if let (true, Some(tick_us)) = (tick_us != incoming.tick_us, tick_us) {
            incoming.tick_us = Some(tick_us);
            self.after_at(host, tick_us - self.now_us, move |world| world.tell_target(host, Event::Tick));
        }
    }

    fn write_pages(&mut self, host: usize, pages: &[(usize, u64)]) -> Option<Event> {
        let here = &mut self.hosts[host];
        let expected = here.incoming.as_ref().is_some_and(|incoming| incoming.machine.expects_pages().is_some());
        let Some(worker) = here.worker.as_mut().filter(|worker| expected && worker.mode == Mode::Waits) else {
            return Some(Event::Failed(Reason::new(ReasonCode::Protocol, "pages came when none were expected")));
        };
        for &(page, write) in pages {
            // It could not grow, and that is not heeded yet.
            let Some(here) = worker.memory.get_mut(page) else {
                return Some(Event::Failed(Reason::new(ReasonCode::Room, "there is no such page")));
            };
            *here = write;
            self.given.insert(page, write);
        }
        None
    }

    fn did_target(&mut self, host: usize, command: Command) {
        if let Some(incoming) = &mut self.hosts[host].incoming {
            incoming.busy = false;
            self.step();
            self.do_target(host, command);
            self.drive_target(host);
        }
    }

    fn do_target(&mut self, host: usize, command: Command) {
        let fallible = matches!(
            command,
            Command::Check(_) | Command::KeepModule(_) | Command::Prepare | Command::Grow(_) | Command::Install(_)
        );
        let here = &mut self.hosts[host];
        let untold = command == Command::Resume && here.worker.is_none();
        if fallible && std::mem::take(&mut here.fails_next) || untold {
            let why = Reason::new(ReasonCode::Room, "there is no room for it");
            return self.tell_target(host, Event::Failed(why));
        }
        let Some(incoming) = &mut here.incoming else { return };
        match command {
            Command::Send(message) => {
                let connection = incoming.connection;
                self.send(connection, host, Item::Message(message));
            }
            Command::Check(_) => {
                let needs_module = self.rng.percent(50);
                self.tell_target(host, Event::Checked { needs_module });
            }
            Command::KeepModule(_) | Command::AddLog(_) => {}
            Command::Prepare => self.make_worker(host),
            Command::Claim => self.claim(host),
            Command::Install(token) => self.do_install(host, &token),
            Command::Resume => self.do_resume(host),
            Command::AwaitRoute => {
                incoming.awaits_route = true;
                self.tell_route(host);
            }
            Command::Tell(standing) => {
                let askers = std::mem::take(&mut incoming.askers);
                askers.into_iter().for_each(|asker| asker(self, standing));
            }
            Command::Close => {
                let connection = incoming.connection;
                self.close(connection, host);
            }
            Command::Finish(outcome) => {
                incoming.over = true;
                if outcome.is_ok() != here.disk.resumed.contains(&incoming.session) {
                    self.broken(format!("the target finishes with {outcome:?}"));
                }
            }
            Command::Grow(_) | Command::Inject(_) | Command::ReturnFrames | Command::Discard => {
                self.do_waiting(host, command);
            }
        }
    }

    /// What is done to a worker, if it is there still.
    fn do_waiting(&mut self, host: usize, command: Command) {
        let here = &mut self.hosts[host];
        if let (Command::Discard, Some(incoming)) = (&command, &mut here.incoming) {
            here.disk.resumed.remove(&incoming.session);
            let (from, claim) = (incoming.from, incoming.claim);
            match claim {
                Claim::Asked => incoming.claim = Claim::Discarded,
                Claim::Answered => self.give_back(host, from),
                Claim::Nothing | Claim::Discarded => {}
            }
        }
        let here = &mut self.hosts[host];
        let (Some(incoming), Some(worker)) = (&mut here.incoming, &mut here.worker) else { return };
        match command {
            Command::Grow(shape) => worker.memory.resize(shape.pages() as usize, 0),
            Command::Inject(frame) => worker.tap.iter_mut().for_each(|tap| tap.push_back(frame_number(&frame))),
            Command::ReturnFrames => {
                let (frames, connection) = (worker.drain(), incoming.connection);
                worker.tap = None;
                for frame in frames {
                    let frame = Message::Frame(frame.to_le_bytes().to_vec());
                    self.send(connection, host, Item::Message(frame));
                }
            }
            _ => {
                // What came by a route that led here for a moment, when the source can be sent nothing any more.
                self.lossy |= worker.queued().next().is_some();
                if worker.mode != Mode::Waits {
                    self.broken("a guest that was polled is discarded".to_owned());
                }
                self.hosts[host].worker = None;
            }
        }
    }

    fn make_worker(&mut self, host: usize) {
        if self.hosts[host].worker.is_some() {
            self.broken("the target has a worker already".to_owned());
        }
        let worker = Worker::waiting(self.attempt);
        let shape = worker.shape();
        self.hosts[host].worker = Some(worker);
        self.tell_target(host, Event::Ready { shape, base: Vec::new() });
    }

    fn claim(&mut self, host: usize) {
        let Some(Incoming { from, session, .. }) = self.hosts[host].incoming else { return };
        if !self.setup.controlled {
            return self.tell_target(host, Event::Claimed(Grant::Granted));
        }
        if let Some(incoming) = &mut self.hosts[host].incoming {
            incoming.claim = Claim::Asked;
        }
        self.request(host, Request::TakeOver { from, durable: false }, move |world, answer| {
            let here = &mut world.hosts[host];
            let Some(incoming) = here.incoming.as_mut().filter(|incoming| incoming.session == session) else { return };
            if std::mem::replace(&mut incoming.claim, Claim::Answered) == Claim::Discarded {
                return world.give_back(host, from);
            }
            let grant = match answer {
                Answer::Granted(generation) => {
                    here.disk.generation = generation;
                    Grant::Granted
                }
                Answer::Denied => Grant::Denied,
                Answer::Unknown => Grant::Unknown,
            };
            world.tell_target(host, Event::Claimed(grant));
        });
    }

    /// Has the source have an address that was claimed for nothing, until that is so or not this host's to say.
    fn give_back(&mut self, host: usize, from: u64) {
        self.request(host, Request::GiveBack { from }, move |world, answer| {
            if answer == Answer::Unknown {
                world.after_at(host, 300_000, move |world| world.give_back(host, from));
            }
        });
    }

    /// Compares what was given with what the source was when it stopped.
    fn do_install(&mut self, host: usize, token: &Token) {
        let Some(worker) = &mut self.hosts[host].worker else { return };
        worker.polls = frame_number(&token.state);
        let same =
            self.frozen.as_ref().is_some_and(|(memory, polls)| (memory, polls) == (&worker.memory, &worker.polls));
        if same {
            return self.tell_target(host, Event::Installed);
        }
        if !self.corrupted {
            self.broken("memories differ though nothing was changed on its way".to_owned());
        }
        self.tell_target(host, Event::Failed(Reason::new(ReasonCode::Digest, "the digests differ")));
    }

    fn do_resume(&mut self, host: usize) {
        let here = &mut self.hosts[host];
        let (Some(incoming), Some(worker)) = (&here.incoming, &mut here.worker) else { return };
        if self.frozen.as_ref().is_none_or(|(memory, polls)| (memory, polls) != (&worker.memory, &worker.polls)) {
            return self.broken("the target's first poll would find another guest than the source's".to_owned());
        }
        let from = incoming.from;
        self.polled_at_target = true;
        self.hosts[host].disk.address = Some(Address::TakeOver(from));
        self.thaw(host, Vec::new());
        self.keep_address(host);
        self.tell_target(host, Event::Resumed(Timings::default()));
    }

    /// Says that the route leads here, if that is waited for and so.
    pub(super) fn tell_route(&mut self, host: usize) {
        let here = &mut self.hosts[host];
        if let Some(incoming) = here.incoming.as_mut().filter(|incoming| incoming.awaits_route)
            && here.disk.address.is_none()
        {
            incoming.awaits_route = false;
            self.tell_target(host, Event::Switched { route_us: 1 });
        }
    }
}

/// How long a daemon that was restarted looks for what it has.
const LOOKS_US: u64 = 5_000;
