//! What a target does before the token. Whatever fails here, the source keeps the guest.

use super::machine::{Claim, State, Target, unexpected};
use super::{Grant, TargetCommand as Command, TargetEvent as Event};
use crate::page::Shape;
use crate::protocol::{
    BASE_PAGES_MAX, BasePage, Greeting, Message, Offer, Phase, Reason, ReasonCode, SessionId, VERSION_MAX, VERSION_MIN,
};

/// How long the source may take to say what it wants.
pub(super) const GREET_US_MAX: u64 = 5_000_000;
/// How long it may take to look whether the guest can come.
const VALIDATE_US_MAX: u64 = 10_000_000;
/// How long the module's way and all that is made ready may take.
const PREPARE_US_MAX: u64 = 60_000_000;

/// What the target waits for.
pub(super) enum Before {
    Greet,
    Offer,
    Check {
        shape: Shape,
        module_bytes: u64,
    },
    Module {
        shape: Shape,
        left_bytes: u64,
    },
    Prepare {
        shape: Shape,
    },
    /// Rounds: how many have begun, and whether one is under way.
    Rounds {
        shape: Shape,
        number: u32,
        open: bool,
    },
    Last {
        shape: Shape,
    },
}

impl Before {
    pub(super) fn expects_pages(&self) -> Option<&Shape> {
        match self {
            Self::Rounds { shape, open: true, .. } | Self::Last { shape } => Some(shape),
            _ => None,
        }
    }

    /// Whether something was made ready that is to be discarded.
    fn holds(&self) -> bool {
        !matches!(self, Self::Greet | Self::Offer | Self::Check { .. })
    }

    /// Whether the source was told that a worker waits.
    fn prepared(&self) -> bool {
        matches!(self, Self::Rounds { .. } | Self::Last { .. })
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Greet => "the greeting",
            Self::Offer => "the offer",
            Self::Check { .. } => "the check",
            Self::Module { .. } => "the module",
            Self::Prepare { .. } => "the preparation",
            Self::Rounds { open: false, .. } => "the end of a round",
            Self::Rounds { open: true, .. } => "a round",
            Self::Last { .. } => "the last pages",
        }
    }
}

impl Target {
    pub(super) fn before(&mut self, before: Before, event: Event, now_us: u64) -> Vec<Command> {
        match event {
            Event::Cancel(why) | Event::Failed(why) => self.refuse(&before, why, true),
            Event::Received(Message::Cancel(why)) => self.refuse(&before, why, false),
            Event::Lost => {
                let why = Reason::new(ReasonCode::Link, format!("the connection was lost at {}", before.name()));
                self.refuse(&before, why, false)
            }
            Event::WorkerEnded => {
                let why = Reason::new(ReasonCode::Worker, "the worker ended at the target before it polled");
                self.refuse(&before, why, true)
            }
            Event::Tick => {
                let why = Reason::new(ReasonCode::Timeout, format!("{} took too long", before.name()));
                self.refuse(&before, why, true)
            }
            Event::Asked => self.asked_first(),
            Event::Claimed(Grant::Granted) => {
                (self.claim, self.state) = (Claim::Granted, State::Before(before));
                Vec::new()
            }
            Event::Claimed(grant) => self.refuse(&before, not_granted(grant), true),
            event => self.step(before, event, now_us),
        }
    }

    fn step(&mut self, before: Before, event: Event, now_us: u64) -> Vec<Command> {
        match (before, event) {
            (Before::Greet, Event::Received(Message::Hello { versions, session, greeting })) => {
                self.greeted(versions, session, greeting, now_us)
            }
            (Before::Offer, Event::Received(Message::Offer(offer))) => self.offered(offer, now_us),
            (Before::Check { shape, module_bytes }, Event::Checked { needs_module }) => {
                let (before, prepare) = if needs_module {
                    (Before::Module { shape, left_bytes: module_bytes }, None)
                } else {
                    (Before::Prepare { shape }, Some(Command::Prepare))
                };
                self.enter(State::Before(before), Phase::Prepare, Some(now_us + PREPARE_US_MAX));
                let accepted = Command::Send(Message::Accepted { needs_module });
                [accepted].into_iter().chain(prepare).collect()
            }
            (Before::Module { shape, left_bytes }, Event::Received(Message::Module(piece))) => {
                self.piece(shape, left_bytes, piece)
            }
            (Before::Prepare { shape }, Event::Ready { shape: here, base }) => self.ready(shape, here, base),
            (Before::Rounds { shape, number, open }, Event::Received(message)) => {
                self.rounds(shape, number, open, message)
            }
            (Before::Last { shape }, Event::Received(message)) => self.last(shape, message),
            (before, event) => self.refuse(&before, unexpected(&event, before.name()), true),
        }
    }

