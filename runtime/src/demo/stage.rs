//! Who takes part: a client, a gateway with the controller, two hosts, and the guests that are deployed to them.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;

use super::network::{BRIDGE, Network, TUNNEL, underlay};
use super::show::Show;
use super::{DemoError, Options, place};
use crate::api::client::{Client, ClientError, Endpoint};
use crate::api::{GuestName, GuestSpec, sdn};
use crate::cert::{Authority, Issue, Role as CertRole};
use crate::engine::ModuleHash;
use crate::lab::{LabError, Namespace, Process, require};
use crate::modules;

/// How long a daemon may take until it can do its work: on a slow machine most of it is compiling the netstack.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How long daemons, and with them their guests, may take to end.
const END_LIMIT: Duration = Duration::from_secs(5);
/// Certificates of the demo are good for longer than it takes, and no more.
const CERTIFICATES_VALID: Duration = Duration::from_secs(86_400);
/// The gateway's number in the network beneath the tunnels; the hosts' are 1 and 2.
const GATEWAY: u8 = 254;
/// What the hosts are called.
pub(super) const HOSTS: [&str; 2] = ["host-a", "host-b"];

/// A server of the demo.
#[derive(Clone, Copy, Debug)]
pub(super) struct Role {
    pub(super) name: &'static str,
    pub(super) does: &'static str,
    pub(super) ip: &'static str,
    pub(super) ip6: &'static str,
    module: &'static [u8],
}

pub(super) const SQUARE: Role = Role {
    name: "square",
    does: "squares the number in a UDP datagram",
    ip: "10.90.0.10",
    ip6: "fd90::10",
    module: modules::SQUARE,
};
pub(super) const KV: Role =
    Role { name: "kv", does: "a memcached", ip: "10.90.0.12", ip6: "fd90::12", module: modules::KV };
pub(super) const WEB: Role =
    Role { name: "web", does: "an HTTP/1.1 server", ip: "10.90.0.13", ip6: "fd90::13", module: modules::WEB };
pub(super) const ROLES: [Role; 3] = [SQUARE, KV, WEB];

/// The running demo. Dropping it ends daemons and guests; the namespaces go with the last process in them.
pub(super) struct Stage {
    pub(super) client: Namespace,
    // Before the network: processes end before it does.
    hosts: Vec<Daemon>,
    controller: Daemon,
    _network: Network,
}

struct Daemon {
    name: &'static str,
    process: Process,
    socket: PathBuf,
}

impl Stage {
    pub(super) fn set(options: &Options, show: &mut Show) -> Result<Self, DemoError> {
        for (tool, package) in [("ip", "iproute2"), ("nft", "nftables")] {
            require(tool, package)?;
        }
        let here = std::env::current_dir().unwrap_or_default();
        let picture = std::path::absolute(&options.picture).unwrap_or_default();
        let guests = options.guests.iter().map(PathBuf::as_path);
        let needed: Vec<&Path> = guests.chain([options.roam.as_path(), &here, &picture]).collect();
        show.heading("Two hosts, a gateway with a controller, and a client, in network namespaces of their own");
        let begun = Instant::now();
        let dir = place::private(&needed)?;
        let network = Network::new()?;
        let authority = Authority::create(&dir.join("ca"), "roam-demo", CERTIFICATES_VALID)?;
        let controller = Daemon::start("gateway", GATEWAY, &network.gateway, &dir, &authority, options)?;
        let mut hosts = Vec::new();
        for ((name, namespace), number) in HOSTS.into_iter().zip(&network.hosts).zip(1..) {
            hosts.push(Daemon::start(name, number, namespace, &dir, &authority, options)?);
        }
        let mut stage = Self { client: network.client.clone(), hosts, controller, _network: network };
        stage.controller.ready()?;
        stage.hosts.iter_mut().try_for_each(Daemon::ready)?;
        show.note(&format!("up after {:.1?}", begun.elapsed()));
        Ok(stage)
    }

    /// Has the first host run all guests.
    pub(super) async fn deploy(&self, options: &Options, show: &mut Show) -> Result<(), DemoError> {
        show.heading("Three guests, each with a module, a TCP/IP stack and addresses of its own");
        for role in ROLES {
            let Role { name, ip, ip6, does, .. } = role;
            show.command(&format!(
                "roam deploy {name}.wasm --name {name} --ip {ip}/16 --ip6 {ip6}/64 --host {}",
                HOSTS[0]
            ));
            let module = role.read(options)?;
            let digest = ModuleHash::of(&module);
            let mut spec = GuestSpec::new(guest(name), digest);
            spec.ip = Some(format!("{ip}/16").parse().expect("a constant address"));
            spec.ip6 = Some(format!("{ip6}/64").parse().expect("a constant address"));
            let file = tokio::fs::File::from_std(in_memory(name, &module)?);
            let host = self.host(0);
            host.put_module(digest, file, |_| {}).await.map_err(refused(0, format!("take {name}.wasm")))?;
            host.create(&spec).await.map_err(refused(0, format!("run {name}")))?;
            show.item(name, &format!("{ip}  {ip6}  {does}"));
        }
        Ok(())
    }

