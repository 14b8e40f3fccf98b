//! Guests that are kept in files and made guests again, by the command and by the API, on real hosts.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::host::{Stage, lives, signal, spec};
use common::overlay::{IP, Node, Rig, name};
use common::{LIMIT, ROAM, limited, wasm};
use futures_util::StreamExt;
use nix::sys::signal::Signal;
use roam_runtime::api::client::{Client, Endpoint};
use roam_runtime::api::{
    CheckpointRequest, EndKind, ErrorCode, GuestSpec, GuestState, GuestView, MigrateRequest, MigrationState,
    RestoreRequest,
};
use roam_runtime::engine::ModuleHash;
use roam_runtime::lab::{Finished, Process};
use roam_snapshot::image::{Image, ImageWriter};
use roam_snapshot::plan::PlanName;
use serde_json::Value;

const KV_PORT: u16 = 11_211;
/// Values of this size, so that each has a page of its own, and more.
const VALUE_BYTES: usize = 5000;

/// A memcached client with one connection.
struct Kv(BufReader<TcpStream>);

impl Kv {
    fn new(stream: TcpStream) -> Self {
        Self(BufReader::new(limited(stream)))
    }

    fn value(key: u32, version: u8) -> String {
        let mut value = format!("{key}/{version}:");
        value.extend(std::iter::repeat_n(char::from(b'a' + version), VALUE_BYTES - value.len()));
        value
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.0.read_line(&mut line).unwrap() > 0, "the connection ended");
        line
    }

    fn set(&mut self, key: u32, version: u8) {
        let value = Self::value(key, version);
        write!(self.0.get_mut(), "set key{key} 0 0 {}\r\n{value}\r\n", value.len()).unwrap();
        assert_eq!(self.line(), "STORED\r\n");
    }

    /// `None` if there is no such key.
    fn get(&mut self, key: u32) -> Option<String> {
        write!(self.0.get_mut(), "get key{key}\r\n").unwrap();
        if self.line() == "END\r\n" {
            return None;
        }
        let mut value = vec![0; VALUE_BYTES + 2];
        self.0.read_exact(&mut value).unwrap();
        assert_eq!(self.line(), "END\r\n");
        value.truncate(VALUE_BYTES);
        Some(String::from_utf8(value).unwrap())
    }

    fn fill(&mut self, keys: u32, version: u8) {
        (0..keys).for_each(|key| self.set(key, version));
    }

    fn holds(&mut self, keys: u32, version: u8) {
        for key in 0..keys {
            assert!(self.get(key).is_some_and(|value| value == Self::value(key, version)), "key {key} is another");
        }
    }
}

/// One host, its daemon beside the test.
struct Scene {
    stage: Stage,
    daemon: Option<Process>,
}

impl Scene {
    fn new() -> Option<Self> {
        let stage = Stage::new()?;
        let mut scene = Self { stage, daemon: None };
        scene.start();
        Some(scene)
    }

    fn start(&mut self) {
        let mut command = self.stage.bed.lab.host().command(ROAM);
        command.args(["host", "--bridge", "br0", "--network", "10.90.0.0/24", "--pool", "10.90.0.64/26"]);
        command.args(["--name", &self.stage.config.name, "--state-dir"]).arg(&self.stage.config.state_dir);
        command.arg("--run-dir").arg(&self.stage.config.run_dir).env_remove("ROAM_CONFIG");
        command.env("ROAM_MIGRATION_HOLD", self.path("holds"));
        let mut daemon = Process::spawn(command).unwrap();
        daemon.wait_for("ready", LIMIT).unwrap();
        self.daemon = Some(daemon);
    }

    fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.signal(Signal::SIGKILL).unwrap();
        daemon.wait(LIMIT).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.stage.dir.join(name)
    }

    fn client(&self) -> Client {
        Client::new(Endpoint::Unix(self.stage.config.run_dir.join("api.sock")))
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(ROAM);
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.as_encoded_bytes().starts_with(b"ROAM_")) {
            command.env_remove(key);
        }
        // Not the labs of this machine, which have guests of this name.
        command.env("ROAM_LAB_DIR", self.path("labs"));
        command.current_dir(&self.stage.dir).args(line.split_ascii_whitespace());
        command.arg("--host").arg(format!("unix:{}", self.stage.config.run_dir.join("api.sock").display()));
        command
    }

    /// `roam` with that command line, which names files in the stage's directory.
    fn roam(&self, line: &str) -> Finished {
        Process::spawn(self.command(line)).unwrap().finish(b"", LIMIT).unwrap()
    }

    /// The same, which must succeed and print one line of JSON.
    fn json(&self, line: &str) -> Value {
        let done = self.roam(&format!("{line} --json"));
        assert!(done.status.success(), "{line}: {}", done.stderr);
        serde_json::from_slice(&done.stdout).unwrap()
    }

    /// The same, which must be refused with that code, in such words.
    fn refused(&self, line: &str, code: i32, words: &str) {
        let done = self.roam(line);
        let said = done.stderr;
        assert!(done.status.code() == Some(code) && said.contains(words), "{line}: {:?}: {said}", done.status);
    }

    fn deploy(&self) {
        let done = self.roam(&format!("deploy {} --name kv", wasm("kv").display()));
        assert!(done.status.success(), "{}", done.stderr);
    }

    fn connect(&self, ip: &str) -> Kv {
        Kv::new(self.stage.bed.connect(ip, KV_PORT))
    }

    fn look(&self, name: &str) -> GuestView {
        run(async { self.client().inspect(&name.parse().unwrap()).await.unwrap() })
    }

    /// Waits until the daemon holds a step.
    fn held(&self, step: &str) -> PathBuf {
        let held = self.path("holds").join(format!("{step}.held"));
        let deadline = Instant::now() + LIMIT;
        while !held.exists() {
            assert!(Instant::now() < deadline, "{step} does not come");
            std::thread::sleep(Duration::from_millis(2));
        }
        held
    }

    fn hold(&self, step: &str) {
        fs::create_dir_all(self.path("holds")).unwrap();
        File::create(self.path("holds").join(step)).unwrap();
    }

    /// Images that lie around in the daemon's directory or the clients'.
    fn left(&self) -> Vec<String> {
        let mut left = self.stage.entries("state/images");
        left.extend(self.stage.entries("").into_iter().filter(|name| name.ends_with("unfinished")));
        left
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            if std::thread::panicking() {
                eprintln!("--- {}\n{}---", daemon.line(), daemon.stderr());
            }
            let _ = daemon.signal(Signal::SIGTERM);
            let _ = daemon.wait(LIMIT);
        }
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("no {field} in {value}"))
}

const IP_A: &str = "10.90.0.65";

#[test]
fn a_guest_goes_on_from_a_file_with_its_connections() {
    let Some(scene) = Scene::new() else { return };
    scene.deploy();
    let mut kv = scene.connect(IP_A);
    kv.fill(2000, 0);
    let pid = scene.look("kv").pid;
    let report = scene.json("checkpoint kv -o f.snap --keep-running");
    assert!(number(&report, "blackout_us") > 0 && number(&report, "pages") > 2000, "{report}");
    let metadata = fs::metadata(scene.path("f.snap")).unwrap();
    assert_eq!((metadata.len(), metadata.permissions().mode() & 0o777), (number(&report, "bytes"), 0o600));
    let image = Image::open(File::open(scene.path("f.snap")).unwrap()).unwrap();
    assert_eq!(Some(image.digest().to_string().as_str()), report["digest"].as_str());
    kv.holds(2000, 0);
    assert_eq!(scene.look("kv").pid, pid, "it is the same worker");
    scene.refused("checkpoint kv -o f.snap --keep-running", 2, "exists");
    scene.refused("checkpoint kv -o holds-not/f.snap", 1, "create");
    scene.refused("checkpoint nobody -o g.snap", 4, "nobody");
    kv.fill(100, 1);
    assert!(scene.json("checkpoint kv -o f.snap --keep-running --force")["parent"].is_null());
    kv.fill(50, 2);

    let report = scene.json("checkpoint kv -o g.snap");
    assert!(report["blackout_us"].is_null(), "{report}");
    let view = scene.look("kv");
    let end = view.last_end.unwrap();
    assert_eq!((view.state, end.kind), (GuestState::Stopped, EndKind::Checkpointed));
    assert!(end.reason.contains(report["digest"].as_str().unwrap()), "{}", end.reason);
    assert!(!lives(pid.unwrap()));
    let shown = scene.roam("ps").text();
    assert!(shown.contains("stopped") && shown.contains("checkpointed"), "{shown}");
    scene.refused("checkpoint kv -o h.snap", 5, "does not run");
    // The name and the address are taken: by the guest that is stopped.
    scene.refused("restore g.snap", 5, "kv");
    scene.refused("restore g.snap --name other", 5, IP_A);
    assert!(scene.roam("rm kv").status.success());
    let restored = scene.json("restore g.snap");
    assert_eq!(restored["guest"]["network"]["ip"].as_str(), Some("10.90.0.65/24"));
    // The connection has seen nothing but a silence.
    kv.holds(50, 2);
    (50..100).for_each(|key| assert_eq!(kv.get(key).unwrap(), Kv::value(key, 1)));
    (100..2000).for_each(|key| assert_eq!(kv.get(key).unwrap(), Kv::value(key, 0)));
    scene.connect(IP_A).set(3, 3);
    assert_eq!(scene.left(), Vec::<String>::new());
}

