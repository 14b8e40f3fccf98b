use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::model::{Change, Presence, Update};
use crate::plane::Hop;
use crate::plane::trial::Trial;
use crate::store::{MemoryStore, RedbStore, StoreError};

const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn vtep(last: u8) -> IpAddr {
    [172, 30, 0, last].into()
}

fn address() -> Address {
    Address { mac: MAC, ip: Some([10, 90, 1, 1].into()), ip6: None, name: Some(name("kv")) }
}

fn config() -> Config {
    Config { node: name("gate"), vtep: Some(vtep(254)), lost_after: LOST_AFTER, own: vec![[10, 90, 255, 254].into()] }
}

/// A disk that keeps nothing while it is told to fail, and waits as long as it is to be slow. Clones are the same one.
#[derive(Clone, Default)]
struct Disk {
    store: Arc<Mutex<MemoryStore>>,
    fails: Arc<AtomicBool>,
    slow: Arc<AtomicBool>,
}

impl Disk {
    fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::Relaxed);
    }

    fn slow(&self, slow: bool) {
        self.slow.store(slow, Ordering::Relaxed);
    }

    /// What a controller finds that is started when another was killed now.
    fn as_it_is(&self) -> Self {
        let table = lock(&self.store).load().unwrap();
        Self { store: Arc::new(Mutex::new(MemoryStore::new(table))), fails: self.fails.clone(), slow: Arc::default() }
    }
}

impl Store for Disk {
    fn load(&mut self) -> Result<Table, StoreError> {
        lock(&self.store).load()
    }

    fn commit(&mut self, expected: Revision, updates: &[Update]) -> Result<(), StoreError> {
        while self.slow.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.fails.load(Ordering::Relaxed) {
            return Err(StoreError::Full("table.redb".into()));
        }
        lock(&self.store).commit(expected, updates)
    }

    fn watch(&self, after: Revision) -> Result<Watch, Compacted> {
        lock(&self.store).watch(after)
    }

    fn feed(&self) -> Feed {
        lock(&self.store).feed()
    }
}

async fn with_hosts(store: impl Store + 'static, trial: &Trial) -> Controller {
    let controller = Controller::open(config(), Box::new(store), Some(trial.planes()), None).await.unwrap();
    for (host, last) in [("a", 1), ("b", 2)] {
        controller.join(name(host), Kind::Host, vtep(last), None).await.unwrap();
    }
    controller
}

fn hop(trial: &Trial) -> Option<Hop> {
    trial.inside().state.entries.get(&MAC).map(|entry| entry.hop.clone())
}

fn owner(controller: &Controller) -> (String, u64) {
    let placement = controller.find("kv").unwrap().placement;
    (placement.host.to_string(), placement.generation.0)
}

#[tokio::test]
async fn an_address_moves_and_everybody_hears() {
    let trial = Trial::default();
    let controller = with_hosts(MemoryStore::default(), &trial).await;
    let claimed = controller.claim(address(), name("a"), None).await.unwrap();
    assert_eq!(claimed.route.unwrap().placement.generation, Generation(1));
    assert_eq!(hop(&trial), Some(Hop::Tunnel(vtep(1))));

    let (table, mut watch) = controller.follow();
    assert_eq!(table.routes.len(), 1);
    let moved = controller.move_to(MAC, Move::new(name("b"), Generation(1))).await.unwrap();
    assert_eq!((moved.trouble, hop(&trial)), (None, Some(Hop::Tunnel(vtep(2)))));
    let update = watch.next().await.unwrap();
    assert_eq!(update.revision, moved.revision);
    assert!(matches!(&update.changes[..], [Change::Route(route)] if route.placement.host == name("b")));

    let view = &controller.routes(&BTreeMap::new())[0];
    let switch = view.last_switch.as_ref().unwrap();
    assert_eq!((switch.from.as_str(), switch.switches), ("a", 1));
    for text in ["kv", "10.90.1.1", "02:00:00:00:00:01"] {
        assert_eq!(controller.find(text).unwrap().placement.host, name("b"), "{text}");
    }
    assert!(matches!(controller.find("other"), Err(ControllerError::NoSuch(_))));
}

#[tokio::test]
async fn the_controllers_own_node_stays_and_keeps_its_address() {
    let trial = Trial::default();
    let controller = with_hosts(MemoryStore::default(), &trial).await;
    assert!(matches!(controller.leave(name("gate")).await, Err(ControllerError::OwnNode(_))));
    let own = Address { ip: Some([10, 90, 255, 254].into()), ..address() };
    assert!(matches!(controller.claim(own, name("a"), None).await, Err(ControllerError::OwnAddress(_))));
}

