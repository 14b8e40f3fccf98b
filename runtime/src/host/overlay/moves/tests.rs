use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use roam_sdn::Controller;
use roam_sdn::controller::{Config, LOST_AFTER};
use roam_sdn::model::{Address, Revision, Update};
use roam_sdn::store::{Compacted, Feed, MemoryStore, Store, StoreError, Watch};
use roam_sdn::table::Table;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::api::client::Endpoint;
use crate::api::sdn::Claim;
use crate::host::overlay::{OverlayConfig, link};
use crate::serve::{Limits, Listen, Server};

const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

/// A disk that takes nothing while it is slow.
#[derive(Clone, Default)]
struct Disk {
    store: Arc<Mutex<MemoryStore>>,
    slow: Arc<AtomicBool>,
}

impl Disk {
    /// What a controller finds that is started when another was killed now.
    fn as_it_is(&self) -> Self {
        let table = lock(&self.store).load().unwrap();
        Self { store: Arc::new(Mutex::new(MemoryStore::new(table))), slow: Arc::default() }
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
        lock(&self.store).commit(expected, updates)
    }

    fn watch(&self, after: Revision) -> Result<Watch, Compacted> {
        lock(&self.store).watch(after)
    }

    fn feed(&self) -> Feed {
        lock(&self.store).feed()
    }
}

