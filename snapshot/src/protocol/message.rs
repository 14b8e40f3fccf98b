//! The messages of a migration, and their limits.
//!
//! One TLS connection is one session. Each message is said by one side only, in the phase it belongs to; anything else
//! ends the session. Pages travel beside them (see [`super::wire`]).

use serde::{Deserialize, Serialize};

use crate::page::{MemoryIndex, PageError, PageIndex, PageRange, Shape};
use crate::plan::PlanName;

/// Versions of the protocol that are spoken here.
pub const VERSION_MIN: u16 = 1;
/// See [`VERSION_MIN`].
pub const VERSION_MAX: u16 = 1;
/// Most bytes of what describes a guest ([`Offer::guest`]).
pub const GUEST_BYTES_MAX: usize = 256 * 1024;
/// Most bytes of a guest's state beside its memories ([`Token::state`]).
pub const STATE_BYTES_MAX: usize = 1024 * 1024;
/// Most bytes of a module ([`Offer::module_bytes`]).
pub const MODULE_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Most bytes of one piece of a module or a log.
pub const CHUNK_BYTES_MAX: usize = 256 * 1024;
/// Most bytes of a frame, its virtio-net header included.
pub const FRAME_BYTES_MAX: usize = 66 * 1024;
/// Most pages that a target says it has.
pub const BASE_PAGES_MAX: usize = 16 * 1024;
/// Most bytes of a reason's sentence.
pub const REASON_BYTES_MAX: usize = 1024;

/// Tells one attempt from all others. Random.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Greeting {
    /// To migrate a guest.
    Migrate,
    /// To hear what became of a session; answered with [`Message::Settled`].
    Settle,
}

/// How page data is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// As it is.
    Raw,
    /// An LZ4 block a batch.
    Lz4,
}

/// What is to be moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The guest as hosts describe it to each other; at most [`GUEST_BYTES_MAX`].
    pub guest: Vec<u8>,
    /// blake3 of its module.
    pub module: [u8; 32],
    /// The module's size, bytes.
    pub module_bytes: u64,
    /// blake3 of its netstack.
    pub netstack: [u8; 32],
    /// The ABI between guest and host.
    pub abi: u32,
    /// Its memories now.
    pub shape: Shape,
    /// How it is to be moved.
    pub plan: PlanName,
    /// How its pages will be written.
    pub encoding: Encoding,
}

/// A page that the target has before anything was sent, of the module's own initial image. A zero page is in no list:
/// every target has those.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BasePage {
    /// In which memory.
    pub memory: MemoryIndex,
    /// Which.
    pub page: PageIndex,
    /// Of its bytes; see the digest of a page.
    pub digest: u128,
}

impl BasePage {
    /// Where it is.
    pub fn range(&self) -> PageRange {
        PageRange { memory: self.memory, first: self.page, count: 1 }
    }
}

/// The right to poll, and all that is no page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Globals, clock, random generator; at most [`STATE_BYTES_MAX`].
    pub state: Vec<u8>,
    /// Of all memories and of `state`: the target compares its own.
    pub digest: [u8; 16],
    /// How long the guest has been stopped when this was sent, nanoseconds.
    pub stopped_ns: u64,
}

/// What the target needed from the token on, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timings {
    /// Until memories and state were in place and compared.
    pub apply_us: u64,
    /// Until the controller had granted the address; 0 without one.
    pub grant_us: u64,
    /// Until the guest was told to go on: the later of the two, and what lies between.
    pub resume_us: u64,
    /// From then until its first poll was over.
    pub first_poll_us: u64,
    /// From the token's arrival until this was sent.
    pub answered_us: u64,
}

/// Why something was refused, cancelled or handed back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// For programs.
    pub code: ReasonCode,
    /// For people; at most [`REASON_BYTES_MAX`].
    pub message: String,
}

impl Reason {
    /// For programs and for people; a sentence over [`REASON_BYTES_MAX`] is cut.
    pub fn new(code: ReasonCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(REASON_BYTES_MAX));
        Self { code, message }
    }
}

