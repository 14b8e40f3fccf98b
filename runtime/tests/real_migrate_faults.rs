//! Faults of migrations, at every step and by real processes: whatever ends, exactly one host serves and nothing is left.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use common::LIMIT;
use common::host::{lives, signal};
use common::migration::{
    PAUSE, SHORT, Talk, children, chosen, followed, held_at, over, plain, release, remains, settled, view,
};
use common::overlay::{Rig, name};
use nix::sys::signal::Signal;
use roam_runtime::api::{GuestState, MigrationState};

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    SourceDaemon,
    TargetDaemon,
    SourceWorker,
    TargetWorker,
    Controller,
    /// The controller stands still for that long.
    ControllerHangs(Duration),
    /// The migration's connection passes nothing for that long.
    Link(Duration),
    /// The target's underlay passes nothing for that long.
    Underlay(Duration),
}

/// Steps of the source that can be held, in order. Up to the token it is its guest that is lost with its worker.
const SOURCE: [&str; 10] =
    ["Hello", "Offer", "Record", "SendRound", "Claim", "Freeze", "SendLast", "Token", "TokenSent", "Bye"];
/// Those of the target.
const TARGET: [&str; 10] =
    ["Check", "Prepare", "Prepared", "Grow", "Claim", "Install", "Resume", "Noted", "Taken", "Switched"];

fn steps() -> impl Iterator<Item = String> {
    let source = SOURCE.iter().map(|step| format!("source-{step}"));
    source.chain(TARGET.iter().map(|step| format!("target-{step}")))
}

/// Whether a fault at a step costs the worker whose the guest is then.
fn ends_owner(step: &str, fault: Fault) -> bool {
    let taken = ["target-Noted", "target-Taken", "target-Switched", "source-Bye"].contains(&step);
    let token = ["source-TokenSent", "target-Install", "target-Resume"].contains(&step);
    match fault {
        // With a token that is about to be sent all of the guest is sent.
        Fault::SourceWorker => !taken && !token && step != "source-Token",
        // Once the source has sent the token, the target goes on by itself: its worker may be the owner by then.
        Fault::TargetWorker => taken || step == "source-TokenSent",
        _ => false,
    }
}

/// Has that happen to a migration from host `at` that is held at a step; `held` is let go when it has.
async fn happen(rig: &mut Rig, fault: Fault, at: usize, held: &Path, patient: bool) {
    let worker = rig.hosts[at].look("guest").await.pid.unwrap();
    let go = || drop(fs::remove_file(held));
    match fault {
        Fault::SourceDaemon | Fault::TargetDaemon => {
            let which = if fault == Fault::SourceDaemon { at } else { 1 - at };
            rig.hosts[which].end(Signal::SIGKILL);
            go();
            if patient {
                // The other one does what it can alone.
                tokio::time::sleep(SHORT).await;
            }
            rig.hosts[which].start();
        }
        Fault::SourceWorker => signal(worker, Signal::SIGKILL),
        Fault::TargetWorker => {
            let daemon = rig.hosts[1 - at].daemon.as_ref().unwrap().id();
            for pid in children(daemon).into_iter().filter(|pid| lives(*pid)) {
                signal(pid, Signal::SIGKILL);
            }
        }
        Fault::Controller => {
            rig.kill_controller();
            if patient {
                go();
                tokio::time::sleep(SHORT).await;
            }
            rig.start_controller();
        }
        Fault::ControllerHangs(lasts) => {
            let controller = rig.controller.as_ref().unwrap();
            controller.signal(Signal::SIGSTOP).unwrap();
            go();
            tokio::time::sleep(lasts).await;
            controller.signal(Signal::SIGCONT).unwrap();
        }
        Fault::Link(lasts) | Fault::Underlay(lasts) => {
            let target = &rig.hosts[1 - at];
            match fault {
                Fault::Link(_) => target.cut_migrations(),
                _ => target.cut_off(),
            }
            go();
            tokio::time::sleep(lasts).await;
            target.join_again();
        }
    }
    go();
}

/// Each step with each fault, twice in a row, the second time with some patience; then a move as always.
fn all(title: &'static str, cases: impl IntoIterator<Item = (String, Fault)>) {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        rig.hosts[0].deploy("guest").await.unwrap();
        rig.answers();
        let mut talk = Talk::begin(rig);
        plain(rig, &talk).await;
        for (step, fault) in cases {
            for patient in [false, true] {
                let case = format!("{title}: {fault:?} at {step}{}", if patient { ", patient" } else { "" });
                let began = Instant::now();
                println!("{case} ...");
                talk = once(rig, talk, &step, fault, patient).await;
                println!("{case}: settled after {:?}", began.elapsed());
            }
            plain(rig, &talk).await;
        }
        talk.end();
    });
}

