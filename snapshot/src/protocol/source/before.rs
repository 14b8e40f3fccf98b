//! What a source does before the token. Whatever fails here, the guest serves on.

use super::machine::{Sent, Source, State, unexpected};
use super::{Outcome, SourceCommand as Command, SourceConfig, SourceEvent as Event};
use crate::plan::{Round, Step as Next};
use crate::protocol::{Greeting, Message, Phase, Reason, ReasonCode, VERSION_MAX, VERSION_MIN};

/// How long the two may take to meet.
pub(super) const INITIATE_US_MAX: u64 = 5_000_000;
/// How long the target may take to look whether it can have the guest.
const VALIDATE_US_MAX: u64 = 10_000_000;
/// How long it may take to make everything ready, the module's way included.
const PREPARE_US_MAX: u64 = 60_000_000;
/// How long a thing that is done here may take: a count, a record, a stop between two polls.
const HERE_US_MAX: u64 = 5_000_000;
/// How long a round may take, however late it is.
const ROUND_US_MIN: u64 = 1_000_000;

/// A migration before the token.
pub(super) struct Mine {
    config: SourceConfig,
    /// Whether the target can be told things.
    connected: bool,
    /// Whether something was ordered that only a thaw undoes.
    touched: bool,
    began_us: Option<u64>,
    step: Step,
}

/// What the source waits for.
#[derive(Clone, Copy)]
enum Step {
    Connect,
    Greet { asked_us: u64 },
    Offer { asked_us: u64 },
    Prepare,
    Record,
    Round { number: u32, began_us: u64, sent: Option<Written> },
    Count(Round),
    Freeze,
}

#[derive(Clone, Copy)]
struct Written {
    pages: u64,
    bytes: u64,
    at_us: u64,
}

impl Mine {
    pub(super) fn new(config: SourceConfig) -> Self {
        Self { config, connected: false, touched: false, began_us: None, step: Step::Connect }
    }
}

impl Step {
    /// Whether the plan has not begun.
    fn meets(self) -> bool {
        matches!(self, Self::Connect | Self::Greet { .. } | Self::Offer { .. } | Self::Prepare)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Connect => "the connection",
            Self::Greet { .. } => "the greeting",
            Self::Offer { .. } => "the offer",
            Self::Prepare => "the preparation",
            Self::Record => "the record",
            Self::Round { .. } => "a round",
            Self::Count(_) => "the count of dirty pages",
            Self::Freeze => "the stop",
        }
    }
}

impl Source {
    pub(super) fn before(&mut self, mine: Box<Mine>, event: Event, now_us: u64) -> Vec<Command> {
        match event {
            Event::Cancel(why) | Event::Failed(why) => self.give_up(*mine, why, true),
            Event::Received(Message::Refused(why) | Message::Cancel(why)) => self.give_up(*mine, why, false),
            Event::Lost => {
                let why = Reason::new(ReasonCode::Link, format!("the connection was lost at {}", mine.step.name()));
                self.give_up(*mine, why, false)
            }
            Event::Tick => {
                let why = Reason::new(ReasonCode::Timeout, format!("{} took too long", mine.step.name()));
                self.give_up(*mine, why, true)
            }
            Event::WorkerEnded => {
                let why = Reason::new(ReasonCode::Worker, "the worker ended at the source");
                let tell = mine.connected.then_some(Command::Send(Message::Cancel(why)));
                self.over(Phase::Failed, tell.into_iter().chain([Command::Close]).collect(), Outcome::Ended)
            }
            event if mine.step.meets() => self.meet(mine, event, now_us),
            event => self.execute(mine, event, now_us),
        }
    }

    /// Initiate, validate, prepare.
    fn meet(&mut self, mut mine: Box<Mine>, event: Event, now_us: u64) -> Vec<Command> {
        let (step, phase, limit_us, command) = match (mine.step, event) {
            (Step::Connect, Event::Connected) => {
                mine.connected = true;
                let versions = (VERSION_MIN, VERSION_MAX);
                let hello = Message::Hello { versions, session: mine.config.session, greeting: Greeting::Migrate };
                (Step::Greet { asked_us: now_us }, Phase::Initiate, INITIATE_US_MAX, Some(Command::Send(hello)))
            }
            (Step::Greet { asked_us }, Event::Received(Message::Welcome { version: VERSION_MIN..=VERSION_MAX })) => {
                self.saw_round_trip(now_us - asked_us);
                let offer = Message::Offer(mine.config.offer.clone());
                (Step::Offer { asked_us: now_us }, Phase::Validate, VALIDATE_US_MAX, Some(Command::Send(offer)))
            }
            (Step::Offer { asked_us }, Event::Received(Message::Accepted { needs_module })) => {
                self.saw_round_trip(now_us - asked_us);
                (Step::Prepare, Phase::Prepare, PREPARE_US_MAX, needs_module.then_some(Command::SendModule))
            }
            (Step::Prepare, Event::Received(Message::Prepared { shape, .. })) => {
                if shape.grows_to(&mine.config.offer.shape) {
                    return self.begin(mine, now_us);
                }
                let why =
                    format!("the target's memories are {:?}, the guest's {:?}", shape.0, mine.config.offer.shape.0);
                return self.give_up(*mine, Reason::new(ReasonCode::Incompatible, why), true);
            }
            (step, event) => {
                let why = unexpected(&event, step.name());
                return self.give_up(*mine, why, true);
            }
        };
        mine.step = step;
        self.enter(State::Mine(mine), phase, now_us + limit_us);
        command.into_iter().collect()
    }