#[test]
fn a_clone_serves_beside_its_original() {
    let Some(scene) = Scene::new() else { return };
    scene.deploy();
    let mut kv = scene.connect(IP_A);
    kv.fill(500, 0);
    scene.json("checkpoint kv -o f.snap --keep-running");
    kv.fill(500, 1);
    let clone = scene.json("restore f.snap --name kv2 --ip 10.90.0.99");
    assert_eq!(clone["guest"]["network"]["ip"].as_str(), Some("10.90.0.99/24"));
    assert_ne!(clone["guest"]["network"]["mac"].as_str(), Some(scene.look("kv").network.mac.to_string().as_str()));
    scene.connect("10.90.0.99").holds(500, 0);
    kv.holds(500, 1);
    scene.json("restore f.snap --name kv3 --ip 10.90.0.98/24");
    let mut third = scene.connect("10.90.0.98");
    third.fill(500, 3);
    scene.connect("10.90.0.99").holds(500, 0);
    kv.holds(500, 1);
    third.holds(500, 3);
    // A clone is a guest like others.
    scene.json("checkpoint kv3 -o third.snap");
    assert!(scene.roam("rm kv3").status.success());
    scene.json("restore third.snap");
    third.holds(500, 3);
    let shown = scene.roam("ps").text();
    assert_eq!(shown.matches("running").count(), 3, "{shown}");
}

/// What an incremental image says it follows.
fn parent(path: &Path) -> bool {
    Image::open(File::open(path).unwrap()).unwrap().meta().parent.is_some()
}

