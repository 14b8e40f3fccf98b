//! The main thread of a worker while it has a guest: polls it, and in between does what it is asked for.
//!
//! ```text
//!                    Freeze, Pause            Thaw; of Pause also the hold's end
//!  running ────────────────────────> frozen ────────────────> running
//!  waiting ── Grow ── Resume: state, first poll ────────────> running
//! ```
//!
//! What is asked over the hold ([`Ask`]) is answered here, without the control thread. A guest that is frozen or waits is
//! not touched: no code of it or of its netstack runs, whoever asks for what. Its memories are somebody else's then.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use roam_snapshot::protocol::STATE_BYTES_MAX;

use super::line::{Closed, Line};
use super::log::Log;
use super::mailbox::{Asked, Mailbox};
use super::stats::{stats, stats_of_waiting};
use super::{Ask, Frozen, Renewal, Told, WorkerLayout, WorkerMemory, end};
use crate::ambient::monotonic_ns;
use crate::api::{End, GuestStats, SocketView};
use crate::guest::{Guest, GuestMemory, SavedGuest};
use crate::net::{Edge, EdgeError, Watchdog, Watched};
use crate::sentence::sentence;

/// Longest question, bytes: a state, and what is around it.
pub(super) const ASK_BYTES_MAX: usize = STATE_BYTES_MAX + 64;

/// A guest, and everything that serves it.
pub(super) struct Datapath {
    pub(super) guest: Guest,
    pub(super) edge: Edge,
    pub(super) log: Log,
    pub(super) end: File,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) watchdog: Watchdog,
    pub(super) userfault: Option<OwnedFd>,
    pub(super) state: State,
    hold: Option<Line>,
    /// Whether it is frozen only as long as the hold lasts.
    paused: bool,
    since: Instant,
    /// Those told last: to list them the netstack runs.
    sockets: Vec<SocketView>,
}

/// Who may change the guest's memories.
pub(super) enum State {
    /// The guest.
    Running,
    /// Nobody.
    Frozen(Frozen),
    /// The daemon.
    Waiting,
}

impl Datapath {
    pub(super) fn new(
        (guest, edge, state): (Guest, Edge, State),
        (log, end): (Log, File),
        (mailbox, watchdog): (Arc<Mailbox>, Watchdog),
        userfault: Option<OwnedFd>,
    ) -> Self {
        let (since, sockets) = (Instant::now(), Vec::new());
        Self { guest, edge, log, end, mailbox, watchdog, userfault, state, hold: None, paused: false, since, sockets }
    }

    /// Runs until the end, and writes that down.
    pub(super) fn run(mut self) -> ExitCode {
        let ended = loop {
            match self.run_until_asked().and_then(|()| self.attend()) {
                Ok(None) => {}
                Ok(Some(ended)) => break ended,
                Err(error) => break end::of(&error),
            }
        };
        self.write_log();
        let (record, code) = ended;
        end::write_end(&self.end, &record);
        // Nothing is left to be tidied up that the kernel does not.
        std::process::exit(code.into())
    }

    fn run_until_asked(&mut self) -> Result<(), EdgeError> {
        let hold = self.hold.as_ref().map(|line| (line.as_fd(), line.interest()));
        let watched = Watched { bell: self.mailbox.datapath_bell(), hold };
        if let State::Running = self.state {
            let log = |line| self.log.write(&line);
            return self.edge.run(&mut self.guest, &self.watchdog, watched, log).map(drop);
        }
        self.watchdog.sleep();
        let waited = watched.wait(None, None);
        self.watchdog.wake();
        waited.map(drop)
    }

    /// Does what is asked for; how the guest ended, if it is asked to.
    fn attend(&mut self) -> Result<Option<(End, u8)>, EdgeError> {
        let Asked { stats, stop, leashed } = self.mailbox.take_asked();
        if stop {
            return Ok(Some(end::asked()));
        }
        if leashed {
            return Ok(Some(end::leashed()));
        }
        if stats {
            let stats = self.stats()?;
            self.mailbox.give_stats(stats);
        }
        if let Some(stream) = self.mailbox.take_hold() {
            self.let_go();
            self.hold = Some(Line::new(stream, ASK_BYTES_MAX));
        }
        match self.hear() {
            Ok(Some(ask)) => {
                let told = self.answer(ask)?;
                if self.hold.as_mut().is_some_and(|line| line.say(&told).is_err()) {
                    self.let_go();
                }
            }
            Ok(None) => {}
            Err(Closed) => self.let_go(),
        }
        Ok(None)
    }

    /// What is asked over the hold, once the answer before it was taken away.
    fn hear(&mut self) -> Result<Option<Ask>, Closed> {
        let Some(line) = &mut self.hold else { return Ok(None) };
        line.write()?;
        if !line.has_said_all() {
            return Ok(None);
        }
        line.read()?;
        line.take()
    }

    /// The hold is gone. The guest stays as it is, but not slow for good; and one that is only paused goes on.
    fn let_go(&mut self) {
        self.hold = None;
        self.edge.throttle(0);
        if std::mem::take(&mut self.paused) {
            self.state = State::Running;
        }
    }

