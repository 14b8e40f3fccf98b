//! Starting a guest's worker.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use roam_netstack::Config;

use super::Worker;
use super::worker::Line;
use crate::ambient::{now_ms, random};
use crate::api::{GuestSpec, NetworkView};
use crate::host::error::in_full;
use crate::host::layout::{self, comes_from_full};
use crate::host::record::{GuestId, Record};
use crate::host::shared::Shared;
use crate::host::{DeviceError, HostError};
use crate::jail::{Cgroup, CgroupLimits};
use crate::net::Tap;
use crate::worker::{self, ImageMap, Launch, LaunchError, Spawn, SpawnError, Task};

/// How long a worker may take to serve; a guest's start function is limited by its poll budget besides.
const START_LIMIT: Duration = Duration::from_secs(30);

/// The netstack's configuration of a guest.
pub(crate) fn network_config(spec: &GuestSpec, network: &NetworkView) -> Config {
    let mut config = Config::new(network.mac.0);
    config.ipv4 = network.ip.map(|ip| ip.0);
    config.ipv6 = network.ip6.map(|ip| ip.0);
    config.gateway4 = network.gateway;
    config.gateway6 = network.gateway6;
    config.mtu = network.mtu;
    config.segmentation = true;
    config.buffer_bytes_max = u32::try_from(spec.socket_memory_bytes_max).unwrap_or(u32::MAX);
    config
}

/// Starts a guest and waits until it serves. A failure, and dropping the future, leave no process and no device;
/// the rest is removed by [`clear`].
pub(crate) async fn start(shared: &Arc<Shared>, record: &Record) -> Result<Arc<Worker>, HostError> {
    start_as(shared, record, Way::Fresh).await
}

/// The same of a guest that comes from elsewhere: its worker waits for its state and memories, and has mapped what of an
/// image is to be mapped.
pub(crate) async fn start_waiting(
    shared: &Arc<Shared>,
    record: &Record,
    image: Option<(&ImageMap, BorrowedFd<'_>)>,
) -> Result<Arc<Worker>, HostError> {
    start_as(shared, record, Way::Waiting(image)).await
}

/// How a guest begins.
#[derive(Clone, Copy)]
enum Way<'a> {
    Fresh,
    Waiting(Option<(&'a ImageMap, BorrowedFd<'a>)>),
}

async fn start_as(shared: &Arc<Shared>, record: &Record, way: Way<'_>) -> Result<Arc<Worker>, HostError> {
    let mut started = start_once(shared, record, way).await;
    if let Err(HostError::Spawn(SpawnError::Launch(LaunchError::Module(reason)))) = &started {
        // Compiled by another roam, or for another processor, or damaged on its way: once more from the source.
        tracing::warn!(guest = %record.spec.name, reason, "the compiled module is made anew");
        shared.modules.forget_compiled(record.spec.module);
        started = start_once(shared, record, way).await;
    }
    if started.is_err() {
        clear(shared, record.id).await;
    }
    started
}

