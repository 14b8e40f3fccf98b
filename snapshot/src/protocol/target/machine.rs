//! The states of a target, and what happens from the token on. What precedes it is in [`super::before`].

use std::mem;

use super::before::{Before, GREET_US_MAX, not_granted};
use super::{Grant, TargetCommand as Command, TargetEvent as Event};
use crate::page::Shape;
use crate::protocol::{Message, Phase, Reason, ReasonCode, SessionId, Standing, Token};

/// The target of a migration.
pub struct Target {
    pub(super) session: Option<SessionId>,
    pub(super) state: State,
    pub(super) claim: Claim,
    phase: Phase,
    deadline_us: Option<u64>,
}

/// Whose the guest is, as far as the target knows.
pub(super) enum State {
    /// The source's.
    Before(Before),
    /// To be the target's, if all of it is there and the controller says so.
    Installing(Installing),
    /// The target's: it was told to go on.
    Resuming { linked: bool },
    /// It goes on; the route follows.
    Routing,
    /// The source has only to say goodbye.
    Parting,
    /// It is over, and this is what came of it.
    Over(Standing),
}

/// A guest whose token has come.
pub(super) struct Installing {
    /// Whether the source can be told.
    linked: bool,
    installed: bool,
    /// How long the next rest between two claims is.
    rest_us: u64,
}

/// Whether the controller has granted the address.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// It was not asked.
    Unasked,
    Asked,
    Resting,
    Granted,
}

impl Target {
    /// A target that has accepted a connection.
    pub fn new(now_us: u64) -> Self {
        let deadline_us = Some(now_us + GREET_US_MAX);
        let (state, claim) = (State::Before(Before::Greet), Claim::Unasked);
        Self { session: None, state, claim, phase: Phase::Initiate, deadline_us }
    }

    /// Takes an event at a time, microseconds, that never goes back.
    pub fn on(&mut self, event: Event, now_us: u64) -> Vec<Command> {
        if event == Event::Tick && self.deadline_us.is_none_or(|deadline_us| now_us < deadline_us) {
            return Vec::new();
        }
        match mem::replace(&mut self.state, State::Over(Standing::Never)) {
            State::Before(before) => self.before(before, event, now_us),
            State::Installing(installing) => self.installing(installing, event, now_us),
            State::Resuming { linked } => self.resuming(linked, event, now_us),
            State::Routing => self.routing(event, now_us),
            State::Parting => self.parting(event),
            State::Over(standing) => {
                self.state = State::Over(standing);
                if event == Event::Asked { vec![Command::Tell(standing)] } else { Vec::new() }
            }
        }
    }

