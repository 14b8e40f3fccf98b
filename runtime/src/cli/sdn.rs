//! `roam sdn`: the controller.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use roam_sdn::Controller;
use roam_sdn::controller::{Config, FrontPlane, LOST_AFTER};
use roam_sdn::front::Nftables;
use roam_sdn::model::Kind;
use roam_sdn::plane::{PlaneClaim, Planes, kernel, ovs};
use roam_sdn::store::RedbStore;
use serde::Deserialize;

use super::{daemon, units};
use crate::serve::{Limits, Listen, Server};
use crate::sys::process::prefer_thread;

/// Run the controller: which host owns which address.
///
/// Keeps the table on disk, has the data plane of its own node follow it, and answers on the unix socket sdn.sock in
/// its run directory, and over TCP to those with certificates. The data plane goes on as it is when the controller
/// ends, however it ends; the next one takes it up.
///
/// Exit codes: 0 ended by SIGTERM or SIGINT; 1 it could not be started, or failed; 2 usage.
#[derive(Debug, Default, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Settings {
    /// The name of the node it runs on, a DNS label [default: the machine's].
    #[arg(long, env = "ROAM_SDN_NODE", value_name = "NAME")]
    node: Option<String>,
    /// The node's end of the tunnels. Needed unless --plane none.
    #[arg(long, env = "ROAM_SDN_VTEP", value_name = "ADDRESS")]
    vtep: Option<IpAddr>,
    /// What carries frames on this node [default: kernel].
    #[arg(long, env = "ROAM_SDN_PLANE", value_name = "PLANE")]
    plane: Option<Plane>,
    /// The tunnel's device (kernel) or port (ovs); it must exist [default: vx0].
    #[arg(long, env = "ROAM_SDN_TUNNEL", value_name = "DEVICE")]
    tunnel: Option<String>,
    /// The bridge that the tunnel is in; it must exist [default: br0].
    #[arg(long, env = "ROAM_SDN_BRIDGE", value_name = "DEVICE")]
    bridge: Option<String>,
    /// Where Open vSwitch takes OpenFlow connections for the bridge [default: /run/openvswitch/BRIDGE.mgmt].
    #[arg(long, env = "ROAM_SDN_OVS_MANAGEMENT", value_name = "SOCKET")]
    ovs_management: Option<PathBuf>,
    /// Also listen on TCP, for peers with certificates. Needs --tls-dir.
    #[arg(long, env = "ROAM_SDN_LISTEN", value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Where ca.pem, host.pem and host.key are; `roam cert issue --role host --out` makes them.
    #[arg(long, env = "ROAM_SDN_TLS_DIR", value_name = "DIR")]
    tls_dir: Option<PathBuf>,
    /// The table [default: /var/lib/roam-sdn].
    #[arg(long, env = "ROAM_SDN_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The socket [default: /run/roam].
    #[arg(long, env = "ROAM_RUN_DIR", value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// A group whose members may use the unix socket, and so do everything [default: its owner only].
    #[arg(long, env = "ROAM_SDN_SOCKET_GROUP", value_name = "GROUP")]
    socket_group: Option<String>,
    /// How long a host may be silent before it is called lost [default: 5s].
    #[arg(long, env = "ROAM_SDN_LOST_AFTER", value_name = "TIME")]
    lost_after: Option<String>,
}

/// A kind of data plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Plane {
    /// Linux's VXLAN device and bridge.
    #[default]
    Kernel,
    /// Open vSwitch.
    Ovs,
    /// None: hosts ask and follow, and nothing passes here.
    None,
}

const LOST_AFTER_MIN: Duration = Duration::from_millis(100);
const LOST_AFTER_MAX: Duration = Duration::from_secs(3600);
/// A host asks for each of its guests, an operator for all of them.
const REQUESTS_PER_S: u32 = 5_000;
const REQUESTS_BURST: u32 = 10_000;

/// What the settings come to.
#[derive(Debug)]
struct Plan {
    config: Config,
    plane: Plane,
    tunnel: String,
    bridge: String,
    ovs_management: PathBuf,
    state_dir: PathBuf,
    run_dir: PathBuf,
    listen: Listen,
}

impl Settings {
    /// These, and where they say nothing, those beneath.
    pub(super) fn over(self, beneath: Self) -> Self {
        Self {
            node: self.node.or(beneath.node),
            vtep: self.vtep.or(beneath.vtep),
            plane: self.plane.or(beneath.plane),
            tunnel: self.tunnel.or(beneath.tunnel),
            bridge: self.bridge.or(beneath.bridge),
            ovs_management: self.ovs_management.or(beneath.ovs_management),
            listen: self.listen.or(beneath.listen),
            tls_dir: self.tls_dir.or(beneath.tls_dir),
            state_dir: self.state_dir.or(beneath.state_dir),
            run_dir: self.run_dir.or(beneath.run_dir),
            socket_group: self.socket_group.or(beneath.socket_group),
            lost_after: self.lost_after.or(beneath.lost_after),
        }
    }

