//! A host with real workers: what it keeps, what it refuses, and what it makes of being killed.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::host::{Stage, body, lives, put, put_echo, serves, signal, spec, until};
use common::{LIMIT, wasm};
use futures_util::{StreamExt, stream};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use roam_runtime::api::{EndKind, ErrorCode, GuestSpec, GuestState, RestartPolicy};
use roam_runtime::engine::ModuleHash;
use roam_runtime::host::{Host, HostError, LogQuery, OpenError};

const GRACE: Duration = Duration::from_secs(10);

/// A guest that does this in its first poll, or when it is initialised.
fn module(poll: &str, initialize: &str) -> Vec<u8> {
    let text = format!(
        r#"(module (memory (export "memory") 1)
            (func (export "roam_abi_version") (result i32) i32.const 1)
            (func (export "_initialize") {initialize})
            (func (export "roam_poll") (param i64) (result i64) {poll}))"#
    );
    wat::parse_str(text).unwrap()
}

#[test]
fn a_guest_is_deployed_looked_at_stopped_started_and_deleted() {
    let Some(stage) = Stage::new() else { return };
    stage.run(async || {
        let host = stage.open().await;
        let echo = put_echo(&host).await;
        let guest = host.create(spec("a", echo)).await.unwrap();
        let name = guest.spec.name.clone();
        assert_eq!((guest.state, guest.network.ip), (GuestState::Running, Some("10.90.0.65/24".parse().unwrap())));
        stage.answers(&guest);
        let view = host.inspect(&name).await.unwrap();
        assert!(view.responsive && view == guest, "{view:?}");
        let stats = host.stats(&name).await.unwrap();
        assert!(stats.polls > 0 && stats.rss_bytes > 0 && stats.sockets.iter().any(|it| it.protocol == "udp"));
        let lines: Vec<_> = host.logs(&name, LogQuery::default()).await.unwrap().collect().await;
        assert!(lines.iter().all(Result::is_ok));
        assert!(matches!(host.delete(&name, false).await, Err(HostError::Running(_))));
        assert!(matches!(host.delete_module(echo).await, Err(HostError::ModuleInUse { .. })));
        let stopped = host.stop(&name, GRACE).await.unwrap();
        assert_eq!((stopped.state, stopped.pid), (GuestState::Stopped, None));
        assert_eq!(stopped.last_end.unwrap().kind, EndKind::Asked);
        assert!(!lives(guest.pid.unwrap()) && stage.taps().is_empty());
        assert!(matches!(host.stats(&name).await, Err(HostError::NotRunning(_))));
        assert_eq!(host.stop(&name, GRACE).await.unwrap().state, GuestState::Stopped, "once more is no error");
        let started = host.start(&name).await.unwrap();
        stage.answers(&started);
        let follow = LogQuery { follow: true, tail: Some(0) };
        let following = host.logs(&name, follow).await.unwrap();
        host.delete(&name, true).await.unwrap();
        let _ = tokio::time::timeout(LIMIT, following.collect::<Vec<_>>()).await.expect("the log ends with the guest");
        assert!(!lives(started.pid.unwrap()) && stage.taps().is_empty());
        assert!(matches!(host.inspect(&name).await, Err(HostError::NoGuest(_))));
        host.delete_module(echo).await.unwrap();
        host.close().await;
        for dir in ["state/guests", "state/modules", "run/guests", "run/root"] {
            assert_eq!(stage.entries(dir), Vec::<String>::new(), "{dir}");
        }
        let groups = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        for group in groups.flat_map(|tree| fs::read_dir(tree.path().join("roam")).into_iter().flatten().flatten()) {
            assert!(!group.file_name().to_string_lossy().starts_with(&format!("{}-", stage.config.name)));
        }
    });
}

