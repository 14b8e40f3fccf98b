//! The demo's network: as a standing lab's, but in namespaces without names, which go with the last process in them.
//!
//! ```text
//!  client ── gateway ┄┄ VXLAN ┄┄ host-a, host-b
//!              under0 ──── wire0 ──── under0
//! ```

use crate::lab::{Lab, LabError, Namespace};

/// The bridge of guests, in hosts and gateway.
pub(super) const BRIDGE: &str = "br0";
/// The hosts' and the gateway's end of the tunnels.
pub(super) const TUNNEL: &str = "vx0";
/// The client's addresses.
const CLIENT: [&str; 2] = ["10.90.0.1/16", "fd90::1/64"];
/// IP MTU beneath the tunnels: 1500 within, and what VXLAN puts before it, 50 bytes (RFC 7348).
const UNDERLAY_MTU: u16 = 1600;

/// Namespaces and the links between them.
pub(super) struct Network {
    pub(super) client: Namespace,
    pub(super) gateway: Namespace,
    pub(super) hosts: [Namespace; 2],
    _wire: Namespace,
    _lab: Lab,
}

impl Network {
    pub(super) fn new() -> Result<Self, LabError> {
        let lab = Lab::new()?;
        let [client, gateway, wire] = ["client", "gateway", "wire"].map(|name| lab.namespace(name));
        let (client, gateway, wire) = (client?, gateway?, wire?);
        let hosts = [lab.namespace("host-a")?, lab.namespace("host-b")?];
        wire.bridge("wire0")?;
        wire.ip(&format!("link set wire0 mtu {UNDERLAY_MTU}"))?;
        for (number, end) in [(254, &gateway), (1, &hosts[0]), (2, &hosts[1])] {
            tunnel_end(&wire, end, number)?;
        }
        gateway.veth(BRIDGE, &client, "eth0", &CLIENT)?;
        Ok(Self { client, gateway, hosts, _wire: wire, _lab: lab })
    }
}

/// A host's address beneath the tunnels; the gateway's number is 254.
pub(super) fn underlay(number: u8) -> String {
    format!("172.30.0.{number}")
}

/// A bridge, and in it one end of the tunnels. Where frames go is the controller's to say.
fn tunnel_end(wire: &Namespace, end: &Namespace, number: u8) -> Result<(), LabError> {
    let (name, peer, local) = (end.name(), end.path(), underlay(number));
    wire.batch(
        "ip -batch -",
        &format!(
            "link add {name} mtu {UNDERLAY_MTU} type veth peer name under0 mtu {UNDERLAY_MTU} netns {peer}\n\
             link set {name} master wire0 addrgenmode none\n\
             link set {name} up\n"
        ),
    )?;
    end.bridge(BRIDGE)?;
    end.batch(
        "ip -batch -",
        &format!(
            "address add {local}/24 dev under0\n\
             link set under0 addrgenmode none\n\
             link set under0 up\n\
             link add {TUNNEL} mtu 1500 type vxlan id 90 local {local} dev under0 dstport 4789 nolearning\n\
             link set {TUNNEL} master {BRIDGE} addrgenmode none\n\
             link set {TUNNEL} up\n"
        ),
    )
}
