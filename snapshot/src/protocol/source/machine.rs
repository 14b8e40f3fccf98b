//! The states of a source, and what happens from the token on. What precedes it is in [`super::before`].

use std::mem;

use super::before::{INITIATE_US_MAX, Mine};
use super::doubt::{Doubt, Verdict};
use super::{Outcome, SourceCommand as Command, SourceConfig, SourceEvent as Event};
use crate::plan::{Progress, Round};
use crate::protocol::{Message, Phase, Reason, ReasonCode, SessionId};

/// How long the answer to a token may take.
const ANSWER_US_MAX: u64 = 5_000_000;
/// How long the route may take to follow.
const ROUTE_US_MAX: u64 = 10_000_000;

/// The source of a migration.
pub struct Source {
    session: SessionId,
    pub(super) state: State,
    phase: Phase,
    deadline_us: Option<u64>,
    pub(super) progress: Progress,
    pub(super) rounds: Vec<Round>,
}

/// Whose the guest is, as far as the source knows.
pub(super) enum State {
    /// The source's.
    Mine(Box<Mine>),
    /// The token is being sent: perhaps the target's already.
    Sending(Sent),
    /// The token was sent.
    Awaiting(Sent),
    /// The target's, and late frames are forwarded.
    Switching,
    /// It is being asked.
    Doubt(Doubt),
    /// The source's, as it turned out.
    Back(Reason),
    /// It is over.
    Over,
}

/// A migration whose token may be out.
pub(super) struct Sent {
    controlled: bool,
    worker_ended: bool,
}

impl Sent {
    pub(super) fn new(controlled: bool) -> Self {
        Self { controlled, worker_ended: false }
    }
}

impl Source {
    /// A source that is about to connect.
    pub fn new(config: SourceConfig, now_us: u64) -> Self {
        let session = config.session;
        Self::with(session, State::Mine(Box::new(Mine::new(config))), Phase::Initiate, now_us + INITIATE_US_MAX)
    }

    /// A source whose daemon was ended after [`Command::Record`] and before the token: the guest goes on here at its first
    /// [`Event::Tick`], for which it waits at once.
    pub fn back(session: SessionId, now_us: u64) -> Self {
        let why = Reason::new(ReasonCode::Closing, "the daemon was ended before the token was sent");
        Self::with(session, State::Back(why), Phase::Failed, now_us)
    }

    /// A source whose daemon was ended when it may have sent the token. It asks at its first [`Event::Tick`], for which it
    /// waits at once.
    pub fn in_doubt(session: SessionId, controlled: bool, now_us: u64) -> Self {
        let why = Reason::new(ReasonCode::Closing, "the daemon was ended when the token may have been sent");
        Self::with(session, State::Doubt(Doubt::at_rest(controlled, why, now_us)), Phase::Failed, now_us)
    }

    fn with(session: SessionId, state: State, phase: Phase, deadline_us: u64) -> Self {
        let (progress, rounds) = (Progress::default(), Vec::new());
        Self { session, state, phase, deadline_us: Some(deadline_us), progress, rounds }
    }

    /// Takes an event at a time, microseconds, that never goes back.
    pub fn on(&mut self, event: Event, now_us: u64) -> Vec<Command> {
        if event == Event::Tick && self.deadline_us.is_none_or(|deadline_us| now_us < deadline_us) {
            return Vec::new();
        }
        match mem::replace(&mut self.state, State::Over) {
            State::Mine(mine) => self.before(mine, event, now_us),
            State::Sending(sent) => self.sending(sent, event, now_us),
            State::Awaiting(sent) => self.awaiting(sent, event, now_us),
            State::Switching => self.switching(event),
            State::Doubt(doubt) => self.doubt(doubt, event, now_us),
            State::Back(why) => match event {
                Event::Tick => self.over(Phase::Failed, vec![Command::Thaw], Outcome::Stayed(why)),
                Event::WorkerEnded => self.over(Phase::Failed, Vec::new(), Outcome::Ended),
                _ => {
                    self.state = State::Back(why);
                    Vec::new()
                }
            },
            State::Over => Vec::new(),
        }
    }

    /// Which session it is.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// How far it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether neither side is known to have the right to poll.
    pub fn is_in_doubt(&self) -> bool {
        matches!(self.state, State::Doubt(_))
    }

    /// When it wants an [`Event::Tick`], if nothing else happens.
    pub fn deadline_us(&self) -> Option<u64> {
        self.deadline_us
    }

    /// What the plan goes by.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// The rounds that were acknowledged.
    pub fn rounds(&self) -> &[Round] {
        &self.rounds
    }

