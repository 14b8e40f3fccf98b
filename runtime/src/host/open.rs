//! Opening a host: what the last daemon, or the last boot, left behind is taken up, made up for, or cleared away.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use roam_sdn::model::Generation;

use super::addresses::Mtu;
use super::checkpoint::Checkpoints;
use super::device::Links;
use super::error::in_full;
use super::guests::{Guests, guests_max};
use super::layout::{self, Layout};
use super::migrate::{Mark, Port, Sessions};
use super::migrations::Migrations;
use super::modules::{Compiler, Modules};
use super::overlay::Overlay;
use super::record::{Record, Standing};
use super::registry::Registry;
use super::shared::Shared;
use super::supervisor::{Begin, Found, Supervised, Worker, clear, end_stranger, end_strays, find};
use super::{HostConfig, OpenError};
use crate::ambient::boot_id;
use crate::jail;
use crate::worker::{Hold, become_subreaper};

/// What VXLAN over an Ethernet of 1500 bytes carries (RFC 7348, over IPv4).
const TUNNEL_MTU: u32 = 1450;
/// Guests looked for at once.
const LOOKS_MAX: usize = 64;
/// How long, and how often, a state directory is tried that another daemon seems to have.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// How long a worker that may wait for its guest has to answer.
const HOLD_LIMIT: Duration = Duration::from_secs(2);

/// Opens everything but the guests.
pub(super) async fn shared(config: HostConfig) -> Result<Arc<Shared>, OpenError> {
    let unusable = |path: &Path| {
        let path = path.to_path_buf();
        move |source| OpenError::Directory { path, source }
    };
    let layout = Layout::make(&config.state_dir, &config.run_dir);
    let layout = layout.map_err(|(path, source)| OpenError::Directory { path, source })?;
    let lock = patient_lock(&layout).await.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Taken(config.state_dir.clone()),
        _ => unusable(&config.state_dir)(error),
    })?;
    become_subreaper().map_err(|source| OpenError::System { doing: "becoming the reaper of workers", source })?;
    let registry = Arc::new(Registry::open(layout.clone())?);
    let (guests, guests_max) = (registry.records().len(), guests_max());
    if guests > guests_max {
        return Err(OpenError::TooManyGuests { guests, guests_max });
    }
    let links = Links::open(config.bridge.clone())?;
    let mtu = mtu(&config, &links).await?;
    let overlay = config.overlay.as_ref().map(|overlay| {
        let name = config.name.parse().map_err(OpenError::Name)?;
        Overlay::open(overlay, config.migrate, name, &config.bridge, layout.releases())
    });
    let overlay = overlay.transpose()?;
    let group = control_group(&config.name, layout.state());
    let ids: Vec<_> = registry.records().iter().map(|record| record.id.to_string()).collect();
    end_strays(&group, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let own_uids = jail::has_own_users();
    let compiler = Compiler { program: config.worker_program.clone(), group: group.clone(), own_uid: own_uids };
    let modules = Modules::open(layout.clone(), compiler).await.map_err(|error| OpenError::Modules(Box::new(error)))?;
    let port = config.tls.as_ref().map(Port::open).transpose()?;
    let sessions = Sessions::open(layout.sessions());
    let migrations = Migrations::open(layout.migrations());
    Ok(Arc::new(Shared {
        config,
        layout,
        registry,
        modules,
        links,
        mtu,
        sessions,
        port,
        migrations,
        checkpoints: Checkpoints::default(),
        overlay,
        group,
        own_uids,
        lock: Mutex::new(Some(lock)),
    }))
}

/// Frames that the tunnels do not carry would be lost without a word: bridges tell nobody.
async fn mtu(config: &HostConfig, links: &Links) -> Result<Mtu, OpenError> {
    let tunnel = config.overlay.as_ref().and_then(|overlay| overlay.tunnel.as_deref());
    let carries = match tunnel {
        Some(tunnel) => links.mtu(tunnel).await?.or_else(|| {
            tracing::warn!(tunnel, "there is no such device yet; guests have the MTU of one over Ethernet");
            Some(TUNNEL_MTU)
        }),
        None => None,
    };
    let mtu = Mtu::new(config.mtu, carries);
    if config.mtu.is_some_and(|asked| asked > mtu.most) {
        tracing::warn!(asked = config.mtu, carries, tunnel, "guests have the MTU that the tunnel carries");
    }
    Ok(mtu)
}