    fn greeted(&mut self, versions: (u16, u16), session: SessionId, greeting: Greeting, now_us: u64) -> Vec<Command> {
        let version = versions.1.min(VERSION_MAX);
        if version < versions.0.max(VERSION_MIN) {
            let (least, most) = versions;
            let why =
                format!("versions {VERSION_MIN} to {VERSION_MAX} are spoken here, {least} to {most} at the source");
            return self.refuse(&Before::Greet, Reason::new(ReasonCode::Version, why), true);
        }
        if greeting != Greeting::Migrate {
            let why = Reason::new(ReasonCode::Protocol, "a question about a session is not a migration");
            return self.refuse(&Before::Greet, why, true);
        }
        self.session = Some(session);
        self.enter(State::Before(Before::Offer), Phase::Initiate, Some(now_us + GREET_US_MAX));
        vec![Command::Send(Message::Welcome { version })]
    }

    fn offered(&mut self, offer: Offer, now_us: u64) -> Vec<Command> {
        if offer.module_bytes == 0 {
            let why = Reason::new(ReasonCode::Module, "the module that is offered has no bytes");
            return self.refuse(&Before::Offer, why, true);
        }
        let check = Before::Check { shape: offer.shape.clone(), module_bytes: offer.module_bytes };
        self.enter(State::Before(check), Phase::Validate, Some(now_us + VALIDATE_US_MAX));
        vec![Command::Check(Box::new(offer))]
    }

    fn piece(&mut self, shape: Shape, left_bytes: u64, piece: Vec<u8>) -> Vec<Command> {
        let Some(left) = left_bytes.checked_sub(piece.len() as u64) else {
            let why = Reason::new(ReasonCode::Protocol, "the module is longer than was offered");
            return self.refuse(&Before::Module { shape, left_bytes }, why, true);
        };
        if left > 0 {
            self.state = State::Before(Before::Module { shape, left_bytes: left });
            return vec![Command::KeepModule(piece)];
        }
        self.state = State::Before(Before::Prepare { shape });
        vec![Command::KeepModule(piece), Command::Prepare]
    }

    fn ready(&mut self, shape: Shape, here: Shape, mut base: Vec<BasePage>) -> Vec<Command> {
        if !here.grows_to(&shape) {
            let why = format!("memories here begin with {:?} pages, the guest's have {:?}", here.0, shape.0);
            let why = Reason::new(ReasonCode::Incompatible, why);
            return self.refuse(&Before::Prepare { shape }, why, true);
        }
        // A page that is in no list is sent: that costs its way, no more.
        base.truncate(BASE_PAGES_MAX);
        let rounds = Before::Rounds { shape: here.clone(), number: 0, open: false };
        self.enter(State::Before(rounds), Phase::Execute, None);
        vec![Command::Send(Message::Prepared { shape: here, base })]
    }

    fn rounds(&mut self, shape: Shape, number: u32, open: bool, message: Message) -> Vec<Command> {
        let (before, command) = match message {
            Message::Claim if !open && self.claim == Claim::Unasked => {
                self.claim = Claim::Asked;
                (Before::Rounds { shape, number, open }, Command::Claim)
            }
            Message::Round { number: next, shape: grown }
                if !open
                    && self.claim == Claim::Unasked
                    && number.checked_add(1) == Some(next)
                    && shape.grows_to(&grown) =>
            {
                (Before::Rounds { shape: grown.clone(), number: next, open: true }, Command::Grow(grown))
            }
            Message::RoundEnd { number: ended } if open && ended == number => {
                let applied = Command::Send(Message::Applied { number });
                (Before::Rounds { shape, number, open: false }, applied)
            }
            Message::Last { shape: grown } if !open && shape.grows_to(&grown) => {
                (Before::Last { shape: grown.clone() }, Command::Grow(grown))
            }
            Message::Log(lines) => (Before::Rounds { shape, number, open }, Command::AddLog(lines)),
            other => {
                let before = Before::Rounds { shape, number, open };
                return self.refuse(&before, unexpected(&Event::Received(other), before.name()), true);
            }
        };
        self.state = State::Before(before);
        vec![command]
    }

    fn last(&mut self, shape: Shape, message: Message) -> Vec<Command> {
        let command = match message {
            Message::Token(token) => return self.install(token),
            Message::Frame(frame) => Command::Inject(frame),
            Message::Log(lines) => Command::AddLog(lines),
            other => {
                let before = Before::Last { shape };
                return self.refuse(&before, unexpected(&Event::Received(other), before.name()), true);
            }
        };
        self.state = State::Before(Before::Last { shape });
        vec![command]
    }

    /// Ends it before the token.
    fn refuse(&mut self, before: &Before, why: Reason, tell: bool) -> Vec<Command> {
        // Where a claim was made, frames may have come here already.
        let frames = (tell && self.claim != Claim::Unasked).then_some(Command::ReturnFrames);
        let discard = before.holds().then_some(Command::Discard);
        let word = if before.prepared() { Message::Cancel(why.clone()) } else { Message::Refused(why.clone()) };
        let tell = tell.then_some(Command::Send(word));
        self.over(frames.into_iter().chain(discard).chain(tell).collect(), Err(why))
    }
}

/// Why a guest cannot come whose address was not granted.
pub(super) fn not_granted(grant: Grant) -> Reason {
    let why = match grant {
        Grant::Denied => "the controller says that the guest is another host's",
        Grant::Granted | Grant::Unknown => "the controller cannot be asked by the target",
    };
    Reason::new(ReasonCode::Ownership, why)
}
