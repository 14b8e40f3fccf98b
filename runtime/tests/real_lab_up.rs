//! Standing labs: raised, used, broken and taken down, with nothing left.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use common::{ROAM, has, skip, wasm};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use roam_runtime::lab::has_rights;
use serde_json::Value;

/// Labs beneath a directory of their own; they are taken down with it.
struct Bed {
    base: PathBuf,
    names: Vec<String>,
}

static BEDS: AtomicU32 = AtomicU32::new(0);

impl Bed {
    /// A directory for so many labs, or a word on standard error when this machine cannot have them.
    fn new(labs: usize) -> Option<Self> {
        if !has("ip", "iproute2") || !has("tc", "iproute2") || !has("ping", "iputils-ping") || !has("nft", "nftables") {
            return None;
        }
        // A namespace with a name outlives its maker: a user namespace's root cannot have one.
        if !has_rights() || !fs::create_dir_all("/run/netns").is_ok_and(|()| nix::unistd::geteuid().is_root()) {
            skip("standing labs are root's");
            return None;
        }
        let number = BEDS.fetch_add(1, Ordering::Relaxed);
        let names = (0..labs).map(|lab| format!("t{}-{number}-{lab}", std::process::id())).collect();
        let base = std::env::temp_dir().join(format!("roam-labs-{}-{number}", std::process::id()));
        Some(Self { base, names })
    }

    fn roam(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(ROAM);
        command.args(["--config", "/dev/null"]).args(arguments).env("ROAM_LAB_DIR", &self.base);
        for key in ["ROAM_HOST", "ROAM_CONTROLLER", "ROAM_TLS_DIR", "ROAM_LOG", "ROAM_LOG_FORMAT"] {
            command.env_remove(key);
        }
        command.output().unwrap()
    }

    /// Its standard output; it must succeed.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.roam(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {}\n{stderr}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(arguments)).unwrap()
    }

    /// Its standard error; it must end with that code.
    fn fails(&self, arguments: &[&str], code: i32) -> String {
        let output = self.roam(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        stderr
    }

    fn up(&self, lab: usize, extra: &[&str]) -> Value {
        let arguments: Vec<&str> =
            ["lab", "up", "--json", "--name", &self.names[lab]].into_iter().chain(extra.iter().copied()).collect();
        self.json(&arguments)
    }

    fn down(&self, lab: usize) -> String {
        self.ok(&["lab", "down", "--name", &self.names[lab]])
    }

    /// A command in a node of a lab, run to its end.
    fn exec(&self, lab: usize, node: &str, command: &[&str]) -> Output {
        let arguments: Vec<&str> = ["lab", "exec", "--name", &self.names[lab], node, "--"]
            .into_iter()
            .chain(command.iter().copied())
            .collect();
        self.roam(&arguments)
    }

    fn pings(&self, lab: usize, address: &str) {
        let output = self.exec(lab, "client", &["ping", "-c", "1", "-W", "20", address]);
        assert!(output.status.success(), "{address}: {}", String::from_utf8_lossy(&output.stdout));
    }

    /// Deploys the echo guest on a host, and waits until the client reaches it. Its process.
    fn deploy(&self, lab: usize, host: &str, address: &str) -> u32 {
        let host = format!("{}/{host}", self.names[lab]);
        let module = wasm("echo");
        let ip = format!("{address}/16");
        let arguments = ["deploy", module.to_str().unwrap(), "--name", "echo", "--ip", &ip, "--host", &host, "--json"];
        let report: Value = serde_json::from_str(self.ok(&arguments).trim()).unwrap();
        self.pings(lab, address);
        u32::try_from(report["guest"]["pid"].as_u64().unwrap()).unwrap()
    }

    /// The daemons of a lab: processes that run inside its hosts' namespaces.
    fn daemons(&self, lab: usize) -> Vec<u32> {
        let inside = |path: &Path| namespace_of(path);
        let hosts: BTreeSet<_> = namespaces(&self.names[lab])
            .into_iter()
            .filter(|name| name.contains("-host-"))
            .filter_map(|name| inside(&Path::new("/run/netns").join(name)))
            .collect();
        processes().filter(|pid| inside(&proc(*pid).join("ns/net")).is_some_and(|is| hosts.contains(&is))).collect()
    }

    /// Nothing is left: no namespace, no process that was seen, no control group, no file.
    fn assert_nothing_left(&self, seen: &[u32]) {
        for name in &self.names {
            assert_eq!(namespaces(name), BTreeSet::new());
        }
        for pid in seen {
            assert!(has_ended(*pid), "process {pid} still runs");
        }
        assert!(!self.base.exists() || fs::read_dir(&self.base).unwrap().next().is_none(), "files are left");
        let groups: Vec<_> = self.groups().collect();
        assert!(groups.is_empty(), "{groups:?} are left");
    }

    /// Control groups of the labs' hosts.
    fn groups(&self) -> impl Iterator<Item = PathBuf> {
        let keys: Vec<String> = self
            .names
            .iter()
            .flat_map(|name| ["host-a", "host-b"].map(|host| (host, self.base.join(name).join(host).join("state"))))
            .map(|(host, state)| roam_runtime::host::control_group(host, &state))
            .collect();
        let roots = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        let roots: Vec<PathBuf> = roots.chain([PathBuf::from("/sys/fs/cgroup")]).collect();
        let all = roots
            .into_iter()
            .flat_map(move |root| keys.clone().into_iter().map(move |key| root.join("roam").join(key)));
        all.filter(|group| group.exists())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for name in &self.names {
            let down = self.roam(&["lab", "down", "--name", name]);
            if !down.status.success() {
                eprintln!("lab {name} is left: {}", String::from_utf8_lossy(&down.stderr));
            }
        }
        let _ = fs::remove_dir_all(&self.base);
    }
}

