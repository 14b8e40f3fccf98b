//! A daemon in a process of its own, and real guests behind its API.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;
use nix::sys::signal::Signal;
use roam_runtime::api::client::{Client, Endpoint};
use roam_runtime::api::{ErrorCode, GuestName, GuestSpec, GuestState, GuestView};
use roam_runtime::engine::ModuleHash;
use roam_runtime::host::LogQuery;
use roam_runtime::lab::Process;

use crate::common::{Bed, LIMIT, ROAM, ask, wasm};
use crate::stand::{Directory, Raw, eventually};

/// Logs a line of a kilobyte each millisecond.
const NOISY: &str = r#"(module
    (import "roam" "log" (func $log (param i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "roam_abi_version") (result i32) (i32.const 1))
    (func (export "roam_poll") (param $now i64) (result i64)
        (memory.fill (i32.const 0) (i32.const 120) (i32.const 1024))
        (drop (call $log (i32.const 2) (i32.const 0) (i32.const 1024)))
        (i64.add (local.get $now) (i64.const 1000000))))"#;

struct Daemon {
    process: Process,
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
    bed: Bed,
    directory: Directory,
}

impl Daemon {
    fn start() -> Option<Self> {
        let bed = Bed::new()?;
        let directory = Directory::new();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let socket = directory.path().join("run/api.sock");
        let process = Self::spawn(&bed, &directory);
        Some(Self { process, socket, runtime, bed, directory })
    }

    fn spawn(bed: &Bed, directory: &Directory) -> Process {
        let mut command = bed.lab.host().command(ROAM);
        command.args(["host", "--name", "host-a", "--bridge", "br0", "--network", "10.90.0.0/24"]);
        command.args(["--pool", "10.90.0.128/25", "--network6", "fd90::/64", "--log-size", "1MiB"]);
        command.arg("--state-dir").arg(directory.path().join("state"));
        command.arg("--run-dir").arg(directory.path().join("run"));
        let mut process = Process::spawn(command).unwrap();
        process.wait_for("ready", LIMIT).unwrap();
        process
    }

    fn client(&self) -> Client {
        Client::new(Endpoint::Unix(self.socket.clone()))
    }

    fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { tokio::time::timeout(LIMIT, work).await.expect("it takes too long") })
    }

    /// Brings a module from a file; `true` if it was new.
    fn put(&self, path: &std::path::Path) -> (ModuleHash, bool) {
        let bytes = std::fs::read(path).unwrap();
        let digest = ModuleHash::of(&bytes);
        let sent = Arc::new(AtomicU64::new(0));
        let told = sent.clone();
        let new = self.run(async {
            let file = tokio::fs::File::open(path).await.unwrap();
            self.client().put_module(digest, file, move |bytes| told.store(bytes, Ordering::Relaxed)).await.unwrap()
        });
        assert_eq!(sent.load(Ordering::Relaxed), bytes.len() as u64);
        (digest, new)
    }

    fn deploy(&self, name: &str, module: ModuleHash) -> GuestView {
        self.run(self.client().create(&GuestSpec::new(name.parse().unwrap(), module))).unwrap()
    }

    fn noisy(&self) -> GuestName {
        let path = self.directory.path().join("noisy.wasm");
        std::fs::write(&path, wat::parse_str(NOISY).unwrap()).unwrap();
        self.deploy("noisy", self.put(&path).0).spec.name
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the daemon\n{}---", self.process.stderr());
        }
        // Guests outlive their daemon; not this test.
        let client = self.client();
        let clear = async {
            for guest in client.list().await.unwrap_or_default() {
                if client.delete(&guest.spec.name, true).await.is_err() {
                    let pid = guest.pid.map(|pid| nix::unistd::Pid::from_raw(pid as i32));
                    let _ = pid.map(|pid| nix::sys::signal::kill(pid, Signal::SIGKILL));
                }
            }
        };
        let _ = self.runtime.block_on(async { tokio::time::timeout(LIMIT, clear).await });
        // Not killed: it clears away after itself.
        let _ = self.process.signal(Signal::SIGTERM).and_then(|()| self.process.wait(LIMIT));
    }
}