async fn start_once(shared: &Arc<Shared>, record: &Record, way: Way<'_>) -> Result<Arc<Worker>, HostError> {
    let (id, spec) = (record.id, &record.spec);
    let module = shared.modules.compiled(spec.module).await?;
    let netstack = shared.modules.compiled_netstack().await?;
    let files = Files::open(shared, id).map_err(HostError::io("making the guest's files"))?;
    let group = shared.group.clone();
    let network = network_config(spec, &record.network);
    let cgroup =
        Cgroup::new(&group, &id.to_string(), &CgroupLimits::serve(spec.memory_bytes_max, &network, spec.cpus_max))?;
    let control = worker::bind(&shared.layout.control(id)).map_err(HostError::io("making the control socket"))?;
    let tap = shared.links.tap(&record.network.tap, record.network.mtu).await?;
    let launch = Launch {
        task: task(shared, record, network, &tap, way)?,
        root: shared.layout.root().to_string_lossy().into_owned(),
        uid: shared.own_uids.then(|| id.uid()),
        leashed: shared.config.ephemeral,
    };
    let [log, log_old] = &files.log;
    let mut descriptors = vec![
        tap.as_fd(),
        module.as_fd(),
        netstack.as_fd(),
        control.as_fd(),
        log.as_fd(),
        log_old.as_fd(),
        files.end.as_fd(),
    ];
    if let Way::Waiting(Some((_, image))) = way {
        descriptors.push(image);
    }
    let spawning = worker::spawn(Spawn {
        program: &shared.config.worker_program,
        launch: &launch,
        descriptors: &descriptors,
        stderr: &files.stderr,
        cgroup: Some(&cgroup),
        limit: START_LIMIT,
    });
    let linked = async { Ok::<_, HostError>(shared.links.wait_for_link(&record.network.tap).await?) };
    let (process, ()) = tokio::try_join!(async { Ok(spawning.await?) }, linked)?;
    let started_ms = now_ms();
    // Only tells when, after the daemon was restarted.
    let _ = fs::write(shared.layout.started(id), started_ms.to_string());
    let line = Line::new(shared.layout.control(id), None);
    Ok(Arc::new(Worker { process, line, started_ms }))
}

fn task(shared: &Shared, record: &Record, network: Config, tap: &Tap, way: Way<'_>) -> Result<Task, HostError> {
    let spec = &record.spec;
    Ok(Task::Serve {
        name: spec.name.to_string(),
        id: record.id.to_string(),
        module: spec.module,
        args: std::iter::once(spec.name.to_string()).chain(spec.args.iter().cloned()).collect(),
        env: spec.env.iter().map(|(key, value)| format!("{key}={value}")).collect(),
        network,
        memory_bytes_max: spec.memory_bytes_max,
        poll_budget_us: spec.poll_budget_us,
        busy_poll_us: spec.busy_poll_us,
        // A new one for each run: a restarted guest must not repeat its sequence numbers and keys.
        seed: random().map_err(HostError::io("drawing a seed"))?,
        epoch_ns: i64::try_from(now_ms().saturating_mul(1_000_000)).unwrap_or(i64::MAX),
        tap_segments_udp: tap.segments_udp(),
        log_half_bytes: shared.config.log_bytes_max / 2,
        waits: matches!(way, Way::Waiting(_)),
        image: match way {
            Way::Waiting(Some((map, _))) => Some(map.clone()),
            Way::Waiting(None) | Way::Fresh => None,
        },
    })
}

/// Removes what a run leaves beside its record and log, once its worker has ended.
pub(crate) async fn clear(shared: &Shared, id: GuestId) {
    if let Err(error) = Cgroup::existing(&shared.group, &id.to_string()).remove().await {
        tracing::warn!(guest = %id, error = in_full(&error), "the control group stays");
    }
    if let Err(error) = layout::remove(&shared.layout.run(id)) {
        tracing::warn!(guest = %id, %error, "the run directory stays");
    }
}

/// The files a worker is handed.
struct Files {
    log: [File; 2],
    end: File,
    stderr: File,
}

impl Files {
    fn open(shared: &Shared, id: GuestId) -> io::Result<Self> {
        let layout = &shared.layout;
        layout::make_dir(&layout.guest(id))?;
        layout::remove(&layout.run(id))?;
        layout::make_dir(&layout.run(id))?;
        let fresh = |path| File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(path);
        Ok(Self {
            log: worker::open_log(&layout.guest(id))?,
            end: fresh(layout.end(id))?,
            stderr: fresh(layout.stderr(id))?,
        })
    }
}

/// Why a start failed, for whom asked for it.
pub(crate) fn start_failed(record: &Record, error: HostError) -> HostError {
    match error {
        error @ (HostError::DiskFull(_) | HostError::Closing | HostError::StartFailed { .. }) => error,
        HostError::Device(DeviceError::Tap(error)) if comes_from_full(&error) => HostError::DiskFull(error.to_string()),
        error => HostError::StartFailed { name: record.spec.name.clone(), reason: in_full(&error) },
    }
}
