//! A migration, and then more than one process ends: what is in doubt is asked for before anything is done, and what was
//! granted is kept.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::host::signal;
use common::overlay::{IP, Node, Rig, name};
use common::{LIMIT, ROAM, limited};
use nix::sys::signal::Signal;
use roam_runtime::api::client::ClientError;
use roam_runtime::api::{ErrorCode, GuestState, MigrateRequest, MigrationState};
use roam_runtime::lab::{Namespace, Process};

const PAUSE: Duration = Duration::from_millis(10);
/// Longer than a guest that is started again at once takes for that.
const WHILE: Duration = Duration::from_secs(3);

/// The host's daemon where there is no controller.
fn alone(host: &Node) -> Command {
    let mut command = host.namespace.command(ROAM);
    command.args(["--log", "info", "host", "--name", host.name, "--bridge", "br0", "--network", "10.90.0.0/16"]);
    command.args(["--pool", &format!("10.90.{}.0/24", host.number), "--migrate-listen", &migrations(host).to_string()]);
    command.arg("--tls-dir").arg(host.dir.join("tls")).arg("--state-dir").arg(host.dir.join("state"));
    command.arg("--run-dir").arg(host.dir.join("run"));
    for (key, _) in std::env::vars_os().filter(|(key, _)| key.as_encoded_bytes().starts_with(b"ROAM_")) {
        command.env_remove(key);
    }
    command.env("ROAM_MIGRATION_HOLD", host.holds());
    command
}

fn migrations(host: &Node) -> SocketAddr {
    ([172, 30, 0, host.number], 7445).into()
}

fn start_alone(host: &mut Node) {
    let mut daemon = Process::spawn(alone(host)).unwrap();
    daemon.wait_for("ready", LIMIT).unwrap();
    host.daemon = Some(daemon);
}

/// Two hosts without a controller, the guest at the first, and a connection to it.
async fn uncontrolled(rig: &mut Rig) -> TcpStream {
    rig.kill_controller();
    rig.hosts.iter_mut().for_each(|host| host.end(Signal::SIGTERM));
    let hosts = rig.hosts.iter().map(|host| (&host.namespace, host.number));
    hosts.chain([(&rig.gateway, 254)]).for_each(|(namespace, number)| learn(namespace, number));
    rig.hosts.iter_mut().for_each(start_alone);
    rig.hosts[0].deploy("guest").await.unwrap();
    connect(rig)
}

/// The end of the tunnels as it was before a controller's orders: one that learns by itself who is where.
fn learn(namespace: &Namespace, number: u8) {
    let local = format!("172.30.0.{number}");
    namespace.ip("link del vx0").unwrap();
    namespace.ip(&format!("link add vx0 type vxlan id 90 local {local} dev under0 dstport 4789")).unwrap();
    namespace.plug("vx0", "br0").unwrap();
    for other in [1, 2, 254].into_iter().filter(|other| *other != number) {
        let flood = format!("bridge fdb append 00:00:00:00:00:00 dev vx0 dst 172.30.0.{other}");
        namespace.call(&flood, b"", LIMIT).unwrap().success().unwrap();
    }
}

fn connect(rig: &Rig) -> TcpStream {
    let deadline = Instant::now() + LIMIT;
    loop {
        match rig.client.run(|| TcpStream::connect((IP, 7))).unwrap() {
            Ok(stream) => return limited(stream),
            Err(error) => assert!(Instant::now() < deadline, "nobody listens: {error}"),
        }
        std::thread::sleep(PAUSE);
    }
}

fn echoes(stream: &mut TcpStream) {
    stream.write_all(b"still there?").unwrap();
    let mut back = [0; 12];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"still there?");
}

/// Begins to move the guest to the second host and waits until that is held at a step of one of them.
async fn held_at(rig: &Rig, at: usize, step: &str) -> String {
    let [source, target] = &rig.hosts;
    let holds = rig.hosts[at].holds();
    fs::create_dir_all(&holds).unwrap();
    fs::write(holds.join(step), "").unwrap();
    let to = MigrateRequest::new(name(target.name));
    let to = MigrateRequest { downtime_us: 2_000_000, at: Some(migrations(target)), ..to };
    let begun = source.client().migrate(&name("guest"), &to).await.unwrap();
    let deadline = Instant::now() + LIMIT;
    while !holds.join(format!("{step}.held")).exists() {
        assert!(Instant::now() < deadline, "{step} is not reached");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    begun.id
}

/// Ends the source's daemon and the guest's worker there.
async fn end_both(rig: &mut Rig) {
    let worker = rig.hosts[0].look("guest").await.pid.unwrap();
    rig.hosts[0].end(Signal::SIGKILL);
    signal(worker, Signal::SIGKILL);
    let _ = fs::remove_dir_all(rig.hosts[0].holds());
}

async fn until_running(host: &Node) {
    let deadline = Instant::now() + LIMIT;
    // While it comes it can be listed, but not yet asked for.
    while host.client().list().await.unwrap().iter().all(|guest| guest.state != GuestState::Running) {
        assert!(Instant::now() < deadline, "{} has no guest that runs", host.name);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn until_empty(host: &Node) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let guests = host.client().list().await.unwrap();
        if guests.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{} has {guests:?}", host.name);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn state(host: &Node, id: &str) -> MigrationState {
    let deadline = Instant::now() + LIMIT;
    loop {
        let view = host.client().migration(id).await.unwrap();
        if view.is_over() {
            return view.state;
        }
        assert!(Instant::now() < deadline, "it stays {view:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

fn refused<T: std::fmt::Debug>(answer: Result<T, ClientError>, code: ErrorCode) -> String {
    let error = answer.expect_err("refused");
    assert_eq!(error.code(), Some(code), "{error}");
    error.to_string()
}

#[test]
fn a_guest_that_was_taken_is_not_started_again_without_a_controller() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let mut stream = uncontrolled(rig).await;
        let id = held_at(rig, 0, "source-TokenSent").await;
        end_both(rig).await;
        until_running(&rig.hosts[1]).await;
        start_alone(&mut rig.hosts[0]);
        until_empty(&rig.hosts[0]).await;
        assert_eq!(state(&rig.hosts[0], &id).await, MigrationState::Done);
        assert_eq!(rig.hosts[1].look("guest").await.state, GuestState::Running);
        echoes(&mut stream);
    });
}

#[test]
fn a_guest_that_was_never_taken_is_started_again_without_a_controller() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        drop(uncontrolled(rig).await);
        let id = held_at(rig, 0, "source-Token").await;
        end_both(rig).await;
        start_alone(&mut rig.hosts[0]);
        let guest = rig.hosts[0].until("guest", |guest| guest.state == GuestState::Running).await;
        assert_eq!(state(&rig.hosts[0], &id).await, MigrationState::Failed);
        assert!(!rig.hosts[0].dir.join("state/guests").join(&guest.id).join("handover.json").exists());
        until_empty(&rig.hosts[1]).await;
        echoes(&mut connect(rig));
    });
}

