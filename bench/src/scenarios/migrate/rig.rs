//! Where it happens: a standing lab of the benchmark's own, with two hosts, a gateway with the controller, and a client.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::ops::ControlFlow;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use nix::sys::signal::{SigSet, Signal};
use roam_runtime::api::client::{Client, ClientError, Endpoint};
use roam_runtime::api::{CidrText, GuestName, GuestSpec, MigrateRequest, MigrationProgress, MigrationView};
use roam_runtime::engine::ModuleHash;
use roam_runtime::lab::Namespace;
use roam_runtime::lab::standing::{LabName, LabPlane, Labs, Shape};
use roam_runtime::load::plan::KEYS_MAX;
use roam_runtime::load::{self, Kind as Load, Pace, Plan, Progress, Snapshot};
use roam_snapshot::plan::PlanName;
use tokio::runtime::Runtime;

use crate::engines::{GuestKind, Probe, START_LIMIT};
use crate::network::Scratch;

/// Bytes of the values that fill a guest, and how many of them are under way.
const FILLER_BYTES: usize = 32 * 1024;
const FILLER_CONNECTIONS: usize = 4;
const FILLER_WINDOW: usize = 16;
/// Filling ends by the count of values, long before.
const FILLING_MAX: Duration = Duration::from_secs(600);
/// How often a guest that was just deployed is asked whether it answers.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// The lab. Goes with the value, and with a signal.
pub(super) struct Rig {
    labs: Labs,
    name: LabName,
    pub(super) client: Namespace,
    hosts: [Host; 2],
    runtime: Runtime,
    scratch: Scratch,
}

struct Host {
    name: GuestName,
    client: Client,
}

/// How guests are to go.
pub(super) struct How {
    pub(super) plan: PlanName,
    pub(super) downtime_us: u64,
}

/// One migration, over.
pub(super) struct Migration {
    /// When it was asked for.
    pub(super) began: Instant,
    /// When its end was known here.
    pub(super) ended: Instant,
    pub(super) view: MigrationView,
    /// What was told of it meanwhile.
    pub(super) seen: Vec<MigrationProgress>,
}

impl Rig {
    /// Raises it, each host's link as fast as that (bits a second).
    pub(super) fn new(link_bits_per_s: Option<u64>) -> Result<Self> {
        // The names of namespaces are the machine's own: what a user is root of is not enough.
        ensure!(nix::unistd::geteuid().is_root() && owns_machine(), "cannot measure here: it takes root");
        let scratch = Scratch::new()?;
        let labs = Labs::at(scratch.path());
        let name: LabName = format!("bench-{}", std::process::id()).parse().map_err(anyhow::Error::msg)?;
        take_down_when_interrupted(&labs, &name, scratch.path())?;
        let roam = scratch.path().join("roam");
        let own = std::env::current_exe().context("this program cannot find itself")?;
        symlink(own, &roam).with_context(|| format!("cannot make {}", roam.display()))?;
        let shape = Shape { hosts: 2, link_bits_per_s, delay_us: None, plane: LabPlane::Kernel };
        labs.up(&name, &shape, &roam, &mut |_| {}, &AtomicBool::new(false)).context("raising a lab")?;
        let client = labs.namespace(&name, "client");
        let host = |(_, host, socket): (LabName, String, _)| {
            anyhow::Ok(Host { name: host.parse()?, client: Client::new(Endpoint::Unix(socket)) })
        };
        let hosts: Result<Vec<Host>> = labs.hosts().into_iter().map(host).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let whole = || {
            let hosts = hosts?.try_into().ok().context("a lab of two hosts has two hosts")?;
            anyhow::Ok((client?, hosts, runtime?))
        };
        let (client, hosts, runtime) = whole().inspect_err(|_| drop(labs.down(&name)))?;
        Ok(Self { labs, name, client, hosts, runtime, scratch })
    }

    /// Where the guest at that seat is asked, by IP `version`.
    pub(super) fn target(&self, seat: usize, kind: GuestKind, version: &str) -> SocketAddr {
        let ip = if version == "6" { ip6(seat) } else { ip4(seat) };
        (ip.parse::<IpAddr>().expect("a seat's addresses are addresses"), kind.port).into()
    }

    /// Gives both hosts its module, starts it on the first, and waits until it answers the client.
    pub(super) fn deploy(&self, seat: usize, kind: GuestKind, memory_bytes: usize) -> Result<()> {
        let path = self.scratch.path().join(format!("{}.wasm", kind.name()));
        std::fs::write(&path, kind.module()).with_context(|| format!("cannot write {}", path.display()))?;
        let digest = ModuleHash::of(kind.module());
        for host in &self.hosts {
            let file = std::fs::File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
            self.wait(host.client.put_module(digest, file.into(), |_| {}))?;
        }
        self.wait(self.hosts[0].client.create(&spec(seat, kind, digest, memory_bytes)?))?;
        let (target, deadline) = (self.target(seat, kind, "4"), Instant::now() + START_LIMIT);
        while !self.client.run(|| answers(kind, target))? {
            ensure!(Instant::now() < deadline, "{} does not answer", kind.name());
        }
        Ok(())
    }

