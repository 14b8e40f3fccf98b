//! Workers as a host daemon starts them, without the daemon.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use roam_netstack::Cidr;
use roam_runtime::api::End;
use roam_runtime::engine::ModuleHash;
use roam_runtime::jail::Cgroup;
use roam_runtime::net::{Tap, TapOptions};
use roam_runtime::worker::{
    Control, Launch, LogReader, Spawn, SpawnError, Task, WorkerProcess, bind, open_log, read_end, spawn,
};
use roam_runtime::{modules, worker};

use super::{Bed, LIMIT, ROAM, ask, echo_both_ways};

/// A guest's directory, as a daemon keeps it. It goes with the value, and with it the worker.
pub(crate) struct Home {
    pub(crate) directory: PathBuf,
    pub(crate) pid: Option<u32>,
}

impl Home {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("roam-worker-{}-{number}", std::process::id()));
        fs::create_dir_all(directory.join("root")).unwrap();
        Self { directory, pid: None }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(crate) fn file(&self, name: &str) -> File {
        OpenOptions::new().read(true).write(true).create(true).truncate(true).open(self.path(name)).unwrap()
    }

    pub(crate) fn end(&self) -> End {
        read_end(&self.path("end.json")).unwrap().unwrap()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(process) = self.pid.and_then(|pid| WorkerProcess::open(pid).ok()) {
            let _ = process.kill();
        }
        if std::thread::panicking() {
            eprintln!("--- stderr of the worker\n{}---", fs::read_to_string(self.path("stderr")).unwrap_or_default());
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Everything a worker that serves is given.
pub(crate) struct Deploy<'a> {
    pub(crate) home: &'a Home,
    pub(crate) artifact: File,
    pub(crate) netstack: File,
    pub(crate) tap: Tap,
    pub(crate) launch: Launch,
    pub(crate) cgroup: Option<&'a Cgroup>,
}

/// What compiled modules are kept in: each is compiled once for all tests.
pub(crate) fn compiled(module: &[u8]) -> File {
    let home = Home::new();
    block(compile(&home, module, true)).unwrap();
    File::open(home.path("artifact")).unwrap()
}

pub(crate) fn netstack() -> File {
    static BYTES: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    let bytes = BYTES.get_or_init(|| {
        let home = Home::new();
        block(compile(&home, modules::NETSTACK, false)).unwrap();
        fs::read(home.path("artifact")).unwrap()
    });
    let home = Home::new();
    fs::write(home.path("netstack"), bytes).unwrap();
    File::open(home.path("netstack")).unwrap()
}

pub(crate) async fn compile(home: &Home, module: &[u8], guest: bool) -> Result<WorkerProcess, SpawnError> {
    compile_within(home, module, guest, None).await
}

pub(crate) async fn compile_within(
    home: &Home,
    module: &[u8],
    guest: bool,
    cgroup: Option<&Cgroup>,
) -> Result<WorkerProcess, SpawnError> {
    fs::write(home.path("source"), module).unwrap();
    let source = File::open(home.path("source")).unwrap();
    let artifact = home.file("artifact");
    let root = home.path("root").to_str().unwrap().to_owned();
    let launch = Launch { task: Task::Compile { guest }, root, uid: outer_uid(1), leashed: false };
    spawn(Spawn {
        program: Path::new(ROAM),
        launch: &launch,
        descriptors: &[source.as_fd(), artifact.as_fd()],
        stderr: &home.file("stderr"),
        cgroup,
        limit: LIMIT,
    })
    .await
}

/// Where this process is nobody special it cannot be somebody else.
pub(crate) fn outer_uid(number: u8) -> Option<u32> {
    let whole = fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295");
    (whole && nix::unistd::geteuid().is_root()).then(|| 0x7000_0000 + u32::from(number))
}

pub(crate) fn block<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

impl<'a> Deploy<'a> {
    /// A guest at 10.90.0.`number` on tap`number`.
    pub(crate) fn new(bed: &Bed, home: &'a Home, module: &[u8], number: u8) -> Self {
        let name = format!("tap{number}");
        // That of a worker that has just ended may still be there.
        let mut tap = None;
        until(|| {
            let options = TapOptions { name: name.clone(), mtu: 1500 };
            tap = bed.lab.host().run(|| Tap::open(&options)).unwrap().ok();
            tap.is_some()
        });
        let tap = tap.unwrap();
        bed.lab.host().plug(&name, "br0").unwrap();
        Self::with_tap(tap, home, module, number)
    }

    pub(crate) fn with_tap(tap: Tap, home: &'a Home, module: &[u8], number: u8) -> Self {
        let mut network = roam_netstack::Config::new([2, 0, 0, 0, 0, number]);
        network.ipv4 = Some(Cidr { address: [10, 90, 0, number].into(), prefix: 24 });
        network.segmentation = true;
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let task = Task::Serve {
            name: "echo".into(),
            id: format!("id-{number}"),
            module: ModuleHash::of(module),
            args: vec!["echo".into()],
            env: Vec::new(),
            network,
            memory_bytes_max: 64 << 20,
            poll_budget_us: 1_000_000,
            busy_poll_us: 0,
            seed: [number; 32],
            epoch_ns: epoch.as_nanos() as i64,
            tap_segments_udp: tap.segments_udp(),
            log_half_bytes: 1 << 20,
            waits: false,
            image: None,
        };
        let root = home.path("root").to_str().unwrap().to_owned();
        let launch = Launch { task, root, uid: outer_uid(number), leashed: false };
        Self { home, artifact: compiled(module), netstack: netstack(), tap, launch, cgroup: None }
    }

    pub(crate) async fn spawn(self) -> Result<WorkerProcess, SpawnError> {
        let [newer, older] = open_log(&self.home.directory).unwrap();
        let control = bind(&self.home.path("control.sock")).unwrap();
        let (end, stderr) = (self.home.file("end.json"), self.home.file("stderr"));
        let files: [&dyn AsFd; 7] = [&self.tap, &self.artifact, &self.netstack, &control, &newer, &older, &end];
        spawn(Spawn {
            program: Path::new(ROAM),
            launch: &self.launch,
            descriptors: &files.map(|file| file.as_fd()),
            stderr: &stderr,
            cgroup: self.cgroup,
            limit: LIMIT,
        })
        .await
    }
}

/// A guest that is up, and how to reach it.
pub(crate) struct Up {
    pub(crate) bed: Bed,
    pub(crate) home: Home,
    pub(crate) process: WorkerProcess,
    pub(crate) ip: String,
}

/// Starts a guest in a lab of its own; `None` where there can be none.
pub(crate) fn up(module: &[u8], change: impl FnOnce(&mut Task)) -> Option<Up> {
    let bed = Bed::new()?;
    worker::become_subreaper().unwrap();
    let mut home = Home::new();
    let mut deploy = Deploy::new(&bed, &home, module, 10);
    change(&mut deploy.launch.task);
    let process = block(deploy.spawn()).unwrap();
    home.pid = Some(process.pid());
    Some(Up { bed, home, process, ip: "10.90.0.10".into() })
}

impl Up {
    pub(crate) async fn control(&self) -> Control {
        Control::connect(&self.home.path("control.sock"), LIMIT).await.unwrap()
    }

    pub(crate) fn answers(&self) {
        self.bed.lab.host().wait_for_link("tap10", LIMIT).unwrap();
        ask(&self.bed.udp(&self.ip, 7), b"hello", b"hello");
        echo_both_ways(&self.bed.connect(&self.ip, 7), 1 << 20);
    }

    pub(crate) fn log(&self) -> Vec<String> {
        let entries = LogReader::open(&self.home.directory, None).unwrap().read().unwrap();
        entries.into_iter().map(|entry| entry.text).collect()
    }

    /// Waits for the end; the exit code.
    pub(crate) fn ended(&self) -> Option<i32> {
        let ended = async { tokio::time::timeout(LIMIT, self.process.ended()).await };
        block(ended).unwrap().unwrap().code()
    }
}

pub(crate) fn until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < deadline, "not within {LIMIT:?}");
        thread::sleep(Duration::from_millis(2));
    }
}
