//! A guest that is moved between the hosts of a [`Rig`], its clients, and what must hold when it is over.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher, Hasher};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use roam_abi::pattern;
use roam_runtime::api::{GuestState, GuestView, MigrateRequest, MigrationState, MigrationView};
use roam_runtime::host::control_group;

use super::host::lives;
use super::overlay::{IP, Node, Rig, name};
use super::{LIMIT, limited};

/// Long enough for whoever lives to find out what a short fault means, short enough to try many.
pub(crate) const SHORT: Duration = Duration::from_millis(400);
/// Between two looks.
pub(crate) const PAUSE: Duration = Duration::from_millis(10);

/// A client that sends on and on and compares what comes back, until its connection fails.
pub(crate) struct Talk {
    stop: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
    pub(crate) thread: JoinHandle<std::io::Result<()>>,
}

impl Talk {
    pub(crate) fn begin(rig: &Rig) -> Self {
        Self::with(rig, IP)
    }

    pub(crate) fn with(rig: &Rig, ip: &str) -> Self {
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
    pub(crate) async fn goes_on(&self) -> bool {
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

    pub(crate) fn end(self) {
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

/// To that host, however slow the machine is.
pub(crate) fn to(host: &Node) -> MigrateRequest {
    MigrateRequest { downtime_us: 2_000_000, ..MigrateRequest::new(name(host.name)) }
}

/// Has a step of a host's migrations held.
pub(crate) fn hold(host: &Node, step: &str) -> PathBuf {
    fs::create_dir_all(host.holds()).unwrap();
    fs::write(host.holds().join(step), "").unwrap();
    host.holds().join(format!("{step}.held"))
}

pub(crate) fn release(host: &Node) {
    let _ = fs::remove_dir_all(host.holds());
}

pub(crate) async fn until_there(path: &Path) {
    let deadline = Instant::now() + LIMIT;
    while !path.exists() {
        assert!(Instant::now() < deadline, "{} is not reached", path.display());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Begins to move the guest to the other host and stops it at a step.
pub(crate) async fn held_at(rig: &Rig, at: usize, guest: &str, step: &str) -> (MigrationView, PathBuf) {
    let (source, target) = (&rig.hosts[at], &rig.hosts[1 - at]);
    let held = hold(if step.starts_with("source") { source } else { target }, step);
    let begun = source.client().migrate(&name(guest), &to(target)).await.unwrap();
    until_there(&held).await;
    (begun, held)
}

/// The children of a process: a daemon's, which are the workers that it has started.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>()).collect()
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

pub(crate) fn groups(host: &Node) -> usize {
    let group = control_group(host.name, &host.dir.join("state"));
    let trees = names(Path::new("/sys/fs/cgroup")).into_iter().chain([String::new()]);
    let group = |tree: String| Path::new("/sys/fs/cgroup").join(tree).join("roam").join(&group);
    let groups = trees.map(group).flat_map(|group| fs::read_dir(group).into_iter().flatten().flatten());
    groups.filter(|entry| entry.path().is_dir()).count()
}

/// What there is of guests on a host that has none: nothing, or what is wrong.
pub(crate) fn remains(host: &Node) -> Vec<String> {
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
    if let Some(problem) = host.problems().await.first() {
        return Err(format!("{}: {problem:?}", host.name));
    }
    Ok((*at, guest.clone()))
}

/// Waits until exactly one host has the guest, the controller says so, and nothing else is left of it.
pub(crate) async fn settled(rig: &Rig) -> usize {
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
pub(crate) async fn followed(rig: &Rig) {
    for host in &rig.hosts {
        host.until_followed(true).await;
    }
}

/// What a host says of a migration.
pub(crate) async fn view(host: &Node, id: &str) -> Option<MigrationView> {
    host.client().migration(id).await.ok()
}

/// A move without a fault.
pub(crate) async fn plain(rig: &Rig, talk: &Talk) {
    followed(rig).await;
    let at = settled(rig).await;
    let (source, target) = (&rig.hosts[at], &rig.hosts[1 - at]);
    let begun = source.client().migrate(&name("guest"), &to(target)).await.unwrap();
    let now = settled(rig).await;
    let view = view(source, &begun.id).await;
    assert!(now != at && view.as_ref().is_some_and(|view| view.state == MigrationState::Done), "{view:?}");
    assert!(talk.goes_on().await, "the connection fails in a plain move");
}

/// Waits until a migration is over on both hosts.
pub(crate) async fn over(rig: &Rig, id: &str) {
    let deadline = Instant::now() + LIMIT;
    for host in &rig.hosts {
        while view(host, id).await.is_some_and(|view| !view.is_over()) {
            assert!(Instant::now() < deadline, "{}: {:?}", host.name, view(host, id).await);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What a process has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    pub(crate) files: usize,
    pub(crate) threads: u64,
    pub(crate) kib: u64,
    pub(crate) mounts: usize,
    pub(crate) children: usize,
}

fn used(pid: u32) -> Used {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let number = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap().lines().count();
    let files = names(Path::new(&format!("/proc/{pid}/fd"))).len();
    Used { files, threads: number("Threads:"), kib: number("VmRSS:"), mounts, children: children(pid).len() }
}

/// Of both daemons and the controller.
pub(crate) fn all_used(rig: &Rig) -> Vec<Used> {
    let daemons = rig.hosts.iter().map(|host| host.daemon.as_ref().unwrap().id());
    daemons.chain([rig.controller.as_ref().unwrap().id()]).map(used).collect()
}

/// All files and directories below a host's.
pub(crate) fn files(host: &Node) -> usize {
    fn below(dir: &Path) -> usize {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| 1 + if entry.path().is_dir() { below(&entry.path()) } else { 0 }).sum()
    }
    below(&host.dir)
}

/// So many of these, by a seed that is printed; all of them if `ROAM_FAULTS` is `all`, the same again if it is that seed.
pub(crate) fn chosen<T>(mut cases: Vec<T>, count: usize) -> Vec<T> {
    let wish = std::env::var("ROAM_FAULTS").ok();
    if wish.as_deref() == Some("all") {
        return cases;
    }
    let mut seed = wish.map_or_else(|| RandomState::new().build_hasher().finish(), |seed| seed.parse().unwrap());
    println!("ROAM_FAULTS={seed}: {count} of {}", cases.len());
    while cases.len() > count {
        // Knuth's generator: its high bits are good enough to choose by.
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        cases.remove((seed >> 33) as usize % cases.len());
    }
    cases
}