fn proc(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// Ended, whether or not its parent has taken note.
fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(proc(pid).join("stat"));
    stat.map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X'])))
}

fn namespace_of(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Names of a lab's namespaces.
fn namespaces(lab: &str) -> BTreeSet<String> {
    let names = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(&format!("roam-{lab}-"))).collect()
}

fn kill_hard(pid: u32) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
}

#[test]
fn a_lab_is_raised_used_repaired_and_taken_down() {
    let Some(bed) = Bed::new(1) else { return };
    let status = bed.up(0, &[]);
    assert_eq!((&status["whole"], status["hosts"].as_array().unwrap().len()), (&Value::Bool(true), 2));
    assert_eq!(namespaces(&bed.names[0]).len(), 6);
    assert_eq!(status["controller"]["healthy"], Value::Bool(true));
    // The client reaches guests of both hosts, and operators reach the hosts by name and, from inside, by TLS.
    let mut seen = vec![bed.deploy(0, "host-a", "10.90.1.10"), bed.deploy(0, "host-b", "10.90.2.10")];
    let tls = status["tls_dir"].as_str().unwrap();
    let by_tls = ["ps", "-q", "--host", "https://172.30.0.2:7443", "--tls-dir", tls];
    let command: Vec<&str> = [ROAM].into_iter().chain(by_tls).collect();
    let output = bed.exec(0, "gateway", &command);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "echo\n", "{}", String::from_utf8_lossy(&output.stderr));
    // The code of what runs inside is passed on.
    assert_eq!(bed.exec(0, "host-a", &["sh", "-c", "exit 7"]).status.code(), Some(7));
    // Each host is alone with its links: the client's address is not there.
    assert!(!bed.exec(0, "wire", &["ping", "-c", "1", "-W", "1", "10.90.0.1"]).status.success());
    // Again: the same is no error, another is.
    assert_eq!(bed.up(0, &[])["whole"], Value::Bool(true));
    let refused = bed.fails(&["lab", "up", "--name", &bed.names[0], "--hosts", "3"], 1);
    assert!(refused.contains("2 hosts, not 3") && refused.contains("roam lab down"), "{refused}");
    // A daemon that died is started again, and has its guest back.
    let daemons = bed.daemons(0);
    assert_eq!(daemons.len(), 2);
    daemons.iter().for_each(|pid| kill_hard(*pid));
    bed.fails(&["lab", "status", "--name", &bed.names[0]], 1);
    assert_eq!(bed.up(0, &[])["whole"], Value::Bool(true));
    bed.pings(0, "10.90.1.10");
    let guests = bed.json(&["ps", "--json"]);
    let pids: BTreeSet<u64> = guests.as_array().unwrap().iter().map(|guest| guest["pid"].as_u64().unwrap()).collect();
    assert_eq!(pids, seen.iter().map(|pid| u64::from(*pid)).collect());
    seen.extend(bed.daemons(0));
    bed.down(0);
    bed.assert_nothing_left(&seen);
    assert!(bed.down(0).contains("was not up"));
}

