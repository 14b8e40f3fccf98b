//! `roam demo` as a newcomer meets it, and what it leaves behind when it is cut short: nothing.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use common::{LIMIT, ROAM, has, lab, skip};
use nix::sys::signal::Signal;
use roam_runtime::lab::Process;

fn demo(arguments: &[&str]) -> Process {
    let mut command = Command::new(ROAM);
    command.arg("demo").args(arguments);
    Process::spawn(command).unwrap()
}

#[test]
fn everything_shown_works() {
    let Some(_) = lab() else { return };
    let finished = demo(&["--json", "--duration", "500ms"]).finish(b"", LIMIT * 2).unwrap();
    let said = finished.text();
    let report: serde_json::Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {finished:?}"));
    assert!(finished.status.success(), "{report:#}");
    assert!(report["checks"].as_array().unwrap().len() >= 8, "{report:#}");
    assert_eq!(report["load"].as_array().unwrap().len(), 6, "{report:#}");
    for row in report["load"].as_array().unwrap() {
        assert!(row["received"].as_u64() > Some(0) && row["received"] == row["sent"], "{row:#}");
    }
}

#[test]
fn nothing_is_left_behind_when_it_is_cut_short() {
    let Some(_) = lab() else { return };
    for (signal, code) in [(Signal::SIGINT, Some(130)), (Signal::SIGTERM, Some(143)), (Signal::SIGKILL, None)] {
        let mut demo = demo(&["--duration", "30s"]);
        let deadline = Instant::now() + LIMIT;
        // Four guests, and the first load.
        let family = loop {
            let family = descendants(demo.id());
            let said = String::from_utf8_lossy(&demo.stdout()).into_owned();
            if said.contains("$ roam load") && family.len() >= 5 {
                break family;
            }
            assert!(Instant::now() < deadline, "{family:?}\n{said}");
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
    }
}

#[test]
fn it_needs_no_root() {
    let Some(_) = lab() else { return };
    if !has("setpriv", "util-linux") || !nix::unistd::geteuid().is_root() {
        return;
    }
    // A binary and a TAP device that another user can open, in a mount namespace of their own.
    let folder = Folder::new();
    fs::copy(ROAM, folder.0.join("roam")).unwrap();
    let script = "mknod -m 666 tun c 10 200 && mount --bind tun /dev/net/tun && exec setpriv --reuid=65534 \
        --regid=65534 --clear-groups ./roam demo --json --duration 200ms";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script]).current_dir(&folder.0).env("ROAM_CACHE_DIR", folder.0.join("cache"));
    let finished = Process::spawn(command).unwrap().finish(b"", LIMIT).unwrap();
    if finished.stderr.contains("user namespaces to root only") || finished.stderr.contains("TAP devices") {
        return skip(finished.stderr.trim());
    }
    assert!(finished.status.success(), "{finished:?}");
}

#[test]
fn wrong_options_are_refused() {
    for arguments in [&["--duration", "0"][..], &["--duration", "1h"], &["--duration", "soon"], &["--guests"]] {
        let finished = demo(arguments).finish(b"", LIMIT).unwrap();
        assert!(!finished.status.success() && finished.stdout.is_empty(), "{finished:?}");
        assert!(!finished.stderr.is_empty() && !finished.stderr.contains("panicked"), "{finished:?}");
    }
    let finished = demo(&["--guests", "/no/such/folder"]).finish(b"", LIMIT).unwrap();
    assert!(!finished.status.success() && finished.stderr.contains("/no/such/folder"), "{finished:?}");
}

/// A folder for every user, removed with the value.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("roam-test-demo-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
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