#[test]
fn what_is_taken_is_refused() {
    let Some(stage) = Stage::new() else { return };
    stage.run(async || {
        let host = stage.open().await;
        let echo = put_echo(&host).await;
        let first = host.create(spec("a", echo)).await.unwrap();
        let refused = async |spec: GuestSpec| host.create(spec).await.unwrap_err();
        assert_eq!(refused(spec("a", echo)).await.code(), ErrorCode::Conflict);
        let same_ip = GuestSpec { ip: first.network.ip, ..spec("b", echo) };
        let error = refused(same_ip).await;
        assert!(error.code() == ErrorCode::Conflict && error.to_string().contains("`a`"), "{error}");
        let same_mac = GuestSpec { mac: Some(first.network.mac), ..spec("b", echo) };
        assert_eq!(refused(same_mac).await.code(), ErrorCode::Conflict);
        assert_eq!(refused(spec("b", ModuleHash::of(b"unknown"))).await.code(), ErrorCode::NotFound);
        let impossible = GuestSpec { ip: Some("10.90.0.0/24".parse().unwrap()), ..spec("b", echo) };
        assert_eq!(refused(impossible).await.code(), ErrorCode::Invalid);
        // Twenty at once of one name: one gets it.
        let many = futures_util::future::join_all((0..20).map(|_| host.create(spec("c", echo)))).await;
        assert_eq!(many.iter().filter(|result| result.is_ok()).count(), 1);
        assert_eq!(host.list().await.len(), 2);
        assert_eq!(stage.entries("state/guests").len(), 2);
        assert!(matches!(Host::open(stage.config.clone()).await, Err(OpenError::Taken(_))));
        host.close().await;
    });
}

#[test]
fn modules_come_whole_or_not_at_all() {
    let Some(stage) = Stage::new() else { return };
    stage.run(async || {
        let host = stage.open().await;
        let bytes = fs::read(wasm("echo")).unwrap();
        let digest = ModuleHash::of(&bytes);
        let wrong = host.put_module(ModuleHash::of(b"other"), body(&bytes)).await.unwrap_err();
        assert_eq!(wrong.code(), ErrorCode::Invalid);
        let cut_off = body(&bytes[..50_000]).chain(stream::iter([Err(std::io::ErrorKind::ConnectionReset.into())]));
        assert_eq!(host.put_module(digest, Box::pin(cut_off)).await.unwrap_err().code(), ErrorCode::BadRequest);
        let no_module = host.put_module(ModuleHash::of(b"text"), body(b"text")).await.unwrap_err();
        assert!(matches!(&no_module, HostError::ModuleRefused(why) if why.contains("not a WebAssembly module")));
        assert_eq!(stage.entries("state/modules"), Vec::<String>::new());
        let both = tokio::join!(host.put_module(digest, body(&bytes)), host.put_module(digest, body(&bytes)));
        let new = [both.0.unwrap(), both.1.unwrap()];
        assert_eq!(new.iter().filter(|new| **new).count(), 1);
        assert_eq!(stage.entries("state/modules"), [format!("{digest}.wasm")]);
        assert_eq!(host.module(digest).await.unwrap().size_bytes, bytes.len() as u64);
        // What the cache has lost is made again.
        for entry in fs::read_dir(stage.dir.join("state/cache")).unwrap().flatten() {
            fs::remove_file(entry.path()).unwrap();
        }
        stage.answers(&host.create(spec("a", digest)).await.unwrap());
        host.close().await;
    });
}

#[test]
fn a_guest_that_does_not_start_leaves_nothing() {
    let Some(stage) = Stage::new() else { return };
    stage.run(async || {
        let host = stage.open().await;
        let digest = put(&host, &module("i64.const 0", "unreachable")).await;
        let error = host.create(spec("a", digest)).await.unwrap_err();
        assert!(error.code() == ErrorCode::StartFailed && error.to_string().contains("unreachable"), "{error}");
        assert!(host.list().await.is_empty() && stage.taps().is_empty());
        assert_eq!((stage.entries("state/guests"), stage.entries("run/guests")), (Vec::new(), Vec::new()));
        host.delete_module(digest).await.unwrap();
        host.close().await;
    });
}

