//! The control socket's messages: postcard behind a `u32` length (little endian).
//!
//! Two connections at a time are served, the daemon's own and that of somebody who comes to hold the datapath; a later
//! one replaces the younger. A message that is too long or cannot be decoded closes its connection, on either side, and
//! costs nothing else.

use serde::{Deserialize, Serialize};

use crate::api::GuestStats;

/// Longest message, bytes: [`GuestStats`] with all sockets a guest can have.
pub const MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Daemon to worker. Answered in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Who are you? Answered by the control thread itself. Reply: [`Reply::Hello`].
    Hello,
    /// Counters and sockets, taken between two polls; of a guest that is frozen the sockets it had when it was asked last.
    /// Reply: [`Reply::Stats`].
    Stats,
    /// End. Reply: [`Reply::Stopping`], then the process ends within moments.
    Stop,
    /// From now on this connection is the datapath's own: an [`Ask`] at a time, each answered with a [`Told`] between two
    /// polls. Reply: [`Reply::Held`]; nothing may be said before that. Who asks for it takes the place of who had it. When
    /// it closes the guest stays as it is: one that is frozen stays frozen, but a throttled one is throttled no more.
    Hold,
}

/// Worker to daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// To [`Request::Hello`].
    Hello {
        /// The guest's name.
        name: String,
        /// [`crate::api::GuestView::id`].
        id: String,
    },
    /// To [`Request::Stats`]. `rss_bytes` and `cpu_us` are left 0: the worker sees no /proc; the daemon fills them in.
    Stats(Box<GuestStats>),
    /// To [`Request::Stop`].
    Stopping,
    /// To [`Request::Hold`].
    Held,
}

/// Daemon to datapath, on a connection that is its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Where everything is. Answer: [`Told::Layout`].
    Layout,
    /// Have the memories be that large, bytes by memory; none shrinks. A guest that waits only. Answer: [`Told::Done`].
    /// Memories before one that cannot have grown.
    Grow(Vec<u64>),
    /// Stop polling. Answer: [`Told::Frozen`]. A guest that is frozen already answers the same again.
    Freeze,
    /// The same for as long as this hold lasts: when it ends, however that happens, the guest goes on by itself. Answer:
    /// [`Told::Frozen`].
    Pause,
    /// Go on polling. Answer: [`Told::Done`].
    Thaw,
    /// After each poll rest for so long that the guest has this much less of its time, percent, at most 99; 0 ends
    /// it. Answer: [`Told::Done`].
    Throttle(u8),
    /// Take the state beside the memories, which are in place, and begin to poll. A guest that waits only. Answer, after the
    /// first poll: [`Told::Resumed`]. Refused, it is of no further use.
    Resume {
        /// [`Frozen::state`].
        state: Vec<u8>,
        /// How long the guest's clock stood still before this was sent, nanoseconds.
        stopped_ns: u64,
        /// Be another guest than the one whose state that is.
        renewal: Option<Box<Renewal>>,
    },
}

/// What makes another guest of the same memories and state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// Of its random generator.
    pub seed: [u8; 32],
    /// Its place in the network, where it has no connections; `None` if it keeps place and connections.
    pub network: Option<roam_netstack::Config>,
}

/// Datapath to daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// To [`Ask::Layout`].
    Layout(WorkerLayout),
    /// It is done.
    Done,
    /// To [`Ask::Freeze`] and [`Ask::Pause`]. Everything the guest had logged is in the log.
    Frozen(Frozen),
    /// To [`Ask::Resume`]: when the first poll began and ended, nanoseconds of `CLOCK_MONOTONIC`.
    Resumed {
        /// Its beginning.
        began_ns: u64,
        /// Its end.
        ended_ns: u64,
    },
    /// It cannot be done; why.
    Refused(String),
}

/// What a frozen guest is beside its memories.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// Globals, clock, random generator: what [`Ask::Resume`] takes.
    pub state: Vec<u8>,
    /// Bytes of its memories.
    pub memory_bytes: Vec<u64>,
    /// When it was stopped, nanoseconds of `CLOCK_MONOTONIC`: the moment its clock in `state` shows.
    pub at_ns: u64,
}

/// Where things are in a worker, for whom may read its memory. A hostile worker may say anything: what is outside of its
/// memory cannot be read there either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerLayout {
    /// The guest's memories, the netstack's last.
    pub memories: Vec<WorkerMemory>,
    /// Its userfaultfd, by number there; `None` where the kernel has none.
    pub userfault: Option<i32>,
    /// Its TAP, by number there.
    pub tap: i32,
    /// Whether it is a guest that waits for its state.
    pub waits: bool,
    /// Whether it is frozen.
    pub frozen: bool,
}

/// A linear memory in a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerMemory {
    /// Where it begins.
    pub address: u64,
    /// Its size, bytes.
    pub bytes: u64,
    /// What is mapped for it, room to grow and the guard behind that included, bytes.
    pub mapped_bytes: u64,
    /// What its module gives it from the beginning, bytes. There may be content there; the rest was zeros.
    pub initial_bytes: u64,
    /// Up to here there may be content that no page table shows, bytes: of an image that the guest was restored from, and
    /// that nobody has touched yet.
    pub unseen_bytes: u64,
}
