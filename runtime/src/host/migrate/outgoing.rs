//! A guest that leaves: from the request until its task knows how it ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use roam_sdn::model::Generation;
use roam_snapshot::dirty::DirtyLog;
use roam_snapshot::plan::{Limits, PlanName};
use roam_snapshot::protocol::source::{Outcome, Reclaim, Source, SourceConfig, SourceEvent};
use roam_snapshot::protocol::{Encoding, Offer, Reason, ReasonCode, SessionId};
use tokio::sync::oneshot;

use super::channel::{Channel, ChannelError};
use super::departure::Departure;
use super::frames::Frames;
use super::handover::{Handover, Said};
use super::log::LogTail;
use super::mark::Mark;
use super::memory::Memories;
use super::offer::GuestOffer;
use super::source::{Leaving, Times};
use super::{Going, Migrator, port, reason, settle, unwritten, view};
use crate::ambient::{boot_id, now_ms, random};
use crate::api::{Direction, MigrateRequest, MigrationReport, MigrationState, MigrationView};
use crate::host::HostError;
use crate::host::migrations::Entry;
use crate::host::overlay::{Grant, Overlay};
use crate::host::record::Record;
use crate::host::shared::Shared;
use crate::host::supervisor::{Supervised, Worker};
use crate::sys::process::prefer_thread;
use crate::worker::{Hold, WorkerLayout};

/// Between two tries to have an address back.
const REGAIN_PAUSE: Duration = Duration::from_millis(200);

/// Begins on a guest's task, with what only that has: `None` if it could not.
pub(in crate::host) type Leave =
    Box<dyn FnOnce(&Record, &Arc<Worker>) -> Option<(Departure, oneshot::Receiver<Ended>)> + Send + Sync>;

/// How it ended, for the guest's task, which lets go of the other when all that follows is done.
pub(in crate::host) struct Ended {
    pub(in crate::host) left: Left,
    /// That of a guest that stays, if its address had to be asked for again.
    pub(in crate::host) generation: Option<Generation>,
    pub(in crate::host) done: oneshot::Sender<()>,
}

/// What is to become of a guest that was lent to a migration or a checkpoint.
#[derive(Clone, Debug)]
pub(in crate::host) enum Left {
    /// It is another host's.
    Moved,
    /// It goes on here, if its worker has not ended.
    Stays,
    /// Its address is another host's.
    Fenced(Reason),
    /// It is frozen, and an image of it is safe: it ends. What there is to say of that.
    Kept(String),
}

impl From<&Outcome> for Left {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Moved => Self::Moved,
            Outcome::Stayed(_) | Outcome::Ended => Self::Stays,
            Outcome::Fenced(reason) => Self::Fenced(reason.clone()),
        }
    }
}

/// What it takes to read a guest from outside its worker.
pub(in crate::host) struct Grip {
    pub(in crate::host) hold: Hold,
    pub(in crate::host) layout: WorkerLayout,
    pub(in crate::host) memories: Memories,
    pub(in crate::host) frames: Frames,
}

/// How a source begins.
struct Start {
    machine: Source,
    channel: Option<Channel>,
    first: SourceEvent,
    said: Said,
    bandwidth_bytes_per_s: Option<u64>,
}

impl From<Grant> for Reclaim {
    fn from(grant: Grant) -> Self {
        match grant {
            Grant::Granted(_) => Self::Granted,
            Grant::Denied(_) => Self::Denied,
            Grant::Unknown(_) => Self::Unknown,
        }
    }
}