async fn once(rig: &mut Rig, talk: Talk, step: &str, fault: Fault, patient: bool) -> Talk {
    followed(rig).await;
    let at = settled(rig).await;
    let (begun, held) = held_at(rig, at, "guest", step).await;
    happen(rig, fault, at, &held, patient).await;
    rig.hosts.iter().for_each(release);
    followed(rig).await;
    let now = settled(rig).await;
    let mut said = Vec::new();
    for (index, host) in rig.hosts.iter().enumerate() {
        let Some(view) = view(host, &begun.id).await else { continue };
        said.push(format!("{}: {:?} {:?}", host.name, view.state, view.reason));
        let here = if now == at { MigrationState::Failed } else { MigrationState::Done };
        // A guest that ends after it came has moved; one that ends while its source has it has not.
        assert_eq!(
            view.state, here,
            "{} says {view:?}, and the guest is at {}",
            rig.hosts[index].name, rig.hosts[now].name
        );
        assert!(view.state == MigrationState::Done || view.reason.is_some(), "{view:?}");
    }
    println!("    {} -> {}; {}", rig.hosts[at].name, rig.hosts[now].name, said.join("; "));
    let lost_daemon = matches!(fault, Fault::SourceDaemon | Fault::TargetDaemon);
    assert!(lost_daemon || !said.is_empty(), "nobody says what became of it");
    if ends_owner(step, fault) {
        // Who restarts it does so with its first state, and its clients begin anew.
        drop(talk);
        rig.answers();
        return Talk::begin(rig);
    }
    if !talk.goes_on().await {
        panic!("the connection failed: {:?}", talk.thread.join());
    }
    talk
}

#[test]
fn the_sources_daemon_may_end_at_any_step() {
    all("source's daemon", steps().map(|step| (step, Fault::SourceDaemon)));
}

#[test]
fn the_targets_daemon_may_end_at_any_step() {
    all("target's daemon", steps().map(|step| (step, Fault::TargetDaemon)));
}

#[test]
fn either_worker_may_end_at_any_step() {
    // A target that claims does not keep its source from sending the token: which comes first is not known there.
    let unknown = ["source-Bye", "target-Claim"];
    let source = steps().filter(|step| !unknown.contains(&step.as_str())).map(|step| (step, Fault::SourceWorker));
    // Before these there is none.
    let none = ["source-Hello", "source-Offer", "target-Check", "target-Prepare"];
    let target = steps().filter(|step| !none.contains(&step.as_str())).map(|step| (step, Fault::TargetWorker));
    all("a worker", source.chain(target).collect::<Vec<_>>());
}

#[test]
fn the_controller_may_end_at_any_step() {
    all("controller", chosen(steps().map(|step| (step, Fault::Controller)).collect(), 8));
}

#[test]
fn the_controller_may_hang_at_any_step() {
    let lasts = Duration::from_secs(3);
    all("controller", chosen(steps().map(|step| (step, Fault::ControllerHangs(lasts))).collect(), 3));
}

#[test]
fn a_link_that_is_cut_and_heals_costs_no_more_than_time() {
    let steps = [
        "source-Offer",
        "source-SendRound",
        "source-Token",
        "source-TokenSent",
        "target-Install",
        "target-Resume",
        "target-Taken",
    ];
    let faults = [Fault::Link(SHORT), Fault::Underlay(SHORT)];
    all("short cut", steps.iter().flat_map(|step| faults.map(|fault| (step.to_string(), fault))).collect::<Vec<_>>());
}

/// Longer than anybody waits for a word of the other side.
const LONG: Duration = Duration::from_secs(13);

#[test]
fn a_link_that_is_cut_for_long_leaves_the_guest_with_one_host() {
    let steps = ["source-SendRound", "source-TokenSent"];
    all_once("long cut", steps.map(|step| (step.to_owned(), Fault::Link(LONG))));
}

#[test]
fn an_underlay_that_is_cut_for_long_leaves_the_guest_with_one_host() {
    let steps = ["source-TokenSent", "target-Taken"];
    all_once("long cut", steps.map(|step| (step.to_owned(), Fault::Underlay(LONG))));
}

/// The same once each: these take their time.
fn all_once(title: &'static str, cases: impl IntoIterator<Item = (String, Fault)>) {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        rig.hosts[0].deploy("guest").await.unwrap();
        rig.answers();
        let mut talk = Talk::begin(rig);
        for (step, fault) in cases {
            println!("{title}: {fault:?} at {step} ...");
            talk = once(rig, talk, &step, fault, false).await;
            plain(rig, &talk).await;
        }
        talk.end();
    });
}

