//! What a standing lab is made of: its nodes, their names and addresses.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::api::GuestName;

/// Most hosts of a lab: each has a letter, and each VXLAN a flood entry for each other one.
pub const HOSTS_MAX: u8 = 16;
/// Longest name of a lab, bytes: it is part of the path of a socket, which has room for 107.
pub(super) const NAME_BYTES_MAX: usize = 24;
/// Slowest and fastest link, bits a second.
pub(super) const LINK_BITS_PER_S: (u64, u64) = (1_000_000, 100_000_000_000);
/// Longest delay of a link, microseconds.
pub(super) const DELAY_US_MAX: u64 = 1_000_000;
/// TCP port of the hosts' interfaces.
pub(super) const PORT: u16 = crate::api::client::PORT;

/// A lab's name: a DNS label of at most 24 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabName(String);

impl LabName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What `ip netns` calls one of its nodes.
    pub fn namespace(&self, node: Node) -> String {
        format!("roam-{}-{node}", self.0)
    }

    /// The lab and node that a namespace of that name is.
    pub fn of_namespace(name: &str) -> Option<(Self, Node)> {
        let rest = name.strip_prefix("roam-")?;
        // A lab's name may have dashes, and so has a host's.
        let cuts = rest.match_indices('-').map(|(at, _)| at);
        cuts.filter_map(|at| Some((rest[..at].parse().ok()?, rest[at + 1..].parse().ok()?))).next()
    }
}

impl FromStr for LabName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = text.len() <= NAME_BYTES_MAX && text.parse::<GuestName>().is_ok();
        fits.then(|| Self(text.to_owned())).ok_or_else(|| {
            let shown: String = text.chars().take(80).collect();
            format!("`{shown}` is no lab's name: 1 to {NAME_BYTES_MAX} of a-z, 0-9 and -, no dash first or last")
        })
    }
}

impl TryFrom<String> for LabName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<LabName> for String {
    fn from(name: LabName) -> Self {
        name.0
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A network namespace of a lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// Where clients run.
    Client,
    /// Joins the client to the hosts' overlay.
    Gateway,
    /// The cables between gateway and hosts.
    Wire,
    /// A client outside the overlay, which reaches guests through fronts. Only in labs with a controller.
    Outside,
    /// A host, counted from 0: `host-a`.
    Host(u8),
}

impl Node {
    /// Its address in the network that carries the overlay; the clients and the wire have none.
    pub fn underlay(self) -> Option<Ipv4Addr> {
        let last = match self {
            Self::Client | Self::Outside | Self::Wire => return None,
            Self::Gateway => 254,
            Self::Host(index) => index + 1,
        };
        Some(Ipv4Addr::new(172, 30, 0, last))
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => f.write_str("client"),
            Self::Gateway => f.write_str("gateway"),
            Self::Wire => f.write_str("wire"),
            Self::Outside => f.write_str("outside"),
            Self::Host(index) => write!(f, "host-{}", char::from(b'a' + index)),
        }
    }
}

impl FromStr for Node {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all =
            [Self::Client, Self::Gateway, Self::Wire, Self::Outside].into_iter().chain((0..HOSTS_MAX).map(Self::Host));
        let mut named = all.filter(|node| node.to_string() == text);
        named.next().ok_or_else(|| {
            let shown: String = text.chars().take(80).collect();
            format!("`{shown}` is no node of a lab; there are client, gateway, wire, outside, host-a, host-b, …")
        })
    }
}

/// What carries frames to the host that owns their address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum LabPlane {
    /// VXLAN devices and bridges of the kernel, everywhere, as the controller says.
    Kernel,
    /// The same in hosts; in the gateway an Open vSwitch of the lab's own.
    Ovs,
    /// VXLAN devices that learn; there is no controller.
    #[default]
    None,
}

impl fmt::Display for LabPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kernel => "kernel",
            Self::Ovs => "ovs",
            Self::None => "none",
        })
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// How many hosts.
    pub hosts: u8,
    /// Rate of each host's link, in each direction, bits a second; unlimited when `None`.
    pub link_bits_per_s: Option<u64>,
    /// Delay of each host's link, in each direction, microseconds.
    pub delay_us: Option<u64>,
    /// What carries frames. Labs of earlier versions have no controller.
    #[serde(default)]
    pub plane: LabPlane,
}

impl Shape {
    /// The hosts.
    pub fn host_nodes(&self) -> impl Iterator<Item = Node> + use<> {
        (0..self.hosts).map(Node::Host)
    }

    /// Those with an end of the overlay's tunnels.
    pub(super) fn tunnel_nodes(&self) -> impl Iterator<Item = Node> + use<> {
        self.host_nodes().chain([Node::Gateway])
    }

    /// All of them.
    pub fn nodes(&self) -> impl Iterator<Item = Node> + use<> {
        let outside = self.has_controller().then_some(Node::Outside);
        [Node::Client, Node::Gateway].into_iter().chain(self.host_nodes()).chain([Node::Wire]).chain(outside)
    }

    /// Whether a controller says where frames go.
    pub fn has_controller(&self) -> bool {
        self.plane != LabPlane::None
    }

    /// Checks what was asked for; what is wrong, in words.
    pub fn check(&self) -> Result<(), String> {
        if !(1..=HOSTS_MAX).contains(&self.hosts) {
            return Err(format!("{} hosts: a lab has from 1 to {HOSTS_MAX}", self.hosts));
        }
        let (least, most) = LINK_BITS_PER_S;
        if let Some(rate) = self.link_bits_per_s.filter(|rate| !(least..=most).contains(rate)) {
            return Err(format!("a link of {rate} bits a second: from 1Mbit to 100Gbit"));
        }
        if let Some(delay) = self.delay_us.filter(|delay| *delay > DELAY_US_MAX) {
            return Err(format!("a delay of {delay} microseconds: up to 1s"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_one_node_of_one_lab() {
        for lab in ["lab", "a", "x-host", "host-a", "client"] {
            let lab: LabName = lab.parse().unwrap();
            for node in [Node::Client, Node::Gateway, Node::Wire, Node::Outside, Node::Host(0), Node::Host(15)] {
                let name = lab.namespace(node);
                assert_eq!(LabName::of_namespace(&name), Some((lab.clone(), node)), "{name}");
            }
        }
        for name in ["roam-lab", "roam-lab-host-q", "roam-lab-other", "lab-client", "roam--client", ""] {
            assert_eq!(LabName::of_namespace(name), None, "{name}");
        }
    }

    #[test]
    fn names_fit_into_paths() {
        for text in ["", "-", "Lab", "a/b", "..", &"x".repeat(25)] {
            assert!(text.parse::<LabName>().is_err(), "{text}");
        }
    }

    #[test]
    fn shapes_have_bounds() {
        let shape = Shape { hosts: 2, link_bits_per_s: None, delay_us: None, plane: LabPlane::None };
        assert_eq!(shape.check(), Ok(()));
        assert_eq!(shape.nodes().count(), 5);
        assert_eq!(Shape { plane: LabPlane::Ovs, ..shape.clone() }.nodes().count(), 6);
        assert!(Shape { hosts: 0, ..shape.clone() }.check().is_err());
        assert!(Shape { hosts: 17, ..shape.clone() }.check().is_err());
        assert!(Shape { link_bits_per_s: Some(1), ..shape.clone() }.check().is_err());
        assert!(Shape { delay_us: Some(2_000_000), ..shape }.check().is_err());
    }
}