#[test]
fn two_labs_share_nothing() {
    let Some(bed) = Bed::new(2) else { return };
    bed.up(0, &["--hosts", "1"]);
    bed.up(1, &["--hosts", "1", "--link", "100Mbit"]);
    // The same address in both: each client has its own guest.
    let mut seen = vec![bed.deploy(0, "host-a", "10.90.1.10")];
    let gone = bed.exec(1, "client", &["ping", "-c", "1", "-W", "1", "10.90.1.10"]);
    assert!(!gone.status.success(), "a guest of the other lab answers");
    seen.push(bed.deploy(1, "host-a", "10.90.1.10"));
    let ambiguous = bed.fails(&["inspect", "echo", "--host", "host-a"], 2);
    assert!(bed.names.iter().all(|name| ambiguous.contains(&format!("{name}/host-a"))), "{ambiguous}");
    seen.extend((0..2).flat_map(|lab| bed.daemons(lab)));
    bed.down(0);
    bed.pings(1, "10.90.1.10");
    let shaped = bed.exec(1, "host-a", &["tc", "qdisc", "show", "dev", "under0"]);
    assert!(String::from_utf8_lossy(&shaped.stdout).contains("tbf"), "{shaped:?}");
    bed.ok(&["lab", "down", "--all"]);
    bed.assert_nothing_left(&seen);
}

#[test]
fn down_needs_nothing_but_what_is_left() {
    let Some(bed) = Bed::new(1) else { return };
    let (name, dir) = (&bed.names[0], bed.base.join(&bed.names[0]));
    // Daemons killed and files gone: guests' workers are found by their sockets.
    bed.up(0, &["--hosts", "1"]);
    let mut seen = vec![bed.deploy(0, "host-a", "10.90.1.10")];
    seen.extend(bed.daemons(0));
    bed.daemons(0).iter().for_each(|pid| kill_hard(*pid));
    fs::remove_dir_all(&dir).unwrap();
    bed.down(0);
    bed.assert_nothing_left(&seen);
    // Names of namespaces gone: processes are found by their sockets in the directory.
    bed.up(0, &["--hosts", "1"]);
    let mut seen = vec![bed.deploy(0, "host-a", "10.90.1.10")];
    seen.extend(bed.daemons(0));
    for namespace in namespaces(name) {
        assert!(Command::new("ip").args(["netns", "del", &namespace]).status().unwrap().success());
    }
    let broken = bed.fails(&["lab", "up", "--name", name, "--hosts", "1"], 1);
    assert!(broken.contains("is gone") && broken.contains("roam lab down"), "{broken}");
    bed.down(0);
    bed.assert_nothing_left(&seen);
    // The record is damaged, and a file is where a namespace was.
    bed.up(0, &["--hosts", "1"]);
    let seen = bed.daemons(0);
    fs::write(dir.join("lab.json"), "{").unwrap();
    let client = format!("roam-{name}-client");
    assert!(Command::new("ip").args(["netns", "del", &client]).status().unwrap().success());
    fs::write(Path::new("/run/netns").join(&client), "").unwrap();
    bed.down(0);
    bed.assert_nothing_left(&seen);
}

#[test]
fn a_lab_that_does_not_come_up_leaves_nothing() {
    let Some(bed) = Bed::new(1) else { return };
    let name = &bed.names[0];
    // Its directory cannot be made.
    let mut command = Command::new(ROAM);
    command.args(["lab", "up", "--name", name, "--hosts", "1"]).env("ROAM_LAB_DIR", Path::new("/proc/nowhere"));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    bed.assert_nothing_left(&[]);
    // Interrupted as soon as there is something to clear away.
    let mut command = Command::new(ROAM);
    let mut child = command.args(["lab", "up", "--name", name]).env("ROAM_LAB_DIR", &bed.base).spawn().unwrap();
    while namespaces(name).is_empty() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    bed.assert_nothing_left(&[]);
    // Too deep for the path of a socket: said before anything is made.
    let deep = bed.base.join("x".repeat(90));
    let output = Command::new(ROAM).args(["lab", "up", "--name", name]).env("ROAM_LAB_DIR", deep).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("ROAM_LAB_DIR"), "{output:?}");
    bed.assert_nothing_left(&[]);
}

