//! `kill -9` of daemon and workers at random moments under load: what was promised holds, and nothing stays behind.
//!
//! A model of what the daemon has confirmed stands beside it. After each kill the daemon is started again and must know
//! what the model knows: a confirmed guest is on record, a stopped one stays stopped, a deleted one stays away, and
//! workers that were not hit serve on as the same process. Where the daemon died before it could answer, either outcome
//! is right, and from then on the one that is seen is held against it. `ROAM_SEED` repeats a run.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::{Bed, LIMIT, ROAM, ask, wasm};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use roam_runtime::api::client::{Client, ClientError, Endpoint};
use roam_runtime::api::{EndKind, GuestName, GuestSpec, GuestState, GuestView, RestartPolicy};
use roam_runtime::engine::ModuleHash;
use roam_runtime::lab::Process;
use roam_runtime::worker::Control;

const KILLS: u32 = 120;
const GUESTS_MAX: usize = 5;
/// How long after a request is sent the kill comes, at most: a deployment takes about as long.
const KILL_AFTER_US_MAX: u64 = 40_000;
/// Between two checks that all who should serve do.
const KILLS_PER_CHECK: u32 = 10;

#[test]
fn what_is_confirmed_outlives_a_hundred_kills() {
    let seed = std::env::var("ROAM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let Some(bed) = Bed::new() else { return };
    println!("ROAM_SEED={seed}");
    let mut rig = Rig::new(&bed, seed);
    let steady = rig.create(0);
    assert!(steady.is_ok(), "{steady:?}");
    let steady_pid = rig.list()["g0"].pid;
    let over = AtomicBool::new(false);
    let answers = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| load(&bed, &over, &answers));
        // The load ends also when something fails here.
        let _stop = OnDrop(|| over.store(true, Ordering::Relaxed));
        for count in 1..=KILLS {
            rig.step();
            if count % KILLS_PER_CHECK == 0 {
                rig.all_serve(&bed);
            }
        }
    });
    assert!(answers.load(Ordering::Relaxed) > 0, "the guest under load never answered");
    assert_eq!(rig.list()["g0"].pid, steady_pid, "nobody touched it");
    println!("{} daemons and {} workers killed, {} parked", rig.daemons_killed, rig.workers_killed, rig.parked);
    rig.leaves_nothing(&bed);
}

