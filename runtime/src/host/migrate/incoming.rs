//! A guest that comes: what the target's hands need of its host.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use roam_sdn::model::{Generation, Mac};
use roam_snapshot::page::PAGE_BYTES;
use roam_snapshot::protocol::target::TargetEvent;
use roam_snapshot::protocol::{Offer, Reason, ReasonCode, SessionId};

use super::mark::Mark;
use super::offer::GuestOffer;
use super::sessions::Session;
use super::view;
use super::{Going, Migrator, hold, reason};
use crate::ambient::{monotonic_ns, now_ms};
use crate::api::{Direction, GuestName, MigrationState};
use crate::engine::ModuleHash;
use crate::host::HostError;
use crate::host::error::in_full;
use crate::host::guests::Reservation;
use crate::host::layout;
use crate::host::migrations::Entry;
use crate::host::overlay::{Desk, Overlay};
use crate::host::record::{GuestId, Record, Standing};
use crate::host::supervisor::{Begin, Supervised, Worker, clear, end_stranger, start_waiting};
use crate::worker::{Hold, ImageMap, WorkerLayout};

/// Memory that stays free on a host that takes a guest, bytes.
const FREE_BYTES_MIN: u64 = 64 << 20;
/// How long an earlier migration of the same guest may take to clear away what it leaves, and how often that is looked at.
const CLEARING_MAX: Duration = Duration::from_secs(2);
const CLEARING_PAUSE: Duration = Duration::from_millis(5);

impl Migrator {
    /// Whether this host can have a guest; its name and addresses are kept for it.
    pub(super) fn check(&self, offer: &Offer, source: &str) -> Result<(GuestOffer, Reservation), Reason> {
        let no = |code, message: String| Err(Reason::new(code, message));
        if self.is_closed() {
            return no(ReasonCode::Closing, "the target goes down".into());
        }
        let ours = self.shared.modules.netstack();
        if offer.netstack != ours.0 {
            let theirs = ModuleHash(offer.netstack);
            return no(
                ReasonCode::Incompatible,
                format!("the guest's netstack is {theirs}, the target has {ours}: both hosts must run the same roam"),
            );
        }
        if offer.abi != roam_abi::VERSION {
            let ours = roam_abi::VERSION;
            return no(ReasonCode::Incompatible, format!("the guest's ABI is {}, the target has {ours}", offer.abi));
        }
        let guest = GuestOffer::decode(&offer.guest).map_err(|error| reason(ReasonCode::Incompatible, &error))?;
        match self.has_room(offer.shape.pages() * PAGE_BYTES as u64) {
            Ok(()) => {}
            Err(error @ HostError::NoRoom { .. }) => return Err(reason(ReasonCode::Room, &error)),
            Err(error) => return Err(reason(ReasonCode::Internal, &error)),
        }
        if self.shared.overlay.is_some() != guest.generation.is_some() {
            let message = format!(
                "one of the hosts follows a controller and the other does not; `{source}` and the target must follow the same"
            );
            return no(ReasonCode::Ownership, message);
        }
        if let Some(away) = self.shared.overlay.as_ref().and_then(|overlay| overlay.view().away) {
            return no(ReasonCode::Ownership, format!("the target does not follow the controller: {away}"));
        }
        let place = self.place(&guest).map_err(|error| reason(code(&error), &error))?;
        Ok((guest, place))
    }

    /// Name and addresses for a guest, once what an earlier migration of it leaves is cleared away: half a guest of a
    /// broken attempt, or all of one that has just gone from here.
    fn place(&self, guest: &GuestOffer) -> Result<Reservation, HostError> {
        let deadline = Instant::now() + CLEARING_MAX;
        while self.shared.migrations.is_under_way(guest.name()) && Instant::now() < deadline {
            thread::sleep(CLEARING_PAUSE);
        }
        self.guests.reserve_arriving(&self.shared, guest.placed_spec())
    }

    /// Whether so much more memory may be used here.
    pub(in crate::host) fn has_room(&self, bytes: u64) -> Result<(), HostError> {
        let free_bytes = free_memory_bytes().map_err(HostError::io("looking how much memory is free"))?;
        if bytes.saturating_add(FREE_BYTES_MIN) > free_bytes {
            return Err(HostError::NoRoom { bytes, free_bytes });
        }
        Ok(())
    }

    pub(super) fn begin_incoming(
        &self,
        guest: &GuestOffer,
        offer: &Offer,
        source: &str,
        session: Option<SessionId>,
    ) -> Option<Entry> {
        let going = Going {
            session: session?,
            guest: guest.name(),
            from: source,
            to: &self.shared.config.name,
            plan: offer.plan,
        };
        self.shared.migrations.begin(view::begun(&going, Direction::Incoming)).ok()
    }

    pub(super) fn end_incoming(&self, entry: Entry, result: Result<(), Reason>) {
        entry.finish(|shown| {
            shown.state = if result.is_ok() { MigrationState::Done } else { MigrationState::Failed };
            shown.ended_ms = Some(now_ms());
            shown.reason = result.as_ref().err().map(view::reason);
        });
    }

