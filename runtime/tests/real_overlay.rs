//! Hosts that follow a controller: real daemons, each in a network namespace, one owner for each address.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::host::{lives, signal, spec};
use common::{CLIENT, LIMIT, ROAM, ask, has, lab, wasm};
use nix::sys::signal::Signal;
use roam_runtime::api::client::{Client, ClientError, Endpoint, SdnClient};
use roam_runtime::api::sdn::{Claim, Move, Presence, Route};
use roam_runtime::api::{EndKind, ErrorCode, GuestName, GuestSpec, GuestState, GuestView};
use roam_runtime::cert::{Authority, Issue, Role};
use roam_runtime::engine::ModuleHash;
use roam_runtime::lab::{Lab, Namespace, Process};

/// The address that hosts compete for.
const IP: &str = "10.90.7.7";
const VALID: Duration = Duration::from_secs(86_400);

/// A controller on a gateway with a client behind, and two hosts, joined by tunnels.
struct Rig {
    controller: Option<Process>,
    hosts: [Node; 2],
    gateway: Namespace,
    client: Namespace,
    dir: Directory,
    _wire: Namespace,
    _lab: Lab,
}

/// A host: its place and its daemon.
struct Node {
    name: &'static str,
    number: u8,
    namespace: Namespace,
    dir: PathBuf,
    daemon: Option<Process>,
}

/// Goes with all that is in it.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Rig {
    fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !has("nft", "nftables") {
            return None;
        }
        let lab = lab()?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("roam-overlay-{}-{number}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let wire = lab.namespace("wire").unwrap();
        wire.bridge("wire0").unwrap();
        let gateway = end(&lab, &wire, "gateway", 254);
        let client = lab.namespace("client").unwrap();
        gateway.veth("br0", &client, "eth0", &["10.90.0.1/16", CLIENT[1]]).unwrap();
        let authority = Authority::create(&dir.join("ca"), "test", VALID).unwrap();
        let hosts = [("host-a", 1), ("host-b", 2)].map(|(name, number)| {
            certify(&authority, &dir.join(name), name, number);
            Node { name, number, namespace: end(&lab, &wire, name, number), dir: dir.join(name), daemon: None }
        });
        certify(&authority, &dir.join("gateway"), "gateway", 254);
        let mut rig = Self { controller: None, hosts, gateway, client, dir: Directory(dir), _wire: wire, _lab: lab };
        rig.start_controller();
        rig.hosts.iter_mut().for_each(Node::start);
        Some(rig)
    }

    fn start_controller(&mut self) {
        let home = self.dir.0.join("gateway");
        let mut command = self.gateway.command(ROAM);
        command.args(["--log", "info", "sdn", "--node", "gateway", "--vtep", "172.30.0.254", "--lost-after", "3s"]);
        command.args(["--listen", "172.30.0.254:7444"]).arg("--tls-dir").arg(home.join("tls"));
        command.arg("--state-dir").arg(home.join("state")).arg("--run-dir").arg(home.join("run"));
        let mut controller = Process::spawn(command.env_clean()).unwrap();
        controller.wait_for("ready", LIMIT).unwrap();
        self.controller = Some(controller);
    }

    fn kill_controller(&mut self) {
        let mut controller = self.controller.take().unwrap();
        controller.signal(Signal::SIGKILL).unwrap();
        controller.wait(LIMIT).unwrap();
    }

    fn sdn(&self) -> SdnClient {
        SdnClient::new(Endpoint::Unix(self.dir.0.join("gateway/run/sdn.sock")))
    }

    /// Asks the echo guest at the address until it answers: the way there is through the tunnels.
    fn answers(&self) {
        let socket = self.client.run(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        socket.connect((IP, 7)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        ask(&socket, b"are you there?", b"are you there?");
    }

    async fn route(&self) -> Route {
        let view = self.sdn().route(IP).await.unwrap();
        Route { address: view.address, placement: view.placement }
    }

    async fn owner(&self) -> (String, u64) {
        let placement = self.route().await.placement;
        (placement.host.to_string(), placement.generation.0)
    }

    async fn move_to(&self, host: &str) {
        let from = self.route().await.placement.generation;
        let to = Move { to: host.parse().unwrap(), from, drain: false };
        self.sdn().move_to(IP, &to).await.unwrap();
    }

    /// Runs `work`; what is left of guests ends with it.
    fn run(mut self, work: impl AsyncFnOnce(&mut Self)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work(&mut self));
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        for process in self.hosts.iter().filter_map(|host| host.daemon.as_ref()).chain(&self.controller) {
            if std::thread::panicking() {
                eprintln!("--- {}\n{}---", process.line(), process.stderr());
            }
        }
        // Workers outlive daemons: they are deleted by one that has found them.
        for host in &mut self.hosts {
            if host.daemon.is_none()
                && let Ok(mut daemon) = Process::spawn(host.command().env_clean())
            {
                let _ = daemon.wait_for("ready", LIMIT);
                host.daemon = Some(daemon);
            }
            host.clear();
            host.end(Signal::SIGTERM);
        }
    }
}