/// A controller that can be killed, and the hosts `a` and `b`; `a` has the address.
struct Rig {
    directory: PathBuf,
    disk: Disk,
    serving: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Rig {
    async fn new() -> (Self, Overlay, Overlay) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("roam-moves-{}-{number}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let mut rig = Self { directory, disk: Disk::default(), serving: None };
        rig.serve().await;
        let (a, b) = (rig.host("a", 1).await, rig.host("b", 2).await);
        a.link.claim(&claim("a", None)).await.unwrap();
        (rig, a, b)
    }

    async fn serve(&mut self) {
        let config = Config { node: "gateway".parse().unwrap(), vtep: None, lost_after: LOST_AFTER, own: Vec::new() };
        let controller = Controller::open(config, Box::new(self.disk.clone()), None, None).await.unwrap();
        let listen = Listen { socket: self.socket(), socket_group: None, tcp: None };
        let limits = Limits { shutdown: Duration::ZERO, ..Limits::default() };
        let server = Server::bind(listen, limits).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(server.run(controller, async { drop(stopped.await) }));
        self.serving = Some((stop, served));
    }

    /// As if it had been killed now, and started again.
    async fn kill(&mut self) {
        self.disk = self.disk.as_it_is();
        let (stop, served) = self.serving.take().unwrap();
        drop(stop);
        served.await.unwrap();
        self.serve().await;
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("sdn.sock")
    }

    async fn host(&self, name: &str, number: u8) -> Overlay {
        let vtep = IpAddr::from([172, 30, 0, number]);
        let migrate = Some((vtep, 7445).into());
        let config = OverlayConfig { controller: Endpoint::Unix(self.socket()), vtep, tunnel: None };
        let releases = self.directory.join(format!("{name}.releases"));
        let overlay = Overlay::open(&config, migrate, name.parse().unwrap(), "br0", releases).unwrap();
        overlay.tasks().push(tokio::spawn(link::follow(overlay.link.clone(), Weak::new())).abort_handle());
        overlay.link.contact(Duration::from_secs(10)).await;
        until(|| overlay.incarnation().is_some()).await;
        overlay
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        sleep(Duration::from_millis(5)).await;
    }
}

fn claim(host: &str, held: Option<u64>) -> Claim {
    let address = Address { mac: MAC, ip: None, ip6: None, name: None };
    Claim { address, host: host.parse().unwrap(), held: held.map(Generation) }
}

fn granted(grant: Grant) -> u64 {
    match grant {
        Grant::Granted(generation) => generation.0,
        other => panic!("{other:?}"),
    }
}

/// As a target's thread asks, which is in no runtime.
fn take_over(target: &Overlay, from: u64) -> Grant {
    let ask = || {
        let mut desk = target.desk().unwrap();
        desk.ask(MAC, Generation(from));
        assert!(desk.is_asked());
        desk.answer().unwrap()
    };
    tokio::task::block_in_place(|| std::thread::scope(|scope| scope.spawn(ask).join().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_has_the_address_before_it_is_on_disk_and_keeps_it() {
    let (mut rig, a, b) = Rig::new().await;
    until(|| a.hosts().len() == 2).await;
    assert_eq!(a.migration_address(&"b".parse().unwrap()), Some("172.30.0.2:7445".parse().unwrap()));
    assert_eq!(a.migration_address(&"c".parse().unwrap()), None);
    let slow = rig.disk.slow.clone();
    slow.store(true, Ordering::Relaxed);
    assert_eq!(granted(take_over(&b, 1)), 2);
    assert_eq!(granted(take_over(&b, 1)), 2);
    let late = a.reclaim(MAC, Generation(1), a.incarnation().unwrap()).await;
    assert!(matches!(late, Grant::Denied(_)), "{late:?}");
    // The controller forgets it.
    assert_eq!(rig.disk.load().unwrap().route(MAC).unwrap().placement.host.as_str(), "a");
    rig.disk = rig.disk.as_it_is();
    slow.store(false, Ordering::Relaxed);
    rig.kill().await;
    // What the target has is claimed as what it is, and so is granted again.
    assert_eq!(b.link.claim(&claim("b", Some(2))).await.unwrap(), Generation(2));
    assert_eq!(granted(b.confirmed(MAC, Generation(1)).await), 2);
    assert_eq!(rig.disk.load().unwrap().route(MAC).unwrap().placement.host.as_str(), "b");
    assert!(b.link.moves.unconfirmed().is_empty());
}

/// A target's daemon ends, and then the controller that had granted the address early, and has forgotten it.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_was_restarted_claims_what_it_had_taken_over() {
    let (mut rig, _a, b) = Rig::new().await;
    let slow = rig.disk.slow.clone();
    slow.store(true, Ordering::Relaxed);
    assert_eq!(granted(take_over(&b, 1)), 2);
    drop(b);
    rig.disk = rig.disk.as_it_is();
    slow.store(false, Ordering::Relaxed);
    rig.kill().await;
    let b = rig.host("b", 2).await;
    let refused = b.link.claim(&claim("b", Some(2))).await.unwrap_err();
    assert!(matches!(refused.code(), Some(ErrorCode::Fenced | ErrorCode::Conflict)), "{refused}");
    b.came(MAC, Generation(1));
    assert_eq!(b.link.claim(&claim("b", Some(2))).await.unwrap(), Generation(2));
    assert_eq!(rig.disk.load().unwrap().route(MAC).unwrap().placement.host.as_str(), "b");
    assert!(!b.link.moves.is_unconfirmed(MAC));

    // It need not ask where the table says so.
    b.came(MAC, Generation(1));
    until(|| b.link.of_table(|table| table.route(MAC).unwrap().placement.host.as_str() == "b").unwrap()).await;
    until(|| !b.link.moves.is_unconfirmed(MAC)).await;

    // A controller that has lost everything is told as by all others.
    b.came(MAC, Generation(1));
    rig.disk = Disk::default();
    rig.kill().await;
    until(|| b.link.of_table(|table| table.route(MAC).is_none()).unwrap()).await;
    assert!(b.link.claim(&claim("b", Some(2))).await.unwrap() >= Generation(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_in_doubt_has_the_next_generation_or_is_told_why_not() {
    let (mut rig, a, b) = Rig::new().await;
    let known = a.incarnation().unwrap();
    for _ in 0..2 {
        assert_eq!(granted(a.reclaim(MAC, Generation(1), known).await), 2);
    }
    let late = take_over(&b, 1);
    assert!(matches!(late, Grant::Denied(_)), "{late:?}");
    assert!(b.link.moves.unconfirmed().is_empty());

    // A controller that may have forgotten the target is not believed until the target is heard.
    rig.kill().await;
    let unsettled = a.reclaim(MAC, Generation(2), known).await;
    let Grant::Unknown(error) = unsettled else { panic!("{unsettled:?}") };
    assert_eq!(error.code(), Some(ErrorCode::Unsettled), "{error}");
    until(|| a.incarnation() != Some(known)).await;

    // A target that has it and never polls has the source have it, and one in doubt that can ask nobody else knows by that.
    let known = a.incarnation().unwrap();
    assert_eq!(granted(take_over(&b, 2)), 3);
    let late = a.reclaim(MAC, Generation(2), known).await;
    assert!(matches!(late, Grant::Denied(_)), "{late:?}");
    b.give_back(MAC, Generation(2), "a".parse().unwrap()).await;
    assert_eq!(granted(a.reclaim(MAC, Generation(2), known).await), 4);
    assert_eq!(granted(a.take_back(MAC, Generation(2), &"b".parse().unwrap()).await), 4);

    // Given back, with the address and without.
    let (host_b, host_c) = ("b".parse().unwrap(), "c".parse().unwrap());
    assert_eq!(granted(take_over(&b, 4)), 5);
    assert_eq!(granted(b.confirmed(MAC, Generation(4)).await), 5);
    let anothers = a.take_back(MAC, Generation(4), &host_c).await;
    assert!(matches!(anothers, Grant::Denied(_)), "{anothers:?}");
    assert_eq!(granted(a.take_back(MAC, Generation(4), &host_b).await), 6);
    assert_eq!(granted(a.take_back(MAC, Generation(6), &host_b).await), 7);
    drop(rig.serving.take());
    until(|| !a.problems().is_empty()).await;
    let away = a.reclaim(MAC, Generation(5), known).await;
    assert!(matches!(away, Grant::Unknown(_)), "{away:?}");
}