impl Migrator {
    /// Has a guest leave; answers when that is under way.
    pub(in crate::host) async fn migrate(
        self: &Arc<Self>,
        guest: &Supervised,
        request: MigrateRequest,
    ) -> Result<MigrationView, HostError> {
        let at = self.find_target(&request)?;
        let session = SessionId(random().map_err(HostError::io("drawing a session's id"))?);
        let (answer, answered) = oneshot::channel();
        let migrator = self.clone();
        let leave: Leave = Box::new(move |record, worker| {
            let begun = migrator.leave(record, worker, request, session, at);
            let (answered, begun) = match begun {
                Ok((view, departure, outcome)) => (Ok(view), Some((departure, outcome))),
                Err(error) => (Err(error), None),
            };
            let _ = answer.send(answered);
            begun
        });
        guest.depart(leave).await;
        let name = || guest.view().spec.name;
        answered.await.map_err(|_not_running| HostError::NotRunning(name()))?
    }

    fn find_target(&self, request: &MigrateRequest) -> Result<SocketAddr, HostError> {
        if self.shared.port.is_none() {
            return Err(HostError::NoMigrations);
        }
        let known = || self.shared.overlay.as_ref()?.migration_address(&request.to);
        request.at.or_else(known).ok_or_else(|| HostError::NoTarget(request.to.clone()))
    }

    /// Begins to move a guest that serves.
    fn leave(
        self: &Arc<Self>,
        record: &Record,
        worker: &Arc<Worker>,
        request: MigrateRequest,
        session: SessionId,
        at: SocketAddr,
    ) -> Result<(MigrationView, Departure, oneshot::Receiver<Ended>), HostError> {
        let handover = Handover {
            session,
            to: request.to.clone(),
            at,
            generation: record.generation,
            incarnation: self.shared.overlay.as_ref().and_then(Overlay::incarnation),
            boot: boot_id(),
        };
        let (entry, departure) = self.begin_outgoing(record, &handover, request.plan)?;
        let view = entry.view();
        let moved = record.clone();
        let start = move |migrator: &Migrator, grip: &Grip| migrator.start_source(&moved, grip, &request, session, at);
        let outcome = self.on_thread(record, worker, handover, entry, departure.clone(), start)?;
        Ok((view, departure, outcome))
    }

    /// Meets the target.
    fn start_source(
        &self,
        record: &Record,
        grip: &Grip,
        request: &MigrateRequest,
        session: SessionId,
        at: SocketAddr,
    ) -> Result<Start, Reason> {
        let module_bytes = self.shared.modules.size(record.spec.module);
        let module_bytes = module_bytes.map_err(|error| reason(ReasonCode::Module, &error))?;
        let offer = Offer {
            guest: GuestOffer::of(record).encode(),
            module: record.spec.module.0,
            module_bytes,
            netstack: self.shared.modules.netstack().0,
            abi: roam_abi::VERSION,
            shape: grip.memories.shape(),
            plan: request.plan,
            encoding: Encoding::Lz4,
        };
        let limits = Limits {
            downtime_us: request.downtime_us,
            rounds_max: request.rounds_max,
            timeout_us: request.timeout_ms.saturating_mul(1000),
            divergence: request.on_divergence,
        };
        let (plan, controlled) = (request.plan.plan(limits), self.shared.overlay.is_some());
        let machine = Source::new(SourceConfig { session, offer, plan, limits, controlled }, 0);
        let link = |error: ChannelError| reason(ReasonCode::Link, &error);
        let client = port(&self.shared).map_err(|error| link(error.into()))?.client.clone();
        let channel = Channel::connect(at, request.to.as_str(), client).map_err(link)?;
        let bandwidth_bytes_per_s = request.bandwidth_bytes_per_s;
        let (channel, first, said) = (Some(channel), SourceEvent::Connected, Said::Nothing);
        Ok(Start { machine, channel, first, said, bandwidth_bytes_per_s })
    }