fn images(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Waits until the images of a directory are as wanted.
fn images_until(dir: &Path, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let names = images(dir);
        if wanted(&names) {
            return names;
        }
        assert!(Instant::now() < deadline, "they stay {names:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn highest(names: &[String]) -> u64 {
    names.iter().filter_map(|name| name.strip_suffix(".snap")?.parse().ok()).max().unwrap_or(0)
}

#[test]
fn images_follow_each_other_and_the_oldest_go() {
    let Some(mut scene) = Scene::new() else { return };
    scene.deploy();
    let mut kv = scene.connect(IP_A);
    kv.fill(1000, 0);
    let dir = scene.path("images");
    let mut series = Process::spawn(scene.command("checkpoint kv -o images --every 150ms --keep 4 --json")).unwrap();
    images_until(&dir, |names| highest(names) >= 1);
    assert!(!parent(&dir.join("0000000000.snap")), "the first has everything");
    kv.fill(20, 1);
    let names = images_until(&dir, |names| highest(names) >= 8);
    assert!(names.len() <= 8, "those that are kept, half as many more, and what is being written: {names:?}");
    let line: Value = serde_json::from_slice(series.stdout().split(|byte| *byte == b'\n').nth(2).unwrap()).unwrap();
    assert!(line["parent"].is_string() && number(&line, "bytes") < 1 << 20, "it has only what changed: {line}");
    // Its daemon ends; the guest does not, and the next image has everything.
    scene.kill();
    kv.fill(10, 2);
    scene.start();
    let before = highest(&images(&dir));
    let names = images_until(&dir, |names| highest(names) >= before + 3);
    kv.fill(5, 3);
    let last = highest(&names);
    images_until(&dir, |names| highest(names) >= last + 2);
    series.signal(Signal::SIGINT).unwrap();
    let status = series.wait(LIMIT).unwrap().unwrap();
    assert!(status.success(), "{status:?}: {}", series.stderr());
    assert!(series.stderr().contains("has everything"), "{}", series.stderr());
    let names = images(&dir);
    assert!(names.iter().all(|name| name.ends_with(".snap")), "{names:?}");
    // What is alone, and rests on others, is refused; the directory has all of it.
    let alone = dir.join(names.last().unwrap());
    assert!(parent(&alone));
    fs::copy(&alone, scene.path("alone.snap")).unwrap();
    scene.refused("restore alone.snap --name other --ip 10.90.0.99", 1, "missing");
    scene.json("restore images --name other --ip 10.90.0.99");
    let mut other = scene.connect("10.90.0.99");
    other.holds(5, 3);
    (5..10).for_each(|key| assert_eq!(other.get(key).unwrap(), Kv::value(key, 2)));
    (10..20).for_each(|key| assert_eq!(other.get(key).unwrap(), Kv::value(key, 1)));
    (20..1000).for_each(|key| assert_eq!(other.get(key).unwrap(), Kv::value(key, 0)));
    // Another guest does not mix its images with these.
    scene.refused("checkpoint other -o images --every 1s", 2, "guest `kv`");
    // Numbers go on where they were.
    let series = Process::spawn(scene.command("checkpoint kv -o images --every 150ms --keep 2")).unwrap();
    let last = highest(&names);
    let names = images_until(&dir, |names| highest(names) >= last + 3 && names.len() <= 4);
    series.signal(Signal::SIGINT).unwrap();
    assert!(!names.contains(&"0000000000.snap".to_owned()), "{names:?}");
    drop(series);
    assert_eq!(scene.left(), Vec::<String>::new());
}

#[test]
fn a_guest_whose_image_is_not_confirmed_goes_on() {
    let Some(mut scene) = Scene::new() else { return };
    scene.deploy();
    let mut kv = scene.connect(IP_A);
    kv.fill(300, 0);
    let guest = scene.look("kv");
    // Who asked goes away without a word, after all of it or before.
    for read in [true, false] {
        run(async {
            let mut stream = scene.client().checkpoint(&name("kv"), &CheckpointRequest::default()).await.unwrap();
            let mut bytes = Vec::new();
            if read {
                stream.read(&mut bytes, |_| {}).await.unwrap();
                assert_eq!(bytes.len() as u64, stream.report.bytes);
                // It waits, and nobody else gets it meanwhile.
                let busy = scene.client().checkpoint(&name("kv"), &CheckpointRequest::default()).await.unwrap_err();
                assert_eq!(busy.code(), Some(ErrorCode::Conflict), "{busy}");
                let moving = scene.client().migrate(&name("kv"), &MigrateRequest::new(name("elsewhere"))).await;
                assert!(moving.unwrap_err().to_string().contains("checkpoint"));
                let wrong = scene.client().keep_checkpoint(&name("kv"), &"0".repeat(64)).await.unwrap_err();
                assert_eq!(wrong.code(), Some(ErrorCode::NotFound));
            }
            let digest = stream.report.digest.clone();
            drop(stream);
            // The connection is closed by another task.
            tokio::time::sleep(Duration::from_millis(300)).await;
            kv.holds(300, 0);
            let late = scene.client().keep_checkpoint(&name("kv"), &digest).await.unwrap_err();
            assert_eq!(late.code(), Some(ErrorCode::NotFound));
        });
    }
    // Ctrl-C of the client, and its sudden end, while the guest is stopped.
    for (end, code) in [(Signal::SIGINT, Some(130)), (Signal::SIGTERM, Some(143)), (Signal::SIGKILL, None)] {
        scene.hold("checkpoint-Thaw");
        let mut taking = Process::spawn(scene.command("checkpoint kv -o f.snap")).unwrap();
        let held = scene.held("checkpoint-Thaw");
        taking.signal(end).unwrap();
        assert_eq!(taking.wait(LIMIT).unwrap().unwrap().code(), code, "{}", taking.stderr());
        fs::remove_file(held).unwrap();
        kv.holds(300, 0);
        assert!(!scene.path("f.snap").exists());
    }
    // Killed, it could not tidy up.
    for name in scene.stage.entries("").into_iter().filter(|name| name.ends_with("unfinished")) {
        fs::remove_file(scene.path(&name)).unwrap();
    }
    // The daemon ends while the guest is stopped.
    scene.hold("checkpoint-Thaw");
    let mut taking = Process::spawn(scene.command("checkpoint kv -o f.snap")).unwrap();
    let held = scene.held("checkpoint-Thaw");
    scene.kill();
    kv.holds(300, 0);
    assert!(!taking.wait(LIMIT).unwrap().unwrap().success());
    fs::remove_file(held).unwrap();
    scene.start();
    assert_eq!(scene.look("kv").pid, guest.pid);
    // Stopping it comes first; so does its end.
    scene.hold("checkpoint-Thaw");
    let mut taking = Process::spawn(scene.command("checkpoint kv -o f.snap")).unwrap();
    let held = scene.held("checkpoint-Thaw");
    signal(guest.pid.unwrap(), Signal::SIGKILL);
    fs::remove_file(held).unwrap();
    assert!(!taking.wait(LIMIT).unwrap().unwrap().success());
    assert!(taking.stderr().contains("is whole"), "{}", taking.stderr());
    fs::remove_file(scene.path("f.snap")).unwrap();
    run(async {
        let deadline = Instant::now() + LIMIT;
        let is_another = |view: GuestView| view.state == GuestState::Running && view.pid != guest.pid;
        while !is_another(scene.client().inspect(&name("kv")).await.unwrap()) {
            assert!(Instant::now() < deadline, "it is not started again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let stream = scene.client().checkpoint(&name("kv"), &CheckpointRequest::default()).await.unwrap();
        let stopped = scene.client().stop(&name("kv"), Duration::from_secs(2)).await.unwrap();
        assert_eq!((stopped.state, stopped.last_end.unwrap().kind), (GuestState::Stopped, EndKind::Asked));
        drop(stream);
    });
    assert!(!scene.path("f.snap").exists());
    assert_eq!(scene.left(), Vec::<String>::new());
}

/// Bytes of an image, restored over the API: the refusal.
async fn restored(scene: &Scene, bytes: &[u8], request: &RestoreRequest) -> Result<GuestView, (ErrorCode, String)> {
    let path = scene.path("upload");
    fs::write(&path, bytes).unwrap();
    let file = tokio::fs::File::open(&path).await.unwrap();
    let restored = scene.client().restore(request, file, |_| {}).await;
    fs::remove_file(&path).unwrap();
    restored.map_err(|error| (error.code().unwrap_or(ErrorCode::Internal), error.to_string()))
}

#[test]
fn what_is_no_sound_image_is_refused_and_leaves_nothing() {
    let Some(scene) = Scene::new() else { return };
    scene.deploy();
    scene.connect(IP_A).fill(50, 0);
    scene.json("checkpoint kv -o f.snap --keep-running");
    let whole = fs::read(scene.path("f.snap")).unwrap();
    let image = Image::open(File::open(scene.path("f.snap")).unwrap()).unwrap();
    let clone = RestoreRequest { name: Some(name("clone")), ip: Some("10.90.0.99".into()), ip6: None };
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    // With another module, netstack or ABI; all checksums fit.
    let other = |change: fn(&mut roam_snapshot::image::Meta)| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        let mut meta = image.meta().clone();
        change(&mut meta);
        ImageWriter::begin(&mut bytes).unwrap().finish(&meta, &[]).unwrap();
        bytes.into_inner()
    };
    let newer = {
        let mut bytes = whole.clone();
        bytes[8] = 99;
        bytes
    };
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"something else".to_vec(), "not an image"),
        (Vec::new(), "not an image"),
        (newer, "version 99"),
        (flipped(100), "header"),
        (flipped(5000), "pages"),
        (flipped(whole.len() - 10), "meta"),
        (whole[..whole.len() - 1].to_vec(), "truncated"),
        (whole[..5000].to_vec(), "truncated"),
        ([&whole[..], b"x"].concat(), "follows the image"),
        (other(|meta| meta.module = [1; 32]), "module"),
        (other(|meta| meta.netstack = [1; 32]), "netstack"),
        (other(|meta| meta.abi = 99), "interface"),
        (other(|meta| meta.guest = b"{}".to_vec()), "describes its guest"),
        (other(|meta| meta.parent = Some(roam_snapshot::image::ImageDigest([3; 32]))), "only what changed"),
    ];
    run(async {
        for (bytes, words) in cases {
            let (code, said) = restored(&scene, &bytes, &clone).await.unwrap_err();
            assert!(code == ErrorCode::Invalid && said.contains(words), "{words}: {code:?} {said}");
        }
        for (request, expected) in [
            (RestoreRequest::default(), ErrorCode::Conflict),
            (RestoreRequest { name: None, ..clone.clone() }, ErrorCode::Conflict),
            (RestoreRequest { ip: None, ..clone.clone() }, ErrorCode::Conflict),
            (RestoreRequest { ip: Some("nowhere".into()), ..clone.clone() }, ErrorCode::Invalid),
        ] {
            let (code, said) = restored(&scene, &whole, &request).await.unwrap_err();
            assert_eq!(code, expected, "{said}");
        }
        assert_eq!(scene.client().list().await.unwrap().len(), 1);
    });
    scene.refused("restore nowhere.snap", 1, "nowhere.snap");
    fs::create_dir(scene.path("empty")).unwrap();
    scene.refused("restore empty", 4, "no image");
    // Its module goes, and comes along.
    assert!(scene.roam("rm --force kv").status.success());
    let digest = ModuleHash::of(&fs::read(wasm("kv")).unwrap());
    assert!(scene.roam(&format!("modules rm {digest}")).status.success());
    scene.refused("restore f.snap", 4, "--module");
    let (code, said) = run(restored(&scene, &whole, &clone)).unwrap_err();
    assert!(code == ErrorCode::NotFound && said.contains("--module"), "{said}");
    scene.refused(&format!("restore f.snap --module {}", wasm("echo").display()), 2, "is module");
    scene.json(&format!("restore f.snap --module {}", wasm("kv").display()));
    scene.connect(IP_A).holds(50, 0);
    assert_eq!(scene.left(), Vec::<String>::new());
    assert_eq!(scene.stage.entries("state/guests").len(), 1);
}

#[test]
fn a_restore_that_is_killed_leaves_nothing() {
    let Some(mut scene) = Scene::new() else { return };
    scene.deploy();
    scene.connect(IP_A).fill(200, 0);
    scene.json("checkpoint kv -o f.snap");
    assert!(scene.roam("rm kv").status.success());
    // In the midst of its pages, the daemon; then the same just before the first poll.
    for step in ["restore-Write", "restore-Resume"] {
        scene.hold(step);
        let mut restoring = Process::spawn(scene.command("restore f.snap")).unwrap();
        let held = scene.held(step);
        scene.kill();
        assert!(!restoring.wait(LIMIT).unwrap().unwrap().success());
        fs::remove_file(held).unwrap();
        scene.start();
        run(async { assert_eq!(scene.client().list().await.unwrap(), []) });
        assert_eq!((scene.stage.entries("state/guests"), scene.stage.taps()), (Vec::new(), Vec::new()), "{step}");
    }
    // Half of an upload.
    let bytes = fs::read(scene.path("f.snap")).unwrap();
    let socket = scene.stage.config.run_dir.join("api.sock");
    let mut half = std::os::unix::net::UnixStream::connect(socket).unwrap();
    let head = format!("POST /v1/restore HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", bytes.len());
    half.write_all(head.as_bytes()).unwrap();
    half.write_all(&bytes[..bytes.len() / 2]).unwrap();
    drop(half);
    // Who asked goes away when all of it is there: it is finished all the same.
    scene.hold("restore-Write");
    let mut restoring = Process::spawn(scene.command("restore f.snap")).unwrap();
    let held = scene.held("restore-Write");
    restoring.signal(Signal::SIGKILL).unwrap();
    restoring.wait(LIMIT).unwrap().unwrap();
    fs::remove_file(held).unwrap();
    scene.connect(IP_A).holds(200, 0);
    assert_eq!(scene.left(), Vec::<String>::new());
    // It serves a moment before the daemon has it on its list.
    let listed = async || scene.client().inspect(&name("kv")).await.is_ok_and(|view| view.pid.is_some());
    let deadline = Instant::now() + LIMIT;
    while !run(listed()) {
        assert!(Instant::now() < deadline, "it is not listed");
    }
    // The guest, killed, is started again as its policy says: fresh.
    let pid = scene.look("kv").pid.unwrap();
    signal(pid, Signal::SIGKILL);
    let deadline = Instant::now() + LIMIT;
    while scene.look("kv").pid.is_none_or(|now| now == pid) {
        assert!(Instant::now() < deadline, "it is not started again");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(scene.connect(IP_A).get(1), None);
}

async fn deploy(node: &Node) -> GuestView {
    let (path, client) = (wasm("kv"), node.client());
    let digest = ModuleHash::of(&fs::read(&path).unwrap());
    client.put_module(digest, tokio::fs::File::open(path).await.unwrap(), |_| {}).await.unwrap();
    let ip = Some(format!("{IP}/16").parse().unwrap());
    client.create(&GuestSpec { ip, ..spec("kv", digest) }).await.unwrap()
}

fn connect(rig: &Rig) -> Kv {
    Kv::new(rig.client.run(|| TcpStream::connect((IP, KV_PORT))).unwrap().unwrap())
}

/// An image of the guest, which ends with it and leaves its address.
async fn into_file(rig: &Rig, node: &Node) -> PathBuf {
    let (client, path) = (node.client(), rig.dir.0.join("kv.snap"));
    let mut stream = client.checkpoint(&name("kv"), &CheckpointRequest::default()).await.unwrap();
    stream.read(tokio::fs::File::create(&path).await.unwrap(), |_| {}).await.unwrap();
    client.keep_checkpoint(&name("kv"), &stream.report.digest).await.unwrap();
    path
}

async fn from_file(node: &Node, path: &Path) -> Result<GuestView, ErrorCode> {
    let file = tokio::fs::File::open(path).await.unwrap();
    let restored = node.client().restore(&RestoreRequest::default(), file, |_| {}).await;
    restored.map_err(|error| error.code().unwrap_or_else(|| panic!("{error}")))
}

async fn moved(from: &Node, to: &Node, plan: PlanName) {
    let request = MigrateRequest { plan, downtime_us: 2_000_000, ..MigrateRequest::new(name(to.name)) };
    let begun = from.client().migrate(&name("kv"), &request).await.unwrap();
    let mut events = from.client().watch_migration(&begun.id).await.unwrap();
    let mut last = begun;
    while let Some(event) = events.next().await {
        last = event.unwrap();
    }
    assert_eq!(last.state, MigrationState::Done, "{last:?}");
}

#[test]
fn a_restored_guest_moves_before_anybody_touches_it() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let [a, b] = &rig.hosts;
        let deployed = deploy(a).await;
        rig_ready(rig);
        let mut kv = connect(rig);
        kv.fill(2000, 0);
        let path = into_file(rig, a).await;
        // The controller holds the address for the guest that is stopped.
        assert_eq!(from_file(b, &path).await, Err(ErrorCode::NotFound), "its module is not there");
        put_kv(b).await;
        let taken = from_file(b, &path).await.unwrap_err();
        assert!(matches!(taken, ErrorCode::Conflict | ErrorCode::Fenced), "{taken:?}");
        assert!(b.client().list().await.unwrap().is_empty());
        a.client().delete(&name("kv"), false).await.unwrap();
        // On the other host, and away again at once: nobody has touched its pages there, but for its first poll.
        let restored = from_file(b, &path).await.unwrap();
        assert_eq!(restored.network.mac, deployed.network.mac);
        moved(b, a, PlanName::PreCopy).await;
        kv.holds(2000, 0);
        let path = into_file(rig, a).await;
        a.client().delete(&name("kv"), false).await.unwrap();
        from_file(b, &path).await.unwrap();
        moved(b, a, PlanName::StopAndCopy).await;
        kv.holds(2000, 0);
        // An image of one that was restored and not touched.
        let path = into_file(rig, a).await;
        a.client().delete(&name("kv"), false).await.unwrap();
        from_file(b, &path).await.unwrap();
        let path = into_file(rig, b).await;
        b.client().delete(&name("kv"), false).await.unwrap();
        from_file(a, &path).await.unwrap();
        kv.holds(2000, 0);
        assert_eq!(rig.owner().await.0, "host-a");
        kv.fill(2000, 1);
        moved(a, b, PlanName::PreCopy).await;
        kv.holds(2000, 1);
    });
}