#[test]
fn a_migration_is_cancelled_at_any_step_before_the_token_and_at_none_after() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        rig.hosts[0].deploy("guest").await.unwrap();
        rig.answers();
        let talk = Talk::begin(rig);
        let mut stayed = 0;
        for step in steps() {
            let at = settled(rig).await;
            let (begun, held) = held_at(rig, at, "guest", &step).await;
            let asked = rig.hosts[at].client().cancel_migration(&begun.id).await;
            // Both sides hear of it before the step goes on.
            tokio::time::sleep(PAUSE).await;
            fs::remove_file(held).unwrap();
            let now = settled(rig).await;
            let view = view(&rig.hosts[at], &begun.id).await.unwrap();
            println!("cancelled at {step} ({}): {:?} {:?}", asked.is_ok(), view.state, view.reason);
            assert_eq!(view.state == MigrationState::Done, now != at, "{view:?}");
            if now == at {
                stayed += 1;
                assert_eq!(view.reason.unwrap().code, "cancelled", "at {step}");
            }
            if ends_owner(&step, Fault::TargetWorker) {
                assert_ne!(now, at, "{step} is after the token");
            }
            assert!(talk.goes_on().await, "the connection fails");
            plain(rig, &talk).await;
        }
        assert!(stayed >= 8, "only {stayed} were heeded");
        talk.end();
    });
}

#[test]
fn an_operator_stops_deletes_or_moves_a_guest_while_it_is_moved() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        rig.hosts[0].deploy("guest").await.unwrap();
        rig.answers();
        for step in ["source-Offer", "source-SendRound", "source-Freeze", "source-TokenSent", "target-Taken"] {
            followed(rig).await;
            let at = settled(rig).await;
            println!("stopped at {step} ...");
            let (begun, held) = held_at(rig, at, "guest", step).await;
            let client = rig.hosts[at].client();
            let stop = tokio::spawn(async move { client.stop(&name("guest"), Duration::ZERO).await.map(drop) });
            tokio::time::sleep(PAUSE).await;
            fs::remove_file(held).unwrap();
            let stopped = stop.await.unwrap();
            over(rig, &begun.id).await;
            println!("stopped at {step}: {stopped:?}");
            if stopped.is_ok() {
                rig.hosts[at].until("guest", |view| view.state == GuestState::Stopped).await;
                assert_eq!(remains(&rig.hosts[1 - at]), [""; 0]);
                rig.hosts[at].client().start(&name("guest")).await.unwrap();
            }
            settled(rig).await;
            rig.answers();
            println!("deleted at {step} ...");
            let at = settled(rig).await;
            let (begun, held) = held_at(rig, at, "guest", step).await;
            let client = rig.hosts[at].client();
            let delete = tokio::spawn(async move { client.delete(&name("guest"), true).await });
            tokio::time::sleep(PAUSE).await;
            fs::remove_file(held).unwrap();
            let deleted = delete.await.unwrap();
            over(rig, &begun.id).await;
            println!("deleted at {step}: {deleted:?}");
            if deleted.is_ok() {
                for host in &rig.hosts {
                    assert_eq!(remains(host), [""; 0], "at {}", host.name);
                }
                rig.hosts[at].deploy("guest").await.unwrap();
            }
            settled(rig).await;
            rig.answers();
        }
        for step in ["source-SendRound", "source-Freeze", "source-TokenSent", "target-Resume", "target-Taken"] {
            for to_target in [false, true] {
                followed(rig).await;
                let at = settled(rig).await;
                let to = rig.hosts[if to_target { 1 - at } else { at }].name;
                println!("moved to {to} at {step} from {} ...", rig.hosts[at].name);
                let (begun, held) = held_at(rig, at, "guest", step).await;
                rig.move_to(to).await;
                tokio::time::sleep(PAUSE).await;
                fs::remove_file(held).unwrap();
                over(rig, &begun.id).await;
                one_serves_or_none(rig).await;
                rig.answers();
            }
        }
    });
}

/// After an operator gave the address to somebody: the host that has it serves, or nobody does and one is deployed anew.
async fn one_serves_or_none(rig: &Rig) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut running = Vec::new();
        for host in &rig.hosts {
            for guest in host.client().list().await.unwrap() {
                running.push((host.name, guest.state));
            }
        }
        let owner = rig.owner().await.0;
        let (serve, rest): (Vec<_>, Vec<_>) = running.iter().partition(|(_, state)| *state == GuestState::Running);
        let right = serve.iter().all(|(host, _)| *host == owner);
        if serve.len() <= 1 && right && rest.iter().all(|(_, state)| *state == GuestState::Fenced) {
            println!("    {running:?}, the address is {owner}'s");
            for host in &rig.hosts {
                if running.iter().any(|(name, state)| *name == host.name && *state == GuestState::Fenced) {
                    host.client().delete(&name("guest"), true).await.unwrap();
                }
            }
            if serve.is_empty() {
                let host = rig.hosts.iter().find(|host| host.name == owner).unwrap();
                host.deploy("guest").await.unwrap();
            }
            return;
        }
        assert!(Instant::now() < deadline, "{running:?}, the address is {owner}'s");
        tokio::time::sleep(PAUSE).await;
    }
}
