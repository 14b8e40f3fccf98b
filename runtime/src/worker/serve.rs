//! The worker that runs a guest.
//!
//! ```text
//!  setup filter ─> map modules ─> control, watchdog: lock themselves ─> main locks itself ─> start the guest
//!                                                                              └─> listen ─> Ready ─> datapath
//! ```

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{Backlog, listen};
use roam_snapshot::sys::userfault;

use super::answer::{Answering, Outcome, wait_until_serving};
use super::datapath::{Datapath, State};
use super::log::Log;
use super::mailbox::Mailbox;
use super::{Daemon, ImageMap, LaunchError, Launched, Task, end};
use crate::engine::{Engine, GuestModule, ModuleHash};
use crate::guest::{Guest, GuestConfig, StartError};
use crate::jail::seccomp::{Role, SeccompError, lock};
use crate::net::{Edge, EdgeOptions, Overrun, Tap, Watchdog};
use crate::sentence::sentence;

/// Connections that wait to be taken: a restarted daemon, and room.
const BACKLOG: i32 = 16;

/// The daemon, until the guest serves. Whoever ends the worker before tells it why.
type Launching = Mutex<Option<Daemon>>;

/// A guest that is ready to be started, in a closed jail.
struct Prepared {
    engine: Engine,
    module: GuestModule,
    netstack: GuestModule,
    config: GuestConfig,
    tap: Tap,
    control: OwnedFd,
    end: File,
    log: Log,
    mailbox: Arc<Mailbox>,
    watchdog: Watchdog,
    userfault: Option<OwnedFd>,
    launching: Arc<Launching>,
    busy_poll: Duration,
    waits: bool,
    image: Option<(ImageMap, File)>,
}

/// Runs a guest until it ends. The exit codes are those of `roam run`.
pub(super) fn serve(
    task: Task,
    files: Vec<OwnedFd>,
    daemon: Daemon,
    leashed: bool,
) -> Result<ExitCode, (Daemon, LaunchError)> {
    let launching = Arc::new(Mutex::new(Some(daemon)));
    let served = prepare(task, files, launching.clone(), leashed).and_then(start).map(Datapath::run);
    served.map_err(|error| {
        // Nobody else takes the daemon but the watchdog, which ends the process.
        let daemon = take(&launching).unwrap_or_else(|| {
            loop {
                thread::park()
            }
        });
        (daemon, error)
    })
}

fn prepare(task: Task, files: Vec<OwnedFd>, launching: Arc<Launching>, leashed: bool) -> Result<Prepared, LaunchError> {
    let Task::Serve {
        name,
        id,
        module,
        args,
        env,
        network,
        memory_bytes_max,
        poll_budget_us,
        busy_poll_us,
        seed,
        epoch_ns,
        tap_segments_udp,
        log_half_bytes,
        waits,
        image,
    } = task
    else {
        return Err(LaunchError::Start("not a guest to serve".into()));
    };
    let mut files = files;
    let image = image.and_then(|map| Some((map, File::from(files.pop()?))));
    let [tap, module_file, netstack_file, control, log, log_old, end] = files
        .try_into()
        .map_err(|_others| LaunchError::Start("7 descriptors go with a guest, and its image's if it has one".into()))?;
    // The only privilege it takes is one over this process; no filter has to allow it later on.
    let userfault = userfault::open().ok();
    lock(Role::Setup).map_err(jail)?;
    let (engine, module, netstack) = map(module_file, module, netstack_file)?;
    let log = Log::begin(log.into(), log_old.into(), log_half_bytes, epoch_ns)
        .map_err(|error| LaunchError::Start(format!("the log cannot be gone on with: {error}")))?;
    let mailbox = Arc::new(Mailbox::new().map_err(start_failed)?);
    let end = File::from(end);
    let (locked, all_locked) = mpsc::channel();
    let answering = |control: &OwnedFd| {
        let listener = UnixListener::from(control.try_clone()?);
        Ok(Answering::new(mailbox.clone(), listener, name, id))
    };
    let answering = answering(&control).map_err(|error: std::io::Error| start_failed(error))?;
    spawn_control(answering, &launching, leashed, locked.clone())?;
    let budget = Duration::from_micros(poll_budget_us);
    let watchdog = spawn_watchdog(budget, &end, launching.clone(), locked)?;
    for _ in 0..2 {
        let locked = all_locked.recv().map_err(|_gone| LaunchError::Jail("a thread ended".into()))?;
        locked.map_err(jail)?;
    }
    engine.prepare_thread();
    lock(Role::Datapath).map_err(jail)?;
    let memory_bytes_max = usize::try_from(memory_bytes_max).unwrap_or(usize::MAX);
    let config = GuestConfig { args, env, network, memory_bytes_max, seed, epoch_ns };
    let busy_poll = Duration::from_micros(busy_poll_us);
    let tap = Tap::from_fd(tap, tap_segments_udp);
    Ok(Prepared {
        engine,
        module,
        netstack,
        config,
        tap,
        control,
        end,
        log,
        mailbox,
        watchdog,
        userfault,
        launching,
        busy_poll,
        waits,
        image,
    })
}

