//! What a worker is told at its start.

use serde::{Deserialize, Serialize};

use crate::engine::ModuleHash;
use crate::guest::ImageRun;

/// Descriptors that travel with [`Launch`] (`SCM_RIGHTS`), in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptor {
    /// The guest's TAP. Serve only.
    Tap,
    /// The compiled guest. Serve only.
    Module,
    /// The compiled netstack. Serve only.
    Netstack,
    /// The control socket, bound; the worker calls `listen` when it serves. Serve only.
    Control,
    /// The newer half of the log. Serve only.
    Log,
    /// The older half of the log. Serve only.
    LogOld,
    /// Where the worker writes how it ended, JSON of [`crate::api::End`]. Serve only.
    End,
    /// The image that is mapped over the guest's memories. Serve only, and only where [`Task::Serve::image`] says so.
    Image,
    /// The module to compile. Compile only.
    Source,
    /// Where the compiled module goes. Compile only.
    Artifact,
}

/// First message on the launch connection, daemon to worker, postcard behind a `u32` length (little endian); at most
/// [`super::MESSAGE_BYTES_MAX`]. Answer: [`Launched`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Launch {
    /// What for.
    pub task: Task,
    /// An empty directory to mount the root on; only the mount namespace sees that mount.
    pub root: String,
    /// The uid and gid that root inside is outside, or `None` to stay the daemon's own (which is no root then).
    pub uid: Option<u32>,
    /// Whether the worker ends with its daemon: then the launch connection stays open, and its end is the worker's.
    pub leashed: bool,
}

/// What a worker does.
#[expect(clippy::large_enum_variant, reason = "there is one of it a process")]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Task {
    /// Run a guest until it ends or is stopped.
    Serve {
        /// Its name, what messages call it.
        name: String,
        /// [`crate::api::GuestView::id`].
        id: String,
        /// blake3 of the guest's original bytes.
        module: ModuleHash,
        /// Arguments, the name first.
        args: Vec<String>,
        /// Environment, `KEY=value`.
        env: Vec<String>,
        /// Addresses, MTU, rings, limit of socket buffers.
        network: roam_netstack::Config,
        /// Limit of linear memories, bytes.
        memory_bytes_max: u64,
        /// CPU time of one poll, microseconds.
        poll_budget_us: u64,
        /// Busy polling, microseconds.
        busy_poll_us: u64,
        /// Seed of the guest's random generator.
        seed: [u8; 32],
        /// Wall clock of the guest's start, nanoseconds since 1970.
        epoch_ns: i64,
        /// Whether the TAP cuts large UDP frames ([`crate::net::Tap::segments_udp`]).
        tap_segments_udp: bool,
        /// Size at which the log changes over to its other half, bytes.
        log_half_bytes: u64,
        /// Whether the guest comes from elsewhere: then it is not polled before it was given memories, state and the word
        /// ([`super::Ask::Resume`]). Seed and epoch are its own then, not these.
        waits: bool,
        /// What of an image is mapped over the memories of a guest that waits.
        image: Option<ImageMap>,
    },
    /// Check and compile a module, then end.
    Compile {
        /// Whether it must be a guest; the netstack is not.
        guest: bool,
    },
}

/// What of an image a worker maps, before anything else is put into the memories of a guest that waits. At most
/// [`ImageMap::RUNS_MAX`] runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageMap {
    /// How large the memories are to be, bytes.
    pub sizes: Vec<u64>,
    /// The parts that are mapped.
    pub runs: Vec<ImageRun>,
}

impl ImageMap {
    /// Most runs: each may become three mappings, of which a process may have some ten thousand, and all of them are to
    /// fit a message.
    pub const RUNS_MAX: usize = 8192;
}

impl Task {
    /// What a list of processes shows of it.
    pub(super) fn label(&self) -> &str {
        match self {
            Self::Serve { name, .. } => name,
            Self::Compile { .. } => "(compiling)",
        }
    }
}

/// Answers on the launch connection, worker to daemon.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Launched {
    /// The starting process is in its user namespace; it goes on when its ids are mapped and it is sent one byte
    /// ([`crate::jail::GO`]). Comes first, once.
    Unshared,
    /// The worker's process, in the daemon's pid namespace. Comes once, from the starter: what the worker says itself may
    /// come before.
    Process {
        /// Its id.
        pid: u32,
    },
    /// Serve: the guest is instantiated and the control socket listens. Compile: the artifact is written.
    Ready,
    /// It could not be; the worker ends.
    Failed(LaunchError),
}

/// Why a worker did not come up, in words that can travel.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum LaunchError {
    /// A step of the jail failed.
    #[error("the jail could not be closed: {0}")]
    Jail(String),
    /// The module is not one this host runs.
    #[error("{0}")]
    Refused(String),
    /// The compiled module could not be mapped, or compiling failed for a reason that is not the module's.
    #[error("{0}")]
    Module(String),
    /// The guest could not be started, or ended while it was.
    #[error("{0}")]
    Start(String),
}
