//! Workers that are to end with their daemon do, those that hide are found, and what they leave is not believed.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::LIMIT;
use common::host::{Stage, lives, put, put_echo, serves, signal, spec, until};
use futures_util::StreamExt;
use nix::sys::signal::Signal;
use roam_runtime::api::client::{Client, Endpoint};
use roam_runtime::api::{EndKind, GuestSpec, GuestState, RestartPolicy};
use roam_runtime::host::{LogQuery, control_group};
use roam_runtime::jail::{Cgroup, has_groups};

/// A stage for a host whose guests end with it.
fn ephemeral() -> Option<Stage> {
    let mut stage = Stage::new()?;
    stage.config.ephemeral = true;
    Some(stage)
}

/// The host's control groups, in all hierarchies.
fn groups(stage: &Stage) -> Vec<PathBuf> {
    let name = control_group(&stage.config.name, &stage.config.state_dir);
    let trees = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|tree| tree.path());
    let roots = trees.chain(["/sys/fs/cgroup".into()]);
    roots.map(|tree| tree.join("roam").join(&name)).filter(|group| group.exists()).collect()
}

fn within(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn guests_end_with_a_daemon_that_is_killed() {
    let Some(stage) = ephemeral() else { return };
    let echo = stage.run(async || {
        let host = stage.open().await;
        let echo = put_echo(&host).await;
        host.close().await;
        echo
    });
    let mut daemon = stage.daemon();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let client = Client::new(Endpoint::Unix(stage.config.run_dir.join("api.sock")));
    let create = |spec| runtime.block_on(client.create(&spec)).unwrap();
    let again = create(spec("again", echo));
    let left = create(GuestSpec { restart: RestartPolicy::No, ..spec("left", echo) });
    stage.answers(&again);
    daemon.signal(Signal::SIGKILL).unwrap();
    daemon.wait(LIMIT).unwrap();
    for guest in [&again, &left] {
        within("a worker outlives its daemon", || !lives(guest.pid.unwrap()));
    }
    within("a device is left", || stage.taps().is_empty());
    stage.run(async || {
        let host = stage.open().await;
        let started = until(&host, "again", |view| serves(view) && view.pid != again.pid).await;
        let end = started.last_end.clone().unwrap();
        assert!(end.kind == EndKind::MachineDown && end.reason.contains("daemon"), "{end:?}");
        stage.answers(&started);
        let rests = until(&host, "left", |view| view.state == GuestState::Ended).await;
        assert_eq!(rests.last_end.unwrap().kind, EndKind::MachineDown);
        host.close().await;
        assert!(!lives(started.pid.unwrap()));
    });
    assert_eq!((stage.taps(), groups(&stage)), (Vec::new(), Vec::new()));
}

#[test]
fn guests_end_with_a_daemon_that_ends() {
    let Some(stage) = ephemeral() else { return };
    stage.run(async || {
        let host = stage.open().await;
        let echo = put_echo(&host).await;
        let guests = [host.create(spec("a", echo)).await.unwrap(), host.create(spec("hung", echo)).await.unwrap()];
        // One that cannot be asked.
        signal(guests[1].pid.unwrap(), Signal::SIGSTOP);
        host.close().await;
        assert!(guests.iter().all(|guest| !lives(guest.pid.unwrap())));
        assert_eq!((stage.taps(), stage.entries("run/guests")), (Vec::new(), Vec::new()));
        assert_eq!(groups(&stage), Vec::<PathBuf>::new());
        let host = stage.open().await;
        for (guest, kind) in guests.iter().zip([EndKind::MachineDown, EndKind::Killed]) {
            let again = until(&host, guest.spec.name.as_str(), serves).await;
            assert_eq!(again.last_end.as_ref().unwrap().kind, kind);
            stage.answers(&again);
        }
        host.close().await;
    });
}

#[test]
fn a_worker_whose_line_is_full_is_adopted() {
    let Some(stage) = Stage::new() else { return };
    stage.run(async || {
        let host = stage.open().await;
        let echo = put_echo(&host).await;
        let hung = host.create(spec("hung", echo)).await.unwrap();
        host.close().await;
        signal(hung.pid.unwrap(), Signal::SIGSTOP);
        // As many as a daemon that looks after it leaves there in time.
        let path = stage.config.run_dir.join("guests").join(&hung.id).join("control.sock");
        let knock = || {
            let socket = tokio::net::UnixSocket::new_stream().unwrap();
            socket.connect(&path)
        };
        let mut knocks = Vec::new();
        while let Ok(stream) = knock().await {
            knocks.push(stream);
            assert!(knocks.len() < 1000, "its line does not become full");
        }
        drop(knocks);
        let host = stage.open().await;
        let adopted = host.list().await.remove(0);
        assert_eq!((adopted.pid, adopted.responsive), (hung.pid, false));
        signal(hung.pid.unwrap(), Signal::SIGCONT);
        let well = until(&host, "hung", |view| view.responsive).await;
        assert_eq!((well.pid, well.restarts), (hung.pid, 0));
        stage.answers(&well);
        host.close().await;
    });
}

#[test]
fn a_worker_that_hides_is_ended() {
    let Some(stage) = Stage::new() else { return };
    stage.run(async || {
        let host = stage.open().await;
        let echo = put_echo(&host).await;
        let mute = host.create(spec("mute", echo)).await.unwrap();
        let unknown = host.create(spec("unknown", echo)).await.unwrap();
        host.close().await;
        // It does not listen any more.
        fs::remove_file(stage.config.run_dir.join("guests").join(&mute.id).join("control.sock")).unwrap();
        if has_groups() {
            // Nothing is left of it but itself.
            fs::remove_dir_all(stage.config.run_dir.join("guests").join(&unknown.id)).unwrap();
            fs::remove_dir_all(stage.config.state_dir.join("guests").join(&unknown.id)).unwrap();
            fs::remove_file(stage.config.state_dir.join("state.redb")).unwrap();
        } else {
            common::skip("no control groups: a worker that no record knows cannot hide here");
        }
        let host = stage.open().await;
        let again = until(&host, "mute", |view| serves(view) && view.pid != mute.pid).await;
        assert!(!lives(mute.pid.unwrap()));
        stage.answers(&again);
        if has_groups() {
            assert!(!lives(unknown.pid.unwrap()) && host.list().await.len() == 1);
            assert_eq!(stage.taps().len(), 1);
        }
        host.close().await;
    });
}

#[test]
fn what_a_worker_leaves_is_not_believed() {
    let Some(stage) = Stage::new() else { return };
    stage.run(async || {
        let host = stage.open().await;
        let echo = put_echo(&host).await;
        let guest = host.create(spec("a", echo)).await.unwrap();
        let dir = stage.config.state_dir.join("guests").join(&guest.id);
        // It says to be no failure, far in the future, and many last words.
        let lie = r#"{"kind":"machine-down","reason":"\u001b[2J","at_ms":18446744073709551615}"#;
        fs::write(dir.join("end.json"), lie).unwrap();
        File::options().write(true).open(dir.join("stderr")).unwrap().set_len(1 << 36).unwrap();
        // And a log that is none, from its beginning to its end.
        fs::write(dir.join("log.0"), [0xff; 300_000]).unwrap();
        fs::write(
            dir.join("log.1"),
            "{\"half\":\"ffffffffffffffff\"}\n{\"at_ms\":1,\"level\":\"\\u001b[2J\",\"text\":\"\"}\n",
        )
        .unwrap();
        let lines: Vec<_> = host.logs(&guest.spec.name, LogQuery::default()).await.unwrap().collect().await;
        assert!(lines.is_empty(), "{lines:?}");
        signal(guest.pid.unwrap(), Signal::SIGKILL);
        let again = until(&host, "a", |view| serves(view) && view.pid != guest.pid).await;
        let end = again.last_end.as_ref().unwrap();
        assert!(end.kind == EndKind::Killed && end.at_ms < u64::MAX / 2 && !end.reason.contains('\u{1b}'), "{end:?}");
        let record = fs::read(dir.join("record.json")).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        assert_eq!(record["quick_ends"], 1, "a crash loop is one, whatever the worker says");
        stage.answers(&again);
        host.close().await;
    });
}

/// A guest that does this in each poll.
fn module(data: &str, poll: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            (import "roam" "log" (func $log (param i32 i32 i32) (result i32)))
            (memory (export "memory") 700)
            {data}
            (func (export "roam_abi_version") (result i32) i32.const {})
            (func (export "roam_poll") (param $now i64) (result i64) (local $at i32) {poll}))"#,
        roam_abi::VERSION
    );
    wat::parse_str(&text).unwrap()
}

