//! A host: the guests it was asked to run, their workers, and the modules they are made of.
//!
//! ```text
//!  serve/ (HTTP, TLS, limits) ──> Host ──> registry   what was asked for, in redb: crash-safe
//!                                  │  ├──> modules    wasm by blake3; compiled ones beside
//!                                  │  ├──> addresses  who has which IP and MAC here
//!                                  │  └──> supervisor one task per guest: spawn, adopt, watch, restart
//!                                  └────> device      TAP into the bridge
//! ```
//!
//! The daemon is replaceable: workers serve without it, and a new one finds them by their control sockets.

mod addresses;
mod checkpoint;
mod config;
mod device;
mod error;
mod guests;
mod layout;
mod logs;
mod migrate;
mod migrations;
mod modules;
mod open;
mod overlay;
mod record;
mod registry;
pub mod serve;
mod shared;
mod supervisor;

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};

pub use addresses::AddressError;
pub use checkpoint::{Checkpoint, PlaceError, TakeError, guest_of};
pub use config::{HostConfig, Pool};
pub use device::DeviceError;
pub use error::{HostError, OpenError};
pub use migrate::{MemoryError, OfferError};
pub use migrations::MigrationViews;
pub use open::control_group;
pub use overlay::OverlayConfig;
pub use registry::RegistryError;

use crate::api::{GuestName, GuestSpec, GuestStats, GuestView, Health, HostView, LogEntry, ModuleView};
use crate::engine::ModuleHash;
use crate::worker::LogReader;
use error::in_full;
use guests::{Guests, Reservation};
use migrate::Migrator;
use overlay::Overlay;
use record::Record;
use shared::Shared;
use supervisor::{Begin, Supervised};

/// Whether these bytes are a guest's record: a door for the fuzz targets.
#[cfg(fuzzing)]
pub fn is_record(bytes: &[u8]) -> bool {
    registry::decode(bytes, std::path::Path::new("record.json")).is_ok()
}

/// A running host. Clones are the same one.
///
/// Everything happens in the network namespace of the thread that opened it, which must be its runtime's own.
#[derive(Clone)]
pub struct Host {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    guests: Arc<Guests>,
    migrator: Arc<Migrator>,
    opened: Instant,
}

/// A module's bytes as they arrive.
pub type ModuleBytes = Pin<Box<dyn Stream<Item = Result<Bytes, std::io::Error>> + Send>>;
/// Log lines as they come; ends when the log does (or never, when following).
pub type LogLines = Pin<Box<dyn Stream<Item = Result<LogEntry, HostError>> + Send>>;

/// How often each worker is asked for a sign of life.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Workers asked at once.
const LOOKS_MAX: usize = 16;
/// How long closing waits for what is under way, a start at most.
const CLOSE_LIMIT: Duration = Duration::from_secs(40);
/// Less room than this is a problem.
const FREE_BYTES_MIN: u64 = 16 << 20;

/// Which log lines.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogQuery {
    /// Go on with new lines as they come, until the guest is deleted.
    pub follow: bool,
    /// Begin with the last so many lines; all that are kept when `None`.
    pub tail: Option<u64>,
}

impl Host {
    /// Opens the state, adopts workers that still run, clears away what no record knows, and starts those guests
    /// whose policy says so.
    pub async fn open(config: HostConfig) -> Result<Self, OpenError> {
        let shared = open::shared(config).await?;
        let guests = Arc::new(open::guests(&shared).await?);
        let migrator = Migrator::open(shared.clone(), guests.clone())?;
        let inner = Arc::new(Inner { shared, guests, migrator, opened: Instant::now() });
        // Before the controller is followed: guests that may be another host's are settled, not fenced.
        inner.migrator.begin().await.map_err(|source| OpenError::System { doing: "taking migrations", source })?;
        tokio::spawn(look_after(Arc::downgrade(&inner)));
        if let Some(overlay) = &inner.shared.overlay {
            overlay.begin(&inner.guests);
        }
        Ok(Self { inner })
    }

    /// Lets go of everything but the workers: they go on serving.
    pub async fn close(&self) {
        self.inner.migrator.close();
        if let Some(overlay) = &self.inner.shared.overlay {
            overlay.end();
        }
        let ends: Vec<_> = self.inner.guests.close().into_iter().map(|guest| guest.over()).collect();
        let all = async {
            for end in ends {
                end.await;
            }
        };
        if tokio::time::timeout(CLOSE_LIMIT, all).await.is_err() {
            tracing::warn!("some guests are still being started or stopped");
        }
        // The groups' parent goes when no worker is left.
        let ids: Vec<_> = self.inner.shared.registry.records().iter().map(|record| record.id.to_string()).collect();
        crate::jail::sweep(&self.inner.shared.group, &ids.iter().map(String::as_str).collect::<Vec<_>>());
        self.inner.shared.close();
    }

