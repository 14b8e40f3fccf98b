//! The network of a standing lab.
//!
//! ```text
//!  client          gateway                      wire              host-a
//!   eth0 ── client ── br0 ── vx0 ┄ under0 ── gateway ┐
//!                                                    wire0 ── host-a ── under0 ┄ vx0 ── br0 ── guests
//!                                                      └───── host-b ── under0 …
//! ```
//!
//! The overlay, 10.90.0.0/16 and fd90::/64, is one Ethernet: bridges joined by VXLAN (RFC 7348) whose flood entries are
//! static, one for each other end; where a MAC address lives is learnt. It has an MTU of 1500 as a guest expects; the
//! underlay, 172.30.0.0/24, carries 50 bytes more. There is no route to outside.

use std::fmt::Write as _;

use super::plan::{LabName, Node, Shape};
use super::{Nodes, StandingError};
use crate::lab::{LabError, Namespace};

/// The bridge of guests, in hosts and gateway.
pub(super) const BRIDGE: &str = "br0";
/// The client's addresses.
pub(super) const CLIENT: [&str; 2] = ["10.90.0.1/16", "fd90::1/64"];
/// IP MTU of the underlay: the overlay's 1500 and what VXLAN puts before it, 50 bytes, with room to spare.
const UNDERLAY_MTU: u16 = 1600;
/// VXLAN network identifier.
const VNI: u32 = 90;
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
        namespace.batch("ip -batch -", &tunnel_end(node))?;
        namespace.batch("bridge -batch -", &flood_entries(node, shape))?;
        limit(namespace, "under0", shape)?;
        limit(nodes.of(Node::Wire)?, &node.to_string(), shape)?;
    }
    let client = nodes.of(Node::Client)?;
    let gateway = nodes.of(Node::Gateway)?;
    let peer = name.namespace(Node::Client);
    let cable = format!("link add client type veth peer name eth0 netns {peer}\n");
    let plug = format!("link set client master {BRIDGE} addrgenmode none\nlink set client up\n");
    gateway.batch("ip -batch -", &(cable + &plug))?;
    client.addresses("eth0", &CLIENT)?;
    Ok(())
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

fn tunnel_end(node: Node) -> String {
    let local = node.underlay().expect("ends of tunnels have addresses");
    format!(
        "address add {local}/24 dev under0\n\
         link set under0 addrgenmode none\n\
         link set under0 up\n\
         link add {BRIDGE} mtu 1500 type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n\
         link set {BRIDGE} addrgenmode none\n\
         link set {BRIDGE} up\n\
         link add vx0 mtu 1500 type vxlan id {VNI} local {local} dev under0 dstport {VXLAN_PORT}\n\
         link set vx0 master {BRIDGE} addrgenmode none\n\
         link set vx0 up\n"
    )
}

fn flood_entries(node: Node, shape: &Shape) -> String {
    let others = shape.tunnel_nodes().filter(|other| *other != node).filter_map(Node::underlay);
    others.fold(String::new(), |mut batch, other| {
        let _ = writeln!(batch, "fdb append 00:00:00:00:00:00 dev vx0 dst {other}");
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
