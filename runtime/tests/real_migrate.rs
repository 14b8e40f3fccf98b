//! Guests that move between two real hosts while their clients keep talking.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::host::{lives, signal};
use common::overlay::{IP, Node, Rig, name};
use common::{LIMIT, limited};
use futures_util::StreamExt;
use nix::sys::signal::Signal;
use roam_abi::pattern;
use roam_runtime::api::client::ClientError;
use roam_runtime::api::{ErrorCode, GuestState, MigrateRequest, MigrationState, MigrationView};
use roam_snapshot::plan::PlanName;

/// Has a guest move, and waits until that is over.
async fn migrate(from: &Node, guest: &str, request: &MigrateRequest) -> MigrationView {
    let client = from.client();
    let view = client.migrate(&name(guest), request).await.unwrap();
    over(from, &view.id).await
}

/// Waits until a migration is over.
async fn over(host: &Node, id: &str) -> MigrationView {
    let client = host.client();
    let mut events = client.watch_migration(id).await.unwrap();
    let mut last = None;
    let seen = async {
        while let Some(event) = events.next().await {
            last = Some(event.unwrap());
        }
    };
    tokio::time::timeout(LIMIT, seen).await.expect("it is over in time");
    last.expect("a watch begins with how it is")
}

async fn moved(from: &Node, guest: &str, to: &Node) -> MigrationView {
    // However slow the machine is.
    let request = MigrateRequest { downtime_us: 2_000_000, ..MigrateRequest::new(name(to.name)) };
    let view = migrate(from, guest, &request).await;
    assert_eq!(view.state, MigrationState::Done, "{view:?}");
    view
}

/// A connection of the client to the echo guest.
fn connect(rig: &Rig) -> TcpStream {
    limited(rig.client.run(|| TcpStream::connect((IP, 7))).unwrap().unwrap())
}

fn udp(rig: &Rig) -> UdpSocket {
    let socket = rig.client.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    socket.connect((IP, 7)).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

fn echo(mut stream: &TcpStream, text: &[u8]) {
    stream.write_all(text).unwrap();
    let mut back = vec![0; text.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back.escape_ascii().to_string(), text.escape_ascii().to_string());
}

#[test]
fn a_guest_moves_there_and_back_with_its_connections_and_its_log() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let [a, b] = &rig.hosts;
        let deployed = a.deploy("guest").await.unwrap();
        rig.answers();
        let (stream, socket) = (connect(rig), udp(rig));
        echo(&stream, b"before");
        let log_before = a.log("guest").await;
        let report = moved(a, "guest", b).await.report.unwrap();
        assert!(report.blackout_us > 0 && report.bytes_on_wire > 0 && report.rounds > 0, "{report:?}");
        echo(&stream, b"after");
        socket.send(b"a datagram").unwrap();
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"a datagram");
        assert!(a.client().list().await.unwrap().is_empty(), "nothing of it is left at the source");
        assert!(!lives(deployed.pid.unwrap()));
        let there = b.until("guest", |view| view.state == GuestState::Running).await;
        assert_eq!(there.network.mac, deployed.network.mac);
        assert_eq!(there.generation.map(|it| it.0), deployed.generation.map(|it| it.0 + 1));
        assert_eq!(rig.owner().await, ("host-b".into(), there.generation.unwrap().0));
        let log_after = b.log("guest").await;
        assert!(log_after.starts_with(&log_before), "{log_after:?} does not begin with {log_before:?}");
        moved(b, "guest", a).await;
        echo(&stream, b"and back");
        let request = MigrateRequest { plan: PlanName::StopAndCopy, ..MigrateRequest::new(name("host-b")) };
        let view = migrate(a, "guest", &request).await;
        assert_eq!((view.state, view.report.unwrap().rounds), (MigrationState::Done, 0), "{view:?}");
        echo(&stream, b"all in the blackout");
    });
}

/// Sends on and on and compares what comes back.
fn pump(stream: TcpStream, stop: &AtomicBool, bytes: &AtomicU64) {
    let (mut offset, mut out, mut back) = (0, vec![0; 4096], vec![0; 4096]);
    while !stop.load(Ordering::Relaxed) {
        pattern::fill(&mut out, offset);
        (&stream).write_all(&out).unwrap();
        (&stream).read_exact(&mut back).unwrap();
        assert_eq!(pattern::matching(&back, offset), back.len(), "the first wrong byte after {offset}");
        offset += out.len() as u64;
        bytes.fetch_add(out.len() as u64, Ordering::Relaxed);
    }
}