    /// Settles whose a guest is whose daemon was ended while it was being moved.
    pub(super) fn doubt(self: &Arc<Self>, handover: Handover) -> Leave {
        let migrator = self.clone();
        Box::new(move |record, worker| {
            // Which it was is of no importance any more.
            let plan = PlanName::PreCopy;
            let begun = migrator.begin_outgoing(record, &handover, plan).and_then(|(entry, departure)| {
                let session = handover.session;
                let said = handover.said(&migrator.shared.layout.handed(record.id));
                if said == Said::Token {
                    tracing::warn!(guest = %record.spec.name, to = %handover.to, "it is in doubt who has this guest; that is being settled");
                }
                let start = move |migrator: &Migrator, _: &Grip| {
                    let machine = match said {
                        Said::Token => Source::in_doubt(session, migrator.shared.overlay.is_some(), 0),
                        Said::Claim | Said::Nothing => Source::back(session, 0),
                    };
                    Ok(Start { machine, channel: None, first: SourceEvent::Tick, said, bandwidth_bytes_per_s: None })
                };
                let outcome = migrator.on_thread(record, worker, handover, entry, departure.clone(), start)?;
                Ok((departure, outcome))
            });
            begun
                .inspect_err(|error| tracing::error!(guest = %record.spec.name, %error, "a doubt cannot be settled"))
                .ok()
        })
    }

    fn begin_outgoing(
        &self,
        record: &Record,
        handover: &Handover,
        plan: PlanName,
    ) -> Result<(Entry, Departure), HostError> {
        let departure = Departure::new().map_err(HostError::io("making a migration's bell"))?;
        let entry = begin(&self.shared, record, handover, plan)?;
        let (cancelled, bell) = (entry.cancelled(), departure.clone());
        self.handle.spawn(async move {
            if cancelled.await {
                bell.cancel(Reason::new(ReasonCode::Cancelled, "somebody cancelled it".to_owned()));
            }
        });
        Ok((entry, departure))
    }

    /// Takes hold of the worker and drives the migration, on a thread of its own.
    fn on_thread(
        self: &Arc<Self>,
        record: &Record,
        worker: &Arc<Worker>,
        handover: Handover,
        entry: Entry,
        departure: Departure,
        start: impl FnOnce(&Migrator, &Grip) -> Result<Start, Reason> + Send + 'static,
    ) -> Result<oneshot::Receiver<Ended>, HostError> {
        let (sender, outcome) = oneshot::channel();
        let (migrator, record, worker) = (self.clone(), record.clone(), worker.clone());
        let run = move || {
            prefer_thread();
            let held = migrator.take_hold(&record, &worker);
            let started = held.and_then(|grip| start(&migrator, &grip).map(|start| (grip, start)));
            let (ended, report, entry, generation) = match started {
                Ok((grip, start)) => {
                    let leaving = migrator.leaving(&record, worker, &handover, entry, departure, (grip, start));
                    let (ended, report, entry, said) = leaving.run();
                    match ended {
                        // With its address, whether it goes on or is to be started anew.
                        Outcome::Stayed(_) | Outcome::Ended if said > Said::Nothing => {
                            let (ended, generation) = migrator.regain(&record, &handover, ended);
                            Handover::forget(&migrator.shared.layout, &record);
                            (ended, report, entry, generation)
                        }
                        Outcome::Ended => {
                            Handover::forget(&migrator.shared.layout, &record);
                            (ended, report, entry, None)
                        }
                        _ => (ended, report, entry, None),
                    }
                }
                Err(why) => (Outcome::Stayed(why), MigrationReport::default(), entry, None),
            };
            let (done, all_done) = oneshot::channel();
            if sender.send(Ended { left: Left::from(&ended), generation, done }).is_ok() {
                // It ends without a word: when the task is through, or the host goes down.
                let _ = migrator.handle.block_on(all_done);
            }
            // Who sees it over finds things as it says.
            end(entry, &ended, report);
        };
        thread::Builder::new().name("leaving".into()).spawn(run).map_err(HostError::io("starting a migration"))?;
        Ok(outcome)
    }

    /// Takes hold of a worker that serves. Whatever a checkpoint left armed there for the next one ends first.
    pub(in crate::host) fn take_hold(&self, record: &Record, worker: &Arc<Worker>) -> Result<Grip, Reason> {
        self.shared.checkpoints.forget(record.id);
        let (hold, layout) = self.hold(record, worker)?;
        self.grip(hold, layout, record, worker).map_err(|error| reason(ReasonCode::Internal, &error))
    }