    /// Sets values in the kv guest at that seat until it has no room for more.
    pub(super) fn fill(&self, seat: usize, memory_bytes: usize, seed: u64) -> Result<()> {
        let mut plan = Plan::new(Load::Kv, self.target(seat, GuestKind::named("kv"), "4"));
        plan.pace = Pace::Max { window: FILLER_WINDOW };
        plan.connections = FILLER_CONNECTIONS;
        plan.payload_bytes = FILLER_BYTES;
        // Other keys than those of the clients; so many that hardly one is set twice.
        (plan.seed, plan.keys, plan.reads) = (!seed, KEYS_MAX, 0.0);
        plan.duration = FILLING_MAX;
        let mut enough = Enough((memory_bytes + memory_bytes / 16).div_ceil(FILLER_BYTES) as u64);
        let report = self.client.run(|| load::run(&plan, &mut enough))?.context("filling the guest")?;
        ensure!(report.is_clean() && report.received >= enough.0, "the guest could not be filled: {report}");
        Ok(())
    }

    /// Has the guest at that seat go from that host to the other one.
    pub(super) fn migrate(&self, seat: usize, kind: GuestKind, from: usize, how: &How) -> Result<Migration> {
        let (source, target) = (&self.hosts[from], &self.hosts[1 - from]);
        let request =
            MigrateRequest { plan: how.plan, downtime_us: how.downtime_us, ..MigrateRequest::new(target.name.clone()) };
        let guest = guest(seat, kind)?;
        let began = Instant::now();
        let mut seen = Vec::new();
        let view = self.wait(async {
            let mut view = source.client.migrate(&guest, &request).await?;
            let mut events = source.client.watch_migration(&view.id).await?;
            while let Some(event) = events.next().await {
                view = event?;
                seen.push(view.progress);
            }
            Ok(view)
        });
        let view = view.with_context(|| format!("moving {} from {}", guest, source.name))?;
        ensure!(view.is_over(), "nothing more is told of the migration of {guest} from {}", source.name);
        Ok(Migration { began, ended: Instant::now(), view, seen })
    }

    fn wait<T>(&self, answer: impl Future<Output = Result<T, ClientError>>) -> Result<T> {
        Ok(self.runtime.block_on(answer)?)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Err(error) = self.labs.down(&self.name) {
            eprintln!("roam-bench: the lab {} could not be taken down: {error}", self.name);
        }
    }
}

/// Asks a guest once.
fn answers(kind: GuestKind, target: SocketAddr) -> bool {
    let asked = || match kind.probe {
        Probe::Udp(request) => {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(TRY_EVERY))?;
            socket.send_to(request, target)?;
            socket.recv(&mut [0; 2048])
        }
        Probe::Tcp(request) => {
            let mut stream = TcpStream::connect_timeout(&target, TRY_EVERY)?;
            stream.set_read_timeout(Some(START_LIMIT))?;
            stream.write_all(request)?;
            stream.read(&mut [0; 2048])
        }
    };
    asked().is_ok_and(|bytes: usize| bytes > 0)
}

/// Ends filling after so many values.
struct Enough(u64);

impl Progress for Enough {
    fn update(&mut self, snapshot: &Snapshot<'_>) -> ControlFlow<()> {
        if snapshot.received() >= self.0 && !snapshot.draining {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

/// Whether root here is root of the machine (user_namespaces(7)).
fn owns_machine() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

/// A lab stays when this process ends; so no signal may end it before the lab is taken down. Before any thread starts.
fn take_down_when_interrupted(labs: &Labs, name: &LabName, scratch: &Path) -> Result<()> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().context("blocking signals")?;
    let (labs, name, scratch) = (labs.clone(), name.clone(), scratch.to_owned());
    thread::spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        let code = match labs.down(&name) {
            Ok(_) => 128 + signal as i32,
            Err(_) => 1,
        };
        // What cannot be removed is under the directory for temporary files.
        let _ = std::fs::remove_dir_all(scratch);
        std::process::exit(code)
    });
    Ok(())
}

fn guest(seat: usize, kind: GuestKind) -> Result<GuestName> {
    Ok(format!("{}-{seat}", kind.name()).parse()?)
}

fn ip4(seat: usize) -> String {
    format!("10.90.200.{}", seat + 1)
}

fn ip6(seat: usize) -> String {
    format!("fd90::c8:{:x}", seat + 1)
}

fn spec(seat: usize, kind: GuestKind, digest: ModuleHash, memory_bytes: usize) -> Result<GuestSpec> {
    let mut spec = GuestSpec::new(guest(seat, kind)?, digest);
    let wrong = |text: String| anyhow::anyhow!("a seat's address: {text}");
    spec.ip = Some(format!("{}/16", ip4(seat)).parse::<CidrText<_>>().map_err(wrong)?);
    spec.ip6 = Some(format!("{}/64", ip6(seat)).parse::<CidrText<_>>().map_err(wrong)?);
    if kind.name() == "kv" {
        spec.args = ["--memory", &memory_bytes.to_string(), "--connections", "4000"].map(str::to_owned).into();
        // What the allocator loses between values of several sizes, and what is there besides.
        spec.memory_bytes_max = (memory_bytes as u64 * 3 / 2 + (64 << 20)).min(4 << 30);
    }
    Ok(spec)
}