#[test]
fn connections_under_load_lose_nothing_in_twenty_moves() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        rig.hosts[0].deploy("guest").await.unwrap();
        rig.answers();
        let (stop, bytes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let pumps: Vec<_> = (0..20)
            .map(|_| {
                let (stream, stop, bytes) = (connect(rig), stop.clone(), bytes.clone());
                thread::spawn(move || pump(stream, &stop, &bytes))
            })
            .collect();
        let socket = udp(rig);
        let asking = {
            let stop = stop.clone();
            thread::spawn(move || {
                let (mut sent, mut buffer) = (0u64, [0; 64]);
                while !stop.load(Ordering::Relaxed) {
                    sent += 1;
                    socket.send(&sent.to_le_bytes()).unwrap();
                    let length = socket.recv(&mut buffer).unwrap();
                    assert_eq!(buffer[..length], sent.to_le_bytes(), "lost, doubled or out of order");
                    thread::sleep(Duration::from_micros(500));
                }
                sent
            })
        };
        for round in 0..20 {
            let before = bytes.load(Ordering::Relaxed);
            let [a, b] = &rig.hosts;
            let (from, to) = if round % 2 == 0 { (a, b) } else { (b, a) };
            moved(from, "guest", to).await;
            let deadline = Instant::now() + LIMIT;
            while bytes.load(Ordering::Relaxed) == before {
                assert!(Instant::now() < deadline, "nothing moves after move {round}");
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        stop.store(true, Ordering::Relaxed);
        pumps.into_iter().for_each(|pump| pump.join().unwrap());
        assert!(asking.join().unwrap() > 0);
    });
}

#[test]
fn what_cannot_be_moved_stays_and_says_why() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let [a, b] = &rig.hosts;
        let guest = a.deploy("guest").await.unwrap();
        rig.answers();
        let stream = connect(rig);
        echo(&stream, b"before");
        let refused = |error: ClientError| error.code();
        let client = a.client();
        let to = |host: &str| MigrateRequest::new(name(host));
        assert_eq!(
            client.migrate(&name("nobody"), &to("host-b")).await.map_err(refused),
            Err(Some(ErrorCode::NotFound))
        );
        assert!(client.migrate(&name("guest"), &to("host-z")).await.is_err());
        assert!(client.migrate(&name("guest"), &to("host-a")).await.is_err());
        // The name is taken there.
        let other = b.deploy_at("guest", "10.90.7.8").await.unwrap();
        let view = migrate(a, "guest", &to("host-b")).await;
        assert_eq!(view.state, MigrationState::Failed);
        assert_eq!(view.reason.unwrap().code, "conflict");
        b.client().delete(&name("guest"), true).await.unwrap();
        drop(other);
        // Nobody takes it there.
        let at = Some("172.30.0.2:9".parse().unwrap());
        let view = migrate(a, "guest", &MigrateRequest { at, ..to("host-b") }).await;
        assert_eq!(view.reason.unwrap().code, "link");
        echo(&stream, b"after");
        assert_eq!(a.look("guest").await.pid, guest.pid);
        assert!(b.client().list().await.unwrap().is_empty());
        moved(a, "guest", b).await;
        echo(&stream, b"moved");
    });
}

#[test]
fn a_target_that_dies_leaves_the_guest_where_it_was() {
    let Some(mut rig) = Rig::new() else { return };
    let slow = MigrateRequest { bandwidth_bytes_per_s: Some(1 << 16), ..MigrateRequest::new(name("host-b")) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (stream, view) = runtime.block_on(async {
        let [a, _] = &rig.hosts;
        a.deploy("guest").await.unwrap();
        rig.answers();
        let stream = connect(&rig);
        echo(&stream, b"before");
        (stream, a.client().migrate(&name("guest"), &slow).await.unwrap())
    });
    runtime.block_on(async {
        let deadline = Instant::now() + LIMIT;
        while rig.hosts[0].client().migration(&view.id).await.unwrap().progress.bytes_on_wire < 4096 {
            assert!(Instant::now() < deadline, "it does not begin");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    rig.hosts[1].end(Signal::SIGKILL);
    runtime.block_on(async {
        let view = over(&rig.hosts[0], &view.id).await;
        assert_eq!((view.state, view.reason.unwrap().code.as_str()), (MigrationState::Failed, "link"));
        echo(&stream, b"after");
    });
    rig.hosts[1].start();
    runtime.block_on(async {
        let [a, b] = &rig.hosts;
        assert!(b.client().list().await.unwrap().is_empty(), "what had come of it is gone");
        b.until_followed(true).await;
        moved(a, "guest", b).await;
        echo(&stream, b"moved");
        // Its source's daemon ends while it copies: the guest serves on, and the next daemon finds it.
        let back = MigrateRequest { to: name("host-a"), ..slow };
        b.client().migrate(&name("guest"), &back).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    });
    rig.hosts[1].end(Signal::SIGKILL);
    echo(&stream, b"without a daemon");
    rig.hosts[1].start();
    runtime.block_on(async {
        let [a, b] = &rig.hosts;
        let there = b.until("guest", |view| view.state == GuestState::Running).await;
        assert!(lives(there.pid.unwrap()));
        b.until_followed(true).await;
        // What had come of it is cleared away when its connection is found to be gone.
        let deadline = Instant::now() + LIMIT;
        while !a.client().list().await.unwrap().is_empty() {
            assert!(Instant::now() < deadline, "half a guest stays");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        moved(b, "guest", a).await;
        echo(&stream, b"moved back");
        let here = a.until("guest", |view| view.state == GuestState::Running).await;
        signal(here.pid.unwrap(), Signal::SIGKILL);
        a.until("guest", |view| view.pid.is_some_and(|pid| Some(pid) != here.pid)).await;
        rig.answers();
    });
}