/// Traps at its first poll.
const TRAPS: &str = r#"(module (memory (export "memory") 1)
    (func (export "roam_abi_version") (result i32) i32.const 1)
    (func (export "roam_poll") (param i64) (result i64) unreachable))"#;

#[test]
fn a_manifest_is_done_once_and_what_ended_says_why() {
    let Some(bed) = Bed::new(1) else { return };
    bed.up(0, &["--hosts", "1"]);
    let host = format!("{}/host-a", bed.names[0]);
    fs::write(bed.base.join("traps.wasm"), wat::parse_str(TRAPS).unwrap()).unwrap();
    let manifest = bed.base.join("roam.toml");
    let declare = |memory: &str| {
        let echo = format!("[[guest]]\nmodule = '{}'\nmemory = '{memory}'\n", wasm("echo").display());
        fs::write(&manifest, format!("{echo}[[guest]]\nmodule = 'traps.wasm'\nrestart = 'no'\n")).unwrap();
    };
    let deploy = ["deploy", "--json", "--host", &host, "--file", manifest.to_str().unwrap()];
    let done = |lines: &str| -> Vec<String> {
        let reports = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        reports.map(|report| report["done"].as_str().unwrap().to_owned()).collect()
    };
    declare("64MiB");
    assert_eq!(done(&bed.ok(&deploy)), ["created", "created"]);
    assert_eq!(done(&bed.ok(&deploy)), ["unchanged", "unchanged"]);
    // What differs is refused, and left as it is; the rest is done.
    declare("65MiB");
    let refused = bed.fails(&deploy, 5);
    assert!(refused.contains("memory_bytes_max is 67108864, not 68157440") && refused.contains("roam rm"), "{refused}");
    // Its first address is the first that looks like a host's.
    let echo = bed.json(&["inspect", "echo", "--host", &host, "--json"]);
    assert_eq!((&echo["guest"]["state"], &echo["guest"]["network"]["ip"]), (&"running".into(), &"10.90.1.1/16".into()));
    bed.pings(0, "10.90.1.1");
    let mut listed = String::new();
    for _ in 0..1000 {
        listed = bed.ok(&["ps", "--host", &host]);
        if listed.contains("ended") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(listed.contains("the guest trapped: wasm trap: wasm `unreachable`"), "{listed}");
    bed.down(0);
    // The directory above the labs holds the manifest.
    fs::remove_file(&manifest).unwrap();
    fs::remove_file(bed.base.join("traps.wasm")).unwrap();
    bed.assert_nothing_left(&[]);
}

/// The owner and generation of an address.
fn placed(bed: &Bed, address: &str) -> (String, u64) {
    let route = bed.json(&["route", "show", address, "--json", "--controller", &bed.names[0]]);
    let placement = &route["placement"];
    (placement["host"].as_str().unwrap().to_owned(), placement["generation"].as_u64().unwrap())
}

/// The controller of a lab: the process that has its table open.
fn controller(bed: &Bed) -> u32 {
    let table = bed.base.join(&bed.names[0]).join("gateway/state/table.redb");
    let open = |pid: &u32| {
        let mut files = fs::read_dir(proc(*pid).join("fd")).into_iter().flatten().flatten();
        files.any(|file| fs::read_link(file.path()).is_ok_and(|path| path == table))
    };
    processes().find(open).unwrap()
}

#[test]
fn addresses_are_claimed_moved_and_released_and_traffic_outlives_the_controller() {
    let Some(bed) = Bed::new(1) else { return };
    let lab = bed.names[0].clone();
    bed.up(0, &[]);
    let at = ["--controller", &lab];
    let ok = |arguments: &[&str]| bed.ok(&[arguments, &at].concat());
    // Guests of both hosts have theirs, and are reached by both families.
    let mut seen = Vec::new();
    for (name, host, number) in [("one", "host-a", 1), ("two", "host-b", 2)] {
        let (ip, ip6) = (format!("10.90.{number}.10/16"), format!("fd90::{number}:10/64"));
        let (host, module) = (format!("{lab}/{host}"), wasm("echo"));
        let guest = ["deploy", module.to_str().unwrap(), "--name", name, "--ip", &ip, "--ip6", &ip6, "--host", &host];
        bed.ok(&guest);
        bed.pings(0, ip.trim_end_matches("/16"));
        bed.pings(0, ip6.trim_end_matches("/64"));
    }
    assert_eq!((placed(&bed, "one").0, placed(&bed, "10.90.2.10").0), ("host-a".into(), "host-b".into()));
    let listed = ok(&["route", "ls"]);
    assert!(listed.contains("one") && listed.contains("fd90::2:10") && !listed.contains("lost"), "{listed}");
    let hosts = ok(&["route", "hosts"]);
    assert!(["gateway", "host-a", "172.30.0.2"].iter().all(|word| hosts.contains(word)), "{hosts}");
    // One that is nobody's guest: by the commands alone.
    ok(&["route", "claim", "--mac", "02:00:00:00:00:99", "--ip", "10.90.9.9", "--name", "spare", "--host", "host-a"]);
    assert!(ok(&["route", "move", "spare", "--to", "host-b", "--drain"]).contains("host-a -> host-b, generation"));
    assert!(ok(&["route", "show", "spare"]).contains("route clean"));
    ok(&["route", "clean", "spare"]);
    let old = [&["route", "move", "spare", "--to", "host-a", "--generation", "1"][..], &at].concat();
    assert!(bed.fails(&old, 5).contains("host-b's since generation"));
    ok(&["route", "release", "10.90.9.9"]);
    bed.fails(&[&["route", "show", "spare"][..], &at].concat(), 4);
    // Nothing of the controller's is in the way of frames.
    let before = controller(&bed);
    kill_hard(before);
    bed.pings(0, "10.90.1.10");
    bed.fails(&[&["route", "ls"][..], &at].concat(), 3);
    bed.fails(&["lab", "status", "--name", &lab], 1);
    assert_eq!(bed.up(0, &[])["whole"], Value::Bool(true));
    assert_eq!(placed(&bed, "two").0, "host-b");
    seen.extend([before, controller(&bed)]);
    seen.extend(bed.daemons(0));
    bed.down(0);
    bed.assert_nothing_left(&seen);
}

#[test]
fn a_front_lets_in_those_outside_and_nothing_else_does() {
    let Some(bed) = Bed::new(1).filter(|_| has("curl", "curl")) else { return };
    let lab = bed.names[0].clone();
    bed.up(0, &[]);
    let (host, module) = (format!("{lab}/host-a"), wasm("web"));
    let ips = ["--ip", "10.90.1.10/16", "--ip6", "fd90::1:10/64"];
    let deploy = ["deploy", module.to_str().unwrap(), "--name", "web", "--host", &host];
    bed.ok(&[&deploy[..], &ips].concat());
    bed.pings(0, "10.90.1.10");
    let shut = bed.exec(0, "outside", &["ping", "-c", "1", "-W", "1", "10.90.1.10"]);
    assert!(!shut.status.success(), "the overlay is reached from outside");
    for (front, url) in [("tcp/192.0.2.1:80", "http://192.0.2.1/"), ("tcp/[2001:db8::1]:80", "http://[2001:db8::1]/")] {
        let get = ["curl", "--silent", "--fail", "--max-time", "20", url];
        bed.ok(&["front", "add", front, "--to", "web:80", "--controller", &lab]);
        let page = bed.exec(0, "outside", &get);
        assert!(page.status.success() && !page.stdout.is_empty(), "{url}: {page:?}");
        bed.ok(&["front", "rm", front, "--controller", &lab]);
        assert!(!bed.exec(0, "outside", &[&get[..4], &["2", url]].concat()).status.success(), "{url} is still open");
    }
    bed.down(0);
    bed.assert_nothing_left(&[]);
}
