//! Guests that a host cannot have or cannot give: no room, too little memory, modules that are not what they are called.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use common::migration::{PAUSE, Talk, followed, held_at, names, over, plain, release, settled, to, view};
use common::overlay::{IP, Node, Rig, name};
use common::{LIMIT, skip};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use roam_runtime::api::{GuestSpec, MigrationState, MigrationView};
use roam_runtime::engine::ModuleHash;

/// A small disk of a host's state.
struct Disk(PathBuf);

impl Disk {
    /// Under a host whose daemon is started anew; `None` where there can be none.
    fn under(host: &mut Node) -> Option<Self> {
        host.end(Signal::SIGTERM);
        let state = host.dir.join("state");
        fs::remove_dir_all(&state).unwrap();
        fs::create_dir(&state).unwrap();
        let mounted = mount(Some("roam-test"), &state, Some("tmpfs"), MsFlags::empty(), Some("size=48m,mode=700"));
        let disk =
            mounted.map_err(|error| skip(format!("a tmpfs cannot be mounted: {error}"))).ok().map(|()| Self(state));
        host.start();
        disk
    }

    fn fill(&self) {
        let mut file = File::create(self.0.join("ballast")).unwrap();
        for bytes in [vec![1; 1 << 20], vec![1; 4096], vec![1; 1]] {
            while file.write_all(&bytes).is_ok() {}
        }
        let error = file.write_all(&[1; 4096]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }

    fn clear(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        // While it was mounted, the rig's directory could not go.
        let _ = self.0.ancestors().nth(2).map(fs::remove_dir_all);
    }
}

/// A guest that waits for nothing and logs a line now and then.
const TALKATIVE: &str = r#"(module
    (import "roam" "log" (func $log (param i32 i32 i32) (result i32)))
    (memory (export "memory") 1)
    (data (i32.const 0) "a line of a guest that has much to say")
    (func (export "roam_abi_version") (result i32) (i32.const 1))
    (func (export "roam_poll") (param $now i64) (result i64)
        (drop (call $log (i32.const 2) (i32.const 0) (i32.const 38)))
        (i64.add (local.get $now) (i64.const 1000000))))"#;

/// What its source says of a migration that is over.
async fn ended(rig: &Rig, at: usize, id: &str) -> MigrationView {
    over(rig, id).await;
    view(&rig.hosts[at], id).await.unwrap()
}

/// A migration that must fail, and its reason's code and sentence.
async fn refused(rig: &Rig) -> (String, String) {
    let at = settled(rig).await;
    let begun = rig.hosts[at].client().migrate(&name("guest"), &to(&rig.hosts[1 - at])).await.unwrap();
    let view = ended(rig, at, &begun.id).await;
    assert_eq!(view.state, MigrationState::Failed, "{view:?}");
    assert_eq!(settled(rig).await, at);
    let reason = view.reason.unwrap();
    println!("    {}: {}", reason.code, reason.message);
    (reason.code, reason.message)
}

#[test]
fn a_full_disk_of_either_host_leaves_the_guest_with_one() {
    let Some(mut rig) = Rig::new() else { return };
    let disks = rig.hosts.each_mut().map(Disk::under);
    let [Some(a), Some(b)] = disks else { return };
    let disks = [a, b];
    rig.run(async |rig| {
        rig.hosts[0].deploy("guest").await.unwrap();
        rig.answers();
        let talk = Talk::begin(rig);
        plain(rig, &talk).await;
        for _ in 0..2 {
            let at = settled(rig).await;
            disks[1 - at].fill();
            assert_eq!(refused(rig).await.0, "room");
            disks[1 - at].clear();
            disks[at].fill();
            assert_eq!(refused(rig).await.0, "room", "what may be another's is on disk before it is stopped");
            disks[at].clear();
            plain(rig, &talk).await;
        }
        let target = ["Check", "Prepare", "Prepared", "Grow", "Claim", "Resume", "Taken", "Switched"];
        let target = target.map(|step| format!("target-{step}"));
        let source = ["Offer", "Freeze", "SendLast", "TokenSent"].map(|step| format!("source-{step}"));
        for step in target.iter().chain(&source) {
            let at = settled(rig).await;
            let full = if step.starts_with("source") { at } else { 1 - at };
            let (begun, held) = held_at(rig, at, "guest", step).await;
            disks[full].fill();
            fs::remove_file(held).unwrap();
            let view = ended(rig, at, &begun.id).await;
            println!("full at {step}: {:?} {:?}", view.state, view.reason);
            assert!(talk.goes_on().await, "the connection fails");
            disks[full].clear();
            release(&rig.hosts[full]);
            let now = settled(rig).await;
            assert_eq!(view.state == MigrationState::Done, now != at, "{view:?}");
            assert!(now != at || view.reason.is_some_and(|reason| reason.code == "room"));
            plain(rig, &talk).await;
        }
        talk.end();
    });
    drop(disks);
}

