//! Many moves, and what they might leave behind or leave out: descriptors, memory, log lines, pages.
#![allow(clippy::unwrap_used)]

mod common;

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::LIMIT;
use common::migration::{
    PAUSE, SHORT, Talk, all_used, files, followed, held_at, over, plain, release, settled, to, view,
};
use common::overlay::{IP, Rig, name};
use roam_runtime::api::MigrationState;

/// Asks the echo guest on and on by datagrams: each is answered once and in its turn.
struct Ask {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Ask {
    fn begin(rig: &Rig) -> Self {
        let socket = rig.client.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        socket.connect((IP, 7)).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let asking = move || {
            let (mut sent, mut buffer) = (0u64, [0; 64]);
            while !stopped.load(Ordering::Relaxed) {
                sent += 1;
                socket.send(&sent.to_le_bytes()).unwrap();
                let length = socket.recv(&mut buffer).unwrap();
                assert_eq!(buffer[..length], sent.to_le_bytes(), "lost, doubled or out of order");
                thread::sleep(Duration::from_micros(500));
            }
            sent
        };
        Self { stop, thread: thread::spawn(asking) }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// As many as `ROAM_MIGRATIONS` says; 500 take some minutes.
fn moves() -> u32 {
    std::env::var("ROAM_MIGRATIONS").map_or(100, |count| count.parse().unwrap())
}

#[test]
fn many_moves_under_load_leave_nothing() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        rig.hosts[0].deploy("guest").await.unwrap();
        rig.answers();
        let talks: Vec<_> = (0..10).map(|_| Talk::begin(rig)).collect();
        let asks: Vec<_> = (0..3).map(|_| Ask::begin(rig)).collect();
        let look = |rig: &Rig| (all_used(rig), rig.hosts.each_ref().map(files));
        for _ in 0..6 {
            plain(rig, &talks[0]).await;
        }
        let (before, files_before) = look(rig);
        let moves = moves();
        let began = Instant::now();
        for _ in 0..moves {
            plain(rig, &talks[0]).await;
        }
        let took = began.elapsed();
        // What was opened for a moment is closed again.
        tokio::time::sleep(SHORT).await;
        let (after, files_after) = look(rig);
        println!("before {before:?} and {files_before:?} files");
        println!("after {moves} moves in {took:?} {after:?} and {files_after:?} files");
        for (before, after) in before.iter().zip(&after) {
            assert!(after.files <= before.files + 4, "descriptors: {before:?}, then {after:?}");
            assert!(after.threads <= before.threads + 4, "threads: {before:?}, then {after:?}");
            assert!(after.kib <= before.kib + 16 * 1024, "memory: {before:?}, then {after:?}");
            assert_eq!((after.mounts, after.children), (before.mounts, before.children));
        }
        assert!(files_before.iter().zip(&files_after).all(|(before, after)| after <= before), "files stay");
        for talk in talks {
            assert!(talk.goes_on().await);
            talk.end();
        }
        println!("answered: {:?} datagrams", asks.into_iter().map(Ask::end).collect::<Vec<_>>());
    });
}

#[test]
fn several_guests_cross_at_once() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let guests: Vec<_> = (0..6).map(|number| (format!("g{number}"), format!("10.90.7.{}", 20 + number))).collect();
        for (number, (guest, ip)) in guests.iter().enumerate() {
            rig.hosts[number % 2].deploy_at(guest, ip).await.unwrap();
        }
        let talks: Vec<_> = guests.iter().map(|(_, ip)| Talk::with(rig, ip)).collect();
        for round in 0..4 {
            let mut begun = Vec::new();
            for (number, (guest, _)) in guests.iter().enumerate() {
                let (source, target) = (&rig.hosts[(number + round) % 2], &rig.hosts[(number + round + 1) % 2]);
                let to = to(target);
                begun.push((source, source.client().migrate(&name(guest), &to).await.unwrap().id));
            }
            for (source, id) in begun {
                over(rig, &id).await;
                let view = view(source, &id).await.unwrap();
                assert_eq!(view.state, MigrationState::Done, "{view:?}");
            }
            for talk in &talks {
                assert!(talk.goes_on().await, "a connection fails");
            }
        }
        talks.into_iter().for_each(Talk::end);
    });
}

/// Logs a line with its number, eight digits, each millisecond.
const COUNTS: &str = r#"(module
    (import "roam" "log" (func $log (param i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (func (export "roam_abi_version") (result i32) (i32.const 1))
    (func (export "roam_poll") (param $now i64) (result i64) (local $rest i32) (local $at i32)
        (local.set $rest (i32.load (i32.const 16)))
        (local.set $at (i32.const 8))
        (loop $digits
            (local.set $at (i32.sub (local.get $at) (i32.const 1)))
            (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $rest) (i32.const 10))))
            (local.set $rest (i32.div_u (local.get $rest) (i32.const 10)))
            (br_if $digits (local.get $at)))
        (i32.store (i32.const 16) (i32.add (i32.load (i32.const 16)) (i32.const 1)))
        (drop (call $log (i32.const 2) (i32.const 0) (i32.const 8)))
        (i64.add (local.get $now) (i64.const 1000000))))"#;