    /// A worker that waits for its state, with its network; it has mapped that image, if there is one.
    pub(in crate::host) fn start_waiting(
        &self,
        record: &Record,
        image: Option<(&ImageMap, BorrowedFd<'_>)>,
    ) -> Result<(Arc<Worker>, Hold, WorkerLayout), Reason> {
        let started = self.handle.block_on(async {
            self.shared.put(record).await?;
            start_waiting(&self.shared, record, image).await
        });
        let worker = match started {
            Ok(worker) => worker,
            Err(error) => {
                self.forget(record);
                return Err(reason(code(&error), &error));
            }
        };
        let held = self.hold_waiting(record, &worker);
        if held.is_err() {
            self.discard(record, &worker);
        }
        if let Some(overlay) = self.shared.overlay.as_ref().filter(|_| held.is_ok()) {
            overlay.port(record.network.mac, Some(&record.network.tap));
        }
        held.map(|(hold, layout)| (worker, hold, layout))
    }

    fn hold_waiting(&self, record: &Record, worker: &Worker) -> Result<(Hold, WorkerLayout), Reason> {
        let (hold, layout) = self.hold(record, worker)?;
        if !layout.waits {
            return Err(Reason::new(ReasonCode::Worker, "the worker that was started does not wait".to_owned()));
        }
        Ok((hold, layout))
    }

    /// Ends a worker that waits, and forgets the guest: it is never polled here.
    pub(in crate::host) fn discard(&self, record: &Record, worker: &Worker) {
        if let Some(overlay) = &self.shared.overlay {
            overlay.port(record.network.mac, None);
            overlay.forgo(record.network.mac);
        }
        // First: without its worker a restarted host would take it to have been polled.
        if let Err(error) = layout::remove(&self.shared.layout.came(record.id)) {
            tracing::error!(guest = %record.spec.name, %error, "what was left of its arrival stays");
        }
        self.handle.block_on(end_stranger(&worker.process));
        self.forget(record);
    }

    /// Gives an address that was claimed for a guest that never comes to who has the guest.
    pub(super) fn give_back(&self, mac: Mac, from: Generation, source: &str) {
        let Ok(source) = source.parse::<GuestName>() else { return };
        let shared = self.shared.clone();
        self.handle.spawn(async move {
            if let Some(overlay) = &shared.overlay {
                overlay.give_back(mac, from, source).await;
            }
        });
    }

    /// What will say that the guest is about to be polled here.
    pub(in crate::host) fn will_come(&self, id: GuestId) -> io::Result<Mark> {
        Mark::make(&self.shared.layout.came(id))
    }

    fn forget(&self, record: &Record) {
        self.handle.block_on(async {
            clear(&self.shared, record.id).await;
            // In its own session it never was here.
            if let Err(error) = self.shared.forget_gone(record.id, None).await {
                tracing::error!(guest = %record.spec.name, error = in_full(&error), "a guest that did not come stays on record");
            }
        });
    }

    /// The way to the controller, open before it is needed.
    pub(super) fn desk(&self) -> io::Result<Option<Desk>> {
        self.shared.overlay.as_ref().map(Overlay::desk).transpose()
    }

    /// The guest is this host's: supervised and on record. The session's bell rings when the route leads here.
    pub(super) fn settle_in(
        self: &Arc<Self>,
        (record, from): (Record, Option<Generation>),
        worker: Arc<Worker>,
        place: Option<Reservation>,
        resumed_ns: u64,
        session: Arc<Session>,
    ) {
        let migrator = self.clone();
        let record = record.changed(|record| {
            record.standing = Standing::Run;
            record.generation = from.map(Generation::next);
        });
        self.handle.spawn(async move {
            let shared = &migrator.shared;
            let routed = async {
                if let (Some(overlay), Some(from)) = (&shared.overlay, from) {
                    // If it is somebody else's by now, its task sees to that.
                    overlay.confirmed(record.network.mac, from).await;
                }
                monotonic_ns().saturating_sub(resumed_ns) / 1000
            };
            let (kept, route_us) = tokio::join!(shared.put(&record), routed);
            let name = record.spec.name.clone();
            if let Err(error) = kept {
                tracing::error!(guest = %name, error = in_full(&error), "a guest that came is not on record as serving");
            }
            tracing::info!(guest = %name, pid = worker.pid(), "came from another host");
            let guest = Supervised::begin(shared.clone(), record, Begin::Serving(worker));
            migrator.guests.insert(name, guest.clone());
            drop(place);
            session.tell(TargetEvent::Switched { route_us });
            // Its owner may have changed before it could be told.
            guest.check_owner();
        });
    }
}

/// What a peer is told of an error here.
fn code(error: &HostError) -> ReasonCode {
    use crate::api::ErrorCode;
    match error.code() {
        ErrorCode::DiskFull | ErrorCode::TooManyRequests => ReasonCode::Room,
        ErrorCode::Conflict => ReasonCode::Conflict,
        ErrorCode::Invalid => ReasonCode::Incompatible,
        _ => ReasonCode::Prepare,
    }
}

/// What the kernel says could be used without swapping (proc(5), `MemAvailable`).
fn free_memory_bytes() -> io::Result<u64> {
    if let Some(bytes) = hold::free_memory_bytes() {
        return Ok(bytes);
    }
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::ErrorKind::InvalidData.into())
}