#[test]
fn a_guest_that_ends_is_started_again_by_its_policy() {
    let Some(stage) = Stage::new() else { return };
    stage.run(async || {
        let host = stage.open().await;
        let echo = put_echo(&host).await;
        let killed = host.create(spec("killed", echo)).await.unwrap();
        let left = GuestSpec { restart: RestartPolicy::No, ..spec("left", echo) };
        let left = host.create(left).await.unwrap();
        signal(killed.pid.unwrap(), Signal::SIGKILL);
        signal(left.pid.unwrap(), Signal::SIGKILL);
        let again = until(&host, "killed", |view| serves(view) && view.pid != killed.pid).await;
        stage.answers(&again);
        assert_eq!((again.restarts, again.last_end.unwrap().kind), (1, EndKind::Killed));
        assert_eq!(until(&host, "left", |view| view.pid.is_none()).await.state, GuestState::Ended);
        host.close().await;
    });
}

#[test]
fn a_crash_loop_is_parked_with_its_reason() {
    let Some(stage) = Stage::new() else { return };
    stage.run(async || {
        let host = stage.open().await;
        let digest = put(&host, &module("unreachable", "")).await;
        let guest = host.create(spec("a", digest)).await.unwrap();
        until(&host, "a", |view| view.restarts >= 2 && view.state == GuestState::Waiting).await;
        host.close().await;
        // Rather than to wait for ten of them: as if there had been nine.
        let path = stage.dir.join("state/guests").join(&guest.id).join("record.json");
        let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        record["quick_ends"] = 9.into();
        record["revision"] = 1_000_000.into();
        fs::write(&path, record.to_string()).unwrap();
        let host = stage.open().await;
        let parked = until(&host, "a", |view| view.state == GuestState::Parked).await;
        let end = parked.last_end.unwrap();
        assert!(end.kind == EndKind::Trapped && end.reason.contains("unreachable"), "{end:?}");
        host.close().await;
        let host = stage.open().await;
        assert_eq!(until(&host, "a", |_| true).await.state, GuestState::Parked, "and stays so");
        host.delete(&guest.spec.name, false).await.unwrap();
        host.close().await;
    });
}

#[test]
fn guests_serve_without_a_daemon_and_are_adopted() {
    let Some(stage) = Stage::new() else { return };
    let first = stage.run(async || {
        let host = stage.open().await;
        let echo = put_echo(&host).await;
        let first = host.create(spec("a", echo)).await.unwrap();
        host.create(spec("stopped", echo)).await.unwrap();
        host.stop(&"stopped".parse().unwrap(), GRACE).await.unwrap();
        host.close().await;
        first
    });
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                stage.answers(&first);
                rounds += 1;
            }
            rounds
        });
        let mut daemon = stage.daemon();
        daemon.signal(Signal::SIGKILL).unwrap();
        daemon.wait(LIMIT).unwrap();
        stage.run(async || {
            let host = stage.open().await;
            let adopted = until(&host, "a", serves).await;
            assert_eq!((adopted.pid, adopted.since_ms, adopted.restarts), (first.pid, first.since_ms, 0));
            assert!(adopted.responsive && host.stats(&adopted.spec.name).await.is_ok());
            assert_eq!(until(&host, "stopped", |_| true).await.state, GuestState::Stopped);
            host.close().await;
        });
        over.store(true, Ordering::Relaxed);
        assert!(asking.join().unwrap() > 0);
    });
    // Killed while no daemon runs: the next one starts it again.
    signal(first.pid.unwrap(), Signal::SIGKILL);
    stage.run(async || {
        let host = stage.open().await;
        let again = until(&host, "a", |view| serves(view) && view.pid != first.pid).await;
        assert_eq!((again.restarts, again.last_end.as_ref().unwrap().kind), (1, EndKind::Killed));
        stage.answers(&again);
        host.close().await;
    });
}

