//! A host in a lab, opened in the test's own process or as a daemon beside it.
#![allow(dead_code, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::stream;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use roam_netstack::Cidr;
use roam_runtime::api::{GuestSpec, GuestState, GuestView};
use roam_runtime::engine::ModuleHash;
use roam_runtime::host::{Host, HostConfig, ModuleBytes, Pool};
use roam_runtime::lab::Process;

use super::{Bed, LIMIT, ROAM, ask, wasm};

/// A host's directories, and the network it plugs guests into. Whatever the test leaves behind goes with it.
pub(crate) struct Stage {
    pub(crate) bed: Bed,
    pub(crate) dir: PathBuf,
    pub(crate) config: HostConfig,
}

impl Stage {
    pub(crate) fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let bed = Bed::new()?;
        let name = format!("test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(format!("roam-{name}"));
        let range = Cidr { address: "10.90.0.64".parse().unwrap(), prefix: 26 };
        let config = HostConfig {
            name,
            state_dir: dir.join("state"),
            run_dir: dir.join("run"),
            bridge: "br0".into(),
            pool4: Some(Pool { range, prefix: 24, gateway: None }),
            pool6: None,
            mtu: None,
            log_bytes_max: 1 << 20,
            ephemeral: false,
            overlay: None,
            tls: None,
            migrate: None,
            worker_program: ROAM.into(),
        };
        Some(Self { bed, dir, config })
    }

    /// Runs `work` with a runtime whose threads are in the host's network namespace, and in a mount namespace of
    /// their own if `mounts`.
    pub(crate) fn run<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        let inside = || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(work())
        };
        self.bed.lab.host().run(inside).unwrap()
    }

    pub(crate) async fn open(&self) -> Host {
        Host::open(self.config.clone()).await.unwrap()
    }

    /// `roam host` on the same directories, ready.
    pub(crate) fn daemon(&self) -> Process {
        let mut command = self.bed.lab.host().command(ROAM);
        command.args(["host", "--bridge", "br0", "--network", "10.90.0.0/24", "--pool", "10.90.0.64/26"]);
        command.args(["--name", &self.config.name, "--state-dir"]).arg(&self.config.state_dir);
        command.arg("--run-dir").arg(&self.config.run_dir).env_remove("ROAM_CONFIG");
        if self.config.ephemeral {
            command.arg("--ephemeral");
        }
        let mut daemon = Process::spawn(command).unwrap();
        daemon.wait_for("ready", LIMIT).unwrap();
        daemon
    }

    /// Asks the echo guest at that view's address until it answers.
    pub(crate) fn answers(&self, guest: &GuestView) {
        let ip = guest.network.ip.unwrap().0.address.to_string();
        ask(&self.bed.udp(&ip, 7), b"are you there?", b"are you there?");
    }

    /// Names of what is in a directory of the host.
    pub(crate) fn entries(&self, dir: &str) -> Vec<String> {
        entries(&self.dir.join(dir))
    }

    /// The TAPs of the host's guests.
    pub(crate) fn taps(&self) -> Vec<String> {
        let shown = self.bed.lab.host().call("ip -brief link", b"", LIMIT).unwrap().success().unwrap().text();
        shown.lines().filter(|line| line.starts_with("rt")).map(str::to_owned).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.config.state_dir.exists() {
            self.run(async || {
                let Ok(host) = Host::open(self.config.clone()).await else { return };
                for guest in host.list().await {
                    let _ = host.delete(&guest.spec.name, true).await;
                }
                host.close().await;
            });
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// A body that arrives in pieces.
pub(crate) fn body(bytes: &[u8]) -> ModuleBytes {
    let pieces: Vec<_> = bytes.chunks(10_000).map(|piece| Ok(bytes::Bytes::copy_from_slice(piece))).collect();
    Box::pin(stream::iter(pieces))
}

/// Puts a module there.
pub(crate) async fn put(host: &Host, bytes: &[u8]) -> ModuleHash {
    let digest = ModuleHash::of(bytes);
    host.put_module(digest, body(bytes)).await.unwrap();
    digest
}

/// Puts the echo guest's module there.
pub(crate) async fn put_echo(host: &Host) -> ModuleHash {
    put(host, &fs::read(wasm("echo")).unwrap()).await
}

pub(crate) fn spec(name: &str, module: ModuleHash) -> GuestSpec {
    GuestSpec::new(name.parse().unwrap(), module)
}

/// Looks at a guest until it is as wanted.
pub(crate) async fn until(host: &Host, name: &str, wanted: impl Fn(&GuestView) -> bool) -> GuestView {
    let name = name.parse().unwrap();
    let deadline = std::time::Instant::now() + LIMIT;
    loop {
        let view = host.inspect(&name).await.unwrap();
        if wanted(&view) {
            return view;
        }
        assert!(std::time::Instant::now() < deadline, "it stays {view:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn serves(view: &GuestView) -> bool {
    view.state == GuestState::Running && view.pid.is_some()
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
}

/// Whether there is such a process, and no zombie.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}