    /// A client of a host's API.
    pub(super) fn host(&self, index: usize) -> Client {
        Client::new(Endpoint::Unix(self.hosts[index].socket.clone()))
    }

    /// What daemons that have ended said last: the reason behind what fails.
    pub(super) fn fallen(&mut self) -> Vec<String> {
        self.hosts.iter_mut().chain([&mut self.controller]).filter_map(Daemon::fallen).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Hosts first, all at once: they end their guests and release their addresses.
        for host in &self.hosts {
            let _ = host.process.signal(Signal::SIGTERM);
        }
        for host in &mut self.hosts {
            let _ = host.process.wait(END_LIMIT);
        }
    }
}

impl Daemon {
    fn start(
        name: &'static str,
        number: u8,
        namespace: &Namespace,
        dir: &Path,
        authority: &Authority,
        options: &Options,
    ) -> Result<Self, DemoError> {
        let (home, local) = (dir.join(name), underlay(number));
        let sans = vec![local.clone()];
        let issue = Issue { name: name.into(), role: CertRole::Host, sans, valid: CERTIFICATES_VALID };
        authority.issue(&issue)?.write_tls_dir(&home.join("tls"), authority, CertRole::Host)?;
        let mut command = namespace.command(&options.roam);
        // What the user has set for other hosts is not for these.
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.as_encoded_bytes().starts_with(b"ROAM_")) {
            command.env_remove(key);
        }
        let socket = if number == GATEWAY {
            controller_flags(&mut command, &local)
        } else {
            host_flags(&mut command, name, number)
        };
        command.args(["--vtep", &local, "--bridge", BRIDGE, "--tunnel", TUNNEL]);
        command
            .args(["--config", "/dev/null", "--log", "info", "--log-format", "human"])
            .arg("--tls-dir")
            .arg(home.join("tls"));
        command.arg("--state-dir").arg(home.join("state")).arg("--run-dir").arg(home.join("run"));
        Ok(Self { name, process: Process::spawn(command)?, socket: home.join("run").join(socket) })
    }

    fn ready(&mut self) -> Result<(), LabError> {
        self.process.wait_for("ready", READY_LIMIT)
    }

    fn fallen(&mut self) -> Option<String> {
        let status = self.process.wait(Duration::ZERO).ok()??;
        let log = self.process.stderr();
        let error = log.lines().rfind(|line| line.contains("ERROR")).or(log.lines().last());
        Some(format!("the daemon of {} has ended ({status}): {}", self.name, error.unwrap_or("without a word")))
    }
}

/// The name of the socket.
fn controller_flags(command: &mut Command, local: &str) -> &'static str {
    command.args(["sdn", "--node", "gateway", "--listen", &format!("{local}:{}", sdn::PORT)]);
    "sdn.sock"
}

fn host_flags(command: &mut Command, name: &str, number: u8) -> &'static str {
    command.args([
        "host",
        "--name",
        name,
        "--ephemeral",
        "--controller",
        &format!("https://{}:{}", underlay(GATEWAY), sdn::PORT),
    ]);
    command.args(["--network", "10.90.0.0/16", "--pool", &format!("10.90.{number}.0/24")]);
    command.args(["--network6", "fd90::/64", "--pool6", &format!("fd90::{number:x}:0/112")]);
    "api.sock"
}

impl Role {
    fn read(&self, options: &Options) -> Result<Vec<u8>, DemoError> {
        let Some(folder) = &options.guests else { return Ok(self.module.to_vec()) };
        let path = folder.join(format!("{}.wasm", self.name));
        fs::read(&path).map_err(|source| DemoError::File { path, source })
    }
}

/// A guest's name.
pub(super) fn guest(name: &str) -> GuestName {
    name.parse().expect("a constant name")
}

/// What a host did not do; for `map_err`.
pub(super) fn refused(host: usize, what: String) -> impl FnOnce(ClientError) -> DemoError {
    move |source| DemoError::Host { host: HOSTS[host].into(), what, source: Box::new(source) }
}

/// A file without a place in any folder, as the API's client takes files.
fn in_memory(name: &str, content: &[u8]) -> Result<File, DemoError> {
    let write = || {
        let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
        file.write_all(content)?;
        file.rewind()?;
        io::Result::Ok(file)
    };
    write().map_err(|source| DemoError::File { path: format!("{name}.wasm in memory").into(), source })
}
