//! Hosts that follow a controller: real daemons, each in a network namespace, one owner for each address.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::time::{Duration, Instant};

use common::LIMIT;
use common::host::{lives, signal, spec};
use common::overlay::{IP, Rig, name};
use nix::sys::signal::Signal;
use roam_runtime::api::sdn::{Claim, Presence};
use roam_runtime::api::{EndKind, ErrorCode, GuestSpec, GuestState};

#[test]
fn one_of_two_that_claim_an_address_has_it() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let [a, b] = &rig.hosts;
        let first = a.deploy("first").await.unwrap();
        assert!(first.generation.is_some(), "{first:?}");
        rig.answers();
        let error = b.deploy("second").await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::Fenced), "{error}");
        assert!(error.to_string().contains("host-a's since generation"), "{error}");
        assert!(b.client().list().await.unwrap().is_empty(), "it is on no record");
        // The same IP with another MAC.
        let echo = b.put_echo().await;
        let other =
            GuestSpec { ip: first.spec.ip, mac: Some("02:00:00:00:00:99".parse().unwrap()), ..spec("second", echo) };
        let error = b.client().create(&other).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::Conflict), "{error}");
        rig.answers();
        assert_eq!(a.look("first").await.pid, first.pid, "the first serves on");
        // Deleted, it is anybody's, and of a higher generation.
        a.client().delete(&name("first"), true).await.unwrap();
        let second = b.deploy("second").await.unwrap();
        assert!(second.generation > first.generation, "{second:?}");
        assert_eq!(rig.owner().await.0, "host-b");
        rig.answers();
    });
}

#[test]
fn a_host_that_was_cut_off_comes_back_to_a_fenced_guest() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let [a, b] = &rig.hosts;
        let guest = a.deploy("guest").await.unwrap();
        let pid = guest.pid.unwrap();
        a.cut_off();
        let deadline = Instant::now() + LIMIT;
        while rig.sdn().hosts().await.unwrap().iter().all(|node| node.host.presence == Presence::Live) {
            assert!(Instant::now() < deadline, "it is not missed");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(rig.owner().await.0, "host-a", "lost, it is still the owner");
        assert!(lives(pid));
        rig.move_to("host-b").await;
        b.deploy("guest").await.unwrap();
        rig.answers();
        assert!(lives(pid), "nobody could tell it");
        a.join_again();
        let fenced = a.until("guest", |view| view.state == GuestState::Fenced).await;
        assert!(!lives(pid));
        let end = fenced.last_end.unwrap();
        assert_eq!(end.kind, EndKind::Fenced);
        assert!(end.reason.contains("host-b's since generation"), "{}", end.reason);
        rig.answers();
        // It stays so, whatever is tried, until the address is free.
        a.client().stop(&name("guest"), Duration::ZERO).await.unwrap();
        let error = a.client().start(&name("guest")).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::Fenced), "{error}");
        assert_eq!(a.look("guest").await.state, GuestState::Fenced);
        b.client().delete(&name("guest"), true).await.unwrap();
        let started = a.client().start(&name("guest")).await.unwrap();
        assert!(started.generation > guest.generation, "{started:?}");
        assert_eq!(rig.owner().await, ("host-a".into(), started.generation.unwrap().0));
        rig.answers();
    });
}

#[test]
fn a_move_fences_at_once_and_a_daemon_that_was_down_hears_of_it() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let guest = rig.hosts[0].deploy("guest").await.unwrap();
        rig.hosts[0].end(Signal::SIGKILL);
        assert!(lives(guest.pid.unwrap()));
        rig.answers();
        rig.hosts[0].start();
        let adopted = rig.hosts[0].until("guest", |view| view.state == GuestState::Running).await;
        assert_eq!((adopted.pid, adopted.generation), (guest.pid, guest.generation));
        rig.hosts[0].until_followed(true).await;
        assert_eq!(rig.owner().await, ("host-a".into(), guest.generation.unwrap().0));
        rig.answers();
        rig.hosts[0].end(Signal::SIGKILL);
        rig.move_to("host-b").await;
        assert!(lives(guest.pid.unwrap()), "no daemon, nobody to end it");
        rig.hosts[0].start();
        rig.hosts[0].until("guest", |view| view.state == GuestState::Fenced).await;
        assert!(!lives(guest.pid.unwrap()));
        // A restart does not start it again.
        rig.hosts[0].end(Signal::SIGTERM);
        rig.hosts[0].start();
        assert_eq!(rig.hosts[0].look("guest").await.state, GuestState::Fenced);
        // Moved back, it is granted when it is asked for.
        rig.move_to("host-a").await;
        let started = rig.hosts[0].client().start(&name("guest")).await.unwrap();
        assert_eq!(rig.owner().await, ("host-a".into(), started.generation.unwrap().0));
        rig.answers();
        rig.move_to("host-b").await;
        rig.hosts[0].until("guest", |view| view.state == GuestState::Fenced).await;
        assert!(!lives(started.pid.unwrap()));
    });
}