/// Sends to the steady guest until told to stop; every reply must be what was sent.
fn load(bed: &Bed, over: &AtomicBool, answers: &AtomicU64) {
    let socket = bed.udp(&address(0), 7);
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut number = 0u64;
    let mut reply = [0; 64];
    while !over.load(Ordering::Relaxed) {
        number += 1;
        socket.send(&number.to_be_bytes()).unwrap();
        // A reply that comes late is one to an earlier number.
        if let Ok(length) = socket.recv(&mut reply) {
            let echoed = u64::from_be_bytes(reply[..length].try_into().expect("eight bytes went out"));
            assert!((1..=number).contains(&echoed), "{echoed} was never sent");
            answers.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn address(number: u32) -> String {
    format!("10.90.0.{}", 10 + number)
}

/// What is held against the daemon.
#[derive(Clone, Debug)]
struct Promise {
    number: u32,
    runs: bool,
    /// The worker, if it was seen and nobody has killed it since.
    pid: Option<u32>,
}

#[derive(Clone, Debug)]
enum Act {
    Create(u32),
    Stop(String),
    Start(String),
    Delete(String),
}

struct Rig<'a> {
    bed: &'a Bed,
    dir: PathBuf,
    daemon: Option<Process>,
    client: Client,
    runtime: tokio::runtime::Runtime,
    module: ModuleHash,
    random: ChaCha8Rng,
    promised: BTreeMap<String, Promise>,
    created: u32,
    daemons_killed: u32,
    workers_killed: u32,
    parked: u32,
    pids: Vec<u32>,
}

impl<'a> Rig<'a> {
    fn new(bed: &'a Bed, seed: u64) -> Self {
        let dir = std::env::temp_dir().join(format!("roam-chaos-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let bytes = fs::read(wasm("echo")).unwrap();
        let mut rig = Self {
            bed,
            client: Client::new(Endpoint::Unix(dir.join("run/api.sock"))),
            dir,
            daemon: None,
            runtime: tokio::runtime::Runtime::new().unwrap(),
            module: ModuleHash::of(&bytes),
            random: ChaCha8Rng::seed_from_u64(seed),
            promised: BTreeMap::new(),
            created: 0,
            daemons_killed: 0,
            workers_killed: 0,
            parked: 0,
            pids: Vec::new(),
        };
        rig.start_daemon();
        let file = fs::File::open(wasm("echo")).unwrap();
        rig.runtime.block_on(rig.client.put_module(rig.module, file.into(), |_| {})).unwrap();
        rig
    }

    fn start_daemon(&mut self) {
        let mut command = self.bed.lab.host().command(ROAM);
        command.args(["host", "--name", &self.host_name(), "--bridge", "br0"]);
        command.arg("--state-dir").arg(self.dir.join("state")).arg("--run-dir").arg(self.dir.join("run"));
        command.env("ROAM_LOG", "info").env_remove("ROAM_CONFIG");
        let mut daemon = Process::spawn(command).unwrap();
        daemon.wait_for("ready", LIMIT).unwrap();
        self.daemon = Some(daemon);
    }

    fn host_name(&self) -> String {
        format!("chaos-{}", std::process::id())
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.random.next_u64() % bound as u64) as usize
    }

    fn list(&mut self) -> BTreeMap<String, GuestView> {
        let list = self.runtime.block_on(self.client.list()).unwrap();
        let views: BTreeMap<_, _> = list.into_iter().map(|view| (view.spec.name.to_string(), view)).collect();
        self.pids.extend(views.values().filter_map(|view| view.pid));
        views
    }

    fn spec(&self, number: u32) -> GuestSpec {
        let name: GuestName = format!("g{number}").parse().unwrap();
        let mut spec = GuestSpec::new(name, self.module);
        spec.ip = Some(format!("{}/24", address(number)).parse().unwrap());
        spec.restart = RestartPolicy::Always;
        spec
    }

    fn create(&mut self, number: u32) -> Result<(), ClientError> {
        self.runtime.block_on(self.client.create(&self.spec(number)))?;
        self.promised.insert(format!("g{number}"), Promise { number, runs: true, pid: None });
        self.created = number + 1;
        Ok(())
    }

    /// A request, and a kill while it is under way; then everything promised must still be so.
    fn step(&mut self) {
        let act = self.choose();
        let victim = self.choose_victim();
        let delay = Duration::from_micros(self.random.next_u64() % KILL_AFTER_US_MAX);
        let (client, asked, spec) = (self.client.clone(), act.clone(), self.spec(self.created));
        let request = self.runtime.spawn(async move {
            let name = |name: &str| name.parse::<GuestName>().unwrap();
            match asked {
                None => Ok(()),
                Some(Act::Create(_)) => client.create(&spec).await.map(drop),
                Some(Act::Stop(guest)) => client.stop(&name(&guest), Duration::from_secs(2)).await.map(drop),
                Some(Act::Start(guest)) => client.start(&name(&guest)).await.map(drop),
                Some(Act::Delete(guest)) => client.delete(&name(&guest), true).await,
            }
        });
        thread::sleep(delay);
        match &victim {
            Some(guest) => {
                let promise = self.promised.get_mut(guest).unwrap();
                let pid = promise.pid.take().unwrap();
                // It may have ended on request already.
                let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
                let deadline = Instant::now() + LIMIT;
                while is_alive(pid) {
                    assert!(Instant::now() < deadline, "{pid} outlives a SIGKILL");
                    thread::sleep(Duration::from_millis(1));
                }
                self.workers_killed += 1;
            }
            None => {
                let mut daemon = self.daemon.take().unwrap();
                daemon.signal(Signal::SIGKILL).unwrap();
                daemon.wait(LIMIT).unwrap().expect("it was killed");
                self.daemons_killed += 1;
            }
        }
        let answer = self.runtime.block_on(request).unwrap();
        if victim.is_none() {
            self.start_daemon();
        }
        self.settle(act, answer, victim.is_none());
    }

    fn choose(&mut self) -> Option<Act> {
        // The steady one is left alone.
        let known: Vec<(String, bool)> =
            self.promised.iter().skip(1).map(|(name, promise)| (name.clone(), promise.runs)).collect();
        if known.len() < 2 {
            return Some(Act::Create(self.created));
        }
        let (name, runs) = known[self.below(known.len())].clone();
        match self.below(8) {
            0..=2 if known.len() < GUESTS_MAX => Some(Act::Create(self.created)),
            3..=4 if runs => Some(Act::Stop(name)),
            3..=5 if !runs => Some(Act::Start(name)),
            6 => Some(Act::Delete(name)),
            _ => None,
        }
    }

    /// A guest whose worker to kill, or `None` for the daemon.
    fn choose_victim(&mut self) -> Option<String> {
        let known: Vec<String> = self
            .promised
            .iter()
            .skip(1)
            .filter(|(_, promise)| promise.pid.is_some())
            .map(|(name, _)| name.clone())
            .collect();
        if known.is_empty() || self.below(2) == 0 {
            return None;
        }
        Some(known[self.below(known.len())].clone())
    }

    /// Brings the model up to what was answered, or seen where no answer came, and holds it against the daemon.
    fn settle(&mut self, act: Option<Act>, answer: Result<(), ClientError>, daemon_died: bool) {
        let certain = match &answer {
            Ok(()) => true,
            Err(ClientError::Refused { body, .. }) => panic!("{act:?} was refused: {body:?}"),
            Err(error) => {
                assert!(daemon_died, "{act:?}: {error}");
                false
            }
        };
        let seen = self.list();
        let stopped = |name: &str| matches!(seen[name].state, GuestState::Stopped | GuestState::Stopping);
        match act {
            None => {}
            Some(Act::Create(number)) => {
                self.created = number + 1;
                let name = format!("g{number}");
                if certain || seen.contains_key(&name) {
                    self.promised.insert(name, Promise { number, runs: true, pid: None });
                }
            }
            Some(Act::Stop(name) | Act::Start(name)) if !certain => {
                let runs = !stopped(&name);
                let promise = self.promised.get_mut(&name).unwrap();
                (promise.runs, promise.pid) = (runs, None);
            }
            Some(Act::Stop(name)) => {
                let promise = self.promised.get_mut(&name).unwrap();
                (promise.runs, promise.pid) = (false, None);
            }
            Some(Act::Start(name)) => self.promised.get_mut(&name).unwrap().runs = true,
            Some(Act::Delete(name)) => {
                // A deletion once on record is finished; before that the guest is as it was.
                if certain || !seen.contains_key(&name) || seen[&name].state == GuestState::Stopping {
                    self.promised.remove(&name);
                } else {
                    self.promised.get_mut(&name).unwrap().pid = None;
                }
            }
        }
        self.hold();
    }

    fn hold(&mut self) {
        let deadline = Instant::now() + LIMIT;
        let mut seen = self.list();
        // Who is killed often enough counts as a crash loop; an operator starts it again.
        for view in seen.values().filter(|view| view.state == GuestState::Parked) {
            assert_eq!(view.last_end.as_ref().map(|end| end.kind), Some(EndKind::Killed), "{view:?}");
            self.runtime.block_on(self.client.start(&view.spec.name)).unwrap();
            self.parked += 1;
        }
        seen = self.list();
        // Deletions and stops that were under way are finished in a moment.
        while seen.values().any(|view| view.state == GuestState::Stopping) {
            assert!(Instant::now() < deadline, "still stopping: {seen:?}");
            thread::sleep(Duration::from_millis(5));
            seen = self.list();
        }
        let names: Vec<&String> = seen.keys().collect();
        assert_eq!(names, self.promised.keys().collect::<Vec<_>>(), "what is on record");
        for (name, promise) in &mut self.promised {
            let view = &seen[name];
            if !promise.runs {
                assert_eq!((view.state, view.pid), (GuestState::Stopped, None), "{name}");
                continue;
            }
            let running = view.state == GuestState::Running;
            assert!(running || matches!(view.state, GuestState::Starting | GuestState::Waiting), "{view:?}");
            if let Some(pid) = promise.pid {
                assert_eq!((view.state, view.pid), (GuestState::Running, Some(pid)), "{name} was not hit");
            } else if running && view.pid.is_some_and(is_alive) {
                promise.pid = view.pid;
            }
        }
    }

    /// Everyone who should serve does, sooner or later.
    fn all_serve(&mut self, bed: &Bed) {
        for promise in self.promised.values().filter(|promise| promise.runs) {
            ask(&bed.udp(&address(promise.number), 7), b"are you there", b"are you there");
        }
    }

    fn leaves_nothing(&mut self, bed: &Bed) {
        let names: Vec<String> = self.promised.keys().cloned().collect();
        for name in names {
            self.runtime.block_on(self.client.delete(&name.parse().unwrap(), true)).unwrap();
        }
        assert!(self.list().is_empty());
        for pid in &self.pids {
            assert!(!is_alive(*pid), "worker {pid} is left");
        }
        let links = bed.lab.host().call("ip -o link show type tun", b"", LIMIT).unwrap().success().unwrap().text();
        assert_eq!(links, "", "TAPs are left");
        for guests in ["state/guests", "run/guests"] {
            let left: Vec<_> = fs::read_dir(self.dir.join(guests)).into_iter().flatten().collect();
            assert!(left.is_empty(), "{left:?}");
        }
        let daemon = self.daemon.as_mut().unwrap();
        daemon.signal(Signal::SIGTERM).unwrap();
        assert!(daemon.wait(LIMIT).unwrap().expect("it ends").success());
        assert!(!self.dir.join("run/api.sock").exists());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.to_str().unwrap()), "a mount is left");
        let cgroups = cgroups_of(Path::new("/sys/fs/cgroup"), &self.host_name());
        assert!(cgroups.is_empty(), "{cgroups:?}");
    }
}

impl Drop for Rig<'_> {
    fn drop(&mut self) {
        if thread::panicking()
            && let Some(daemon) = &self.daemon
        {
            eprintln!("--- log of the daemon\n{}---", daemon.stderr());
        }
        self.daemon = None;
        for guest in fs::read_dir(self.dir.join("run/guests")).into_iter().flatten().flatten() {
            let socket = guest.path().join("control.sock");
            if let Ok(control) = self.runtime.block_on(Control::connect(&socket, Duration::from_secs(1))) {
                let _ = kill(Pid::from_raw(control.pid() as i32), Signal::SIGKILL);
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Whether a process runs; one that only waits to be reaped does not.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Control groups whose path names this host.
fn cgroups_of(dir: &Path, host: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let below = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    below
        .flat_map(|entry| {
            let path = entry.path();
            if entry.file_name().to_string_lossy().contains(host) { vec![path] } else { cgroups_of(&path, host) }
        })
        .collect()
}
