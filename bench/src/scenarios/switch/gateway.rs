//! The gateway: what is special about each data plane.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use roam_runtime::lab::{Missing, Namespace, Process, require};
use roam_sdn::plane::{PlaneError, Planes, kernel, ovs};

use super::rig::{GATEWAY_END, batch};

/// How long daemons and their clients may take.
const LIMIT: Duration = Duration::from_secs(20);
const PACKAGE: &str = "openvswitch-switch";
/// The shape of the database, as the package has it.
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// Which data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Kernel,
    Ovs,
}

impl Way {
    /// As results have it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Ovs => "ovs",
        }
    }

    /// Whether its programs are there.
    pub(super) fn check(self) -> Result<(), Missing> {
        match self {
            Self::Kernel => require("nft", "nftables").map(drop),
            Self::Ovs => {
                ["ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl"].into_iter().try_for_each(|program| {
                    require(program, PACKAGE)?;
                    Ok(())
                })
            }
        }
    }
}

/// A namespace with a plane.
pub(super) struct Gateway {
    /// An Open vSwitch of its own. Ends before its namespace.
    switch: Option<Switch>,
    pub(super) inside: Namespace,
}

impl Gateway {
    /// Joins the devices `u0`, `u1` and `client`, which are there and up.
    pub(super) fn new(way: Way, inside: Namespace, scratch: &Path) -> Result<Self> {
        let switch = match way {
            Way::Kernel => {
                kernel_devices(&inside)?;
                None
            }
            Way::Ovs => Some(Switch::start(&inside, &scratch.join("ovs"))?),
        };
        Ok(Self { switch, inside })
    }

    /// Opens the plane. Only in the gateway's namespace.
    pub(super) fn planes(&self) -> Result<Planes, PlaneError> {
        match &self.switch {
            None => kernel::open(kernel::Config {
                tunnel: "vx0".into(),
                bridge: "br0".into(),
                kind: roam_sdn::model::Kind::Gateway,
            }),
            Some(switch) => ovs::open(ovs::Config { management: switch.file("br0.mgmt"), tunnel: "vx0".into() }),
        }
    }
}

fn kernel_devices(inside: &Namespace) -> Result<()> {
    batch(
        inside,
        &format!(
            "link add brphy mtu 1600 type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n\
             link set brphy addrgenmode none\nlink set brphy up\naddress add {GATEWAY_END}/24 dev brphy\n\
             link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n\
             link set br0 addrgenmode none\nlink set br0 up\n\
             link add vx0 mtu 1500 type vxlan id 90 local {GATEWAY_END} dstport 4789\n\
             link set vx0 master br0 addrgenmode none\nlink set vx0 up\n\
             link set u0 master brphy\nlink set u1 master brphy\nlink set client master br0\n"
        ),
    )
}

/// An Open vSwitch that carries frames itself (datapath `netdev`): it needs no kernel module, and knows nothing of
/// another one on the machine. Its daemons go with it, and when the thread that started them ends.
struct Switch {
    /// Before the database, which it would miss.
    _daemon: Process,
    _database: Process,
    directory: PathBuf,
}

impl Switch {
    fn start(inside: &Namespace, directory: &Path) -> Result<Self> {
        fs::create_dir(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let file = |name: &str| directory.join(name).display().to_string();
        let (database, socket) = (file("conf.db"), format!("unix:{}", file("db.sock")));
        inside.call(&format!("ovsdb-tool create {database} {SCHEMA}"), b"", LIMIT)?.success()?;
        let remote = format!("--remote=p{socket}");
        let database = daemon(inside, directory, "ovsdb-server", &[&database, &remote, "--no-chdir"])?;
        wait_for_file(&directory.join("db.sock"))?;
        let control = |words: &str| -> Result<()> {
            inside.call(&format!("ovs-vsctl --timeout=10 --db={socket} {words}"), b"", LIMIT)?.success()?;
            Ok(())
        };
        control("--no-wait init")?;
        let daemon = daemon(inside, directory, "ovs-vswitchd", &[&socket, "--no-chdir", "--disable-system"])?;
        // Returns when the daemon has done it.
        control(
            "add-br brphy -- set bridge brphy datapath_type=netdev -- set interface brphy mtu_request=1600 \
             -- add-port brphy u0 -- add-port brphy u1 \
             -- add-br br0 -- set bridge br0 datapath_type=netdev protocols=OpenFlow13 -- add-port br0 client \
             -- add-port br0 vx0 -- set interface vx0 type=vxlan options:remote_ip=flow options:key=90",
        )?;
        batch(
            inside,
            &format!(
                "address add {GATEWAY_END}/24 dev brphy\nlink set brphy addrgenmode none mtu 1600\nlink set brphy up\n"
            ),
        )?;
        Ok(Self { _daemon: daemon, _database: database, directory: directory.to_owned() })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

fn daemon(inside: &Namespace, directory: &Path, program: &str, arguments: &[&str]) -> Result<Process> {
    let mut command = inside.command(program);
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR"] {
        command.env(variable, directory);
    }
    Ok(Process::spawn({
        command.args(arguments);
        command
    })?)
}

fn wait_for_file(path: &Path) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    while !path.exists() {
        if Instant::now() >= deadline {
            bail!("{} is not there within {LIMIT:?}", path.display());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