    fn leaving(
        self: &Arc<Self>,
        record: &Record,
        worker: Arc<Worker>,
        handover: &Handover,
        entry: Entry,
        departure: Departure,
        (grip, start): (Grip, Start),
    ) -> Leaving {
        let Grip { hold, layout, memories, frames } = grip;
        Leaving {
            migrator: self.clone(),
            log: LogTail::open(&self.shared.layout.guest(record.id)),
            record: record.clone(),
            worker,
            said: start.said,
            mark: None,
            machine: start.machine,
            bandwidth_bytes_per_s: start.bandwidth_bytes_per_s,
            handover: handover.clone(),
            entry,
            departure,
            began: Instant::now(),
            hold,
            layout,
            memories,
            frames,
            tracker: None,
            dirty: DirtyLog::default(),
            channel: start.channel,
            events: [start.first].into(),
            frozen: None,
            carried: Vec::new(),
            returned: Vec::new(),
            forwards: false,
            report: MigrationReport::default(),
            times: Times::default(),
            lost: None,
        }
    }

    /// A guest that was handed back serves already; its address follows, however long that takes.
    fn regain(&self, record: &Record, handover: &Handover, outcome: Outcome) -> (Outcome, Option<Generation>) {
        let (Some(overlay), Some(from)) = (&self.shared.overlay, handover.generation) else { return (outcome, None) };
        while !self.is_closed() {
            match self.handle.block_on(overlay.take_back(record.network.mac, from, &handover.to)) {
                Grant::Granted(generation) => return (outcome, Some(generation)),
                Grant::Denied(_) => {
                    let why = "the guest came back, but its address is another host's by now".to_owned();
                    return (Outcome::Fenced(Reason::new(ReasonCode::Ownership, why)), None);
                }
                Grant::Unknown(_) => thread::sleep(REGAIN_PAUSE),
            }
        }
        (outcome, None)
    }

    /// On disk before anything is sent of the guest. The mark says how far it is from then on.
    pub(super) fn record_handover(&self, record: &Record, handover: &Handover) -> Result<Mark, Reason> {
        let mark = Mark::make(&self.shared.layout.handed(record.id));
        let kept = mark.and_then(|mark| handover.keep(&self.shared.layout.handover(record.id)).map(|()| mark));
        kept.map_err(|error| unwritten("noting at the source that the guest is being moved", error))
    }

    /// Asks the controller for the guest's address: it is ours again, or never was another's.
    pub(super) fn reclaim(&self, record: &Record, handover: &Handover, never: bool) -> Reclaim {
        self.handle.block_on(settle::reclaim(&self.shared, record, handover, never))
    }
}

/// Of that record, to where the handover says.
pub(super) fn begin(shared: &Shared, record: &Record, handover: &Handover, plan: PlanName) -> Result<Entry, HostError> {
    let going = Going {
        session: handover.session,
        guest: &record.spec.name,
        from: &shared.config.name,
        to: handover.to.as_str(),
        plan,
    };
    shared.migrations.begin(view::begun(&going, Direction::Outgoing))
}

/// For whom looks on.
pub(super) fn end(entry: Entry, outcome: &Outcome, report: MigrationReport) {
    let failed = |why: &Reason| Some(view::reason(why));
    let (state, reason) = match outcome {
        Outcome::Moved => (MigrationState::Done, None),
        Outcome::Stayed(why) | Outcome::Fenced(why) => (MigrationState::Failed, failed(why)),
        Outcome::Ended => {
            let why = Reason::new(ReasonCode::Worker, "the guest ended while it was being moved".to_owned());
            (MigrationState::Failed, failed(&why))
        }
    };
    entry.finish(|view| {
        view.progress.bytes_on_wire = report.bytes_on_wire;
        (view.state, view.reason, view.ended_ms) = (state, reason, Some(now_ms()));
        view.report = (state == MigrationState::Done).then_some(report);
    });
}