#[test]
fn after_a_reboot_those_start_whose_policy_says_so() {
    let Some(stage) = Stage::new() else { return };
    stage.run(async || {
        let host = stage.open().await;
        let echo = put_echo(&host).await;
        let policies =
            [("no", RestartPolicy::No), ("fail", RestartPolicy::OnFailure), ("always", RestartPolicy::Always)];
        let mut pids = Vec::new();
        for (name, restart) in policies {
            pids.extend(host.create(GuestSpec { restart, ..spec(name, echo) }).await.unwrap().pid);
        }
        host.create(GuestSpec { restart: RestartPolicy::Always, ..spec("stopped", echo) }).await.unwrap();
        host.stop(&"stopped".parse().unwrap(), GRACE).await.unwrap();
        host.close().await;
        // What a reboot leaves: no process, nothing in the run directory, and another boot.
        pids.iter().for_each(|pid| signal(*pid, Signal::SIGKILL));
        let deadline = Instant::now() + LIMIT;
        while pids.iter().any(|pid| lives(*pid)) {
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(1));
        }
        fs::remove_dir_all(&stage.config.run_dir).unwrap();
        fs::write(stage.config.state_dir.join("boot-id"), "another boot").unwrap();
        let host = stage.open().await;
        for name in ["fail", "always"] {
            let again = until(&host, name, |view| serves(view) && !pids.contains(&view.pid.unwrap())).await;
            assert_eq!(again.last_end.as_ref().unwrap().kind, EndKind::MachineDown);
            stage.answers(&again);
        }
        let ended = until(&host, "no", |view| view.state == GuestState::Ended).await;
        assert_eq!(ended.last_end.unwrap().kind, EndKind::MachineDown);
        assert_eq!(until(&host, "stopped", |_| true).await.state, GuestState::Stopped);
        host.close().await;
    });
}

#[test]
fn a_worker_that_hangs_holds_up_nobody() {
    let Some(stage) = Stage::new() else { return };
    stage.run(async || {
        let host = stage.open().await;
        let echo = put_echo(&host).await;
        let hung = host.create(spec("hung", echo)).await.unwrap();
        signal(hung.pid.unwrap(), Signal::SIGSTOP);
        until(&host, "hung", |view| !view.responsive && view.pid == hung.pid).await;
        assert!(matches!(host.stats(&hung.spec.name).await, Err(HostError::NoAnswer { .. })));
        stage.answers(&host.create(spec("b", echo)).await.unwrap());
        host.close().await;
        let host = stage.open().await;
        let adopted = host.list().await.into_iter().find(|view| view.spec.name == hung.spec.name).unwrap();
        assert_eq!((adopted.pid, adopted.responsive), (hung.pid, false));
        let stopped = host.stop(&hung.spec.name, Duration::from_millis(200)).await.unwrap();
        assert!(stopped.last_end.unwrap().reason.contains("was killed"));
        assert!(!lives(hung.pid.unwrap()));
        host.close().await;
    });
}

#[test]
fn a_damaged_database_loses_nothing() {
    let Some(stage) = Stage::new() else { return };
    let truncate = || {
        let file = File::options().write(true).open(stage.dir.join("state/state.redb")).unwrap();
        file.set_len(file.metadata().unwrap().len() / 3).unwrap();
    };
    stage.run(async || {
        let host = stage.open().await;
        let echo = put_echo(&host).await;
        let first = host.create(spec("a", echo)).await.unwrap();
        truncate();
        let second = host.create(spec("b", echo)).await.unwrap();
        let health = host.health().await;
        assert!(!health.healthy && health.problems[0].contains("damaged"), "{health:?}");
        host.close().await;
        truncate();
        let host = stage.open().await;
        assert_eq!(host.list().await.iter().map(|view| view.pid).collect::<Vec<_>>(), [first.pid, second.pid]);
        for number in 1..=2 {
            fs::remove_file(stage.dir.join(format!("state/state.redb.damaged-{number}"))).unwrap();
        }
        let health = host.health().await;
        // A small disk is no fault of this.
        assert!(health.problems.iter().all(|problem| problem.contains("nearly full")), "{health:?}");
        host.close().await;
    });
}

#[test]
fn a_worker_that_no_record_knows_is_ended() {
    let Some(stage) = Stage::new() else { return };
    stage.run(async || {
        let host = stage.open().await;
        let echo = put_echo(&host).await;
        let orphan = host.create(spec("a", echo)).await.unwrap();
        host.close().await;
        fs::remove_file(stage.dir.join("state/state.redb")).unwrap();
        fs::remove_dir_all(stage.dir.join("state/guests")).unwrap();
        let host = stage.open().await;
        assert!(host.list().await.is_empty() && !lives(orphan.pid.unwrap()));
        assert_eq!(stage.entries("run/guests"), Vec::<String>::new());
        stage.answers(&host.create(spec("a", echo)).await.unwrap());
        host.close().await;
    });
}