/// The code of guest and netstack, and what their memories begin with.
fn map(
    module_file: OwnedFd,
    module: ModuleHash,
    netstack_file: OwnedFd,
) -> Result<(Engine, GuestModule, GuestModule), LaunchError> {
    let failed = |error| LaunchError::Module(sentence(&error));
    let engine = Engine::new(None).map_err(failed)?;
    let module = engine.map_artifact(module_file.into(), module).map_err(failed)?;
    let netstack =
        engine.map_artifact(netstack_file.into(), ModuleHash::of(crate::modules::NETSTACK)).map_err(failed)?;
    for module in [&module, &netstack] {
        module.prepare_memory().map_err(failed)?;
    }
    Ok((engine, module, netstack))
}

fn spawn_control(
    answering: Answering,
    launching: &Launching,
    leashed: bool,
    locked: Sender<Result<(), SeccompError>>,
) -> Result<(), LaunchError> {
    // A descriptor of its own: it is watched until the guest serves, whoever has the other.
    let daemon = launching_daemon(launching).as_ref().map(Daemon::watcher);
    let daemon = daemon.transpose().map_err(start_failed)?;
    let run = move || {
        let _ = locked.send(lock(Role::Control));
        let Some(daemon) = daemon else { answering.run() };
        if wait_until_serving(&answering.mailbox, &daemon) == Outcome::GivenUp {
            std::process::exit(1);
        }
        if leashed { answering.leashed(daemon).run() } else { answering.run() }
    };
    thread::Builder::new().name("control".into()).spawn(run).map(drop).map_err(start_failed)
}

fn spawn_watchdog(
    budget: Duration,
    end: &File,
    launching: Arc<Launching>,
    locked: Sender<Result<(), SeccompError>>,
) -> Result<Watchdog, LaunchError> {
    let file = end.try_clone().map_err(start_failed)?;
    let on_start = move || drop(locked.send(lock(Role::Watchdog)));
    let on_overrun = move |overrun: Overrun| {
        let (end, code) = end::of_overrun(overrun);
        // First: a daemon that hears of it kills the worker.
        end::write_end(&file, &end);
        if let Some(daemon) = take(&launching) {
            let reason = format!("while it was started, {}", end.reason);
            let _ = daemon.tell(&Launched::Failed(LaunchError::Start(reason)));
        }
        std::process::exit(code.into());
    };
    Watchdog::with_start(budget, on_start, on_overrun).map_err(start_failed)
}

/// The guest's first instructions, and the word that it serves; or that it waits.
fn start(prepared: Prepared) -> Result<Datapath, LaunchError> {
    let started = prepared.watchdog.guard(|| instantiate(&prepared));
    let Prepared { tap, control, end, log, mailbox, watchdog, userfault, launching, busy_poll, waits, .. } = prepared;
    let guest = started.map_err(|error| {
        let record = match &error {
            StartError::Stopped(stopped) => end::of_stopped(stopped).0,
            error => end::failed(sentence(error)),
        };
        end::write_end(&end, &record);
        match error {
            StartError::Refused(refusal) => LaunchError::Refused(sentence(&refusal)),
            error => LaunchError::Start(sentence(&error)),
        }
    })?;
    let edge = Edge::new(tap, EdgeOptions { busy_poll });
    listen(&control, Backlog::new(BACKLOG).map_err(start_failed)?).map_err(start_failed)?;
    // A daemon that hears this may go: it will be back. One that cannot has gone already.
    if let Some(daemon) = take(&launching) {
        mailbox.say_serving();
        if daemon.tell(&Launched::Ready).is_err() {
            std::process::exit(1);
        }
    }
    let state = if waits { State::Waiting } else { State::Running };
    Ok(Datapath::new((guest, edge, state), (log, end), (mailbox, watchdog), userfault))
}

fn instantiate(prepared: &Prepared) -> Result<Guest, StartError> {
    let Prepared { engine, module, netstack, config, waits, image, .. } = prepared;
    if *waits {
        warm(prepared);
        let mut guest = Guest::waiting(engine, module, netstack, config)?;
        if let Some((map, file)) = image {
            guest.grow_to(&map.sizes)?;
            guest.map_image(file, &map.runs)?;
        }
        return Ok(guest);
    }
    let mut guest = Guest::start(engine, module, netstack, config)?;
    guest.announce()?;
    Ok(guest)
}

/// Has the code run once, so that a guest that comes later does not wait for it to be mapped: that takes 100 to 300
/// microseconds. The guest it runs in is thrown away with all it did; should it fail, that is not the other's fault.
fn warm(Prepared { engine, module, netstack, config, .. }: &Prepared) {
    if let Ok(mut guest) = Guest::start(engine, module, netstack, config) {
        let _ = guest.announce().and_then(|()| guest.poll(0)).and_then(|_polled| guest.deadline_ns());
    }
}

fn take(launching: &Launching) -> Option<Daemon> {
    launching_daemon(launching).take()
}

fn launching_daemon(launching: &Launching) -> MutexGuard<'_, Option<Daemon>> {
    launching.lock().unwrap_or_else(PoisonError::into_inner)
}

fn jail(error: SeccompError) -> LaunchError {
    LaunchError::Jail(sentence(&error))
}

fn start_failed(error: impl Into<std::io::Error>) -> LaunchError {
    LaunchError::Start(format!("the worker could not be set up: {}", error.into()))
}