async fn put_kv(node: &Node) {
    let path = wasm("kv");
    let digest = ModuleHash::of(&fs::read(&path).unwrap());
    node.client().put_module(digest, tokio::fs::File::open(path).await.unwrap(), |_| {}).await.unwrap();
}

/// Waits until the way to the guest is there.
fn rig_ready(rig: &Rig) {
    let deadline = Instant::now() + LIMIT;
    let try_once = || {
        let address = format!("{IP}:{KV_PORT}").parse().unwrap();
        rig.client.run(|| TcpStream::connect_timeout(&address, Duration::from_millis(500))).unwrap()
    };
    while try_once().is_err() {
        assert!(Instant::now() < deadline, "the guest is not reached");
    }
}

#[test]
fn a_full_disk_leaves_the_guest_running() {
    use nix::sched::{CloneFlags, unshare};
    let Some(stage) = Stage::new() else { return };
    stage.run(async || {
        let host = stage.open().await;
        common::host::put(&host, &fs::read(wasm("kv")).unwrap()).await;
        host.close().await;
    });
    let inside = || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let mounted = |line: &str| assert!(Command::new("mount").args(line.split(' ')).status().unwrap().success());
        mounted("--make-rprivate /");
        let (state, copy) = (stage.config.state_dir.clone(), stage.dir.join("copy"));
        fs::rename(&state, &copy).unwrap();
        fs::create_dir(&state).unwrap();
        mounted(&format!("-t tmpfs -o size=24m,mode=700 tmpfs {}", state.display()));
        assert!(Command::new("cp").arg("-a").arg(copy.join(".")).arg(&state).status().unwrap().success());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(on_a_full_disk(&stage));
        drop(runtime);
        assert!(Command::new("umount").arg("-l").arg(&state).status().unwrap().success());
    };
    stage.bed.lab.host().run(inside).unwrap();
    fs::remove_dir_all(&stage.config.state_dir).unwrap();
    fs::rename(stage.dir.join("copy"), &stage.config.state_dir).unwrap();
}