    /// Takes a guest on record and starts it. Returns when it serves. A guest that did not start stays on no record.
    pub async fn create(&self, spec: GuestSpec) -> Result<GuestView, HostError> {
        let inner = self.inner.clone();
        // A task of its own: who asked may go away, and then it is finished all the same.
        let created = tokio::spawn(async move {
            let reservation = inner.guests.reserve(&inner.shared, spec)?;
            inner.create(reservation).await
        });
        created.await.unwrap_or(Err(HostError::Closing))
    }

    /// All guests, by name.
    pub async fn list(&self) -> Vec<GuestView> {
        let mut views: Vec<_> = self.inner.guests.all().iter().map(Supervised::view).collect();
        views.extend(self.inner.guests.arriving());
        views.sort_by(|one, other| one.spec.name.cmp(&other.spec.name));
        self.inner.shared.migrations.mark(&mut views);
        views
    }

    /// One guest. Asks its worker for a sign of life.
    pub async fn inspect(&self, name: &GuestName) -> Result<GuestView, HostError> {
        let mut view = self.inner.guests.find(name)?.look().await;
        self.inner.shared.migrations.mark([&mut view]);
        Ok(view)
    }

    /// Its counters; an error when it does not run or does not answer in time.
    pub async fn stats(&self, name: &GuestName) -> Result<GuestStats, HostError> {
        let guest = self.inner.guests.find(name)?;
        let worker = guest.worker().ok_or_else(|| HostError::NotRunning(name.clone()))?;
        let stats = worker.stats().await;
        guest.note_answer(worker.pid(), stats.is_ok());
        stats.map_err(|source| HostError::NoAnswer { name: name.clone(), source })
    }

    /// Starts a guest that is stopped, ended, waiting or parked.
    pub async fn start(&self, name: &GuestName) -> Result<GuestView, HostError> {
        self.inner.guests.find(name)?.start(name).await
    }

    /// Stops a guest; one that does not end within `grace` is killed. Stopping a stopped guest is no error.
    pub async fn stop(&self, name: &GuestName, grace: Duration) -> Result<GuestView, HostError> {
        self.inner.guests.find(name)?.stop(name, grace).await
    }

    /// Deletes a guest, its record and its log. One that runs is refused unless `force`.
    pub async fn delete(&self, name: &GuestName, force: bool) -> Result<(), HostError> {
        let guest = self.inner.guests.find(name)?;
        guest.delete(name, force).await?;
        self.inner.guests.remove(name, guest.id);
        Ok(())
    }

    /// Its log. Following never holds up the guest.
    pub async fn logs(&self, name: &GuestName, query: LogQuery) -> Result<LogLines, HostError> {
        let guest = self.inner.guests.find(name)?;
        let dir = self.inner.shared.layout.guest(guest.id);
        let opened = tokio::task::spawn_blocking(move || LogReader::open(&dir, query.tail)).await;
        let reader = opened.map_err(|_ending| HostError::Closing)?.map_err(HostError::io("opening a log"))?;
        let lines = logs::lines(reader, query.follow.then(|| guest.watch()));
        Ok(match query.tail {
            // A guest that writes meanwhile adds none.
            Some(tail) if !query.follow => Box::pin(lines.take(usize::try_from(tail).unwrap_or(usize::MAX))),
            _ => lines,
        })
    }

    /// All modules.
    pub async fn modules(&self) -> Result<Vec<ModuleView>, HostError> {
        let known = self.inner.shared.modules.list()?;
        Ok(known.into_iter().map(|(digest, size_bytes)| self.inner.module_view(digest, size_bytes)).collect())
    }

    /// Whether a module is here.
    pub async fn module(&self, digest: ModuleHash) -> Result<ModuleView, HostError> {
        Ok(self.inner.module_view(digest, self.inner.shared.modules.size(digest)?))
    }

    /// Takes a module: checks digest and size, checks that it is a guest and compiles it (jailed), and keeps both.
    /// `true` if it was new. Half of it leaves nothing behind.
    pub async fn put_module(&self, digest: ModuleHash, bytes: ModuleBytes) -> Result<bool, HostError> {
        self.inner.shared.modules.put(digest, bytes).await
    }

    /// A module's bytes.
    pub async fn read_module(&self, digest: ModuleHash) -> Result<tokio::fs::File, HostError> {
        self.inner.shared.modules.size(digest)?;
        let opened = tokio::fs::File::open(self.inner.shared.modules.path(digest)).await;
        opened.map_err(HostError::io("opening a module"))
    }

    /// Deletes a module that no guest uses.
    pub async fn delete_module(&self, digest: ModuleHash) -> Result<(), HostError> {
        self.inner.guests.if_unused(digest, || self.inner.shared.modules.remove(digest))
    }