    pub(super) fn enter(&mut self, state: State, phase: Phase, deadline_us: u64) {
        (self.state, self.phase, self.deadline_us) = (state, phase, Some(deadline_us));
    }

    pub(super) fn over(&mut self, phase: Phase, mut commands: Vec<Command>, outcome: Outcome) -> Vec<Command> {
        (self.state, self.phase, self.deadline_us) = (State::Over, phase, None);
        commands.push(Command::Finish(outcome));
        commands
    }

    fn sending(&mut self, mut sent: Sent, event: Event, now_us: u64) -> Vec<Command> {
        match event {
            Event::Sent { .. } => {
                self.enter(State::Awaiting(sent), Phase::Execute, now_us + ANSWER_US_MAX);
                vec![Command::Forward]
            }
            Event::Failed(why) => self.given_back(&sent, why, true),
            Event::Received(Message::Cancel(why)) => self.given_back(&sent, why, false),
            Event::WorkerEnded => {
                sent.worker_ended = true;
                self.state = State::Sending(sent);
                Vec::new()
            }
            Event::Cancel(_) => {
                self.state = State::Sending(sent);
                Vec::new()
            }
            event => self.begin_doubt(&sent, &event),
        }
    }

    fn awaiting(&mut self, mut sent: Sent, event: Event, now_us: u64) -> Vec<Command> {
        match event {
            Event::Received(Message::Taken(_)) => {
                self.enter(State::Switching, Phase::Complete, now_us + ROUTE_US_MAX);
                Vec::new()
            }
            // A target says `Cancel` only if it has not read the token, and reads nothing after it.
            Event::Received(Message::HandedBack(why) | Message::Cancel(why)) => self.given_back(&sent, why, false),
            Event::Received(Message::Frame(_)) | Event::Cancel(_) | Event::Failed(_) => {
                self.state = State::Awaiting(sent);
                Vec::new()
            }
            Event::WorkerEnded => {
                sent.worker_ended = true;
                self.state = State::Awaiting(sent);
                Vec::new()
            }
            event => self.begin_doubt(&sent, &event),
        }
    }

    fn switching(&mut self, event: Event) -> Vec<Command> {
        let mut commands = match event {
            Event::Received(Message::Switched { .. }) => vec![Command::Send(Message::Bye)],
            Event::Received(_) | Event::Lost | Event::Tick => Vec::new(),
            // The guest is not here any more: nothing that happens here matters to it.
            _ => {
                self.state = State::Switching;
                return Vec::new();
            }
        };
        commands.extend([Command::LetGo, Command::Close]);
        self.over(Phase::Complete, commands, Outcome::Moved)
    }

    /// The target has not had the token, or has handed it back.
    fn given_back(&mut self, sent: &Sent, why: Reason, tell: bool) -> Vec<Command> {
        let tell = tell.then(|| Command::Send(Message::Cancel(why.clone())));
        if sent.worker_ended {
            return self.over(Phase::Failed, tell.into_iter().chain([Command::Close]).collect(), Outcome::Ended);
        }
        let commands = [Command::Thaw].into_iter().chain(tell).chain([Command::Close]).collect();
        self.over(Phase::Failed, commands, Outcome::Stayed(why))
    }

    fn begin_doubt(&mut self, sent: &Sent, event: &Event) -> Vec<Command> {
        let why = match event {
            Event::Lost => Reason::new(ReasonCode::Link, "the connection was lost when the token may have been sent"),
            Event::Tick => Reason::new(ReasonCode::Timeout, "the target did not answer the token"),
            other => unexpected(other, "the token"),
        };
        let (doubt, ask) = Doubt::asking(sent.controlled, why, sent.worker_ended);
        (self.state, self.phase, self.deadline_us) = (State::Doubt(doubt), Phase::Failed, None);
        vec![Command::Close, ask]
    }

    fn doubt(&mut self, mut doubt: Doubt, event: Event, now_us: u64) -> Vec<Command> {
        match doubt.on(event, now_us) {
            Verdict::Open(command) => {
                self.deadline_us = doubt.rests_until_us();
                self.state = State::Doubt(doubt);
                command.into_iter().collect()
            }
            Verdict::Settled(commands, outcome) => {
                let phase = if outcome == Outcome::Moved { Phase::Complete } else { Phase::Failed };
                self.over(phase, commands, outcome)
            }
        }
    }
}

/// What is said of an event that nobody waits for.
pub(super) fn unexpected(event: &Event, step: &str) -> Reason {
    match event {
        Event::Received(message) => {
            Reason::new(ReasonCode::Protocol, format!("the target said {} at {step}", message.name()))
        }
        other => Reason::new(ReasonCode::Internal, format!("{other:?} at {step}")),
    }
}