#[test]
fn a_guest_from_its_module_to_its_end() {
    let Some(daemon) = Daemon::start() else { return };
    let client = daemon.client();
    let (digest, new) = daemon.put(&wasm("echo"));
    assert!(new && !daemon.put(&wasm("echo")).1);
    let guest = daemon.deploy("echo", digest);
    assert_eq!((guest.state, guest.responsive), (GuestState::Running, true));
    let address = guest.network.ip.unwrap().0.address.to_string();
    ask(&daemon.bed.udp(&address, 7), b"hello", b"hello");
    let name = guest.spec.name.clone();
    daemon.run(async {
        assert_eq!(client.list().await.unwrap().len(), 1);
        assert_eq!(client.inspect(&name).await.unwrap().id, guest.id);
        let stats = client.stats(&name).await.unwrap();
        assert!(stats.rx_frames > 0 && stats.polls > 0 && !stats.sockets.is_empty(), "{stats:?}");
        let metrics = client.metrics().await.unwrap();
        for line in [
            "roam_guest_up{guest=\"echo\"} 1",
            "roam_guest_state{guest=\"echo\",state=\"running\"} 1",
            "roam_guests{state=\"running\"} 1",
        ] {
            assert!(metrics.lines().any(|there| there == line), "{line} in\n{metrics}");
        }
        let value = |start: &str| -> Option<f64> {
            metrics.lines().find(|line| line.starts_with(start))?.rsplit(' ').next()?.parse().ok()
        };
        let polls = value("roam_guest_polls_total{guest=\"echo\"}");
        assert!(polls >= Some(stats.polls as f64), "{metrics}");
        let all = value("roam_guest_poll_time_seconds_bucket{le=\"+Inf\",guest=\"echo\"}");
        assert_eq!(all, value("roam_guest_poll_time_seconds_count{guest=\"echo\"}"), "{metrics}");
        assert!(all > Some(0.0), "{metrics}");

        let code = |error: Option<roam_runtime::api::client::ClientError>| error.and_then(|error| error.code());
        assert_eq!(code(client.create(&GuestSpec::new(name.clone(), digest)).await.err()), Some(ErrorCode::Conflict));
        assert_eq!(code(client.delete_module(digest).await.err()), Some(ErrorCode::Conflict));
        assert_eq!(code(client.delete(&name, false).await.err()), Some(ErrorCode::Conflict));
        let stopped = client.stop(&name, LIMIT / 10).await.unwrap();
        assert_eq!((stopped.state, stopped.pid), (GuestState::Stopped, None));
        assert_eq!(client.start(&name).await.unwrap().state, GuestState::Running);
    });
    ask(&daemon.bed.udp(&address, 7), b"again", b"again");
    daemon.run(async {
        client.delete(&name, true).await.unwrap();
        assert_eq!(client.list().await.unwrap(), []);
        assert!(client.has_module(digest).await.unwrap());
        let mut copy = Vec::new();
        client.read_module(digest, &mut copy, |_| ()).await.unwrap();
        assert_eq!(ModuleHash::of(&copy), digest);
        client.delete_module(digest).await.unwrap();
        assert!(!client.has_module(digest).await.unwrap());
    });
}

#[test]
fn a_module_that_is_not_what_it_says_is_refused() {
    let Some(daemon) = Daemon::start() else { return };
    let path = daemon.directory.path().join("some.wasm");
    for (bytes, digest) in [
        (b"\0asm\x01\0\0\0".to_vec(), ModuleHash([7; 32])),
        (b"no wasm at all".to_vec(), ModuleHash::of(b"no wasm at all")),
        (Vec::new(), ModuleHash::of(b"")),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let client = daemon.client();
        daemon.run(async {
            let file = tokio::fs::File::open(&path).await.unwrap();
            let error = client.put_module(digest, file, |_| ()).await.unwrap_err();
            assert_eq!(error.code(), Some(ErrorCode::Invalid), "{bytes:?}: {error}");
            assert!(!client.has_module(digest).await.unwrap());
        });
    }
    // Half of one, and a body cut off.
    let bytes = std::fs::read(wasm("echo")).unwrap();
    let digest = ModuleHash::of(&bytes);
    let stream = std::os::unix::net::UnixStream::connect(&daemon.socket).unwrap();
    let head = format!("PUT /v1/modules/{digest} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", bytes.len());
    Raw(stream).say(head).say(&bytes[..bytes.len() / 2]);
    assert_eq!(daemon.run(daemon.client().modules()).unwrap(), []);
}

