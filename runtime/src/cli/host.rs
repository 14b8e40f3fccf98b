//! `roam host`: the daemon.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use roam_netstack::{Cidr, MTU_BYTES_MAX, MTU_BYTES_MIN};
use serde::Deserialize;

use super::{daemon, units};
use crate::api::client::Endpoint;
use crate::api::{CidrText, MIGRATION_PORT};
use crate::cert::{Role, TlsFiles};
use crate::host::{Host, HostConfig, OverlayConfig, Pool};
use crate::serve::{Limits, Listen, Server};

/// Run the host daemon.
///
/// Starts guests in jails of their own, plugs them into a bridge, and answers on the unix socket api.sock in its
/// run directory, and over TCP to those with certificates. Guests go on serving when the daemon ends, however it ends;
/// the next one adopts them.
///
/// Exit codes: 0 ended by SIGTERM or SIGINT; 1 it could not be started, or failed; 2 usage.
#[derive(Debug, Default, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Settings {
    /// The host's name, a DNS label [default: the machine's].
    #[arg(long, env = "ROAM_NAME")]
    name: Option<String>,
    /// Database, modules and logs [default: /var/lib/roam].
    #[arg(long, env = "ROAM_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Sockets [default: /run/roam].
    #[arg(long, env = "ROAM_RUN_DIR", value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// The bridge that guests are plugged into; it must exist [default: br0].
    #[arg(long, env = "ROAM_BRIDGE", value_name = "DEVICE")]
    bridge: Option<String>,
    /// The guests' IPv4 network, for example 10.90.0.0/16. Without it each guest needs an address at its deployment.
    #[arg(long, env = "ROAM_NETWORK", value_name = "NETWORK/PREFIX")]
    network: Option<CidrText<Ipv4Addr>>,
    /// The part of --network that this host allocates from [default: all of it].
    #[arg(long, env = "ROAM_POOL", value_name = "NETWORK/PREFIX")]
    pool: Option<CidrText<Ipv4Addr>>,
    /// IPv4 gateway of guests that are not given another.
    #[arg(long, env = "ROAM_GATEWAY", value_name = "ADDRESS")]
    gateway: Option<Ipv4Addr>,
    /// The guests' IPv6 network, for example fd90::/64.
    #[arg(long, env = "ROAM_NETWORK6", value_name = "NETWORK/PREFIX")]
    network6: Option<CidrText<Ipv6Addr>>,
    /// The part of --network6 that this host allocates from [default: all of it].
    #[arg(long, env = "ROAM_POOL6", value_name = "NETWORK/PREFIX")]
    pool6: Option<CidrText<Ipv6Addr>>,
    /// IPv6 gateway of guests that are not given another.
    #[arg(long, env = "ROAM_GATEWAY6", value_name = "ADDRESS")]
    gateway6: Option<Ipv6Addr>,
    /// IP MTU of guests that are not given another, bytes [default: what --tunnel carries, 1500 at most].
    #[arg(long, env = "ROAM_MTU", value_name = "BYTES")]
    mtu: Option<u16>,
    /// The controller, which says whose addresses are: https://name:port or unix:/path. New guests need it; those that
    /// serve do not.
    #[arg(long, env = "ROAM_CONTROLLER", value_name = "URL")]
    controller: Option<String>,
    /// The address of this host's end of the tunnels. Needed with --controller.
    #[arg(long, env = "ROAM_VTEP", value_name = "ADDRESS")]
    vtep: Option<IpAddr>,
    /// The VXLAN device in the bridge, or `none` where all hosts share one plain network [default: vx0].
    #[arg(long, env = "ROAM_TUNNEL", value_name = "DEVICE")]
    tunnel: Option<String>,
    /// Also listen on TCP, for peers with certificates. Needs --tls-dir.
    #[arg(long, env = "ROAM_LISTEN", value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where guests from other hosts are taken in; port 7445 is usual. Needs --tls-dir [default: that port of --vtep,
    /// where there are --vtep and --tls-dir].
    #[arg(long, env = "ROAM_MIGRATE_LISTEN", value_name = "ADDRESS:PORT")]
    migrate_listen: Option<SocketAddr>,
    /// Where ca.pem, host.pem and host.key are; `roam cert issue --role host --out` makes them. Hosts that send guests to
    /// each other need it.
    #[arg(long, env = "ROAM_TLS_DIR", value_name = "DIR")]
    tls_dir: Option<PathBuf>,
    /// A group whose members may use the unix socket, and so do everything [default: its owner only].
    #[arg(long, env = "ROAM_SOCKET_GROUP", value_name = "GROUP")]
    socket_group: Option<String>,
    /// Guests end with this daemon, however it ends, instead of serving on: for trying things out.
    #[arg(long, env = "ROAM_EPHEMERAL")]
    #[serde(default)]
    ephemeral: bool,
    /// Size a guest's log may take; the oldest half goes when it is full [default: 16MiB].
    #[arg(long, env = "ROAM_LOG_SIZE", value_name = "SIZE")]
    log_size: Option<String>,
}