impl Node {
    fn command(&self) -> std::process::Command {
        let mut command = self.namespace.command(ROAM);
        command.args(["--log", "info", "host", "--name", self.name, "--bridge", "br0", "--network", "10.90.0.0/16"]);
        command.args(["--pool", &format!("10.90.{}.0/24", self.number)]);
        command.args(["--controller", "https://172.30.0.254", "--vtep", &format!("172.30.0.{}", self.number)]);
        command.arg("--tls-dir").arg(self.dir.join("tls")).arg("--state-dir").arg(self.dir.join("state"));
        command.arg("--run-dir").arg(self.dir.join("run"));
        command
    }

    fn start(&mut self) {
        let mut daemon = Process::spawn(self.command().env_clean()).unwrap();
        daemon.wait_for("ready", LIMIT).unwrap();
        self.daemon = Some(daemon);
    }

    fn end(&mut self, with: Signal) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.signal(with);
            let _ = daemon.wait(LIMIT);
        }
    }

    fn client(&self) -> Client {
        Client::new(Endpoint::Unix(self.dir.join("run/api.sock")))
    }

    async fn put_echo(&self) -> ModuleHash {
        let path = wasm("echo");
        let digest = ModuleHash::of(&fs::read(&path).unwrap());
        self.client().put_module(digest, tokio::fs::File::open(path).await.unwrap(), |_| {}).await.unwrap();
        digest
    }

    /// Deploys the echo guest at the address.
    async fn deploy(&self, name: &str) -> Result<GuestView, ClientError> {
        let echo = self.put_echo().await;
        self.client().create(&GuestSpec { ip: Some(format!("{IP}/16").parse().unwrap()), ..spec(name, echo) }).await
    }

    async fn look(&self, name: &str) -> GuestView {
        self.client().inspect(&name.parse().unwrap()).await.unwrap()
    }

    async fn until(&self, name: &str, wanted: impl Fn(&GuestView) -> bool) -> GuestView {
        let deadline = Instant::now() + LIMIT;
        loop {
            let view = self.look(name).await;
            if wanted(&view) {
                return view;
            }
            assert!(Instant::now() < deadline, "it stays {view:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether it says that something is wrong with the controller.
    async fn until_followed(&self, followed: bool) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let problems = self.client().health().await.unwrap().problems;
            if problems.is_empty() == followed {
                return;
            }
            assert!(Instant::now() < deadline, "it stays so: {problems:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Nothing passes its underlay in either direction.
    fn cut_off(&self) {
        let chain = |hook| format!("chain {hook} {{ type filter hook {hook} priority -300; policy drop; }}");
        let table = format!("table inet cut {{\n{}\n{}\n}}\n", chain("input"), chain("output"));
        self.namespace.call("nft -f -", table.as_bytes(), LIMIT).unwrap().success().unwrap();
    }

    fn join_again(&self) {
        self.namespace.call("nft delete table inet cut", b"", LIMIT).unwrap().success().unwrap();
    }

    /// Deletes what guests there are.
    fn clear(&self) {
        let client = self.client();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for guest in client.list().await.unwrap_or_default() {
                let _ = client.delete(&guest.spec.name, true).await;
            }
        });
    }
}

/// What the environment says is not for these.
trait CleanEnvironment {
    fn env_clean(self) -> Self;
}

impl CleanEnvironment for std::process::Command {
    fn env_clean(mut self) -> Self {
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.as_encoded_bytes().starts_with(b"ROAM_")) {
            self.env_remove(key);
        }
        self
    }
}

/// A namespace with one end of the tunnels in a bridge, whose flood entries make one Ethernet of all.
fn end(lab: &Lab, wire: &Namespace, name: &str, number: u8) -> Namespace {
    let namespace = lab.namespace(name).unwrap();
    wire.veth("wire0", &namespace, "under0", &[&format!("172.30.0.{number}/24")]).unwrap();
    namespace.bridge("br0").unwrap();
    let local = format!("172.30.0.{number}");
    namespace.ip(&format!("link add vx0 type vxlan id 90 local {local} dev under0 dstport 4789")).unwrap();
    namespace.plug("vx0", "br0").unwrap();
    for other in [1, 2, 254].into_iter().filter(|other| *other != number) {
        let flood = format!("bridge fdb append 00:00:00:00:00:00 dev vx0 dst 172.30.0.{other}");
        namespace.call(&flood, b"", LIMIT).unwrap().success().unwrap();
    }
    namespace
}