    /// What this host is.
    pub async fn about(&self) -> HostView {
        let shared = &self.inner.shared;
        let kernel = nix::sys::utsname::uname();
        let kernel = kernel.map(|uname| uname.release().to_string_lossy().into_owned()).unwrap_or_default();
        HostView {
            name: shared.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            abi_version: roam_abi::VERSION,
            netstack: shared.modules.netstack(),
            kernel,
            cores: std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32),
            guests: self.inner.guests.all().len() as u64,
            jail_lacks: crate::jail::lacks(),
            uptime_ms: self.inner.opened.elapsed().as_millis() as u64,
            overlay: shared.overlay.as_ref().map(Overlay::view),
        }
    }

    /// Whether it can do its work: the database takes writes, the bridge is there, a controller is followed if one
    /// is to be.
    pub async fn health(&self) -> Health {
        let mut health = self.own_health().await;
        health.problems.extend(self.inner.shared.overlay.iter().flat_map(Overlay::problems));
        Health { healthy: health.problems.is_empty(), ..health }
    }

    /// The same without what others have to do with it. Guests are served without a controller, too.
    pub async fn own_health(&self) -> Health {
        let shared = &self.inner.shared;
        let mut problems = Vec::new();
        if let Err(error) = shared.registry(|registry| registry.probe()).await {
            problems.push(in_full(&error));
        }
        for path in shared.registry.set_aside() {
            let path = path.display();
            problems.push(format!("the database was damaged and made anew; look at {path}, then remove it"));
        }
        if let Err(error) = shared.links.check_bridge().await {
            problems.push(in_full(&error));
        }
        match nix::sys::statvfs::statvfs(shared.layout.state()) {
            Ok(disk) => {
                let free = disk.blocks_available().saturating_mul(disk.fragment_size());
                if free < FREE_BYTES_MIN {
                    problems.push(format!("the disk is nearly full: {free} bytes are free"));
                }
            }
            Err(error) => problems.push(format!("the state directory cannot be looked at: {error}")),
        }
        Health { healthy: problems.is_empty(), problems }
    }
}

impl Inner {
    /// Record and worker come about at the same time; what is not on record is swept away should we be killed here.
    async fn create(&self, reservation: Reservation) -> Result<GuestView, HostError> {
        let shared = &self.shared;
        let record = self.claimed(&reservation.record).await?;
        let (kept, started) = tokio::join!(shared.put(&record), supervisor::start(shared, &record));
        let failed = match (kept, started) {
            (Ok(()), Ok(worker)) => {
                let guest = Supervised::begin(shared.clone(), record.clone(), Begin::Serving(worker));
                tracing::info!(guest = %record.spec.name, id = %record.id, tap = record.network.tap, "deployed");
                let view = guest.view();
                self.guests.insert(record.spec.name.clone(), guest.clone());
                // Its owner may have changed before it could be told.
                guest.check_owner();
                return Ok(view);
            }
            (Err(error), started) => {
                if let Ok(worker) = started {
                    worker.end().await;
                }
                error
            }
            (Ok(()), Err(error)) => supervisor::start_failed(&record, error),
        };
        supervisor::clear(shared, record.id).await;
        if let Some(overlay) = &shared.overlay {
            overlay.release(&record).await;
        }
        self.forget(&record).await;
        Err(failed)
    }

    /// With its address claimed, where a controller grants them. On record before: who is killed here claims it again.
    async fn claimed(&self, record: &Record) -> Result<Record, HostError> {
        let Some(overlay) = &self.shared.overlay else { return Ok(record.clone()) };
        self.shared.put(record).await?;
        match overlay.claim(record, None).await {
            Ok(generation) => Ok(record.changed(|record| record.generation = Some(generation))),
            // If it may be granted all the same, that is noted, and given back without it.
            Err(error) => {
                self.forget(record).await;
                Err(error)
            }
        }
    }

    /// A guest that was not created.
    async fn forget(&self, record: &Record) {
        if let Err(error) = self.shared.forget(record.id).await {
            tracing::error!(guest = %record.spec.name, error = in_full(&error), "a guest that was not created stays");
        }
    }

    fn module_view(&self, digest: ModuleHash, size_bytes: u64) -> ModuleView {
        let guests = self.guests.users(digest).iter().map(ToString::to_string).collect();
        ModuleView { digest, size_bytes, guests }
    }
}

/// Asks all workers for a sign of life now and then, as long as there is a host.
async fn look_after(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let Some(guests) = inner.upgrade().map(|inner| inner.guests.all()) else { return };
        let looks = stream::iter(guests).for_each_concurrent(LOOKS_MAX, async |guest| drop(guest.look().await));
        looks.await;
    }
}