#[test]
fn a_guest_within_its_memory_is_not_killed_for_it() {
    let Some(stage) = Stage::new() else { return };
    stage.run(async || {
        let host = stage.open().await;
        // 40 MiB of data, all of which it writes to; then all the rest it may have.
        let data = format!("(data (i32.const 0) \"{}\")", "x".repeat(40 << 20));
        let poll = "
            (loop $grow (br_if $grow (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
            (loop $touch
                (i32.store (local.get $at) (i32.const 7))
                (local.set $at (i32.add (local.get $at) (i32.const 4096)))
                (br_if $touch (i32.lt_u (local.get $at) (i32.mul (memory.size) (i32.const 65536)))))
            (i64.add (local.get $now) (i64.const 1000000))";
        let digest = put(&host, &module(&data, poll)).await;
        let wanted = GuestSpec { memory_bytes_max: 64 << 20, ..spec("full", digest) };
        let full = host.create(wanted).await.unwrap();
        let deadline = Instant::now() + LIMIT;
        loop {
            let stats = host.stats(&full.spec.name).await.unwrap();
            if stats.polls > 20 {
                println!("{} of {} bytes resident", stats.rss_bytes, stats.memory_bytes);
                assert!(stats.memory_bytes >= 64 << 20);
                break;
            }
            assert!(Instant::now() < deadline, "it is not polled");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let view = host.inspect(&full.spec.name).await.unwrap();
        assert_eq!((view.pid, view.restarts, view.state), (full.pid, 0, GuestState::Running));
        let group = Cgroup::existing(&control_group(&stage.config.name, &stage.config.state_dir), &full.id);
        assert_eq!(group.memory_kills(), 0);
        host.close().await;
    });
}

#[test]
fn a_guest_that_logs_all_the_time_fills_no_disk() {
    let Some(stage) = Stage::new() else { return };
    stage.run(async || {
        let host = stage.open().await;
        let poll = "
            (loop $more
                (drop (call $log (i32.const 3) (i32.const 0) (i32.const 4096)))
                (local.set $at (i32.add (local.get $at) (i32.const 1)))
                (br_if $more (i32.lt_u (local.get $at) (i32.const 50))))
            (local.get $now)";
        let digest = put(&host, &module("(data (i32.const 0) \"a line\")", poll)).await;
        let chatty = host.create(GuestSpec { memory_bytes_max: 64 << 20, ..spec("chatty", digest) }).await.unwrap();
        let echo = put_echo(&host).await;
        let quiet = host.create(spec("quiet", echo)).await.unwrap();
        let dir = stage.config.state_dir.join("guests").join(&chatty.id);
        let (mut written, mut last) = (0u64, 0);
        let deadline = Instant::now() + LIMIT;
        // Until it has come round a few times.
        while written < 3 * stage.config.log_bytes_max {
            let bytes: u64 = ["log.0", "log.1"].iter().map(|name| fs::metadata(dir.join(name)).unwrap().len()).sum();
            assert!(bytes <= stage.config.log_bytes_max, "{bytes} bytes of log");
            written += bytes.abs_diff(last);
            last = bytes;
            assert!(Instant::now() < deadline, "only {written} bytes were logged");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        stage.answers(&quiet);
        let stats = host.stats(&chatty.spec.name).await.unwrap();
        println!("{} polls, {} lines lost", stats.polls, stats.log_lines_dropped);
        assert_eq!(host.inspect(&chatty.spec.name).await.unwrap().pid, chatty.pid);
        host.close().await;
    });
}
