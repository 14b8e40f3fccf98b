//! A client outside the overlay.
//!
//! ```text
//!  outside                    gateway
//!   eth0 192.0.2.10 ── outside 192.0.2.1 ── front ── br0 10.90.255.254 ┄┄ guests
//! ```
//!
//! It has a default route to the gateway, which forwards nothing of it but what a front has led elsewhere. Addresses are
//! those of documentation (RFC 5737, RFC 3849).

use std::fs;

use super::plan::{LabName, Node};
use super::{Nodes, StandingError};
use crate::lab::{LabError, Namespace};

/// Its addresses.
pub(super) const OUTSIDE: [&str; 2] = ["192.0.2.10/24", "2001:db8::10/64"];
/// The gateway's, towards it: where fronts listen.
pub(super) const PUBLIC: [&str; 2] = ["192.0.2.1/24", "2001:db8::1/64"];

/// What is forwarded from there has come by a front (DNAT, nft(8)), or is dropped; and nobody calls there from inside.
const RULES: &str = r#"table inet roam_lab {
    chain forward {
        type filter hook forward priority filter; policy accept;
        iifname "outside" ct status & dnat != dnat drop
        oifname "outside" ct state new drop
    }
}
"#;

/// Makes its link, and the gateway a router.
pub(super) fn wire(name: &LabName, nodes: &Nodes) -> Result<(), StandingError> {
    let (gateway, outside) = (nodes.of(Node::Gateway)?, nodes.of(Node::Outside)?);
    gateway.batch("nft -f -", RULES)?;
    let peer = name.namespace(Node::Outside);
    gateway.ip(&format!("link add outside type veth peer name eth0 netns {peer}"))?;
    gateway.addresses("outside", &PUBLIC)?;
    outside.addresses("eth0", &OUTSIDE)?;
    outside.ip("route add default via 192.0.2.1")?;
    outside.ip("-6 route add default via 2001:db8::1")?;
    for file in ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"] {
        set(gateway, file)?;
    }
    Ok(())
}

/// Switches on what a file of `/proc/sys/net` stands for, which is each namespace's own.
fn set(namespace: &Namespace, file: &str) -> Result<(), LabError> {
    let written = namespace.run(|| fs::write(file, "1"))?;
    written.map_err(LabError::io(format!("writing {file} in {}", namespace.name())))
}