    fn answer(&mut self, ask: Ask) -> Result<Told, EdgeError> {
        let done = |done: Result<(), String>| done.map_or_else(Told::Refused, |()| Told::Done);
        let is_waiting = matches!(self.state, State::Waiting);
        Ok(match ask {
            Ask::Layout => Told::Layout(self.layout()),
            Ask::Grow(_) | Ask::Resume { .. } if !is_waiting => refused("the guest does not wait: it is here already"),
            Ask::Resume { state, stopped_ns, renewal } => self.resume(&state, stopped_ns, renewal.as_deref())?,
            Ask::Grow(sizes) => done(self.guest.grow_to(&sizes).map_err(|error| sentence(&error))),
            Ask::Freeze | Ask::Pause | Ask::Thaw | Ask::Throttle(_) if is_waiting => {
                refused("the guest waits: it does not run")
            }
            Ask::Freeze => {
                self.paused = false;
                self.freeze()
            }
            Ask::Pause => {
                // One that is frozen already stays so, for whoever froze it.
                let runs = matches!(self.state, State::Running);
                let told = self.freeze();
                self.paused |= runs && matches!(self.state, State::Frozen(_));
                told
            }
            Ask::Thaw => {
                (self.state, self.paused) = (State::Running, false);
                Told::Done
            }
            Ask::Throttle(100..) => refused("a guest cannot be kept from running altogether: at most 99 percent"),
            Ask::Throttle(percent) => {
                self.edge.throttle(percent);
                Told::Done
            }
        })
    }

    fn layout(&self) -> WorkerLayout {
        WorkerLayout {
            memories: self.guest.memories().into_iter().map(WorkerMemory::from).collect(),
            userfault: self.userfault.as_ref().map(AsRawFd::as_raw_fd),
            tap: self.edge.tap().as_fd().as_raw_fd(),
            waits: matches!(self.state, State::Waiting),
            frozen: matches!(self.state, State::Frozen(_)),
        }
    }

    /// Between two polls everything that was to be sent or logged has been.
    fn freeze(&mut self) -> Told {
        if let State::Frozen(frozen) = &self.state {
            return Told::Frozen(frozen.clone());
        }
        let (now_ns, at_ns) = (self.edge.now_ns(), monotonic_ns());
        self.write_log();
        let state = self.guest.save().at(now_ns).to_bytes();
        if state.len() > STATE_BYTES_MAX {
            return Told::Refused(format!(
                "its globals and clock have {} bytes; the limit is {STATE_BYTES_MAX}",
                state.len()
            ));
        }
        let memory_bytes = self.guest.memories().into_iter().map(|memory| memory.bytes).collect();
        let frozen = Frozen { state, memory_bytes, at_ns };
        self.state = State::Frozen(frozen.clone());
        Told::Frozen(frozen)
    }

    /// The guest's clock where it stood still, nanoseconds.
    fn install(&mut self, state: &[u8]) -> Result<i64, String> {
        let saved = SavedGuest::from_bytes(state).map_err(|error| sentence(&error))?;
        self.guest.install(&saved).map_err(|error| sentence(&error))?;
        // The log came meanwhile, too.
        self.log.go_on(saved.epoch_ns()).map_err(|error| format!("the log cannot be gone on with: {error}"))?;
        Ok(saved.now_ns())
    }

    /// The guest becomes another.
    fn renew(&mut self, renewal: &Renewal) -> Result<(), String> {
        let guest = &mut self.guest;
        self.watchdog.guard(|| {
            guest.reseed(renewal.seed).map_err(|error| sentence(&error))?;
            let network = renewal.network.as_ref();
            network.map_or(Ok(()), |network| guest.readdress(network).map_err(|error| sentence(&error)))
        })
    }

    /// The first poll, if the guest is whole.
    fn resume(&mut self, state: &[u8], stopped_ns: u64, renewal: Option<&Renewal>) -> Result<Told, EdgeError> {
        let installed = self.install(state).and_then(|now_ns| {
            renewal.map_or(Ok(()), |renewal| self.renew(renewal))?;
            Ok(now_ns)
        });
        let installed_ns = match installed {
            Ok(now_ns) => now_ns,
            Err(why) => return Ok(Told::Refused(why)),
        };
        self.edge.set_clock(installed_ns.saturating_add_unsigned(stopped_ns));
        (self.state, self.since) = (State::Running, Instant::now());
        let began_ns = monotonic_ns();
        let log = |line| self.log.write(&line);
        self.edge.run_once(&mut self.guest, &self.watchdog, log)?;
        let ended_ns = monotonic_ns();
        // What waits for the guest comes first: whoever keeps addresses by a controller needs no announcement.
        self.watchdog.guard(|| self.guest.announce())?;
        Ok(Told::Resumed { began_ns, ended_ns })
    }

    fn stats(&mut self) -> Result<GuestStats, EdgeError> {
        if let State::Waiting = self.state {
            return Ok(stats_of_waiting(&self.guest, self.since));
        }
        if let State::Running = self.state {
            let sockets = self.watchdog.guard(|| self.guest.sockets())?;
            self.sockets = sockets.into_iter().map(Into::into).collect();
        }
        Ok(stats(&mut self.guest, &self.sockets, self.edge.counters(), &self.log, self.since))
    }

    fn write_log(&mut self) {
        self.guest.take_log().iter().for_each(|line| self.log.write(line));
    }
}

impl From<GuestMemory> for WorkerMemory {
    fn from(memory: GuestMemory) -> Self {
        let GuestMemory { address, bytes, mapped_bytes, initial_bytes, unseen_bytes } = memory;
        Self { address, bytes, mapped_bytes, initial_bytes, unseen_bytes }
    }
}

fn refused(why: &str) -> Told {
    Told::Refused(why.into())
}