fn certify(authority: &Authority, home: &Path, name: &str, number: u8) {
    let sans = vec![format!("172.30.0.{number}")];
    let issue = Issue { name: name.into(), role: Role::Host, sans, valid: VALID };
    authority.issue(&issue).unwrap().write_tls_dir(&home.join("tls"), authority, Role::Host).unwrap();
}

fn name(text: &str) -> GuestName {
    text.parse().unwrap()
}

#[test]
fn one_of_two_that_claim_an_address_has_it() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let [a, b] = &rig.hosts;
        let first = a.deploy("first").await.unwrap();
        assert!(first.generation.is_some(), "{first:?}");
        rig.answers();
        let error = b.deploy("second").await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::Fenced), "{error}");
        assert!(error.to_string().contains("host-a's since generation"), "{error}");
        assert!(b.client().list().await.unwrap().is_empty(), "it is on no record");
        // The same IP with another MAC.
        let echo = b.put_echo().await;
        let other =
            GuestSpec { ip: first.spec.ip, mac: Some("02:00:00:00:00:99".parse().unwrap()), ..spec("second", echo) };
        let error = b.client().create(&other).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::Conflict), "{error}");
        rig.answers();
        assert_eq!(a.look("first").await.pid, first.pid, "the first serves on");
        // Deleted, it is anybody's, and of a higher generation.
        a.client().delete(&name("first"), true).await.unwrap();
        let second = b.deploy("second").await.unwrap();
        assert!(second.generation > first.generation, "{second:?}");
        assert_eq!(rig.owner().await.0, "host-b");
        rig.answers();
    });
}

#[test]
fn a_host_that_was_cut_off_comes_back_to_a_fenced_guest() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let [a, b] = &rig.hosts;
        let guest = a.deploy("guest").await.unwrap();
        let pid = guest.pid.unwrap();
        a.cut_off();
        let deadline = Instant::now() + LIMIT;
        while rig.sdn().hosts().await.unwrap().iter().all(|node| node.host.presence == Presence::Live) {
            assert!(Instant::now() < deadline, "it is not missed");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(rig.owner().await.0, "host-a", "lost, it is still the owner");
        assert!(lives(pid));
        rig.move_to("host-b").await;
        b.deploy("guest").await.unwrap();
        rig.answers();
        assert!(lives(pid), "nobody could tell it");
        a.join_again();
        let fenced = a.until("guest", |view| view.state == GuestState::Fenced).await;
        assert!(!lives(pid));
        let end = fenced.last_end.unwrap();
        assert_eq!(end.kind, EndKind::Fenced);
        assert!(end.reason.contains("host-b's since generation"), "{}", end.reason);
        rig.answers();
        // It stays so, whatever is tried, until the address is free.
        a.client().stop(&name("guest"), Duration::ZERO).await.unwrap();
        let error = a.client().start(&name("guest")).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::Fenced), "{error}");
        assert_eq!(a.look("guest").await.state, GuestState::Fenced);
        b.client().delete(&name("guest"), true).await.unwrap();
        let started = a.client().start(&name("guest")).await.unwrap();
        assert!(started.generation > guest.generation, "{started:?}");
        assert_eq!(rig.owner().await, ("host-a".into(), started.generation.unwrap().0));
        rig.answers();
    });
}

#[test]
fn a_move_fences_at_once_and_a_daemon_that_was_down_hears_of_it() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let guest = rig.hosts[0].deploy("guest").await.unwrap();
        rig.hosts[0].end(Signal::SIGKILL);
        assert!(lives(guest.pid.unwrap()));
        rig.answers();
        rig.hosts[0].start();
        let adopted = rig.hosts[0].until("guest", |view| view.state == GuestState::Running).await;
        assert_eq!((adopted.pid, adopted.generation), (guest.pid, guest.generation));
        rig.hosts[0].until_followed(true).await;
        assert_eq!(rig.owner().await, ("host-a".into(), guest.generation.unwrap().0));
        rig.answers();
        rig.hosts[0].end(Signal::SIGKILL);
        rig.move_to("host-b").await;
        assert!(lives(guest.pid.unwrap()), "no daemon, nobody to end it");
        rig.hosts[0].start();
        rig.hosts[0].until("guest", |view| view.state == GuestState::Fenced).await;
        assert!(!lives(guest.pid.unwrap()));
        // A restart does not start it again.
        rig.hosts[0].end(Signal::SIGTERM);
        rig.hosts[0].start();
        assert_eq!(rig.hosts[0].look("guest").await.state, GuestState::Fenced);
        // Moved back, it is granted when it is asked for.
        rig.move_to("host-a").await;
        let started = rig.hosts[0].client().start(&name("guest")).await.unwrap();
        assert_eq!(rig.owner().await, ("host-a".into(), started.generation.unwrap().0));
        rig.answers();
        rig.move_to("host-b").await;
        rig.hosts[0].until("guest", |view| view.state == GuestState::Fenced).await;
        assert!(!lives(started.pid.unwrap()));
    });
}

