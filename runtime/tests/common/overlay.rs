//! Two hosts and a controller, each in a network namespace, joined by tunnels, and a client behind the gateway.
#![allow(dead_code, clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use nix::sys::signal::Signal;
use roam_runtime::api::client::{Client, ClientError, Endpoint, SdnClient};
use roam_runtime::api::sdn::{Move, Route};
use roam_runtime::api::{ErrorCode, GuestName, GuestSpec, GuestView};
use roam_runtime::cert::{Authority, Issue, Role};
use roam_runtime::engine::ModuleHash;
use roam_runtime::host::LogQuery;
use roam_runtime::lab::{Lab, Namespace, Process};

use super::host::spec;
use super::{CLIENT, LIMIT, ROAM, ask, has, lab, wasm};

/// The address that hosts compete for.
pub(crate) const IP: &str = "10.90.7.7";
const VALID: Duration = Duration::from_secs(86_400);

/// A controller on a gateway with a client behind, and two hosts, joined by tunnels.
pub(crate) struct Rig {
    pub(crate) controller: Option<Process>,
    pub(crate) hosts: [Node; 2],
    pub(crate) gateway: Namespace,
    pub(crate) client: Namespace,
    pub(crate) dir: Directory,
    authority: Authority,
    _wire: Namespace,
    _lab: Lab,
}

/// A host: its place and its daemon.
pub(crate) struct Node {
    pub(crate) name: &'static str,
    pub(crate) number: u8,
    pub(crate) namespace: Namespace,
    pub(crate) dir: PathBuf,
    pub(crate) daemon: Option<Process>,
}