const LOG_BYTES_MIN: u64 = 64 * 1024;
const LOG_BYTES_MAX: u64 = 1 << 40;
/// How often a host that cannot do its work yet is looked at.
const HEALTH_PAUSE: Duration = Duration::from_millis(200);

/// What the settings come to.
#[derive(Debug)]
struct Plan {
    config: HostConfig,
    listen: Listen,
}

impl Settings {
    /// These, and where they say nothing, those beneath.
    pub(super) fn over(self, beneath: Self) -> Self {
        Self {
            name: self.name.or(beneath.name),
            state_dir: self.state_dir.or(beneath.state_dir),
            run_dir: self.run_dir.or(beneath.run_dir),
            bridge: self.bridge.or(beneath.bridge),
            network: self.network.or(beneath.network),
            pool: self.pool.or(beneath.pool),
            gateway: self.gateway.or(beneath.gateway),
            network6: self.network6.or(beneath.network6),
            pool6: self.pool6.or(beneath.pool6),
            gateway6: self.gateway6.or(beneath.gateway6),
            mtu: self.mtu.or(beneath.mtu),
            controller: self.controller.or(beneath.controller),
            vtep: self.vtep.or(beneath.vtep),
            tunnel: self.tunnel.or(beneath.tunnel),
            listen: self.listen.or(beneath.listen),
            migrate_listen: self.migrate_listen.or(beneath.migrate_listen),
            tls_dir: self.tls_dir.or(beneath.tls_dir),
            socket_group: self.socket_group.or(beneath.socket_group),
            ephemeral: self.ephemeral || beneath.ephemeral,
            log_size: self.log_size.or(beneath.log_size),
        }
    }

    /// Where its sockets are, if that was said.
    pub(super) fn run_dir(&self) -> Option<PathBuf> {
        self.run_dir.clone()
    }

    fn check(self) -> Result<Plan> {
        let run_dir = self.run_dir.unwrap_or_else(|| "/run/roam".into());
        let log_bytes_max = match self.log_size {
            Some(text) => units::bytes(&text).map_err(|error| anyhow!("--log-size: {error}"))? as u64,
            None => 16 << 20,
        };
        if !(LOG_BYTES_MIN..=LOG_BYTES_MAX).contains(&log_bytes_max) {
            bail!("--log-size is {log_bytes_max} bytes; it must be from {LOG_BYTES_MIN} to {LOG_BYTES_MAX}");
        }
        let files = self.tls_dir.as_deref().map(|dir| TlsFiles::in_dir(dir, Role::Host));
        let migrate = migrate_listen(self.migrate_listen, self.vtep, files.as_ref())?;
        let overlay = overlay(self.controller, self.vtep, self.tunnel, files.as_ref())?;
        let tcp = daemon::tcp(self.listen, self.tls_dir)?;
        let listen = Listen {
            socket: run_dir.join("api.sock"),
            socket_group: self.socket_group.map(daemon::group).transpose()?,
            tcp,
        };
        let config = HostConfig {
            name: daemon::node_name(self.name, "--name")?.to_string(),
            state_dir: self.state_dir.unwrap_or_else(|| "/var/lib/roam".into()),
            run_dir,
            bridge: daemon::check_device("--bridge", self.bridge.unwrap_or_else(|| "br0".into()))?,
            pool4: pool("", self.network, self.pool, self.gateway)?,
            pool6: pool("6", self.network6, self.pool6, self.gateway6)?,
            mtu: self.mtu.map(mtu).transpose()?,
            log_bytes_max,
            ephemeral: self.ephemeral,
            overlay,
            tls: files,
            migrate,
            worker_program: "/proc/self/exe".into(),
        };
        Ok(Plan { config, listen })
    }
}