    /// Which session it is, once the source has said so.
    pub fn session(&self) -> Option<SessionId> {
        self.session
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// When it wants an [`Event::Tick`], if nothing else happens. A guest that is being sent has no limit: its source has,
    /// and a connection on which nothing comes is to be taken for lost.
    pub fn deadline_us(&self) -> Option<u64> {
        self.deadline_us
    }

    /// Whether nothing but the controller's answer is missing.
    pub fn awaits_grant(&self) -> bool {
        self.claim == Claim::Asked && matches!(&self.state, State::Installing(installing) if installing.installed)
    }

    /// Whether pages may arrive now, and how large memories are.
    pub fn expects_pages(&self) -> Option<&Shape> {
        match &self.state {
            State::Before(before) => before.expects_pages(),
            _ => None,
        }
    }

    pub(super) fn enter(&mut self, state: State, phase: Phase, deadline_us: Option<u64>) {
        (self.state, self.phase, self.deadline_us) = (state, phase, deadline_us);
    }

    /// Ends it: with a reason the guest was never polled here and never will be.
    pub(super) fn over(&mut self, mut commands: Vec<Command>, outcome: Result<(), Reason>) -> Vec<Command> {
        let (standing, phase) = match outcome {
            Ok(()) => (Standing::Taken, Phase::Complete),
            Err(_) => (Standing::Never, Phase::Failed),
        };
        self.enter(State::Over(standing), phase, None);
        commands.extend([Command::Close, Command::Finish(outcome)]);
        commands
    }

    /// The token has come.
    pub(super) fn install(&mut self, token: Token) -> Vec<Command> {
        let installing = Installing { linked: true, installed: false, rest_us: REST_US_MIN };
        self.enter(State::Installing(installing), Phase::Execute, None);
        let claim = (self.claim == Claim::Unasked).then_some(Command::Claim);
        if claim.is_some() {
            self.claim = Claim::Asked;
        }
        claim.into_iter().chain([Command::Install(Box::new(token))]).collect()
    }

    fn installing(&mut self, mut installing: Installing, event: Event, now_us: u64) -> Vec<Command> {
        let mut commands = Vec::new();
        let mut deadline_us = self.deadline_us;
        match event {
            Event::Installed => installing.installed = true,
            Event::Claimed(Grant::Granted) => self.claim = Claim::Granted,
            Event::Claimed(grant @ Grant::Denied) => return self.hand_back(installing.linked, not_granted(grant)),
            Event::Claimed(grant @ Grant::Unknown) if installing.linked => {
                return self.hand_back(installing.linked, not_granted(grant));
            }
            // The source cannot be told that the guest is its own: until it asks, the controller may still answer.
            Event::Claimed(Grant::Unknown) => {
                self.claim = Claim::Resting;
                deadline_us = Some(now_us + installing.rest_us);
                installing.rest_us = (installing.rest_us * 2).min(REST_US_MAX);
            }
            Event::Tick => {
                self.claim = Claim::Asked;
                deadline_us = None;
                commands.push(Command::Claim);
            }
            Event::Received(Message::Frame(frame)) => commands.push(Command::Inject(frame)),
            Event::Lost => installing.linked = false,
            Event::Asked => return self.asked_first(),
            Event::Failed(why) => return self.hand_back(installing.linked, why),
            Event::WorkerEnded => {
                let why = Reason::new(ReasonCode::Worker, "the worker ended at the target before it polled");
                return self.hand_back(installing.linked, why);
            }
            Event::Cancel(_) => {}
            other => {
                let why = unexpected(&other, "the token");
                return self.hand_back(installing.linked, why);
            }
        }
        if installing.installed && self.claim == Claim::Granted {
            self.enter(State::Resuming { linked: installing.linked }, Phase::Execute, None);
            commands.push(Command::Resume);
        } else {
            self.enter(State::Installing(installing), Phase::Execute, deadline_us);
        }
        commands
    }

    /// The guest was not polled here, and will not be.
    fn hand_back(&mut self, linked: bool, why: Reason) -> Vec<Command> {
        let commands = if linked {
            vec![Command::ReturnFrames, Command::Discard, Command::Send(Message::HandedBack(why.clone()))]
        } else {
            vec![Command::Discard]
        };
        self.over(commands, Err(why))
    }

    /// The source is in doubt and this side has not polled: that decides it.
    pub(super) fn asked_first(&mut self) -> Vec<Command> {
        let why = Reason::new(ReasonCode::Link, "the source asked what became of it before the guest went on here");
        self.over(vec![Command::Discard, Command::Tell(Standing::Never)], Err(why))
    }

    fn resuming(&mut self, linked: bool, event: Event, now_us: u64) -> Vec<Command> {
        let (linked, commands) = match event {
            Event::Resumed(timings) if linked => {
                self.enter(State::Routing, Phase::Complete, None);
                return vec![Command::Send(Message::Taken(timings)), Command::AwaitRoute];
            }
            Event::Resumed(_) | Event::Tick => return self.over(Vec::new(), Ok(())),
            Event::Failed(why) => return self.hand_back(linked, why),
            // Whether it had been told is not known before that is answered.
            Event::WorkerEnded => {
                self.deadline_us.get_or_insert(now_us + ENDED_US_MAX);
                (linked, Vec::new())
            }
            Event::Asked => (linked, vec![Command::Tell(Standing::Open)]),
            Event::Received(Message::Frame(frame)) => (linked, vec![Command::Inject(frame)]),
            Event::Received(_) => (false, vec![Command::Close]),
            Event::Lost => (false, Vec::new()),
            _ => (linked, Vec::new()),
        };
        self.state = State::Resuming { linked };
        commands
    }

    fn routing(&mut self, event: Event, now_us: u64) -> Vec<Command> {
        let commands = match event {
            Event::Switched { route_us } => {
                self.enter(State::Parting, Phase::Complete, Some(now_us + PART_US_MAX));
                return vec![Command::Send(Message::Switched { route_us })];
            }
            Event::Asked => vec![Command::Tell(Standing::Taken)],
            Event::Received(Message::Frame(frame)) => vec![Command::Inject(frame)],
            Event::Received(_) | Event::Lost | Event::WorkerEnded | Event::Failed(_) => {
                return self.over(Vec::new(), Ok(()));
            }
            _ => Vec::new(),
        };
        self.state = State::Routing;
        commands
    }

    fn parting(&mut self, event: Event) -> Vec<Command> {
        let commands = match event {
            Event::Asked => vec![Command::Tell(Standing::Taken)],
            Event::Received(Message::Frame(frame)) => vec![Command::Inject(frame)],
            Event::Received(_) | Event::Lost | Event::Tick | Event::WorkerEnded => {
                return self.over(Vec::new(), Ok(()));
            }
            _ => Vec::new(),
        };
        self.state = State::Parting;
        commands
    }
}

/// What is said of an event that nobody waits for.
pub(super) fn unexpected(event: &Event, step: &str) -> Reason {
    match event {
        Event::Received(message) => {
            Reason::new(ReasonCode::Protocol, format!("the source said {} at {step}", message.name()))
        }
        other => Reason::new(ReasonCode::Internal, format!("{other:?} at {step}")),
    }
}

/// How long a target that nobody can be told of rests before it claims again: twice as long each time, up to a limit.
const REST_US_MIN: u64 = 200_000;
const REST_US_MAX: u64 = 2_000_000;
/// How long it may take to learn whether a worker that ended had been told to go on. After that it is taken to have been.
const ENDED_US_MAX: u64 = 5_000_000;
/// How long the source may take to say goodbye.
const PART_US_MAX: u64 = 10_000_000;