#[tokio::test]
async fn of_many_who_claim_or_move_at_once_one_has_it() {
    let trial = Trial::default();
    let controller = with_hosts(MemoryStore::default(), &trial).await;
    let claims = ["a", "b"].map(|host| controller.claim(address(), name(host), None));
    let [a, b] = claims;
    let (a, b) = tokio::join!(a, b);
    assert_eq!([a.is_ok(), b.is_ok()].iter().filter(|ok| **ok).count(), 1);
    let refused = a.err().or(b.err()).unwrap();
    assert!(matches!(refused, ControllerError::Refused(crate::table::Refused::Fenced { .. })), "{refused}");
    let (owned, generation) = owner(&controller);
    let other = if owned == "a" { "b" } else { "a" };
    controller.move_to(MAC, Move::new(name(other), Generation(generation))).await.unwrap();
    assert!(controller.move_to(MAC, Move::new(name(&owned), Generation(generation))).await.is_err());
    assert_eq!(owner(&controller), (other.to_owned(), generation + 1));
}

#[tokio::test]
async fn what_cannot_be_kept_did_not_happen() {
    let (trial, disk) = (Trial::default(), Disk::default());
    let controller = with_hosts(disk.clone(), &trial).await;
    controller.claim(address(), name("a"), None).await.unwrap();
    let (_, mut watch) = controller.follow();

    disk.fail(true);
    let refused = controller.move_to(MAC, Move::new(name("b"), Generation(1))).await.unwrap_err();
    assert!(matches!(refused, ControllerError::NotKept(_)), "{refused}");
    let why = StoreError::Full("table.redb".into());
    assert_eq!(in_full(&refused), format!("not done, because it cannot be kept on disk: {why}"));
    assert_eq!((owner(&controller), hop(&trial)), (("a".into(), 1), Some(Hop::Tunnel(vtep(1)))));
    assert!(controller.status().store_trouble.is_some());

    // From then on the disk comes first: the plane does not swing.
    trial.inside().orders.clear();
    assert!(controller.move_to(MAC, Move::new(name("b"), Generation(1))).await.is_err());
    assert!(trial.inside().orders.is_empty());

    disk.fail(false);
    let moved = controller.move_to(MAC, Move::new(name("b"), Generation(1))).await.unwrap();
    assert_eq!((owner(&controller), hop(&trial)), (("b".into(), 2), Some(Hop::Tunnel(vtep(2)))));
    assert_eq!(controller.status().store_trouble, None);
    // Nobody ever heard of what did not happen.
    assert_eq!(watch.next().await.unwrap().revision, moved.revision);
}

#[tokio::test]
async fn a_plane_that_fails_does_not_decide() {
    let trial = Trial::default();
    let controller = with_hosts(MemoryStore::default(), &trial).await;
    controller.claim(address(), name("a"), None).await.unwrap();
    trial.inside().fails = true;
    let moved = controller.move_to(MAC, Move::new(name("b"), Generation(1))).await.unwrap();
    assert!(moved.trouble.is_some());
    assert_eq!(owner(&controller), ("b".into(), 2));
    assert!(controller.plane().unwrap().trouble.is_some());
}