fn mtu(bytes: u16) -> Result<u16> {
    if !(MTU_BYTES_MIN..=MTU_BYTES_MAX).contains(&bytes) {
        bail!("--mtu is {bytes} bytes; it must be from {MTU_BYTES_MIN} to {MTU_BYTES_MAX}");
    }
    Ok(bytes)
}

/// Where guests are taken in. Without certificates nowhere: hosts could not know each other.
fn migrate_listen(
    listen: Option<SocketAddr>,
    vtep: Option<IpAddr>,
    files: Option<&TlsFiles>,
) -> Result<Option<SocketAddr>> {
    match (listen, files) {
        (Some(_), None) => {
            bail!("--migrate-listen needs --tls-dir: guests are taken from hosts with certificates only")
        }
        (None, None) => Ok(None),
        (listen, Some(_)) => Ok(listen.or(vtep.map(|vtep| SocketAddr::new(vtep, MIGRATION_PORT)))),
    }
}

/// The host's part in an overlay. `files` prove who it is.
fn overlay(
    controller: Option<String>,
    vtep: Option<IpAddr>,
    tunnel: Option<String>,
    files: Option<&TlsFiles>,
) -> Result<Option<OverlayConfig>> {
    let Some(url) = controller else {
        if vtep.is_some() || tunnel.is_some() {
            bail!("--vtep and --tunnel need --controller, which tells the other hosts of them");
        }
        return Ok(None);
    };
    let controller = Endpoint::parse_controller(&url, files).context("--controller")?;
    let Some(vtep) = vtep else { bail!("--controller needs --vtep, the address of this host's end of the tunnels") };
    if vtep.is_unspecified() || vtep.is_multicast() {
        bail!("--vtep: {vtep} is no address of a machine");
    }
    let tunnel = tunnel.unwrap_or_else(|| "vx0".into());
    let tunnel = (tunnel != "none").then(|| daemon::check_device("--tunnel", tunnel)).transpose()?;
    Ok(Some(OverlayConfig { controller, vtep, tunnel }))
}

/// `family` is what the flags' names end in.
fn pool<A: Copy + Display + Into<IpAddr>>(
    family: &str,
    network: Option<CidrText<A>>,
    pool: Option<CidrText<A>>,
    gateway: Option<A>,
) -> Result<Option<Pool<A>>> {
    let Some(CidrText(network)) = network else {
        let (flag, given) = if pool.is_some() { ("pool", true) } else { ("gateway", gateway.is_some()) };
        if given {
            bail!("--{flag}{family} needs --network{family}, the network it is part of");
        }
        return Ok(None);
    };
    let CidrText(range) = pool.unwrap_or(CidrText(network));
    if range.prefix < network.prefix || !contains(network, range.address) {
        let (pool, network) = (CidrTextOf(range), CidrTextOf(network));
        bail!("--pool{family} {pool} is not part of --network{family} {network}");
    }
    if let Some(outside) = gateway.filter(|&gateway| !contains(network, gateway)) {
        bail!("--gateway{family} {outside} is not in --network{family} {}", CidrTextOf(network));
    }
    Ok(Some(Pool { range, prefix: network.prefix, gateway }))
}