/// Takes up the guests on record, and clears away what is on none.
pub(super) async fn guests(shared: &Arc<Shared>) -> Result<Guests, OpenError> {
    let boot = boot_id();
    let path = shared.layout.boot();
    let rebooted = fs::read_to_string(&path).is_ok_and(|last| last != boot);
    let records = shared.registry.records();
    let guests = Guests::default();
    let taken = stream::iter(records.iter().cloned())
        .map(|record| take_up(shared, record, rebooted))
        .buffer_unordered(LOOKS_MAX);
    let taken: Vec<_> = taken.collect().await;
    for (name, guest) in taken.into_iter().flatten() {
        guests.insert(name, guest);
    }
    sweep(shared, &records).await;
    layout::write_whole(&path, boot.as_bytes()).map_err(|source| OpenError::Directory { path, source })?;
    Ok(guests)
}

/// Takes up one guest, or finishes deleting it.
async fn take_up(shared: &Arc<Shared>, record: Record, rebooted: bool) -> Option<(crate::api::GuestName, Supervised)> {
    let found = match find(shared, record.id).await {
        Found::Strangers(processes) => {
            for process in &processes {
                end_stranger(process).await;
            }
            Found::Nobody
        }
        found => found,
    };
    let name = record.spec.name.clone();
    if !matches!(record.standing, Standing::Arriving | Standing::Fenced | Standing::Deleted) {
        note_moved(shared, &record);
    }
    let mut answers = true;
    let begin = match (record.standing, found) {
        (Standing::Deleted, found) => {
            finish_deleting(shared, &record, found).await;
            return None;
        }
        (Standing::Arriving, found) => match arrived(shared, &record, found).await {
            Some((came, worker)) => {
                let begin = worker.map_or(Begin::Ended { rebooted }, Begin::Serving);
                return Some((name, Supervised::begin(shared.clone(), came, begin)));
            }
            None => return None,
        },
        (_, Found::Worker { worker, answers: answered }) => {
            tracing::info!(guest = %name, pid = worker.pid(), "found serving");
            answers = answered;
            Begin::Serving(Arc::new(worker))
        }
        (Standing::Run, _) => Begin::Ended { rebooted },
        (Standing::Again, _) => Begin::Start,
        _ => {
            clear(shared, record.id).await;
            Begin::Rest
        }
    };
    let pid = if let Begin::Serving(worker) = &begin { worker.pid() } else { 0 };
    let guest = Supervised::begin(shared.clone(), record, begin);
    if !answers {
        guest.note_answer(pid, false);
    }
    Some((name, guest))
}

/// A guest that was coming from another host when the last daemon ended: here, if its worker serves. One that waits was
/// never polled and never will be, which is what its source is told.
async fn arrived(shared: &Arc<Shared>, record: &Record, found: Found) -> Option<(Record, Option<Arc<Worker>>)> {
    if let Found::Worker { worker, .. } = found {
        if !waits(shared, record).await {
            let came = has_come(shared, record);
            if let Err(error) = shared.put(&came).await {
                tracing::error!(guest = %came.spec.name, error = in_full(&error), "a guest that came is not on record as serving");
            }
            return Some((came, Some(Arc::new(worker))));
        }
        // First: without its worker it would be taken to have been polled.
        if let Err(error) = layout::remove(&shared.layout.came(record.id)) {
            tracing::error!(guest = %record.spec.name, %error, "what was left of its arrival stays");
        }
        worker.end().await;
    } else if matches!(Mark::read(&shared.layout.came(record.id)), Ok(Some(_))) {
        // It was polled, and has ended since.
        return Some((has_come(shared, record), None));
    }
    tracing::warn!(guest = %record.spec.name, "a guest that was on its way here did not come");
    if let Some(overlay) = shared.overlay.as_ref().filter(|_| record.arrived.is_none()) {
        // Its address was claimed for it; that of one that comes from another host is that host's.
        overlay.release(record).await;
    }
    clear(shared, record.id).await;
    if let Err(error) = shared.forget(record.id).await {
        tracing::error!(guest = %record.id, error = in_full(&error), "a guest that did not come stays on record");
    }
    None
}

