//! `roam demo` as a newcomer meets it, and what it leaves behind when it is cut short: nothing.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::{LIMIT, ROAM, has, lab};
use nix::sys::signal::Signal;
use roam_runtime::lab::Process;

/// In a directory of its own, for the picture.
fn demo(folder: &Folder, arguments: &[&str]) -> Process {
    let mut command = Command::new(ROAM);
    command.arg("demo").args(arguments).current_dir(&folder.0);
    Process::spawn(command).unwrap()
}

/// Whether this machine can have hosts.
fn possible() -> bool {
    has("nft", "nftables") && lab().is_some()
}

#[test]
fn guests_move_and_their_clients_miss_nothing() {
    if !possible() {
        return;
    }
    let folder = Folder::new("whole");
    // Long enough for all of them to go, and some to come back, on a busy machine, too.
    let finished = demo(&folder, &["--json", "--duration", "20s"]).finish(b"", LIMIT * 2).unwrap();
    let said = finished.text();
    let report: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {finished:?}"));
    assert!(finished.status.success(), "{report:#}");
    assert!(report["checks"].as_array().unwrap().len() >= 7, "{report:#}");
    assert_eq!(report["guests"].as_array().unwrap().len(), 3, "{report:#}");
    for row in report["guests"].as_array().unwrap() {
        assert!(row["migrations"].as_u64() > Some(0) && row["blackout_us_max"].as_u64() > Some(0), "{row:#}");
        assert!(row["received"].as_u64() > Some(0) && row["received"] == row["sent"], "{row:#}");
    }
    let migrations = report["migrations"].as_array().unwrap();
    assert!(migrations.iter().any(|moved| moved["to"] == "host-a"), "some go back: {report:#}");
    let files: Vec<_> = fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files, ["roam-demo.svg"], "the picture and nothing else");
    let picture = fs::read_to_string(folder.0.join("roam-demo.svg")).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("square"), "{picture}");
}

#[test]
fn nothing_is_left_behind_when_it_is_cut_short() {
    if !possible() {
        return;
    }
    for (signal, code) in [(Signal::SIGINT, Some(130)), (Signal::SIGTERM, Some(143)), (Signal::SIGKILL, None)] {
        let folder = Folder::new("cut");
        let mut demo = demo(&folder, &["--duration", "60s"]);
        let deadline = Instant::now() + LIMIT;
        // A controller, two hosts, three guests, and a client.
        let family = loop {
            let family = descendants(demo.id());
            let said = String::from_utf8_lossy(&demo.stdout()).into_owned();
            if said.contains("$ roam migrate") && family.len() >= 7 {
                break family;
            }
            assert!(Instant::now() < deadline, "{family:?}\n{said}\n{}", demo.stderr());
            thread::sleep(Duration::from_millis(10));
        };
        demo.signal(signal).unwrap();
        let status = demo.wait(LIMIT).unwrap().unwrap();
        assert_eq!(status.code(), code, "{signal}: {}", demo.stderr());
        let deadline = Instant::now() + LIMIT;
        while family.iter().any(Member::lives) {
            assert!(Instant::now() < deadline, "{signal}: still there: {family:?}");
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 0, "{signal}");
    }
}

#[test]
fn wrong_options_are_refused() {
    let folder = Folder::new("refused");
    for arguments in [&["--duration", "0"][..], &["--duration", "1h"], &["--duration", "soon"], &["--guests"]] {
        let finished = demo(&folder, arguments).finish(b"", LIMIT).unwrap();
        assert!(!finished.status.success() && finished.stdout.is_empty(), "{finished:?}");
        assert!(!finished.stderr.is_empty() && !finished.stderr.contains("panicked"), "{finished:?}");
    }
    if possible() {
        let finished = demo(&folder, &["--guests", "/no/such/folder"]).finish(b"", LIMIT).unwrap();
        assert!(!finished.status.success() && finished.stderr.contains("/no/such/folder"), "{finished:?}");
    }
}

/// A folder, removed with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("roam-test-demo-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process, told apart from a later one of the same number by when it was started.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Member {
    id: u32,
    parent: u32,
    started: u64,
}

impl Member {
    /// proc_pid_stat(5); the second field may contain anything but ends with the last parenthesis.
    fn of(id: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let zombie = fields[0] == "Z";
        (!zombie).then_some(Self { id, parent: fields[1].parse().ok()?, started: fields[19].parse().ok()? })
    }

    fn lives(&self) -> bool {
        Self::of(self.id).is_some_and(|now| now.started == self.started)
    }
}

fn descendants(root: u32) -> BTreeSet<Member> {
    let ids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let all: Vec<Member> = ids.filter_map(Member::of).collect();
    let mut family = vec![root];
    let mut next = 0;
    while next < family.len() {
        let parent = family[next];
        family.extend(all.iter().filter(|member| member.parent == parent).map(|member| member.id));
        next += 1;
    }
    all.into_iter().filter(|member| member.id != root && family.contains(&member.id)).collect()
}