/// Why, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReasonCode {
    /// No version of the protocol is spoken by both.
    Version,
    /// No room: memory, disk, guests.
    Room,
    /// A name or an address is taken at the target.
    Conflict,
    /// Another netstack, another ABI, or memories the target cannot have.
    Incompatible,
    /// The module is not what its hash says, or cannot be had.
    Module,
    /// The controller cannot be asked, or grants the address to somebody else.
    Ownership,
    /// The digests differ.
    Digest,
    /// The target could not make it ready.
    Prepare,
    /// Somebody cancelled it.
    Cancelled,
    /// The plan gave up.
    Diverged,
    /// A time limit was over.
    Timeout,
    /// The worker ended.
    Worker,
    /// The connection was lost.
    Link,
    /// The other side broke the protocol.
    Protocol,
    /// A host goes down.
    Closing,
    /// A fault here; the log has more.
    Internal,
}

/// What became of a session at its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The guest serves there, or did and has ended there.
    Taken,
    /// It was never polled there and never will be.
    Never,
    /// Not known yet: ask again.
    Open,
}

/// Everything but pages. Who says it: S the source, T the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// S, first. Answer: `Welcome`, `Settled` or `Refused`.
    Hello {
        /// Least and most version spoken.
        versions: (u16, u16),
        /// Which session.
        session: SessionId,
        /// What for.
        greeting: Greeting,
    },
    /// T. The version that is spoken from now on.
    Welcome {
        /// Which.
        version: u16,
    },
    /// S, once, after `Welcome`. Answer: `Accepted` or `Refused`.
    Offer(Offer),
    /// T. It can have the guest.
    Accepted {
        /// Whether it needs the module: then `Module` follows until `Offer::module_bytes` are there.
        needs_module: bool,
    },
    /// T, before `Prepared`. It cannot; the session is over.
    Refused(Reason),
    /// S. A piece of the module, at most [`CHUNK_BYTES_MAX`].
    Module(Vec<u8>),
    /// T. A worker waits for the pages.
    Prepared {
        /// Its memories as they are.
        shape: Shape,
        /// What they have already; at most [`BASE_PAGES_MAX`].
        base: Vec<BasePage>,
    },
    /// S. Pages follow; memories have grown to `shape`.
    Round {
        /// From 1.
        number: u32,
        /// The memories' sizes now; they never shrink.
        shape: Shape,
    },
    /// S. All pages of a round were sent. Answer: `Applied`.
    RoundEnd {
        /// Which.
        number: u32,
    },
    /// T. All pages of a round are in place.
    Applied {
        /// Which.
        number: u32,
    },
    /// S. Lines of the guest's log that the target does not have yet, as they stand in the log; at most
    /// [`CHUNK_BYTES_MAX`].
    Log(Vec<u8>),
    /// S. The guest is stopped; the last pages follow, then frames that came meanwhile, then `Token`.
    Last {
        /// The memories' sizes.
        shape: Shape,
    },
    /// S. A frame that came to the guest at the source, with its virtio-net header; at most [`FRAME_BYTES_MAX`]. T, before
    /// `HandedBack`: one that came to the target.
    Frame(Vec<u8>),
    /// S, once. Answer: `Taken` or `HandedBack`. From here on the source does not poll.
    Token(Token),
    /// T. The guest serves here.
    Taken(Timings),
    /// T. It was never polled here and never will be: the right is the source's again.
    HandedBack(Reason),
    /// T, after `Taken`. The route leads here.
    Switched {
        /// From the first poll until the controller had it on disk and its plane had followed, microseconds.
        route_us: u64,
    },
    /// S, after `Switched`. No frame follows; the session is over.
    Bye,
    /// Either, before the token; the session is over.
    Cancel(Reason),
    /// T, to [`Greeting::Settle`]. The session is over.
    Settled(Standing),
    /// S, after the last round, where a controller grants addresses: the guest is about to be stopped. The target asks for
    /// its address, so that it has it when the token comes.
    Claim,
}