    /// The target is ready. What a restarted daemon goes by is on disk before the plan begins: later, the guest would write
    /// pages while it waits for the disk.
    fn begin(&mut self, mut mine: Box<Mine>, now_us: u64) -> Vec<Command> {
        (mine.touched, mine.step) = (true, Step::Record);
        self.enter(State::Mine(mine), Phase::Execute, now_us + HERE_US_MAX);
        vec![Command::Record]
    }

    fn execute(&mut self, mut mine: Box<Mine>, event: Event, now_us: u64) -> Vec<Command> {
        let step = mine.step;
        match (step, event) {
            (Step::Round { number, began_us, sent: None }, Event::Sent { pages, bytes }) => {
                let sent = Some(Written { pages, bytes, at_us: now_us });
                mine.step = Step::Round { number, began_us, sent };
                self.state = State::Mine(mine);
                Vec::new()
            }
            (
                Step::Round { number, began_us, sent: Some(sent) },
                Event::Received(Message::Applied { number: applied }),
            ) if number == applied => {
                self.saw_round_trip(now_us - sent.at_us);
                let took_us = now_us - began_us;
                mine.step =
                    Step::Count(Round { number, pages: sent.pages, bytes: sent.bytes, took_us, dirty_after: 0 });
                self.enter(State::Mine(mine), Phase::Execute, now_us + HERE_US_MAX);
                vec![Command::Commit, Command::Count]
            }
            (Step::Count(round), Event::Counted(dirty_after)) => {
                let round = Round { dirty_after, ..round };
                self.rounds.push(round);
                self.progress.before = self.progress.last.replace(round);
                self.next(mine, Vec::new(), now_us)
            }
            (Step::Record, Event::Recorded) => {
                let arm = mine.config.plan.tracks().then_some(Command::Arm);
                self.next(mine, arm.into_iter().collect(), now_us)
            }
            // What came for the guest to a target that will say why it cannot have it.
            (Step::Freeze, Event::Received(Message::Frame(_))) => {
                self.state = State::Mine(mine);
                Vec::new()
            }
            (Step::Freeze, Event::Frozen) => {
                let limit_us = mine.config.limits.timeout_us.max(ROUND_US_MIN);
                let sent = Sent::new(mine.config.controlled);
                self.enter(State::Sending(sent), Phase::Execute, now_us + limit_us);
                vec![Command::SendLast]
            }
            (_, event) => {
                let why = unexpected(&event, step.name());
                self.give_up(*mine, why, true)
            }
        }
    }

    /// Does what the plan says.
    fn next(&mut self, mut mine: Box<Mine>, mut commands: Vec<Command>, now_us: u64) -> Vec<Command> {
        let began_us = *mine.began_us.get_or_insert(now_us);
        self.progress.elapsed_us = now_us - began_us;
        let next = mine.config.plan.next(&self.progress);
        if let Next::GiveUp(why) = next {
            let why = Reason::new(ReasonCode::Diverged, why.to_string());
            commands.extend(self.give_up(*mine, why, true));
            return commands;
        }
        if next == Next::Stop {
            let claim = mine.config.controlled.then_some(Command::Send(Message::Claim));
            mine.step = Step::Freeze;
            self.enter(State::Mine(mine), Phase::Execute, now_us + HERE_US_MAX);
            commands.extend(claim.into_iter().chain([Command::Freeze]));
            return commands;
        }
        if let Next::Throttled(percent) = next {
            self.progress.throttle_percent = percent;
            commands.push(Command::Throttle(percent));
        }
        let number = self.progress.last.map_or(0, |last| last.number) + 1;
        mine.step = Step::Round { number, began_us: now_us, sent: None };
        let deadline_us = (began_us + mine.config.limits.timeout_us).max(now_us + ROUND_US_MIN);
        self.enter(State::Mine(mine), Phase::Execute, deadline_us);
        commands.push(Command::SendRound(number));
        commands
    }

    fn saw_round_trip(&mut self, took_us: u64) {
        self.progress.round_trip_us = match self.progress.round_trip_us {
            0 => took_us,
            least_us => least_us.min(took_us),
        };
    }

    /// Ends a migration before the token: the guest serves on here.
    fn give_up(&mut self, mine: Mine, why: Reason, tell: bool) -> Vec<Command> {
        let in_flight = matches!(mine.step, Step::Round { .. }).then_some(Command::RollBack);
        let thaw = mine.touched.then_some(Command::Thaw);
        let tell = (tell && mine.connected).then(|| Command::Send(Message::Cancel(why.clone())));
        let commands = in_flight.into_iter().chain(thaw).chain(tell).chain([Command::Close]).collect();
        self.over(Phase::Failed, commands, Outcome::Stayed(why))
    }
}
