//! Faults of migrations, at every step and by real processes: whatever ends, exactly one host serves and nothing is left.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::host::{lives, signal};
use common::overlay::{IP, Node, Rig, name};
use common::{LIMIT, limited};
use nix::sys::signal::Signal;
use roam_abi::pattern;
use roam_runtime::api::{GuestState, GuestView, MigrateRequest, MigrationState, MigrationView};
use roam_runtime::host::control_group;

/// Long enough for whoever lives to find out what a short fault means, short enough to try many.
const SHORT: Duration = Duration::from_millis(400);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// A client that sends on and on and compares what comes back, until its connection fails.
struct Talk {
    stop: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
    thread: JoinHandle<std::io::Result<()>>,
}

impl Talk {
    fn begin(rig: &Rig) -> Self {
        Self::with(rig, IP)
    }

    fn with(rig: &Rig, ip: &str) -> Self {
        let deadline = Instant::now() + LIMIT;
        let stream = loop {
            match rig.client.run(|| TcpStream::connect((ip, 7))).unwrap() {
                Ok(stream) => break limited(stream),
                Err(error) => assert!(Instant::now() < deadline, "nobody listens: {error}"),
            }
            thread::sleep(PAUSE);
        };
        let (stop, bytes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = {
            let (stop, bytes) = (stop.clone(), bytes.clone());
            thread::spawn(move || talk(stream, &stop, &bytes))
        };
        Self { stop, bytes, thread }
    }

    /// Waits until more has come back, or the connection has failed.
    async fn goes_on(&self) -> bool {
        let (before, deadline) = (self.bytes.load(Ordering::Relaxed), Instant::now() + LIMIT);
        // What was under way when this was asked does not count.
        while self.bytes.load(Ordering::Relaxed) < before + 3 * 4096 {
            assert!(Instant::now() < deadline, "nothing comes back");
            if self.thread.is_finished() {
                return false;
            }
            tokio::time::sleep(PAUSE).await;
        }
        true
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap().unwrap();
    }
}

fn talk(mut stream: TcpStream, stop: &AtomicBool, bytes: &AtomicU64) -> std::io::Result<()> {
    let (mut offset, mut out, mut back) = (0, vec![0; 4096], vec![0; 4096]);
    while !stop.load(Ordering::Relaxed) {
        pattern::fill(&mut out, offset);
        stream.write_all(&out)?;
        stream.read_exact(&mut back)?;
        assert_eq!(pattern::matching(&back, offset), back.len(), "the first wrong byte after {offset}");
        offset += out.len() as u64;
        bytes.fetch_add(out.len() as u64, Ordering::Relaxed);
        // Others have work to do on this machine, too.
        thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    SourceDaemon,
    TargetDaemon,
    SourceWorker,
    TargetWorker,
    Controller,
    /// The migration's connection passes nothing for that long.
    Link(Duration),
    /// The target's underlay passes nothing for that long.
    Underlay(Duration),
}

/// Steps of the source that can be held, in order. Up to the token it is its guest that is lost with its worker.
const SOURCE: [&str; 9] = ["Hello", "Offer", "SendRound", "Record", "Freeze", "SendLast", "Token", "TokenSent", "Bye"];
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
    let token = ["source-TokenSent", "target-Claim", "target-Install", "target-Resume"].contains(&step);
    match fault {
        // With a token that is about to be sent all of the guest is sent.
        Fault::SourceWorker => !taken && !token && step != "source-Token",
        // Once the source has sent the token, the target goes on by itself: its worker may be the owner by then.
        Fault::TargetWorker => taken || step == "source-TokenSent",
        _ => false,
    }
}

/// To that host, however slow the machine is.
fn to(host: &Node) -> MigrateRequest {
    MigrateRequest { downtime_us: 2_000_000, ..MigrateRequest::new(name(host.name)) }
}

/// Has a step of a host's migrations held.
fn hold(host: &Node, step: &str) -> PathBuf {
    fs::create_dir_all(host.holds()).unwrap();
    fs::write(host.holds().join(step), "").unwrap();
    host.holds().join(format!("{step}.held"))
}

fn release(host: &Node) {
    let _ = fs::remove_dir_all(host.holds());
}

async fn until_there(path: &Path) {
    let deadline = Instant::now() + LIMIT;
    while !path.exists() {
        assert!(Instant::now() < deadline, "{} is not reached", path.display());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Begins to move the guest to the other host and stops it at a step.
async fn held_at(rig: &Rig, at: usize, guest: &str, step: &str) -> (MigrationView, PathBuf) {
    let (source, target) = (&rig.hosts[at], &rig.hosts[1 - at]);
    let held = hold(if step.starts_with("source") { source } else { target }, step);
    let begun = source.client().migrate(&name(guest), &to(target)).await.unwrap();
    until_there(&held).await;
    (begun, held)
}

/// The children of a process: a daemon's, which are the workers that it has started.
fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn groups(host: &Node) -> usize {
    let group = control_group(host.name, &host.dir.join("state"));
    let trees = names(Path::new("/sys/fs/cgroup")).into_iter().chain([String::new()]);
    let group = |tree: String| Path::new("/sys/fs/cgroup").join(tree).join("roam").join(&group);
    let groups = trees.map(group).flat_map(|group| fs::read_dir(group).into_iter().flatten().flatten());
    groups.filter(|entry| entry.path().is_dir()).count()
}

/// What there is of guests on a host that has none: nothing, or what is wrong.
fn remains(host: &Node) -> Vec<String> {
    let mut remains: Vec<_> =
        ["state/guests", "run/guests"].iter().flat_map(|dir| names(&host.dir.join(dir))).collect();
    let links = host.namespace.call("ip -brief link", b"", LIMIT).unwrap().success().unwrap().text();
    remains.extend(links.lines().filter(|line| line.starts_with("rt")).map(str::to_owned));
    if groups(host) > 0 {
        remains.push(format!("{} control groups", groups(host)));
    }
    remains
}

/// Whether all is settled: where the guest is, or what is missing.
async fn look(rig: &Rig) -> Result<(usize, GuestView), String> {
    let mut found = Vec::new();
    for (index, host) in rig.hosts.iter().enumerate() {
        let underway: Vec<_> =
            host.client().migrations(None).await.unwrap().into_iter().filter(|view| !view.is_over()).collect();
        if !underway.is_empty() {
            return Err(format!("under way at {}: {underway:?}", host.name));
        }
        let guests = host.client().list().await.unwrap();
        if guests.is_empty() {
            match remains(host) {
                remains if remains.is_empty() => {}
                remains => return Err(format!("{} has {remains:?}", host.name)),
            }
        }
        found.extend(guests.into_iter().map(|guest| (index, guest)));
    }
    let [(at, guest)] = &found[..] else { return Err(format!("the guests are {found:?}")) };
    let host = &rig.hosts[*at];
    let owner = rig.owner().await;
    let said = (host.name.to_owned(), guest.generation.map_or(0, |generation| generation.0));
    if owner != said || guest.state != GuestState::Running || !guest.pid.is_some_and(lives) {
        return Err(format!("the address is {owner:?}'s, and the guest is {guest:?}"));
    }
    let handover = host.dir.join("state/guests").join(&guest.id).join("handover.json");
    if handover.exists() {
        return Err(format!("{} is still there", handover.display()));
    }
    if let Some(problem) = host.client().health().await.unwrap().problems.first() {
        return Err(format!("{}: {problem:?}", host.name));
    }
    Ok((*at, guest.clone()))
}

/// Waits until exactly one host has the guest, the controller says so, and nothing else is left of it.
async fn settled(rig: &Rig) -> usize {
    let deadline = Instant::now() + LIMIT;
    loop {
        match look(rig).await {
            Ok((at, _)) => return at,
            Err(why) => assert!(Instant::now() < deadline, "it does not settle: {why}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Both hosts follow the controller.
async fn followed(rig: &Rig) {
    for host in &rig.hosts {
        host.until_followed(true).await;
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

/// What a host says of a migration.
async fn view(host: &Node, id: &str) -> Option<MigrationView> {
    host.client().migration(id).await.ok()
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

/// A move without a fault.
async fn plain(rig: &Rig, talk: &Talk) {
    followed(rig).await;
    let at = settled(rig).await;
    let (source, target) = (&rig.hosts[at], &rig.hosts[1 - at]);
    let begun = source.client().migrate(&name("guest"), &to(target)).await.unwrap();
    let now = settled(rig).await;
    let view = view(source, &begun.id).await;
    assert!(now != at && view.as_ref().is_some_and(|view| view.state == MigrationState::Done), "{view:?}");
    assert!(talk.goes_on().await, "the connection fails in a plain move");
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
#[ignore = "a worker that ends when its source has just noted the handover is not always settled yet"]
fn either_worker_may_end_at_any_step() {
    let source = steps().filter(|step| *step != "source-Bye").map(|step| (step, Fault::SourceWorker));
    // Before these there is none.
    let none = ["source-Hello", "source-Offer", "target-Check", "target-Prepare"];
    let target = steps().filter(|step| !none.contains(&step.as_str())).map(|step| (step, Fault::TargetWorker));
    all("a worker", source.chain(target).collect::<Vec<_>>());
}

#[test]
fn the_controller_may_end_at_any_step_that_needs_it() {
    let steps = [
        "source-Hello",
        "source-Freeze",
        "source-TokenSent",
        "target-Claim",
        "target-Resume",
        "target-Taken",
        "target-Switched",
    ];
    all("controller", steps.map(|step| (step.to_owned(), Fault::Controller)));
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

/// Waits until a migration is over on both hosts.
async fn over(rig: &Rig, id: &str) {
    let deadline = Instant::now() + LIMIT;
    for host in &rig.hosts {
        while view(host, id).await.is_some_and(|view| !view.is_over()) {
            assert!(Instant::now() < deadline, "{}: {:?}", host.name, view(host, id).await);
            tokio::time::sleep(PAUSE).await;
        }
    }
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

/// Open descriptors of a process, and its memory, KiB.
fn used(pid: u32) -> (usize, u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    (names(Path::new(&format!("/proc/{pid}/fd"))).len(), line.trim().trim_end_matches(" kB").parse().unwrap())
}

/// Of both daemons and the controller.
fn all_used(rig: &Rig) -> Vec<(usize, u64)> {
    let daemons = rig.hosts.iter().map(|host| host.daemon.as_ref().unwrap().id());
    daemons.chain([rig.controller.as_ref().unwrap().id()]).map(used).collect()
}

#[test]
fn fifty_moves_under_load_leave_nothing() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        rig.hosts[0].deploy("guest").await.unwrap();
        rig.answers();
        let talks: Vec<_> = (0..10).map(|_| Talk::begin(rig)).collect();
        for _ in 0..6 {
            plain(rig, &talks[0]).await;
        }
        let before = all_used(rig);
        for _ in 0..50 {
            plain(rig, &talks[0]).await;
        }
        // What was opened for a moment is closed again.
        tokio::time::sleep(SHORT).await;
        let after = all_used(rig);
        println!("descriptors and KiB: {before:?}, after 50 moves {after:?}");
        for (before, after) in before.iter().zip(&after) {
            assert!(after.0 <= before.0 + 4, "descriptors: {before:?}, then {after:?}");
            assert!(after.1 <= before.1 + 16 * 1024, "KiB: {before:?}, then {after:?}");
        }
        for talk in talks {
            assert!(talk.goes_on().await);
            talk.end();
        }
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