/// Goes with all that is in it.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Rig {
    pub(crate) fn new() -> Option<Self> {
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
        // What is larger does not pass the tunnels.
        client.ip("link set eth0 mtu 1450").unwrap();
        let authority = Authority::create(&dir.join("ca"), "test", VALID).unwrap();
        let hosts = [("host-a", 1), ("host-b", 2)].map(|(name, number)| {
            certify(&authority, &dir.join(name), name, Role::Host, number);
            Node { name, number, namespace: end(&lab, &wire, name, number), dir: dir.join(name), daemon: None }
        });
        certify(&authority, &dir.join("gateway"), "gateway", Role::Host, 254);
        let dir = Directory(dir);
        let mut rig = Self { controller: None, hosts, gateway, client, dir, authority, _wire: wire, _lab: lab };
        rig.start_controller();
        rig.hosts.iter_mut().for_each(Node::start);
        Some(rig)
    }

    /// A certificate for somebody else at one of the tunnels' ends; the directory it is in.
    pub(crate) fn certify(&self, name: &str, role: Role, number: u8) -> PathBuf {
        certify(&self.authority, &self.dir.0.join(name), name, role, number);
        self.dir.0.join(name).join("tls")
    }

    pub(crate) fn start_controller(&mut self) {
        let home = self.dir.0.join("gateway");
        let mut command = self.gateway.command(ROAM);
        command.args(["--log", "info", "sdn", "--node", "gateway", "--vtep", "172.30.0.254", "--lost-after", "3s"]);
        command.args(["--listen", "172.30.0.254:7444"]).arg("--tls-dir").arg(home.join("tls"));
        command.arg("--state-dir").arg(home.join("state")).arg("--run-dir").arg(home.join("run"));
        let mut controller = Process::spawn(command.env_clean()).unwrap();
        controller.wait_for("ready", LIMIT).unwrap();
        self.controller = Some(controller);
    }

    pub(crate) fn kill_controller(&mut self) {
        let mut controller = self.controller.take().unwrap();
        controller.signal(Signal::SIGKILL).unwrap();
        controller.wait(LIMIT).unwrap();
    }

    pub(crate) fn sdn(&self) -> SdnClient {
        SdnClient::new(Endpoint::Unix(self.dir.0.join("gateway/run/sdn.sock")))
    }

    /// Asks the echo guest at the address until it answers: the way there is through the tunnels.
    pub(crate) fn answers(&self) {
        let socket = self.client.run(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        socket.connect((IP, 7)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        ask(&socket, b"are you there?", b"are you there?");
    }

    pub(crate) async fn route(&self) -> Route {
        let view = self.sdn().route(IP).await.unwrap();
        Route { address: view.address, placement: view.placement }
    }

    pub(crate) async fn owner(&self) -> (String, u64) {
        let placement = self.route().await.placement;
        (placement.host.to_string(), placement.generation.0)
    }

    pub(crate) async fn move_to(&self, host: &str) {
        loop {
            let from = self.route().await.placement.generation;
            match self.sdn().move_to(IP, &Move::new(host.parse().unwrap(), from)).await {
                // Somebody else was quicker.
                Err(ClientError::Refused { body, .. }) if body.code == ErrorCode::Fenced => {}
                moved => return drop(moved.unwrap()),
            }
        }
    }

    /// Runs `work`; what is left of guests ends with it.
    pub(crate) fn run(mut self, work: impl AsyncFnOnce(&mut Self)) {
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
    pub(crate) fn command(&self) -> std::process::Command {
        let mut command = self.namespace.command(ROAM);
        command.args(["--log", "info", "host", "--name", self.name, "--bridge", "br0", "--network", "10.90.0.0/16"]);
        command.args(["--pool", &format!("10.90.{}.0/24", self.number)]);
        command.args(["--controller", "https://172.30.0.254", "--vtep", &format!("172.30.0.{}", self.number)]);
        command.arg("--tls-dir").arg(self.dir.join("tls")).arg("--state-dir").arg(self.dir.join("state"));
        command.arg("--run-dir").arg(self.dir.join("run"));
        command
    }

    /// Where steps of its migrations are held.
    pub(crate) fn holds(&self) -> PathBuf {
        self.dir.join("holds")
    }

    pub(crate) fn start(&mut self) {
        let mut command = self.command().env_clean();
        command.env("ROAM_MIGRATION_HOLD", self.holds());
        let mut daemon = Process::spawn(command).unwrap();
        daemon.wait_for("ready", LIMIT).unwrap();
        self.daemon = Some(daemon);
    }

    pub(crate) fn end(&mut self, with: Signal) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.signal(with);
            let _ = daemon.wait(LIMIT);
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(Endpoint::Unix(self.dir.join("run/api.sock")))
    }

    pub(crate) async fn put_echo(&self) -> ModuleHash {
        let path = wasm("echo");
        let digest = ModuleHash::of(&fs::read(&path).unwrap());
        self.client().put_module(digest, tokio::fs::File::open(path).await.unwrap(), |_| {}).await.unwrap();
        digest
    }

    /// Deploys the echo guest at the address.
    pub(crate) async fn deploy(&self, name: &str) -> Result<GuestView, ClientError> {
        self.deploy_at(name, IP).await
    }

    pub(crate) async fn deploy_at(&self, name: &str, ip: &str) -> Result<GuestView, ClientError> {
        let echo = self.put_echo().await;
        self.client().create(&GuestSpec { ip: Some(format!("{ip}/16").parse().unwrap()), ..spec(name, echo) }).await
    }

    /// Deploys a module of which that is changed.
    pub(crate) async fn deploy_module(
        &self,
        name: &str,
        ip: &str,
        module: &[u8],
        change: impl FnOnce(&mut GuestSpec),
    ) -> Result<GuestView, ClientError> {
        let path = self.dir.join(format!("{name}.wasm"));
        fs::write(&path, module).unwrap();
        let digest = ModuleHash::of(module);
        self.client().put_module(digest, tokio::fs::File::open(path).await.unwrap(), |_| {}).await.unwrap();
        let mut spec = GuestSpec { ip: Some(format!("{ip}/16").parse().unwrap()), ..spec(name, digest) };
        change(&mut spec);
        self.client().create(&spec).await
    }

    /// A guest's log, all that is kept.
    pub(crate) async fn log(&self, name: &str) -> Vec<String> {
        let query = LogQuery { follow: false, tail: None };
        let lines = self.client().logs(&name.parse().unwrap(), query).await.unwrap();
        lines.map(|line| line.unwrap().text).collect().await
    }

    pub(crate) async fn look(&self, name: &str) -> GuestView {
        self.client().inspect(&name.parse().unwrap()).await.unwrap()
    }

    pub(crate) async fn until(&self, name: &str, wanted: impl Fn(&GuestView) -> bool) -> GuestView {
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

    /// What it says is wrong, but for a disk that a test has filled.
    pub(crate) async fn problems(&self) -> Vec<String> {
        let problems = self.client().health().await.unwrap().problems;
        problems.into_iter().filter(|problem| !problem.starts_with("the disk is nearly full")).collect()
    }

    /// Whether it says that something is wrong with the controller.
    pub(crate) async fn until_followed(&self, followed: bool) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let problems = self.problems().await;
            if problems.is_empty() == followed {
                return;
            }
            assert!(Instant::now() < deadline, "it stays so: {problems:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Nothing passes its underlay in either direction.
    pub(crate) fn cut_off(&self) {
        let chain = |hook| format!("chain {hook} {{ type filter hook {hook} priority -300; policy drop; }}");
        let table = format!("table inet cut {{\n{}\n{}\n}}\n", chain("input"), chain("output"));
        self.namespace.call("nft -f -", table.as_bytes(), LIMIT).unwrap().success().unwrap();
    }

    /// No migration's bytes pass it in either direction; all else does.
    pub(crate) fn cut_migrations(&self) {
        let chain = |hook| {
            let port = "tcp sport 7445 drop; tcp dport 7445 drop;";
            format!("chain {hook} {{ type filter hook {hook} priority -300; policy accept; {port} }}")
        };
        let table = format!("table inet cut {{\n{}\n{}\n}}\n", chain("input"), chain("output"));
        self.namespace.call("nft -f -", table.as_bytes(), LIMIT).unwrap().success().unwrap();
    }

    pub(crate) fn join_again(&self) {
        self.namespace.call("nft delete table inet cut", b"", LIMIT).unwrap().success().unwrap();
    }

    /// Deletes what guests there are.
    pub(crate) fn clear(&self) {
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

fn certify(authority: &Authority, home: &Path, name: &str, role: Role, number: u8) {
    let sans = if role == Role::Host { vec![format!("172.30.0.{number}")] } else { Vec::new() };
    let issue = Issue { name: name.into(), role, sans, valid: VALID };
    authority.issue(&issue).unwrap().write_tls_dir(&home.join("tls"), authority, role).unwrap();
}

pub(crate) fn name(text: &str) -> GuestName {
    text.parse().unwrap()
}