/// Why a message cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// More than its limit.
    #[error("{message}: {field} has {size}; the limit is {size_max}")]
    TooMuch {
        /// In which message.
        message: &'static str,
        /// What has too much.
        field: &'static str,
        /// How much.
        size: u64,
        /// The limit.
        size_max: u64,
    },
    /// A piece without a byte.
    #[error("{0}: it is empty")]
    Empty(&'static str),
    /// The least version is above the most.
    #[error("Hello: version {least} is said to be the least, and {most} the most")]
    Versions {
        /// Said to be the least.
        least: u16,
        /// Said to be the most.
        most: u16,
    },
    /// Rounds are counted from 1.
    #[error("{0}: there is no round 0")]
    RoundZero(&'static str),
    /// Memories or pages that cannot be.
    #[error("{message}")]
    Page {
        /// In which message.
        message: &'static str,
        /// What is wrong with them.
        #[source]
        source: PageError,
    },
}

impl Message {
    /// What it is called, for logs and errors.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "Hello",
            Self::Welcome { .. } => "Welcome",
            Self::Offer(_) => "Offer",
            Self::Accepted { .. } => "Accepted",
            Self::Refused(_) => "Refused",
            Self::Module(_) => "Module",
            Self::Prepared { .. } => "Prepared",
            Self::Round { .. } => "Round",
            Self::RoundEnd { .. } => "RoundEnd",
            Self::Applied { .. } => "Applied",
            Self::Claim => "Claim",
            Self::Log(_) => "Log",
            Self::Last { .. } => "Last",
            Self::Frame(_) => "Frame",
            Self::Token(_) => "Token",
            Self::Taken(_) => "Taken",
            Self::HandedBack(_) => "HandedBack",
            Self::Switched { .. } => "Switched",
            Self::Bye => "Bye",
            Self::Cancel(_) => "Cancel",
            Self::Settled(_) => "Settled",
        }
    }

    /// Whether every field is within its limit.
    pub fn check(&self) -> Result<(), MessageError> {
        let message = self.name();
        let at_most = |field, size: u64, size_max: u64| {
            if size > size_max { Err(MessageError::TooMuch { message, field, size, size_max }) } else { Ok(()) }
        };
        let piece = |bytes: &[u8], bytes_max: usize| match bytes {
            [] => Err(MessageError::Empty(message)),
            _ => at_most("its bytes", bytes.len() as u64, bytes_max as u64),
        };
        let page = |source| MessageError::Page { message, source };
        match self {
            &Self::Hello { versions: (least, most), .. } if least > most => Err(MessageError::Versions { least, most }),
            Self::Offer(offer) => {
                at_most("guest", offer.guest.len() as u64, GUEST_BYTES_MAX as u64)?;
                at_most("module_bytes", offer.module_bytes, MODULE_BYTES_MAX)?;
                offer.shape.check().map_err(page)
            }
            Self::Refused(reason) | Self::Cancel(reason) | Self::HandedBack(reason) => {
                at_most("the sentence", reason.message.len() as u64, REASON_BYTES_MAX as u64)
            }
            Self::Module(bytes) | Self::Log(bytes) => piece(bytes, CHUNK_BYTES_MAX),
            Self::Frame(bytes) => piece(bytes, FRAME_BYTES_MAX),
            Self::Prepared { shape, base } => {
                at_most("base", base.len() as u64, BASE_PAGES_MAX as u64)?;
                shape.check().map_err(page)?;
                base.iter().try_for_each(|one| shape.contains(one.range())).map_err(page)
            }
            Self::Round { number: 0, .. } | Self::RoundEnd { number: 0 } | Self::Applied { number: 0 } => {
                Err(MessageError::RoundZero(message))
            }
            Self::Round { shape, .. } | Self::Last { shape } => shape.check().map_err(page),
            Self::Token(token) => at_most("state", token.state.len() as u64, STATE_BYTES_MAX as u64),
            Self::Hello { .. }
            | Self::Welcome { .. }
            | Self::Accepted { .. }
            | Self::RoundEnd { .. }
            | Self::Applied { .. }
            | Self::Claim
            | Self::Taken(_)
            | Self::Switched { .. }
            | Self::Bye
            | Self::Settled(_) => Ok(()),
        }
    }
}