#[test]
fn a_guest_whose_log_finds_no_room_stays() {
    let Some(mut rig) = Rig::new() else { return };
    let Some(disk) = Disk::under(&mut rig.hosts[1]) else { return };
    rig.run(async |rig| {
        let module = wat::parse_str(TALKATIVE).unwrap();
        rig.hosts[0].deploy_module("guest", IP, &module, |_: &mut GuestSpec| {}).await.unwrap();
        let deadline = Instant::now() + LIMIT;
        while rig.hosts[0].log("guest").await.len() < 500 {
            assert!(Instant::now() < deadline, "it logs nothing");
            tokio::time::sleep(PAUSE).await;
        }
        for _ in 0..2 {
            let (begun, held) = held_at(rig, 0, "guest", "target-Prepared").await;
            disk.fill();
            fs::remove_file(held).unwrap();
            let view = ended(rig, 0, &begun.id).await;
            let reason = view.reason.clone().unwrap();
            assert_eq!((view.state, reason.code.as_str()), (MigrationState::Failed, "room"), "{view:?}");
            disk.clear();
            assert_eq!(settled(rig).await, 0);
        }
    });
    drop(disk);
}

#[test]
fn a_guest_that_is_larger_than_the_targets_memory_stays() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        rig.hosts[0].deploy("guest").await.unwrap();
        rig.answers();
        let talk = Talk::begin(rig);
        for free in ["0", "1000000", "67108864"] {
            let at = settled(rig).await;
            let target = &rig.hosts[1 - at];
            fs::create_dir_all(target.holds()).unwrap();
            fs::write(target.holds().join("free-memory"), free).unwrap();
            let (code, message) = refused(rig).await;
            assert!(code == "room" && message.contains(&format!("{free} free")), "{code}: {message}");
            release(target);
        }
        plain(rig, &talk).await;
        talk.end();
    });
}

/// Changes a byte in the middle of a file.
fn damage(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_module_that_is_not_what_it_is_called_goes_nowhere() {
    let Some(rig) = Rig::new() else { return };
    let echo = fs::read(common::wasm("echo")).unwrap();
    let modules =
        rig.hosts.each_ref().map(|host| host.dir.join(format!("state/modules/{}.wasm", ModuleHash::of(&echo))));
    let forget = |host: &mut Node| {
        host.end(Signal::SIGKILL);
        fs::remove_dir_all(host.dir.join("state/modules")).unwrap();
        fs::remove_dir_all(host.dir.join("state/cache")).unwrap();
        host.start();
    };
    rig.run(async |rig| {
        rig.hosts[0].deploy("guest").await.unwrap();
        rig.answers();
        let talk = Talk::begin(rig);
        // The target has none, and the source's is damaged, cut, or gone.
        for spoil in [damage as fn(&Path), |path| fs::write(path, b"").unwrap(), |path| fs::remove_file(path).unwrap()]
        {
            forget(&mut rig.hosts[1]);
            followed(rig).await;
            spoil(&modules[0]);
            for _ in 0..2 {
                let (code, message) = refused(rig).await;
                assert_eq!(code, "module", "{message}");
                assert_eq!(names(&rig.hosts[1].dir.join("state/modules")), [""; 0], "a module that is none");
            }
            fs::write(&modules[0], &echo).unwrap();
        }
        plain(rig, &talk).await;
        plain(rig, &talk).await;
        // The target has it, damaged, with and without what it was compiled to: it is sent once more.
        for compiled in [true, false] {
            if !compiled {
                rig.hosts[1].end(Signal::SIGKILL);
                fs::remove_dir_all(rig.hosts[1].dir.join("state/cache")).unwrap();
                rig.hosts[1].start();
                followed(rig).await;
            }
            damage(&modules[1]);
            plain(rig, &talk).await;
            assert!(fs::read(&modules[1]).unwrap() == echo, "the damaged module stays");
            plain(rig, &talk).await;
        }
        talk.end();
    });
}