#[test]
fn guests_serve_without_a_controller_and_a_new_table_is_told_whose_they_are() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let guest = rig.hosts[0].deploy("guest").await.unwrap();
        let other = GuestSpec { ip: None, ..spec("other", guest.spec.module) };
        rig.kill_controller();
        rig.hosts[0].until_followed(false).await;
        rig.answers();
        let error = rig.hosts[0].client().create(&other).await.unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode::Unavailable), "{error}");
        assert!(error.to_string().contains("new guests need the controller"), "{error}");
        // A daemon that starts now finds its guest, and leaves it serving.
        rig.hosts[0].end(Signal::SIGKILL);
        rig.hosts[0].start();
        assert_eq!(rig.hosts[0].look("guest").await.pid, guest.pid);
        rig.answers();
        rig.start_controller();
        rig.hosts[0].until_followed(true).await;
        let deployed = rig.hosts[0].client().create(&other).await.unwrap();
        rig.answers();
        // Given up while nobody can be told; and the table is lost.
        rig.kill_controller();
        rig.hosts[0].until_followed(false).await;
        rig.hosts[0].client().delete(&name("other"), true).await.unwrap();
        fs::remove_dir_all(rig.dir.0.join("gateway/state")).unwrap();
        rig.start_controller();
        rig.hosts[0].until_followed(true).await;
        let deadline = Instant::now() + LIMIT;
        while rig.sdn().route(IP).await.is_err() {
            assert!(Instant::now() < deadline, "it is not claimed again");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(rig.owner().await, ("host-a".into(), guest.generation.unwrap().0));
        assert!(rig.sdn().route(&deployed.network.mac.to_string()).await.is_err());
        assert_eq!(rig.hosts[0].look("guest").await.pid, guest.pid);
        rig.answers();
        // Released behind its back: it is not its own any more.
        rig.hosts[1].until_followed(true).await;
        let route = rig.route().await;
        rig.sdn().release(IP, route.placement.generation).await.unwrap();
        let claim = Claim { address: route.address, host: name("host-b"), held: None };
        rig.hosts[0].until("guest", |view| view.state == GuestState::Fenced).await;
        rig.sdn().claim(&claim).await.unwrap();
    });
}

#[test]
fn what_is_given_up_while_nobody_listens_is_told_later() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let guest = rig.hosts[0].deploy("guest").await.unwrap();
        rig.kill_controller();
        rig.hosts[0].until_followed(false).await;
        rig.hosts[0].client().delete(&name("guest"), true).await.unwrap();
        rig.hosts[0].end(Signal::SIGKILL);
        rig.start_controller();
        assert_eq!(rig.owner().await.0, "host-a");
        rig.hosts[0].start();
        let deadline = Instant::now() + LIMIT;
        while rig.sdn().route(IP).await.is_ok() {
            assert!(Instant::now() < deadline, "it stays claimed");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // A guest of the same address that comes after is not released by what was meant for the one before.
        let again = rig.hosts[0].deploy("guest").await.unwrap();
        assert!(again.generation > guest.generation, "{again:?}");
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(rig.owner().await.0, "host-a");
        rig.answers();
        // Killed, the guest is started again by its policy, and owns its address as before.
        signal(again.pid.unwrap(), Signal::SIGKILL);
        let restarted = rig.hosts[0].until("guest", |view| view.pid.is_some() && view.pid != again.pid).await;
        assert_eq!(restarted.generation, again.generation);
        rig.answers();
    });
}

#[test]
fn a_claim_whose_answer_is_lost_leaves_nothing_claimed() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let controller = rig.controller.as_ref().unwrap();
        controller.signal(Signal::SIGSTOP).unwrap();
        // It waits for longer than for any answer.
        let refused = rig.hosts[0].deploy("guest").await.unwrap_err();
        assert!(rig.hosts[0].client().inspect(&name("guest")).await.is_err(), "{refused}");
        controller.signal(Signal::SIGCONT).unwrap();
        rig.hosts[0].until_followed(true).await;
        // What was sent before is granted now, to nobody, and given back.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let route = rig.sdn().route(IP).await;
        assert_eq!(route.unwrap_err().code(), Some(ErrorCode::NotFound));
        rig.hosts[1].deploy("guest").await.unwrap();
        assert_eq!(rig.owner().await.0, "host-b");
    });
}
