//! The network of a standing lab.
//!
//! ```text
//!  client          gateway                      wire              host-a
//!   eth0 ── client ── br0 ── vx0 ┄ under0 ── gateway ┐
//!                                                    wire0 ── host-a ── under0 ┄ vx0 ── br0 ── guests
//!                                                      └───── host-b ── under0 …
//! ```
//!
//! The overlay, 10.90.0.0/16 and fd90::/64, is one Ethernet: bridges joined by VXLAN (RFC 7348). Where frames go is the
//! controller's to say: the devices learn nothing and flood nowhere by themselves, and `--plane ovs` has a switch in place
//! of the gateway's (see [`ovs`](super::ovs)). In a lab without a controller they learn, and their flood entries are static,
//! one for each other end. The overlay has an MTU of 1500 as a guest expects; the underlay, 172.30.0.0/24, carries 50
//! bytes more. There is no route to outside, but for the fronts of a controller (see [`outside`](super::outside)).

use std::fmt::Write as _;

use super::plan::{LabName, LabPlane, Node, Shape};
use super::{Nodes, StandingError};
use crate::lab::{LabError, Namespace};

/// The bridge of guests, in hosts and gateway.
pub(super) const BRIDGE: &str = "br0";
/// The hosts' and the gateway's end of the tunnels.
pub(super) const TUNNEL: &str = "vx0";
/// The client's addresses.
pub(super) const CLIENT: [&str; 2] = ["10.90.0.1/16", "fd90::1/64"];
/// The gateway's, in a lab with a controller: fronts speak to guests from them.
pub(super) const GATEWAY: [&str; 2] = ["10.90.255.254/16", "fd90::ffff:1/64"];
/// IP MTU of the underlay: the overlay's 1500 and what VXLAN puts before it, 50 bytes, with room to spare.
pub(super) const UNDERLAY_MTU: u16 = 1600;
/// VXLAN network identifier.
pub(super) const VNI: u32 = 90;
/// Its port, as registered.
const VXLAN_PORT: u16 = 4789;

/// Least size of a link's bucket, bytes: two of the largest frames that TCP segmentation offload makes, so that one that
/// waits for tokens keeps no other from gathering.
const BURST_BYTES_MIN: u64 = 128 * 1024;
/// How much a link may send at once, in time at its rate: what a busy machine may be late in giving it the CPU.
const BURST_PER_S: u64 = 1000;
/// What may wait for a link, in time at its rate: 20 ms, so that a full link is slow but not seconds away.
const QUEUE_PER_S: u64 = 50;

/// Makes all links, in namespaces that have nothing but `lo`.
pub(super) fn wire(name: &LabName, shape: &Shape, nodes: &Nodes) -> Result<(), StandingError> {
    nodes.of(Node::Wire)?.batch("ip -batch -", &cables(name, shape))?;
    for node in shape.tunnel_nodes() {
        let namespace = nodes.of(node)?;
        if node == Node::Gateway && shape.plane == LabPlane::Ovs {
            namespace.batch("ip -batch -", "link set under0 addrgenmode none\nlink set under0 up\n")?;
            continue;
        }
        namespace.batch("ip -batch -", &tunnel_end(node, shape))?;
        if !shape.has_controller() {
            namespace.batch("bridge -batch -", &flood_entries(node, shape))?;
        }
        limit(namespace, "under0", shape)?;
        limit(nodes.of(Node::Wire)?, &node.to_string(), shape)?;
    }
    let client = nodes.of(Node::Client)?;
    let gateway = nodes.of(Node::Gateway)?;
    let peer = name.namespace(Node::Client);
    let cable = format!("link add client type veth peer name eth0 netns {peer}\n");
    let plug = match shape.plane {
        LabPlane::Ovs => String::new(),
        LabPlane::Kernel | LabPlane::None => format!("link set client master {BRIDGE}\n"),
    };
    let up = "link set client addrgenmode none\nlink set client up\n";
    gateway.batch("ip -batch -", &(cable + &plug + up))?;
    client.addresses("eth0", &CLIENT)?;
    if shape.plane == LabPlane::Kernel {
        gateway_addresses(gateway)?;
    }
    Ok(())
}

/// Makes the gateway's kernel a neighbour of the guests.
pub(super) fn gateway_addresses(gateway: &Namespace) -> Result<(), LabError> {
    gateway.addresses(BRIDGE, &GATEWAY)
}

fn cables(name: &LabName, shape: &Shape) -> String {
    let mut batch = format!(
        "link add wire0 mtu {UNDERLAY_MTU} type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n\
         link set wire0 addrgenmode none\n\
         link set wire0 up\n"
    );
    for node in shape.tunnel_nodes() {
        let peer = name.namespace(node);
        let _ = writeln!(
            batch,
            "link add {node} mtu {UNDERLAY_MTU} type veth peer name under0 mtu {UNDERLAY_MTU} netns {peer}\n\
             link set {node} master wire0 addrgenmode none\n\
             link set {node} up"
        );
    }
    batch
}

fn tunnel_end(node: Node, shape: &Shape) -> String {
    let local = node.underlay().expect("ends of tunnels have addresses");
    let learning = if shape.has_controller() { " nolearning" } else { "" };
    format!(
        "address add {local}/24 dev under0\n\
         link set under0 addrgenmode none\n\
         link set under0 up\n\
         link add {BRIDGE} mtu 1500 type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n\
         link set {BRIDGE} addrgenmode none\n\
         link set {BRIDGE} up\n\
         link add {TUNNEL} mtu 1500 type vxlan id {VNI} local {local} dev under0 dstport {VXLAN_PORT}{learning}\n\
         link set {TUNNEL} master {BRIDGE} addrgenmode none\n\
         link set {TUNNEL} up\n"
    )
}

fn flood_entries(node: Node, shape: &Shape) -> String {
    let others = shape.tunnel_nodes().filter(|other| *other != node).filter_map(Node::underlay);
    others.fold(String::new(), |mut batch, other| {
        let _ = writeln!(batch, "fdb append 00:00:00:00:00:00 dev {TUNNEL} dst {other}");
        batch
    })
}

/// Shapes what leaves by a device: a token bucket (tc-tbf(8)), behind a delay if one is asked for. Its burst is larger
/// than any frame, so that segmentation offload's 64 KiB frames pass whole.
fn limit(namespace: &Namespace, device: &str, shape: &Shape) -> Result<(), LabError> {
    // The gateway's own link is the clients' way in, and not shaped.
    if device == "gateway" || namespace.name() == "gateway" {
        return Ok(());
    }
    let mut batch = String::new();
    let mut place = "root";
    if let Some(delay_us) = shape.delay_us {
        let _ = writeln!(batch, "{}", delay(device, delay_us));
        place = "parent 1:1";
    }
    if let Some(rate) = shape.link_bits_per_s {
        let burst = (rate / 8 / BURST_PER_S).max(BURST_BYTES_MIN);
        let queue = burst + rate / 8 / QUEUE_PER_S;
        let _ = writeln!(batch, "qdisc add dev {device} {place} tbf rate {rate}bit burst {burst}b limit {queue}b");
    }
    if batch.is_empty() { Ok(()) } else { namespace.batch("tc -batch -", &batch) }
}

fn delay(device: &str, delay_us: u64) -> String {
    format!("qdisc add dev {device} root handle 1: netem delay {delay_us}us limit 100000")
}

/// Whether this kernel can delay frames, tried before anything is made.
pub(super) fn check_delay() -> Result<(), StandingError> {
    let trial = Namespace::new("trial")?;
    trial.batch("tc -batch -", &delay("lo", 1)).map_err(StandingError::NoDelay)
}
