//! An Open vSwitch of a lab's own in its gateway, in place of the kernel's bridge and VXLAN device.
//!
//! ```text
//!  client ── client ─┐                             ┌─ under0 ── wire
//!                   br0 ── vx0 ┄ tunnels over ┄ brphy
//!   10.90.255.254 ───┘                             └── 172.30.0.254
//! ```
//!
//! Its datapath runs in user space (`netdev`), so no kernel module is needed and nothing of it is shared with another
//! switch of this machine. Database, sockets and logs are in the lab's directory; its processes are in the gateway's
//! namespace, and end with the lab like all others there.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::plan::{Node, Shape};
use super::wiring::{self, BRIDGE, TUNNEL, UNDERLAY_MTU, VNI};
use super::{Nodes, StandingError};
use crate::lab::{LabError, Missing, Namespace, Process, require};

/// The bridge that has the gateway's end of the tunnels.
const UNDERLAY_BRIDGE: &str = "brphy";
/// Where Debian's package has the layout of its database.
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// How long one of its commands may take; `ovs-vsctl` waits until the switch has done what it was told.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// How long one that was asked to end may take.
const END_LIMIT: Duration = Duration::from_secs(5);
const END_STEP: Duration = Duration::from_millis(10);

/// What a switch needs that this machine may lack.
pub(super) fn check() -> Result<(), Missing> {
    for tool in ["ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-appctl"] {
        require(tool, "openvswitch-switch")?;
    }
    require("ethtool", "ethtool").map(drop)
}

/// The switch of a lab.
pub(super) struct Switch<'a> {
    gateway: &'a Namespace,
    dir: PathBuf,
}

impl<'a> Switch<'a> {
    pub(super) fn of(lab_dir: &Path, nodes: &'a Nodes) -> Result<Self, StandingError> {
        Ok(Self { gateway: nodes.of(Node::Gateway)?, dir: dir(lab_dir) })
    }

    /// Whether it answers.
    pub(super) fn runs(&self) -> bool {
        self.call("ovs-vsctl", &["--timeout=2", "--no-wait", "show"]).is_ok()
            && self.call("ovs-appctl", &["--timeout=2", "version"]).is_ok()
    }

    /// Starts it with its bridges and addresses, also where one has been before.
    pub(super) fn start(&self, nodes: &Nodes, shape: &Shape) -> Result<(), StandingError> {
        self.end_remains();
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(StandingError::file(&self.dir))?;
        let database = self.path("conf.db");
        if !fs::exists(&database).map_err(StandingError::file(&database))? {
            self.call("ovsdb-tool", &["create", &database, SCHEMA])?;
        }
        let (remote, log) = (format!("--remote=punix:{}", self.path("db.sock")), self.path("db.log"));
        let detached = ["--detach", "--no-chdir", "--pidfile"];
        let log = format!("--log-file={log}");
        self.call("ovsdb-server", &[&[&*database, &remote, &log][..], &detached].concat())?;
        self.call("ovs-vsctl", &["--timeout=10", "--no-wait", "init"])?;
        let log = format!("--log-file={}", self.path("switch.log"));
        self.call("ovs-vswitchd", &[&[&*self.remote(), &log, "--disable-system"][..], &detached].concat())?;
        self.bridges()?;
        self.addresses()?;
        checksums_in_full(nodes, shape)
    }

    /// Ends what is left of one whose half has died. Each takes its process id's file away as the last thing it does.
    fn end_remains(&self) {
        for name in ["ovs-vswitchd", "ovsdb-server"] {
            if self.call("ovs-appctl", &["--timeout=2", "--target", name, "exit"]).is_err() {
                continue;
            }
            let file = self.dir.join(format!("{name}.pid"));
            let deadline = Instant::now() + END_LIMIT;
            while file.exists() && Instant::now() < deadline {
                thread::sleep(END_STEP);
            }
        }
    }

    fn bridges(&self) -> Result<(), StandingError> {
        let line = format!(
            "--timeout=15 -- --may-exist add-br {UNDERLAY_BRIDGE} -- set bridge {UNDERLAY_BRIDGE} datapath_type=netdev \
             -- --may-exist add-port {UNDERLAY_BRIDGE} under0 \
             -- --may-exist add-br {BRIDGE} -- set bridge {BRIDGE} datapath_type=netdev protocols=OpenFlow13 \
             -- --may-exist add-port {BRIDGE} client -- --may-exist add-port {BRIDGE} {TUNNEL} \
             -- set interface {TUNNEL} type=vxlan options:remote_ip=flow options:key={VNI}"
        );
        Ok(self.call("ovs-vsctl", &line.split(' ').collect::<Vec<_>>())?)
    }

    /// The switch makes the devices of its bridges anew whenever it starts.
    fn addresses(&self) -> Result<(), StandingError> {
        let local = Node::Gateway.underlay().expect("the gateway is an end of tunnels");
        self.gateway.batch(
            "ip -batch -",
            &format!(
                "link set {UNDERLAY_BRIDGE} mtu {UNDERLAY_MTU} addrgenmode none\n\
                 link set {UNDERLAY_BRIDGE} up\n\
                 address replace {local}/24 dev {UNDERLAY_BRIDGE}\n\
                 link set {BRIDGE} addrgenmode none\n\
                 link set {BRIDGE} up\n"
            ),
        )?;
        Ok(wiring::gateway_addresses(self.gateway)?)
    }

    fn call(&self, program: &str, arguments: &[&str]) -> Result<(), LabError> {
        let mut command = self.gateway.command(program);
        for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR"] {
            command.env(variable, &self.dir);
        }
        if program == "ovs-vsctl" {
            command.arg(format!("--db={}", self.remote()));
        }
        command.args(arguments);
        Process::spawn(command)?.finish(b"", COMMAND_LIMIT)?.success().map(drop)
    }

    fn remote(&self) -> String {
        format!("unix:{}", self.path("db.sock"))
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

/// Where `roam sdn` speaks OpenFlow with it.
pub(super) fn management(lab_dir: &Path) -> PathBuf {
    dir(lab_dir).join(format!("{BRIDGE}.mgmt"))
}

fn dir(lab_dir: &Path) -> PathBuf {
    lab_dir.join(Node::Gateway.to_string()).join("ovs")
}

/// Frames that a kernel leaves without checksums for a device to complete: a switch in user space is no device.
fn checksums_in_full(nodes: &Nodes, shape: &Shape) -> Result<(), StandingError> {
    let hosts = shape.host_nodes().map(|host| (host, "under0"));
    for (node, device) in hosts.chain([(Node::Client, "eth0"), (Node::Outside, "eth0")]) {
        let line = format!("ethtool -K {device} tx off");
        nodes.of(node)?.call(&line, b"", COMMAND_LIMIT)?.success()?;
    }
    Ok(())
}