#[test]
fn a_follower_that_does_not_read_holds_up_nobody() {
    let Some(daemon) = Daemon::start() else { return };
    let name = daemon.noisy();
    let follow = format!("GET /v1/guests/{name}/logs?follow=true HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut lazy: Vec<_> = (0..4)
        .map(|_| {
            let mut peer = Raw(std::os::unix::net::UnixStream::connect(&daemon.socket).unwrap());
            peer.say(&follow);
            peer
        })
        .collect();
    let client = daemon.client();
    daemon.run(async {
        let query = LogQuery { follow: true, tail: Some(10) };
        let mut lines = client.logs(&name, query).await.unwrap();
        // Far more than fits into the buffers between the daemon and those who do not read.
        for _ in 0..2000 {
            assert_eq!(lines.next().await.unwrap().unwrap().text.len(), 1024);
        }
        let before = client.stats(&name).await.unwrap().polls;
        assert!(before >= 2000);
        let tail = client.logs(&name, LogQuery { follow: false, tail: Some(3) }).await.unwrap();
        assert_eq!(tail.count().await, 3);
    });
    // Those who wake up get what they asked for, if not all of it.
    let answer = lazy[0].hear();
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/x-ndjson")));
    // A log ends with its guest, for followers as well.
    daemon.run(async {
        let lines = client.logs(&name, LogQuery { follow: true, tail: Some(1) }).await.unwrap();
        client.delete(&name, true).await.unwrap();
        assert!(lines.count().await >= 1);
    });
}

#[test]
fn a_hung_guest_does_not_hold_up_a_scrape() {
    let Some(daemon) = Daemon::start() else { return };
    let (digest, _) = daemon.put(&wasm("echo"));
    let guests = [daemon.deploy("one", digest), daemon.deploy("two", digest)];
    let pid = nix::unistd::Pid::from_raw(guests[0].pid.unwrap() as i32);
    nix::sys::signal::kill(pid, Signal::SIGSTOP).unwrap();
    let metrics = daemon.run(daemon.client().metrics()).unwrap();
    nix::sys::signal::kill(pid, Signal::SIGCONT).unwrap();
    for line in ["roam_guest_up{guest=\"one\"} 0", "roam_guest_up{guest=\"two\"} 1"] {
        assert!(metrics.lines().any(|there| there == line), "{line} in\n{metrics}");
    }
    let back = || daemon.run(daemon.client().metrics()).unwrap().contains("roam_guest_up{guest=\"one\"} 1\n");
    eventually("the guest is back", back);
}

#[test]
fn guests_serve_on_when_the_daemon_goes_down() {
    let Some(mut daemon) = Daemon::start() else { return };
    let (digest, _) = daemon.put(&wasm("echo"));
    let guest = daemon.deploy("echo", digest);
    let address = guest.network.ip.unwrap().0.address.to_string();
    let noisy = daemon.noisy();
    // One that follows must not keep the daemon from going down.
    let lines = daemon.run(daemon.client().logs(&noisy, LogQuery { follow: true, tail: None })).unwrap();
    daemon.process.signal(Signal::SIGTERM).unwrap();
    assert_eq!(daemon.process.wait(LIMIT).unwrap().unwrap().code(), Some(0), "{}", daemon.process.stderr());
    assert!(daemon.run(lines.all(|line| std::future::ready(line.is_ok()))));
    assert!(!daemon.socket.exists());
    ask(&daemon.bed.udp(&address, 7), b"alone", b"alone");
    daemon.process = Daemon::spawn(&daemon.bed, &daemon.directory);
    let again = daemon.run(daemon.client().inspect(&guest.spec.name)).unwrap();
    assert_eq!((again.pid, again.state), (guest.pid, GuestState::Running));
}