#[test]
fn a_guest_in_doubt_waits_for_the_target_and_for_nothing_else() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let mut stream = uncontrolled(rig).await;
        held_at(rig, 0, "source-TokenSent").await;
        until_running(&rig.hosts[1]).await;
        rig.hosts[1].cut_migrations();
        end_both(rig).await;
        start_alone(&mut rig.hosts[0]);
        let guest = rig.hosts[0].until("guest", |guest| guest.state == GuestState::InDoubt).await;
        assert_eq!(guest.pid, None);
        let began = Instant::now();
        while began.elapsed() < WHILE {
            let guest = rig.hosts[0].look("guest").await;
            assert_eq!((guest.state, guest.pid), (GuestState::InDoubt, None));
            tokio::time::sleep(PAUSE).await;
        }
        let client = rig.hosts[0].client();
        let said = refused(client.start(&name("guest")).await, ErrorCode::Conflict);
        assert!(said.contains("host-b"), "{said}");
        // It can be stopped, which decides nothing.
        client.stop(&name("guest"), Duration::ZERO).await.unwrap();
        rig.hosts[0].until("guest", |guest| guest.state == GuestState::Stopped).await;
        echoes(&mut stream);
        let started = tokio::spawn(async move { client.start(&name("guest")).await });
        rig.hosts[0].until("guest", |guest| guest.state == GuestState::InDoubt).await;
        rig.hosts[1].join_again();
        refused(started.await.unwrap(), ErrorCode::NotFound);
        until_empty(&rig.hosts[0]).await;
        echoes(&mut stream);
    });
}

#[test]
fn a_guest_in_doubt_is_deleted_where_an_operator_decides() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let mut stream = uncontrolled(rig).await;
        held_at(rig, 0, "source-TokenSent").await;
        until_running(&rig.hosts[1]).await;
        rig.hosts[1].cut_migrations();
        end_both(rig).await;
        start_alone(&mut rig.hosts[0]);
        rig.hosts[0].until("guest", |guest| guest.state == GuestState::InDoubt).await;
        rig.hosts[0].client().delete(&name("guest"), true).await.unwrap();
        until_empty(&rig.hosts[0]).await;
        rig.hosts[1].join_again();
        echoes(&mut stream);
    });
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        assert!(entry.file_type().unwrap().is_file(), "{:?}", entry.path());
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn what_was_granted_early_and_forgotten_is_had_again_by_a_target_that_was_restarted() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        rig.hosts[0].deploy("guest").await.unwrap();
        let mut stream = connect(rig);
        let kept = rig.dir.0.join("kept");
        rig.kill_controller();
        copy(&rig.dir.0.join("gateway/state"), &kept);
        rig.start_controller();
        for host in &rig.hosts {
            host.until_followed(true).await;
        }
        assert_eq!(rig.owner().await, ("host-a".to_owned(), 1));
        // It is polled there, and nobody has heard of that.
        held_at(rig, 1, "target-Taken").await;
        // What the controller granted it forgets: its files are as they were.
        for round in ["as it came", "as it is on record"] {
            println!("{round} ...");
            rig.kill_controller();
            rig.hosts[1].end(Signal::SIGKILL);
            copy(&kept, &rig.dir.0.join("gateway/state"));
            let _ = fs::remove_dir_all(rig.hosts[1].holds());
            rig.start_controller();
            rig.hosts[1].start();
            let wanted = |guest: &roam_runtime::api::GuestView| {
                guest.state == GuestState::Running && guest.generation.is_some_and(|generation| generation.0 == 2)
            };
            rig.hosts[1].until("guest", wanted).await;
            until_empty(&rig.hosts[0]).await;
            let deadline = Instant::now() + LIMIT;
            while rig.owner().await != ("host-b".to_owned(), 2) {
                assert!(Instant::now() < deadline, "the address is {:?}'s", rig.owner().await);
                tokio::time::sleep(PAUSE).await;
            }
            echoes(&mut stream);
        }
    });
}