async fn on_a_full_disk(stage: &Stage) {
    let host = stage.open().await;
    let module = ModuleHash::of(&fs::read(wasm("kv")).unwrap());
    let guest = host.create(spec("kv", module)).await.unwrap();
    let mut kv = Kv::new(stage.bed.connect(IP_A, KV_PORT));
    kv.fill(1000, 0);
    let request = CheckpointRequest { keep_running: true, ..CheckpointRequest::default() };
    let taken = host.checkpoint(&guest.spec.name, request.clone()).await.unwrap();
    let image: Vec<_> = taken.bytes.map(Result::unwrap).collect().await;
    kv.fill(5000, 1);
    let error = host.checkpoint(&guest.spec.name, request.clone()).await.err().unwrap();
    assert_eq!(error.code(), ErrorCode::DiskFull, "{error}");
    kv.holds(5000, 1);
    let filler = stage.config.state_dir.join("filler");
    let mut file = File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    let clone = RestoreRequest { name: Some(name("clone")), ip: Some("10.90.0.99".into()), ip6: None };
    let upload = || Box::pin(futures_util::stream::iter(image.clone()).map(Ok));
    let error = host.restore(clone.clone(), upload()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::DiskFull, "{error}");
    assert_eq!(host.list().await.len(), 1);
    assert_eq!(stage.entries("state/images"), Vec::<String>::new());
    drop(file);
    fs::remove_file(&filler).unwrap();
    host.restore(clone.clone(), upload()).await.unwrap();
    Kv::new(stage.bed.connect("10.90.0.99", KV_PORT)).holds(1000, 0);
    for guest in ["kv", "clone"] {
        host.delete(&name(guest), true).await.unwrap();
    }
    host.close().await;
}