#[test]
fn no_line_of_a_log_is_lost_doubled_or_out_of_order() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let module = wat::parse_str(COUNTS).unwrap();
        rig.hosts[0].deploy_module("guest", IP, &module, |_| {}).await.unwrap();
        let check = async |rig: &Rig, lines_before: usize| {
            let at = settled(rig).await;
            let deadline = Instant::now() + LIMIT;
            loop {
                let lines = rig.hosts[at].log("guest").await;
                let numbers: Vec<usize> = lines.iter().map(|line| line.parse().unwrap()).collect();
                let wrong = (0..).zip(&numbers).find(|(number, line)| number != *line);
                assert_eq!(wrong, None, "of {} lines", lines.len());
                if lines.len() > lines_before + 50 {
                    return lines.len();
                }
                assert!(Instant::now() < deadline, "nothing more is logged");
                tokio::time::sleep(PAUSE).await;
            }
        };
        let mut lines = check(rig, 0).await;
        for step in ["", "", "", "", "source-SendLast", "source-TokenSent", "target-Claim", "target-Taken"] {
            followed(rig).await;
            let at = settled(rig).await;
            let id = if step.is_empty() {
                rig.hosts[at].client().migrate(&name("guest"), &to(&rig.hosts[1 - at])).await.unwrap().id
            } else {
                let (begun, held) = held_at(rig, at, "guest", step).await;
                // So that its connection breaks.
                rig.hosts[1 - at].cut_migrations();
                std::fs::remove_file(held).unwrap();
                tokio::time::sleep(SHORT).await;
                rig.hosts[1 - at].join_again();
                begun.id
            };
            over(rig, &id).await;
            rig.hosts.iter().for_each(release);
            println!("{step}: {:?}", view(&rig.hosts[at], &id).await.map(|view| view.state));
            lines = check(rig, lines).await;
        }
        // One that is ended and handed back, its lines with it.
        for step in ["source-Freeze", "target-Claim"] {
            let at = settled(rig).await;
            let (begun, held) = held_at(rig, at, "guest", step).await;
            let _ = rig.hosts[at].client().cancel_migration(&begun.id).await;
            std::fs::remove_file(held).unwrap();
            over(rig, &begun.id).await;
            lines = check(rig, lines).await;
        }
        println!("{lines} lines");
    });
}

/// Fills 80 MiB before its first poll, which is more than a target tells of, and zeroes them half a second later.
const ZEROES: &str = r#"(module
    (import "roam" "log" (func $log (param i32 i32 i32) (result i32)))
    (memory (export "memory") 1400)
    (data (i32.const 64) "zeroed")
    (global $polls (mut i32) (i32.const 0))
    (func (export "roam_abi_version") (result i32) (i32.const 1))
    (func (export "_initialize") (memory.fill (i32.const 65536) (i32.const 7) (i32.const 83886080)))
    (func (export "roam_poll") (param $now i64) (result i64)
        (global.set $polls (i32.add (global.get $polls) (i32.const 1)))
        (if (i32.eq (global.get $polls) (i32.const 50)) (then
            (memory.fill (i32.const 65536) (i32.const 0) (i32.const 83886080))
            (drop (call $log (i32.const 2) (i32.const 64) (i32.const 6)))))
        (if (i32.and (i32.gt_u (global.get $polls) (i32.const 50)) (i32.load (i32.const 80000000))) (then unreachable))
        (i64.add (local.get $now) (i64.const 10000000))))"#;

#[test]
fn a_guest_that_zeroed_more_than_a_target_tells_of_moves() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let module = wat::parse_str(ZEROES).unwrap();
        let patient = |spec: &mut roam_runtime::api::GuestSpec| spec.poll_budget_us = 30_000_000;
        let deployed = rig.hosts[0].deploy_module("guest", IP, &module, patient).await.unwrap();
        let deadline = Instant::now() + LIMIT;
        while rig.hosts[0].log("guest").await.is_empty() {
            assert!(Instant::now() < deadline, "it is not zeroed");
            tokio::time::sleep(PAUSE).await;
        }
        for at in [0, 1] {
            let begun = rig.hosts[at].client().migrate(&name("guest"), &to(&rig.hosts[1 - at])).await.unwrap();
            over(rig, &begun.id).await;
            let view = view(&rig.hosts[at], &begun.id).await.unwrap();
            assert_eq!(view.state, MigrationState::Done, "{view:?}");
            assert_eq!(settled(rig).await, 1 - at);
        }
        let guest = rig.hosts[0].look("guest").await;
        assert_eq!((guest.restarts, guest.last_end), (deployed.restarts, None));
    });
}