/// It is this host's since the generation that was asked for before it was polled.
fn has_come(shared: &Shared, record: &Record) -> Record {
    note_moved(shared, record);
    record.changed(|record| {
        record.standing = Standing::Run;
        // One that was restored has claimed its own.
        record.generation = record.moved_from().map(Generation::next).or(record.generation);
    })
}

/// What was granted may be forgotten: until it is known to be on disk it is asked for as it was asked for at first.
fn note_moved(shared: &Shared, record: &Record) {
    if let (Some(overlay), Some(from)) = (&shared.overlay, record.moved_from()) {
        overlay.came(record.network.mac, from);
    }
}

/// Whether a worker waits for its guest. One that cannot be asked is taken to serve.
async fn waits(shared: &Arc<Shared>, record: &Record) -> bool {
    let control = shared.layout.control(record.id);
    let asked = tokio::task::spawn_blocking(move || {
        let (mut hold, _) = Hold::take(&control, HOLD_LIMIT).ok()?;
        hold.layout().ok()
    });
    asked.await.ok().flatten().is_some_and(|layout| layout.waits)
}

async fn finish_deleting(shared: &Shared, record: &Record, found: Found) {
    let id = record.id;
    if let Found::Worker { worker, .. } = found {
        worker.end().await;
    }
    clear(shared, id).await;
    if let Some(overlay) = &shared.overlay {
        overlay.release(record).await;
    }
    if let Err(error) = shared.forget(id).await {
        tracing::error!(guest = %id, error = in_full(&error), "a deleted guest stays on record");
    }
}

/// Ends workers and removes files and groups that no record knows.
async fn sweep(shared: &Shared, records: &[Record]) {
    let known = |name: &str| records.iter().any(|record| record.id.to_string() == name);
    for dir in [shared.layout.running(), shared.layout.guests()] {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if known(&name) {
                continue;
            }
            if let Ok(id) = name.parse() {
                match find(shared, id).await {
                    Found::Worker { worker, .. } => worker.end().await,
                    Found::Strangers(processes) => {
                        for process in &processes {
                            end_stranger(process).await;
                        }
                    }
                    Found::Nobody => {}
                }
            }
            tracing::warn!(path = %entry.path().display(), "no record knows this; it is removed");
            if let Err(error) = layout::remove(&entry.path()) {
                tracing::error!(path = %entry.path().display(), %error, "it cannot be removed");
            }
        }
    }
    let ids: Vec<_> = records.iter().map(|record| record.id.to_string()).collect();
    let ids: Vec<_> = ids.iter().map(String::as_str).collect();
    jail::sweep(&shared.group, &ids);
}

/// A daemon that was killed while it started a worker leaves a child that has the lock until its `exec`.
async fn patient_lock(layout: &Layout) -> io::Result<Flock<File>> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match lock(layout) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            result => return result,
        }
    }
}

fn lock(layout: &Layout) -> io::Result<Flock<File>> {
    let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(layout.lock())?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => io::ErrorKind::WouldBlock.into(),
        errno => errno.into(),
    })
}

/// What a host's control groups are called. Two hosts of one name on a machine, in two labs say, have two state
/// directories; the path is absolute.
pub fn control_group(name: &str, state_dir: &Path) -> String {
    let digest = blake3::hash(state_dir.as_os_str().as_encoded_bytes()).to_hex();
    format!("{name}-{}", &digest[..8])
}