#[test]
fn a_full_disk_is_said_and_nothing_half_is_kept() {
    let Some(stage) = Stage::new() else { return };
    stage.run(async || {
        let host = stage.open().await;
        let echo = put_echo(&host).await;
        let digest = put(&host, &module("i64.const 0", "")).await;
        host.close().await;
        (echo, digest)
    });
    let inside = || {
        // The small disk is this thread's alone, and goes with it.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let mounted =
            |line: &str| assert!(std::process::Command::new("mount").args(line.split(' ')).status().unwrap().success());
        mounted("--make-rprivate /");
        let state = stage.config.state_dir.display();
        let copy = stage.dir.join("copy");
        fs::rename(&stage.config.state_dir, &copy).unwrap();
        fs::create_dir(&stage.config.state_dir).unwrap();
        mounted(&format!("-t tmpfs -o size=24m,mode=700 tmpfs {state}"));
        let copied =
            std::process::Command::new("cp").arg("-a").arg(copy.join(".")).arg(&stage.config.state_dir).status();
        assert!(copied.unwrap().success());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(on_a_full_disk(&stage));
        drop(runtime);
        assert!(
            std::process::Command::new("umount").arg("-l").arg(&stage.config.state_dir).status().unwrap().success()
        );
    };
    stage.bed.lab.host().run(inside).unwrap();
    fs::remove_dir_all(&stage.config.state_dir).unwrap();
    fs::rename(stage.dir.join("copy"), &stage.config.state_dir).unwrap();
}

async fn on_a_full_disk(stage: &Stage) {
    let host = stage.open().await;
    let echo = ModuleHash::of(&fs::read(wasm("echo")).unwrap());
    let first = host.create(spec("a", echo)).await.unwrap();
    let filler = stage.config.state_dir.join("filler");
    let mut file = File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let error = host.create(spec("b", echo)).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::DiskFull, "{error}");
    let bytes = fs::read(wasm("kv")).unwrap();
    let error = host.put_module(ModuleHash::of(&bytes), body(&bytes)).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::DiskFull, "{error}");
    assert!(!host.health().await.healthy);
    assert_eq!(host.list().await, std::slice::from_ref(&first));
    assert_eq!(stage.entries("state/guests"), std::slice::from_ref(&first.id));
    assert_eq!(stage.entries("run/guests"), std::slice::from_ref(&first.id));
    assert_eq!((stage.entries("state/modules").len(), stage.taps().len()), (2, 1));
    stage.answers(&first);
    // Deleting is what makes room.
    host.delete(&first.spec.name, true).await.unwrap();
    fs::remove_file(&filler).unwrap();
    stage.answers(&host.create(spec("b", echo)).await.unwrap());
    host.close().await;
    let host = stage.open().await;
    let names: Vec<_> = host.list().await.into_iter().map(|view| view.spec.name.to_string()).collect();
    assert_eq!(names, ["b"]);
    host.delete(&"b".parse().unwrap(), true).await.unwrap();
    host.close().await;
}

#[test]
fn deploying_is_quick_and_many_are_adopted_at_once() {
    let Some(stage) = Stage::new() else { return };
    stage.run(async || {
        let host = stage.open().await;
        let echo = put_echo(&host).await;
        let mut took = Vec::new();
        for number in 0..12 {
            let start = Instant::now();
            host.create(spec(&format!("g{number}"), echo)).await.unwrap();
            took.push(start.elapsed());
        }
        took.sort_unstable();
        println!("create: {:?} to {:?}, median {:?}", took[0], took[11], took[6]);
        let before: Vec<_> = host.list().await.into_iter().map(|view| (view.spec.name, view.pid)).collect();
        host.close().await;
        let start = Instant::now();
        let host = stage.open().await;
        println!("open with 12 guests: {:?}", start.elapsed());
        let after: Vec<_> = host.list().await.into_iter().map(|view| (view.spec.name, view.pid)).collect();
        assert_eq!(after, before);
        host.close().await;
    });
}
