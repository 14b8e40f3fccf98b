//! Moving guests between hosts: the hands around [`roam_snapshot::protocol`].
//!
//! ```text
//!  guest's task ── depart ──> leaving thread: source ── channel (TLS) ──> arriving thread: target ──> guest's task
//!                               │ hold: freeze, thaw                        │ hold: grow, install, resume
//!                               │ tracker, memory: scan, read               │ memory: write
//!                               └ frames: take, give back                   └ frames: give
//!        handover file: may be the target's          controller: generation n+1      sessions: what became of it
//! ```
//!
//! Each migration has a thread of its own on either side, so that nothing of it waits for anything else. The worker takes
//! no part in copying: its memory is read and written from outside.
//!
//! In reading order: `listen`, `source`, `target` (events and commands), `channel`, `memory`, `frames`, `log`, `offer`,
//! `sessions`, `handover` and `mark` (what outlives a connection and a daemon), `settle` (asking afterwards).

mod channel;
mod departure;
mod fault;
mod frames;
mod handover;
mod hold;
mod incoming;
mod listen;
mod log;
mod mark;
mod memory;
mod module;
mod offer;
mod outgoing;
mod sessions;
mod settle;
mod source;
mod target;
mod view;

use std::error::Error;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use nix::sys::socket::Shutdown;
use roam_snapshot::plan::PlanName;
use roam_snapshot::protocol::{Reason, ReasonCode, SessionId, Standing};
use roam_snapshot::sys::pidfd;
use rustls::{ClientConfig, ServerConfig};
use tokio::runtime::Handle;

pub(super) use departure::Departure;
pub(super) use fault::wait_for;
pub(super) use frames::Frames;
pub(super) use handover::Handover;
pub(super) use hold::at as hold_at;
pub(super) use mark::Mark;
pub(super) use memory::Memories;
pub use memory::MemoryError;
pub(super) use offer::GuestOffer;
pub use offer::OfferError;
pub(super) use outgoing::{Ended, Grip, Leave, Left};
pub(super) use sessions::Sessions;
pub(super) use settle::settled;

use super::guests::Guests;
use super::layout::is_full;
use super::record::{Record, Standing as RecordStanding};
use super::shared::Shared;
use super::supervisor::Worker;
use super::{HostError, OpenError};
use crate::api::GuestName;
use crate::cert::{TlsFiles, migration_configs};
use crate::worker::{Hold, HoldError, WorkerLayout};

/// How long a worker may take to answer while its guest runs: a poll may take its whole budget, and this besides.
const HOLD_SPARE: Duration = Duration::from_secs(5);

/// Moves guests of one host.
pub(super) struct Migrator {
    pub(super) shared: Arc<Shared>,
    pub(super) guests: Arc<Guests>,
    pub(super) handle: Handle,
    closed: AtomicBool,
    listener: OnceLock<TcpListener>,
}

/// What it takes to speak to other hosts.
pub(super) struct Port {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Port {
    pub(super) fn open(files: &TlsFiles) -> Result<Self, OpenError> {
        let (client, server) = migration_configs(files)?;
        Ok(Self { client, server })
    }
}

/// The way to other hosts.
fn port(shared: &Shared) -> Result<&Port, io::Error> {
    let none = || io::Error::new(io::ErrorKind::Unsupported, "this host has no migration port");
    shared.port.as_ref().ok_or_else(none)
}

/// A reason that a peer may be told.
fn reason(code: ReasonCode, error: &(dyn Error + 'static)) -> Reason {
    Reason::new(code, crate::sentence::sentence(error))
}

/// A reason of something that could not be put on disk.
fn unwritten(doing: &'static str, error: io::Error) -> Reason {
    let code = if is_full(&error) { ReasonCode::Room } else { ReasonCode::Internal };
    reason(code, &HostError::io(doing)(error))
}

impl Migrator {
    /// Opens the port, if there is to be one. Takes no connections yet.
    pub(super) fn open(shared: Arc<Shared>, guests: Arc<Guests>) -> Result<Arc<Self>, OpenError> {
        let listener = OnceLock::new();
        if let Some(listen) = shared.config.migrate {
            let bound = TcpListener::bind(listen);
            let bound = bound.map_err(|source| OpenError::MigrationPort { listen, source })?;
            let _ = listener.set(bound);
        }
        let (handle, closed) = (Handle::current(), AtomicBool::new(false));
        Ok(Arc::new(Self { shared, guests, handle, closed, listener }))
    }

    /// Takes up what the last daemon left undecided, then begins to take connections.
    pub(super) async fn begin(self: &Arc<Self>) -> io::Result<()> {
        for guest in self.guests.all() {
            let id = guest.id;
            match Handover::read(&self.shared.layout.handover(id)) {
                Ok(None) => {}
                Ok(Some(handover)) => guest.depart(self.doubt(handover)).await,
                Err(error) => tracing::error!(guest = %id, %error, "whether it is another host's cannot be read"),
            }
        }
        if let Some(listener) = self.listener.get() {
            let listener = listener.try_clone()?;
            let migrator = self.clone();
            thread::Builder::new().name("migrations".into()).spawn(move || listen::listen(&migrator, &listener))?;
        }
        Ok(())
    }

    /// Takes no more connections. Guests that leave are told by their tasks.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        if let Some(listener) = self.listener.get() {
            // Wakes the thread that waits for one.
            let _ = nix::sys::socket::shutdown(listener.as_raw_fd(), Shutdown::Both);
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// What became of a session that came here, or is coming.
    fn standing(&self, session: SessionId) -> Standing {
        let text = sessions::text(session);
        let here = || {
            let mut records = self.shared.registry.records().into_iter();
            records.any(|record| record.arrived.as_deref() == Some(&text) && self.has_come(&record))
        };
        self.shared.sessions.standing(session, here)
    }

    /// Whether a guest that came from another host was ever polled here.
    fn has_come(&self, record: &Record) -> bool {
        record.standing != RecordStanding::Arriving
            || matches!(Mark::read(&self.shared.layout.came(record.id)), Ok(Some(_)))
    }

    /// Takes hold of a guest's worker, and hears where everything is there.
    fn hold(&self, record: &Record, worker: &Worker) -> Result<(Hold, WorkerLayout), Reason> {
        let failed = |error: HoldError| reason(ReasonCode::Worker, &error);
        let limit = Duration::from_micros(record.spec.poll_budget_us) + HOLD_SPARE;
        let (mut hold, pid) = Hold::take(&self.shared.layout.control(record.id), limit).map_err(failed)?;
        if pid != worker.pid() {
            return Err(Reason::new(ReasonCode::Worker, format!("process {pid} answers for worker {}", worker.pid())));
        }
        let layout = hold.layout().map_err(failed)?;
        Ok((hold, layout))
    }

    /// All that it takes to read or write a guest from outside.
    pub(super) fn grip(&self, hold: Hold, layout: WorkerLayout, record: &Record, worker: &Worker) -> io::Result<Grip> {
        let memories = Memories::new(worker.pid(), &layout);
        let frames = self.frames(worker, &layout, record)?;
        Ok(Grip { hold, layout, memories, frames })
    }

    /// The TAP of a guest whose worker takes no frames.
    fn frames(&self, worker: &Worker, layout: &WorkerLayout, record: &Record) -> io::Result<Frames> {
        Frames::open(pidfd::getfd(worker.process.bell(), layout.tap)?, &record.network.tap)
    }
}

/// Which guest goes where.
struct Going<'a> {
    session: SessionId,
    guest: &'a GuestName,
    from: &'a str,
    to: &'a str,
    plan: PlanName,
}