#[tokio::test]
async fn a_controller_killed_between_accept_and_program_is_made_up_for() {
    let dir = std::env::temp_dir().join(format!("roam-controller-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("table.redb");
    let trial = Trial::default();
    {
        let controller = with_hosts(RedbStore::open(&path).unwrap(), &trial).await;
        controller.claim(address(), name("a"), None).await.unwrap();
    }
    // Its threads let go of the file.
    let mut store = loop {
        match RedbStore::open(&path) {
            Err(StoreError::Locked(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
            opened => break opened.unwrap(),
        }
    };
    let mut table = store.load().unwrap();
    let before = table.revision();
    let moved = Event::Moved { mac: MAC, from: Generation(1), to: name("b"), drain: false, at_ms: 0 };
    let commands = table.step(&moved).unwrap();
    let Some(Command::Keep(update)) = commands.first() else { panic!("{commands:?}") };
    store.commit(before, std::slice::from_ref(update)).unwrap();
    assert_eq!(hop(&trial), Some(Hop::Tunnel(vtep(1))));
    let controller = Controller::open(config(), Box::new(store), Some(trial.planes()), None).await.unwrap();
    assert_eq!((owner(&controller), hop(&trial)), (("b".into(), 2), Some(Hop::Tunnel(vtep(2)))));
    drop(controller);
    std::fs::remove_dir_all(&dir).unwrap();
}

#[tokio::test]
async fn silent_hosts_are_lost_and_keep_what_they_own() {
    let trial = Trial::default();
    let config = Config { lost_after: Duration::from_millis(50), ..config() };
    let store = Box::new(MemoryStore::default());
    let controller = Controller::open(config, store, Some(trial.planes()), None).await.unwrap();
    controller.join(name("a"), Kind::Host, vtep(1), None).await.unwrap();
    controller.claim(address(), name("a"), None).await.unwrap();
    let presence = |controller: &Controller| {
        let nodes = controller.nodes();
        let named = |wanted: &str| nodes.iter().find(|node| node.host.name == name(wanted)).unwrap().host.presence;
        (named("a"), named("gate"))
    };
    while presence(&controller).0 == Presence::Live {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(presence(&controller), (Presence::Lost, Presence::Live));
    assert_eq!((owner(&controller), hop(&trial)), (("a".into(), 1), Some(Hop::Tunnel(vtep(1)))));
    controller.heartbeat(&name("a"), Heartbeat { applied: None, plane: None }).await.unwrap();
    assert_eq!(presence(&controller).0, Presence::Live);
    let unknown = controller.heartbeat(&name("x"), Heartbeat { applied: None, plane: None }).await;
    assert!(matches!(unknown, Err(ControllerError::Refused(crate::table::Refused::NoHost(_)))));
}

#[tokio::test]
async fn a_host_that_lags_is_named() {
    let trial = Trial::default();
    let controller = with_hosts(MemoryStore::default(), &trial).await;
    let claimed = controller.claim(address(), name("a"), None).await.unwrap();
    let said = |applied| Heartbeat { applied: Some(applied), plane: None };
    controller.heartbeat(&name("b"), said(Revision(1))).await.unwrap();
    assert_eq!(controller.routes(&BTreeMap::new())[0].behind, [name("b")]);
    controller.heartbeat(&name("b"), said(claimed.revision)).await.unwrap();
    assert!(controller.routes(&BTreeMap::new())[0].behind.is_empty());
}

fn early(to: &str, from: u64) -> Move {
    Move { early: true, ..Move::new(name(to), Generation(from)) }
}

/// With the address at `a`, and its disk.
async fn with_disk(trial: &Trial) -> (Controller, Disk) {
    let disk = Disk::default();
    let controller = with_hosts(disk.clone(), trial).await;
    controller.claim(address(), name("a"), None).await.unwrap();
    (controller, disk)
}

#[tokio::test]
async fn an_early_answer_does_not_wait_for_the_disk() {
    let trial = Trial::default();
    let (controller, disk) = with_disk(&trial).await;
    let (_, mut watch) = controller.follow();
    disk.slow(true);
    let moved = controller.move_to(MAC, early("b", 1)).await.unwrap();
    assert_eq!((moved.durable, moved.durable_us), (false, 0));
    let placement = moved.route.unwrap().placement;
    assert_eq!((placement.host, placement.generation), (name("b"), Generation(2)));
    assert_eq!(hop(&trial), Some(Hop::Tunnel(vtep(2))));
    // Nobody else is told yet, but nobody else gets it.
    assert_eq!(owner(&controller), ("a".into(), 1));
    let own = controller.move_to(MAC, Move::new(name("a"), Generation(1))).await.unwrap_err();
    assert!(matches!(own, ControllerError::Refused(crate::table::Refused::Fenced { .. })), "{own}");
    assert!(!controller.move_to(MAC, early("b", 1)).await.unwrap().durable);
    disk.slow(false);
    // Asked again without being early, it is on disk.
    let kept = controller.move_to(MAC, Move::new(name("b"), Generation(1))).await.unwrap();
    assert!(kept.durable);
    assert_eq!((owner(&controller), kept.revision), (("b".into(), 2), moved.revision));
    assert_eq!(watch.next().await.unwrap().revision, moved.revision);
    while controller.routes(&BTreeMap::new())[0].last_switch.as_ref().unwrap().durable_us == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The disk may be as fast as the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_an_early_answer_was_on_disk_is_told_in_the_end() {
    let trial = Trial::default();
    let (controller, _) = with_disk(&trial).await;
    for generation in 1..500 {
        let to = if generation % 2 == 1 { "b" } else { "a" };
        controller.move_to(MAC, early(to, generation)).await.unwrap();
        while controller.routes(&BTreeMap::new())[0].last_switch.as_ref().is_none_or(|last| last.durable_us == 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test]
async fn an_early_answer_that_is_taken_back_ends_the_incarnation() {
    let trial = Trial::default();
    let (controller, disk) = with_disk(&trial).await;
    let known = controller.heartbeat(&name("a"), Heartbeat { applied: None, plane: None }).await.unwrap().incarnation;
    assert_eq!((known, known), (controller.incarnation(), controller.status().incarnation));
    let reclaim = |incarnation| Move { incarnation: Some(incarnation), ..Move::new(name("a"), Generation(1)) };
    disk.slow(true);
    disk.fail(true);
    assert!(!controller.move_to(MAC, early("b", 1)).await.unwrap().durable);
    let fenced = controller.move_to(MAC, reclaim(known)).await.unwrap_err();
    assert!(matches!(fenced, ControllerError::Refused(_)), "{fenced}");
    disk.slow(false);
    while controller.status().store_trouble.is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_ne!(controller.incarnation(), known);
    assert_eq!((owner(&controller), hop(&trial)), (("a".into(), 1), Some(Hop::Tunnel(vtep(1)))));
    // The source, that may not know of the target, is told so, whatever the disk does now.
    for fail in [true, false] {
        disk.fail(fail);
        let unsettled = controller.move_to(MAC, reclaim(known)).await.unwrap_err();
        assert!(matches!(unsettled, ControllerError::Unsettled { said, .. } if said == known), "{unsettled}");
    }
    // The target, that asks until it is on disk, is granted the same; the disk comes first now.
    let granted = controller.move_to(MAC, early("b", 1)).await.unwrap();
    assert!(granted.durable);
    assert_eq!((owner(&controller), hop(&trial)), (("b".into(), 2), Some(Hop::Tunnel(vtep(2)))));
}

#[tokio::test]
async fn a_source_in_doubt_has_its_address_again_and_fences_the_target() {
    let trial = Trial::default();
    let (controller, _) = with_disk(&trial).await;
    trial.inside().orders.clear();
    let reclaim = Move { incarnation: Some(controller.incarnation()), ..Move::new(name("a"), Generation(1)) };
    for _ in 0..2 {
        let own = controller.move_to(MAC, reclaim.clone()).await.unwrap();
        assert!(own.durable);
        assert_eq!(own.route.unwrap().placement.generation, Generation(2));
    }
    assert!(trial.inside().orders.is_empty(), "frames go where they went");
    assert!(controller.move_to(MAC, early("b", 1)).await.is_err());
    assert_eq!(controller.routes(&BTreeMap::new())[0].last_switch, None);
    // Another start is another incarnation.
    let other = Controller::open(config(), Box::new(MemoryStore::default()), None, None).await.unwrap();
    assert_ne!(other.incarnation(), controller.incarnation());
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]

    /// Source and target ask as they may, early or not, while the disk fails and the controller is killed: if one was ever
    /// told that it may poll, the other is never told so after that.
    #[test]
    fn never_both(steps in proptest::collection::vec(0..8_u8, 1..32)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let trial = Trial::default();
            let (mut controller, mut disk) = with_disk(&trial).await;
            // What the source heard before it gave the guest away.
            let known = controller.incarnation();
            let (mut source, mut target) = (false, false);
            for step in steps {
                let mut killed = step == 2;
                match step {
                    0 | 1 => disk.fail(step == 0),
                    2 => {}
                    // Taken back because the disk said no.
                    7 => {
                        disk.fail(true);
                        target |= controller.move_to(MAC, early("b", 1)).await.is_ok();
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        disk.fail(false);
                    }
                    3 => target |= controller.move_to(MAC, early("b", 1)).await.is_ok(),
                    4 => target |= controller.move_to(MAC, Move::new(name("b"), Generation(1))).await.is_ok(),
                    // Killed before it is on disk, which is where it is not early.
                    5 if controller.status().store_trouble.is_none() => {
                        disk.slow(true);
                        target |= controller.move_to(MAC, early("b", 1)).await.is_ok();
                        let found = disk.as_it_is();
                        disk.slow(false);
                        (disk, killed) = (found, true);
                    }
                    5 => {}
                    _ => {
                        let reclaim = Move { incarnation: Some(known), ..Move::new(name("a"), Generation(1)) };
                        source |= controller.move_to(MAC, reclaim).await.is_ok();
                    }
                }
                if killed {
                    disk = disk.as_it_is();
                    let store = Box::new(disk.clone());
                    controller = Controller::open(config(), store, Some(trial.planes()), None).await.unwrap();
                }
                assert!(!(source && target), "both were told that they may poll");
            }
        });
    }
}
