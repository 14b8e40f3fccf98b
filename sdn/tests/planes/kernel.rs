//! The kernel's own plane.

use std::collections::BTreeMap;
use std::time::Instant;

use roam_sdn::Mac;
use roam_sdn::plane::{Entry, Hop, Order, PlaneError, Planes, State, kernel};

use crate::namespace::{Namespace, able};
use crate::rig::{GUEST, GUEST_IP, GUEST_IP6, Gateway, Rig, Underlay};

crate::conformance::conformance!(build);

/// A gateway of a bridge and a VXLAN device.
pub(crate) struct Kernel {
    disturbances: Vec<(&'static str, String)>,
}

fn config() -> kernel::Config {
    kernel::Config { tunnel: "vx0".into(), bridge: "br0".into(), kind: roam_sdn::model::Kind::Gateway }
}

pub(crate) fn build(inside: &Namespace, underlay: Underlay) -> Option<Box<dyn Gateway>> {
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
    Some(Box::new(Kernel { disturbances: disturbances.into() }))
}

impl Gateway for Kernel {
    fn planes(&self) -> Result<Planes, PlaneError> {
        kernel::open(config())
    }

    fn disturbances(&self) -> Vec<(&'static str, String)> {
        self.disturbances.clone()
    }
}

fn opened(inside: &Namespace, tunnel: &str) -> Result<(), PlaneError> {
    inside.run(|| {
        kernel::open(kernel::Config {
            tunnel: tunnel.into(),
            bridge: "br0".into(),
            kind: roam_sdn::model::Kind::Gateway,
        })?
        .0
        .prepare()
    })
}

#[test]
fn what_is_missing_is_named() {
    if !able(&["ip", "nft"]) {
        return;
    }
    let inside = Namespace::new("bare");
    let no = |what: &str| {
        let error = opened(&inside, "vx0").unwrap_err();
        assert!(matches!(error, PlaneError::Device { .. }), "{error:?}");
        assert!(error.to_string().contains(what), "{error}");
    };
    no("br0: there is no such device");
    inside.shell("ip link add br0 type veth peer name other0");
    no("br0: is no bridge");
    inside.shell("ip link del br0; ip link add br0 type bridge");
    no("vx0: there is no such device");
    inside.shell("ip link add vx0 type veth peer name other0");
    no("vx0: is no VXLAN device");
    inside.shell("ip link del vx0; ip link add vx0 type vxlan id 90 local 127.0.0.1 dstport 4789");
    no("vx0: is not in br0");
    inside.shell("ip link set vx0 master br0");
    opened(&inside, "vx0").unwrap();
    for name in ["", "a b", "vx0\"", "a-name-that-is-too-long"] {
        assert!(matches!(opened(&inside, name), Err(PlaneError::Device { .. })), "{name}");
    }
}

/// The test calls itself, in a process that has all rights but the one.
#[test]
fn without_permission_it_says_so() {
    const INSIDE: &str = "PLANES_WITHOUT_PERMISSION";
    if std::env::var_os(INSIDE).is_some() {
        return say_no_permission();
    }
    if !able(&["setpriv"]) {
        return;
    }
    let Some(rig) = Rig::new(build, Underlay::V4) else { return };
    let program = std::env::current_exe().unwrap();
    let output = rig.inside.shell(&format!(
        "{INSIDE}=1 setpriv --bounding-set -net_admin --inh-caps -net_admin \
         {} --exact kernel::without_permission_it_says_so",
        program.display()
    ));
    assert!(output.contains("1 passed"), "{output}");
}

fn say_no_permission() {
    let entry =
        Entry { mac: GUEST, ip: Some(GUEST_IP), ip6: None, hop: Hop::Tunnel([172, 30, 0, 1].into()), relay: false };
    let (mut plane, _) = kernel::open(config()).unwrap();
    for result in [plane.prepare(), plane.apply(&[Order::Set(entry)])] {
        let error = result.unwrap_err();
        assert!(matches!(error, PlaneError::Permission { .. }), "{error:?}");
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    }
}

/// Prints how long switches take. Asserts nothing of it: machines differ.
#[test]
fn a_switch_is_timed() {
    const SWITCHES: usize = 5000;
    let Some(rig) = Rig::new(build, Underlay::V4) else { return };
    rig.run(|(mut plane, mut reader)| {
        plane.apply(&[Order::Set(rig.at(&rig.a))]).unwrap();
        let orders = [[Order::Set(rig.at(&rig.b))], [Order::Set(rig.at(&rig.a))]];
        let mut took: Vec<_> = (0..SWITCHES)
            .map(|switch| {
                let begin = Instant::now();
                plane.apply(&orders[switch % 2]).unwrap();
                begin.elapsed()
            })
            .collect();
        took.sort();
        let (p50, p99) = (took[SWITCHES / 2], took[SWITCHES * 99 / 100]);
        println!("a switch: p50 {p50:?}, p99 {p99:?}, max {:?}", took[SWITCHES - 1]);
        reader.found().unwrap();
        orders.iter().for_each(|order| plane.apply(order).unwrap());
        assert!(!reader.changed(), "these are ours");
        rig.inside.shell(&format!("bridge fdb replace {GUEST} dev vx0 dst {} self static", rig.b.end));
        assert!(reader.changed(), "another has changed what is ours");
        plane.apply(&orders[1]).unwrap();
        plane.apply(&[Order::Set(rig.entry(Hop::Here(None)))]).unwrap();
        plane.apply(&[Order::Remove(GUEST)]).unwrap();
        plane.apply(&orders[1]).unwrap();
        assert!(!reader.changed(), "whatever it is");
        rig.inside.shell("bridge fdb add 02:00:00:00:00:66 dev vx0 dst 172.30.0.9 self static");
        assert!(reader.changed(), "another's are");
        assert_eq!(rig.who(), "a");
    });
}

#[test]
fn ten_thousand_addresses_at_once() {
    let Some(rig) = Rig::new(build, Underlay::V4) else { return };
    rig.run(|(mut plane, mut reader)| {
        let entry = |number: u16| {
            let [high, low] = number.to_be_bytes();
            Entry {
                mac: Mac([2, 0, 0, 1, high, low]),
                ip: Some([10, 90, 100 + high, low].into()),
                ip6: None,
                hop: Hop::Tunnel(rig.a.end),
                relay: false,
            }
        };
        let mut wanted = State { ends: rig.ends(), entries: BTreeMap::new() };
        let orders: Vec<_> = (0..10_000).map(|number| Order::Set(entry(number))).collect();
        orders.iter().for_each(|order| wanted.obey(order));
        let begin = Instant::now();
        plane.apply(&orders).unwrap();
        let applied = begin.elapsed();
        let found = reader.found().unwrap();
        println!("10 000 addresses: ordered in {applied:?}, read in {:?}", begin.elapsed() - applied);
        assert!(found.state == wanted);
        plane.apply(&wanted.entries.keys().map(|mac| Order::Remove(*mac)).collect::<Vec<_>>()).unwrap();
        assert!(reader.found().unwrap().state.entries.is_empty());
    });
}
