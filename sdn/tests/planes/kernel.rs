//! The kernel's own plane.

use roam_sdn::plane::{PlaneError, Planes, kernel};

use crate::namespace::Namespace;
use crate::rig::{GUEST, GUEST_IP, GUEST_IP6, Gateway, Underlay};

crate::conformance::conformance!(build);

/// A gateway of a bridge and a VXLAN device.
pub(crate) struct Kernel {
    disturbances: Vec<(&'static str, String)>,
}

fn config() -> kernel::Config {
    kernel::Config { tunnel: "vx0".into(), bridge: "br0".into() }
}

pub(crate) fn build(inside: &Namespace, underlay: Underlay) -> Box<dyn Gateway> {
    inside.shell(&format!(
        "ip link add brphy mtu 1600 type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n\
         ip link set brphy addrgenmode none up\n\
         ip address add {} dev brphy\n\
         ip link add br0 type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n\
         ip link set br0 addrgenmode none up\n\
         ip link add vx0 mtu 1500 type vxlan id 90 local {} dstport 4789\n\
         ip link set vx0 master br0 addrgenmode none\n\
         ip link set vx0 up\n\
         for port in ua ub; do ip link set $port master brphy; done\n\
         ip link set client master br0",
        underlay.cidr(254),
        underlay.end(254)
    ));
    let (own, other) = (underlay.end(1), underlay.end(2));
    let disturbances = [
        ("the VXLAN entry is deleted", format!("bridge fdb del {GUEST} dev vx0 self")),
        ("the VXLAN entry leads elsewhere", format!("bridge fdb replace {GUEST} dev vx0 dst {other} self static")),
        ("the bridge's entry is deleted", format!("bridge fdb del {GUEST} dev vx0 master")),
        ("the bridge's entry is on another port", format!("bridge fdb replace {GUEST} dev client master static")),
        ("the bridge's entry is not sticky", format!("bridge fdb replace {GUEST} dev vx0 master static")),
        ("a neighbour is deleted", format!("ip neighbour del {GUEST_IP} dev br0")),
        (
            "a neighbour has another MAC",
            format!("ip neighbour replace {GUEST_IP6} lladdr 02:00:00:00:00:77 dev br0 nud permanent"),
        ),
        ("the MAC has another neighbour", format!("ip neighbour add 10.90.7.7 lladdr {GUEST} dev br0 nud permanent")),
        ("the rules are gone", "nft flush ruleset".into()),
        ("a rule is gone", "nft flush chain netdev roam_vx0 in".into()),
        ("the counters are gone", "nft flush set netdev roam_vx0 from".into()),
        ("it is passed on", format!("nft add element netdev roam_vx0 relay '{{ {GUEST} }}'")),
        ("the tunnel learns", "ip link set vx0 type vxlan learning".into()),
        ("the bridge learns", "bridge link set dev vx0 learning on".into()),
        ("the bridge does not answer", "bridge link set dev vx0 neigh_suppress off".into()),
        ("an end is gone", format!("bridge fdb del ff:ff:ff:ff:ff:ff dev vx0 dst {own}")),
        ("there is another end", format!("bridge fdb append 00:00:00:00:00:00 dev vx0 dst {own}")),
        (
            "an address nobody has claimed",
            format!("bridge fdb add 02:00:00:00:00:66 dev vx0 dst {own} self master static"),
        ),
        (
            "a neighbour nobody has claimed",
            "ip neighbour add 10.90.6.6 lladdr 02:00:00:00:00:65 dev br0 nud permanent".into(),
        ),
    ];
    Box::new(Kernel { disturbances: disturbances.into() })
}

impl Gateway for Kernel {
    fn planes(&self) -> Result<Planes, PlaneError> {
        kernel::open(config())
    }

    fn disturbances(&self) -> Vec<(&'static str, String)> {
        self.disturbances.clone()
    }
}