#[test]
fn guests_serve_without_a_controller_and_a_new_table_is_told_whose_they_are() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let guest = rig.hosts[0].deploy("guest").await.unwrap();
        let other = GuestSpec { ip: None, ..spec("other", guest.spec.module) };
        rig.kill_controller();
        rig.hosts[0].until_followed(false).await;
        rig.answers();
        let error = rig.hosts[0].client().create(&other).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::Unavailable), "{error}");
        assert!(error.to_string().contains("new guests need the controller"), "{error}");
        // A daemon that starts now finds its guest, and leaves it serving.
        rig.hosts[0].end(Signal::SIGKILL);
        rig.hosts[0].start();
        assert_eq!(rig.hosts[0].look("guest").await.pid, guest.pid);
        rig.answers();
        rig.start_controller();
        rig.hosts[0].until_followed(true).await;
        let deployed = rig.hosts[0].client().create(&other).await.unwrap();
        rig.answers();
        // Given up while nobody can be told; and the table is lost.
        rig.kill_controller();
        rig.hosts[0].until_followed(false).await;
        rig.hosts[0].client().delete(&name("other"), true).await.unwrap();
        fs::remove_dir_all(rig.dir.0.join("gateway/state")).unwrap();
        rig.start_controller();
        rig.hosts[0].until_followed(true).await;
        let deadline = Instant::now() + LIMIT;
        while rig.sdn().route(IP).await.is_err() {
            assert!(Instant::now() < deadline, "it is not claimed again");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(rig.owner().await, ("host-a".into(), guest.generation.unwrap().0));
        assert!(rig.sdn().route(&deployed.network.mac.to_string()).await.is_err());
        assert_eq!(rig.hosts[0].look("guest").await.pid, guest.pid);
        rig.answers();
        // Released behind its back: it is not its own any more.
        rig.hosts[1].until_followed(true).await;
        let route = rig.route().await;
        rig.sdn().release(IP, route.placement.generation).await.unwrap();
        let claim = Claim { address: route.address, host: name("host-b"), held: None };
        rig.hosts[0].until("guest", |view| view.state == GuestState::Fenced).await;
        rig.sdn().claim(&claim).await.unwrap();
    });
}

#[test]
fn what_is_given_up_while_nobody_listens_is_told_later() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let guest = rig.hosts[0].deploy("guest").await.unwrap();
        rig.kill_controller();
        rig.hosts[0].until_followed(false).await;
        rig.hosts[0].client().delete(&name("guest"), true).await.unwrap();
        rig.hosts[0].end(Signal::SIGKILL);
        rig.start_controller();
        assert_eq!(rig.owner().await.0, "host-a");
        rig.hosts[0].start();
        let deadline = Instant::now() + LIMIT;
        while rig.sdn().route(IP).await.is_ok() {
            assert!(Instant::now() < deadline, "it stays claimed");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // A guest of the same address that comes after is not released by what was meant for the one before.
        let again = rig.hosts[0].deploy("guest").await.unwrap();
        assert!(again.generation > guest.generation, "{again:?}");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(rig.owner().await.0, "host-a");
        rig.answers();
        // Killed, the guest is started again by its policy, and owns its address as before.
        signal(again.pid.unwrap(), Signal::SIGKILL);
        let restarted = rig.hosts[0].until("guest", |view| view.pid.is_some() && view.pid != again.pid).await;
        assert_eq!(restarted.generation, again.generation);
        rig.answers();
    });
}

#[test]
fn a_claim_whose_answer_is_lost_leaves_nothing_claimed() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let controller = rig.controller.as_ref().unwrap();
        controller.signal(Signal::SIGSTOP).unwrap();
        // It waits for longer than for any answer.
        let refused = rig.hosts[0].deploy("guest").await.unwrap_err();
        assert!(rig.hosts[0].client().inspect(&name("guest")).await.is_err(), "{refused}");
        controller.signal(Signal::SIGCONT).unwrap();
        rig.hosts[0].until_followed(true).await;
        // What was sent before is granted now, to nobody, and given back.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let route = rig.sdn().route(IP).await;
        assert_eq!(route.unwrap_err().code(), Some(ErrorCode::NotFound));
        rig.hosts[1].deploy("guest").await.unwrap();
        assert_eq!(rig.owner().await.0, "host-b");
    });
}