    fn check(self) -> Result<Plan> {
        let lost_after = match self.lost_after {
            Some(text) => units::duration(&text).map_err(|error| anyhow!("--lost-after: {error}"))?,
            None => LOST_AFTER,
        };
        if !(LOST_AFTER_MIN..=LOST_AFTER_MAX).contains(&lost_after) {
            bail!("--lost-after is {lost_after:?}; it must be from {LOST_AFTER_MIN:?} to {LOST_AFTER_MAX:?}");
        }
        let plane = self.plane.unwrap_or_default();
        if plane != Plane::None && self.vtep.is_none() {
            bail!("--vtep is missing: the address of this node's end of the tunnels; or give --plane none");
        }
        let node = daemon::node_name(self.node, "--node")?;
        let bridge = daemon::check_device("--bridge", self.bridge.unwrap_or_else(|| "br0".into()))?;
        let management = || format!("/run/openvswitch/{bridge}.mgmt").into();
        let run_dir = self.run_dir.unwrap_or_else(|| "/run/roam".into());
        let listen = Listen {
            socket: run_dir.join("sdn.sock"),
            socket_group: self.socket_group.map(daemon::group).transpose()?,
            tcp: daemon::tcp(self.listen, self.tls_dir)?,
        };
        Ok(Plan {
            config: Config { node, vtep: self.vtep, lost_after, own: own_addresses()? },
            plane,
            tunnel: daemon::check_device("--tunnel", self.tunnel.unwrap_or_else(|| "vx0".into()))?,
            ovs_management: self.ovs_management.unwrap_or_else(management),
            bridge,
            state_dir: self.state_dir.unwrap_or_else(|| "/var/lib/roam-sdn".into()),
            run_dir,
            listen,
        })
    }
}

pub(super) fn run(settings: Settings) -> Result<ExitCode> {
    // Guests stand still until it answers.
    daemon::run(settings.check(), prefer_thread, serve)
}

async fn serve(plan: Plan) -> Result<ExitCode> {
    let mut signals = daemon::Signals::new()?;
    for dir in [&plan.state_dir, &plan.run_dir] {
        fs::create_dir_all(dir).with_context(|| format!("{} cannot be used", dir.display()))?;
    }
    let store = RedbStore::open(&plan.state_dir.join("table.redb"))?;
    let _claim = match plan.plane {
        Plane::None => None,
        Plane::Kernel | Plane::Ovs => Some(PlaneClaim::take(&plan.bridge)?),
    };
    let (planes, fronts) = planes(&plan)?;
    let controller = Controller::open(plan.config, Box::new(store), planes, fronts).await?;
    let limits = Limits { requests_per_s: REQUESTS_PER_S, requests_burst: REQUESTS_BURST, ..Limits::default() };
    let server = Server::bind(plan.listen, limits).await?;
    let tcp = server.tcp().map(|address| address.to_string());
    tracing::info!(socket = %server.socket().display(), tcp, revision = %controller.revision(), "ready");
    if let Err(error) = daemon::notify("READY=1") {
        tracing::warn!(%error, "the service manager could not be told");
    }
    let asked = async {
        signals.end().await;
        tracing::info!("going down; the data plane stays as it is");
    };
    server.run(controller, asked).await;
    Ok(ExitCode::SUCCESS)
}

type Fronts = Box<dyn FrontPlane>;

/// What carries frames on this node, and what lets clients in.
/// The addresses of this node, but for those that no other can have anyway.
fn own_addresses() -> Result<Vec<IpAddr>> {
    let devices = nix::ifaddrs::getifaddrs().context("the addresses of this node cannot be read")?;
    let addresses = devices.filter_map(|device| {
        let address = device.address?;
        let four = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        four.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
    });
    Ok(addresses.filter(|address| !address.is_loopback()).collect())
}

fn planes(plan: &Plan) -> Result<(Option<Planes>, Option<Fronts>)> {
    let tunnel = plan.tunnel.clone();
    let planes = match plan.plane {
        Plane::Kernel => kernel::open(kernel::Config { tunnel, bridge: plan.bridge.clone(), kind: Kind::Gateway })?,
        Plane::Ovs => ovs::open(ovs::Config { management: plan.ovs_management.clone(), tunnel })?,
        Plane::None => return Ok((None, None)),
    };
    Ok((Some(planes), Some(Box::new(Nftables::new(&plan.bridge)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Plan, String> {
        let settings: Settings = toml::from_str(text).map_err(|error| error.to_string())?;
        settings.check().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let plan = check("node = 'gw'\nvtep = '172.30.0.1'").unwrap();
        assert_eq!((plan.plane, plan.tunnel.as_str(), plan.bridge.as_str()), (Plane::Kernel, "vx0", "br0"));
        assert_eq!(plan.ovs_management, PathBuf::from("/run/openvswitch/br0.mgmt"));
        assert_eq!(plan.listen.socket, PathBuf::from("/run/roam/sdn.sock"));
        assert_eq!(plan.config.lost_after, LOST_AFTER);
        let plan = check("node = 'gw'\nplane = 'none'\nbridge = 'br7'\nlost-after = '500ms'").unwrap();
        assert_eq!(plan.ovs_management, PathBuf::from("/run/openvswitch/br7.mgmt"));
        assert_eq!(plan.config.lost_after, Duration::from_millis(500));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, flag) in [
            ("node = 'a'", "--vtep"),
            ("node = 'A b'\nplane = 'none'", "--node"),
            ("node = 'a'\nplane = 'none'\nlisten = '127.0.0.1:1'", "--tls-dir"),
            ("node = 'a'\nplane = 'none'\ntunnel = '../vx0'", "--tunnel"),
            ("node = 'a'\nplane = 'none'\nlost-after = '1ms'", "--lost-after"),
            ("node = 'a'\nplane = 'none'\nlost-after = 'soon'", "--lost-after"),
            ("node = 'a'\nplane = 'vpp'", "plane"),
            ("ndoe = 'a'", "ndoe"),
        ] {
            let error = check(text).unwrap_err();
            assert!(error.contains(flag), "{text}: {error}");
        }
    }
}