fn contains<A: Copy + Into<IpAddr>>(network: Cidr<A>, address: A) -> bool {
    let bits = |address: A| match address.into() {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    let differ = bits(network.address) ^ bits(address);
    differ.leading_zeros() >= network.prefix.into()
}

/// A network in a message.
struct CidrTextOf<A>(Cidr<A>);

impl<A: Display> Display for CidrTextOf<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.0.address, self.0.prefix)
    }
}

pub(super) fn run(settings: Settings) -> Result<ExitCode> {
    daemon::run(settings.check(), || {}, serve)
}

async fn serve(plan: Plan) -> Result<ExitCode> {
    let mut signals = daemon::Signals::new()?;
    let guests = if plan.config.ephemeral { "guests end, too" } else { "guests go on serving" };
    let host = Host::open(plan.config).await?;
    let server = Server::bind(plan.listen, Limits::default()).await?;
    let ready = announce(host.clone(), server.socket().to_owned(), server.tcp());
    let ready = tokio::spawn(ready);
    let asked = async {
        signals.end().await;
        tracing::info!("going down; {guests}");
    };
    server.run(host.clone(), asked).await;
    ready.abort();
    host.close().await;
    Ok(ExitCode::SUCCESS)
}

/// Says "ready" once the host can do its work, and until then what is missing. A controller is not: guests are served
/// without.
async fn announce(host: Host, socket: PathBuf, tcp: Option<SocketAddr>) {
    let mut known = Vec::new();
    loop {
        let health = host.own_health().await;
        if health.healthy {
            break;
        }
        if health.problems != known {
            known = health.problems;
            tracing::warn!(problems = known.join("; "), "not ready yet");
        }
        tokio::time::sleep(HEALTH_PAUSE).await;
    }
    let tcp = tcp.map(|address| address.to_string());
    tracing::info!(socket = %socket.display(), tcp, "ready");
    if let Err(error) = daemon::notify("READY=1") {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Plan, String> {
        let settings: Settings = toml::from_str(text).map_err(|error| error.to_string())?;
        settings.check().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn pools_are_parts_of_networks() {
        let plan = check("name = 'a'\nnetwork = '10.90.0.0/16'\npool = '10.90.1.0/24'\ngateway = '10.90.0.1'").unwrap();
        let pool = plan.config.pool4.unwrap();
        assert_eq!((pool.range.prefix, pool.prefix, pool.gateway), (24, 16, Some(Ipv4Addr::new(10, 90, 0, 1))));
        let plan = check("name = 'a'\nnetwork6 = 'fd90::/64'").unwrap();
        assert_eq!(plan.config.pool6.map(|pool| (pool.range.prefix, pool.prefix)), Some((64, 64)));
        assert_eq!(plan.config.pool4, None);
        for text in [
            "network = '10.90.0.0/16'\npool = '10.91.1.0/24'",
            "network = '10.90.0.0/16'\npool = '10.0.0.0/8'",
            "network = '10.90.0.0/16'\ngateway = '10.91.0.1'",
            "network6 = 'fd90::/64'\npool6 = 'fd91::/112'",
            "pool = '10.91.1.0/24'",
            "gateway6 = 'fd90::1'",
        ] {
            assert!(check(&format!("name = 'a'\n{text}")).unwrap_err().starts_with("--"), "{text}");
        }
    }

    #[test]
    fn guests_have_a_possible_mtu() {
        assert_eq!(check("name = 'a'\nmtu = 9000").unwrap().config.mtu, Some(9000));
        assert_eq!(check("name = 'a'").unwrap().config.mtu, None);
        assert!(check("name = 'a'\nmtu = 500").unwrap_err().starts_with("--mtu"));
    }

    #[test]
    fn everything_is_a_network_of_prefix_zero() {
        let all = Cidr { address: Ipv4Addr::UNSPECIFIED, prefix: 0 };
        assert!(contains(all, Ipv4Addr::BROADCAST));
        let one = Cidr { address: Ipv6Addr::LOCALHOST, prefix: 128 };
        assert!(contains(one, Ipv6Addr::LOCALHOST) && !contains(one, Ipv6Addr::UNSPECIFIED));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, flag) in [
            ("name = 'A b'", "--name"),
            ("name = 'a'\nlisten = '127.0.0.1:1'", "--tls-dir"),
            ("name = 'a'\nbridge = 'a-bridge-too-long'", "--bridge"),
            ("name = 'a'\nbridge = '../br0'", "--bridge"),
            ("name = 'a'\nvtep = '172.30.0.1'", "--controller"),
            ("name = 'a'\ncontroller = 'unix:/run/roam/sdn.sock'", "--vtep"),
            ("name = 'a'\ncontroller = 'unix:/s'\nvtep = '0.0.0.0'", "--vtep"),
            ("name = 'a'\ncontroller = 'unix:/s'\nvtep = '172.30.0.1'\ntunnel = 'a b'", "--tunnel"),
            ("name = 'a'\ncontroller = 'sdn'\nvtep = '172.30.0.1'", "--controller"),
            ("name = 'a'\ncontroller = 'https://sdn'\nvtep = '172.30.0.1'", "--tls-dir"),
            ("name = 'a'\nmigrate-listen = '127.0.0.1:1'", "--tls-dir"),
            ("name = 'a'\nlog-size = '1'", "--log-size"),
            ("name = 'a'\nlog-size = 'much'", "--log-size"),
            ("name = 'a'\nsocket-group = 'no such group'", "--socket-group"),
            ("nmae = 'a'", "nmae"),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.contains(flag), "{text}: {error}");
        }
    }

    #[test]
    fn a_controller_comes_with_a_tunnel() {
        let text = "name = 'a'\ncontroller = 'unix:/s'\nvtep = '172.30.0.1'";
        let overlay = check(text).unwrap().config.overlay.unwrap();
        assert_eq!(overlay.tunnel.as_deref(), Some("vx0"));
        let overlay = check(&format!("{text}\ntunnel = 'none'")).unwrap().config.overlay.unwrap();
        assert_eq!(overlay.tunnel, None);
        assert!(check("name = 'a'").unwrap().config.overlay.is_none());
    }

    #[test]
    fn guests_are_taken_in_at_the_end_of_the_tunnels() {
        let migrate =
            |text: &str| check(&format!("name = 'a'\n{text}")).unwrap().config.migrate.map(|at| at.to_string());
        let overlay = "controller = 'unix:/s'\nvtep = 'fd00::1'";
        assert_eq!(migrate(""), None);
        assert_eq!(migrate(overlay), None, "there is nothing to prove oneself by");
        assert_eq!(migrate("tls-dir = '/tls'"), None, "nobody said where");
        assert_eq!(migrate(&format!("{overlay}\ntls-dir = '/tls'")).as_deref(), Some("[fd00::1]:7445"));
        let other = "tls-dir = '/tls'\nmigrate-listen = '192.0.2.1:1'";
        assert_eq!(migrate(&format!("{overlay}\n{other}")).as_deref(), Some("192.0.2.1:1"));
        assert_eq!(migrate(other).as_deref(), Some("192.0.2.1:1"));
    }

    #[test]
    fn what_is_over_wins() {
        let over = Settings { name: Some("a".into()), ..Settings::default() };
        let beneath = Settings { name: Some("b".into()), bridge: Some("br7".into()), ..Settings::default() };
        let plan = over.over(beneath).check().unwrap();
        assert_eq!((plan.config.name.as_str(), plan.config.bridge.as_str()), ("a", "br7"));
        assert_eq!(plan.listen.socket, PathBuf::from("/run/roam/api.sock"));
    }
}
