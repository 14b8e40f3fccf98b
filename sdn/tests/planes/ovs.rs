//! Open vSwitch, in a gateway of its own.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use roam_sdn::Mac;
use roam_sdn::plane::{Ends, Entry, Hop, Keeper, Order, PlaneError, Planes, State, ovs};

use crate::namespace::{Namespace, able};
use crate::rig::{GUEST, Gateway, LIMIT, Underlay, until};
use crate::switch::{PROGRAMS, PrivateSwitch};

crate::conformance::conformance!(build);

/// A gateway of two bridges: one has the guests' side of the tunnel, the other carries the tunnels.
struct Ovs {
    switch: PrivateSwitch,
    underlay: Underlay,
}

/// A directory for a switch, which goes with it. Short: the paths of sockets may have 107 bytes.
fn directory(inside: &Namespace) -> PathBuf {
    std::env::temp_dir().join(format!("ovs-{}", inside.name))
}

fn config(switch: &PrivateSwitch) -> ovs::Config {
    ovs::Config { management: switch.management("br0"), tunnel: "vx0".into() }
}

fn build(inside: &Namespace, underlay: Underlay) -> Option<Box<dyn Gateway>> {
    if !able(&PROGRAMS) {
        return None;
    }
    let switch = inside.run(|| PrivateSwitch::start(&directory(inside))).unwrap();
    switch
        .vsctl(
            "add-br brphy -- set bridge brphy datapath_type=netdev -- set interface brphy mtu_request=1600 \
             -- add-port brphy ua -- add-port brphy ub \
             -- add-br br0 -- set bridge br0 datapath_type=netdev protocols=OpenFlow13 -- add-port br0 client \
             -- add-port br0 vx0 -- set interface vx0 type=vxlan options:remote_ip=flow options:key=90",
        )
        .unwrap();
    inside.shell(&addresses(underlay));
    Some(Box::new(Ovs { switch, underlay }))
}

/// Where the tunnels begin.
fn addresses(underlay: Underlay) -> String {
    format!("ip address add {} dev brphy; ip link set brphy addrgenmode none mtu 1600 up", underlay.cidr(254))
}

impl Gateway for Ovs {
    fn planes(&self) -> Result<Planes, PlaneError> {
        ovs::open(config(&self.switch))
    }

    fn disturbances(&self) -> Vec<(&'static str, String)> {
        let other = match self.underlay {
            Underlay::V4 => format!("set_field:{}->tun_dst", self.underlay.end(2)),
            Underlay::V6 => format!("set_field:{}->tun_ipv6_dst", self.underlay.end(2)),
        };
        let ours = "cookie=0x726f616d00000001";
        let at = format!("unix:{}", self.switch.management("br0").display());
        let of = move |command: &str, flow: String| format!("ovs-ofctl -O OpenFlow13 {command} {at} '{flow}'");
        let to = format!("table=1,priority=100,dl_dst={GUEST}");
        let group = "table=1,priority=50,dl_dst=01:00:00:00:00:00/01:00:00:00:00:00";
        let tunnel = "in_port=vx0";
        let add = |flow: String| of("add-flow", flow);
        let delete = |flow: String| of("--strict del-flows", flow);
        vec![
            ("the way to it is deleted", delete(to.clone())),
            ("it leads elsewhere", of("mod-flows", format!("{to},actions={other},output:vx0"))),
            ("it leads nowhere", add(format!("{to},actions=drop"))),
            ("it is to end some day", add(format!("{ours},{to},idle_timeout=500,actions={other},output:vx0"))),
            ("it is not counted", delete(format!("table=0,priority=100,dl_src={GUEST}"))),
            (
                "it is passed on",
                add(format!("{ours},table=1,priority=200,{tunnel},dl_dst={GUEST},actions={other},in_port")),
            ),
            ("no broadcast", delete(group.into())),
            ("broadcast to one", add(format!("{ours},{group},actions=NORMAL,{other},output:vx0"))),
            ("unclaimed to one", add(format!("{ours},table=1,priority=0,actions=NORMAL,{other},output:vx0"))),
            ("nothing from the tunnel", delete(format!("table=1,priority=60,{tunnel}"))),
            ("nothing to table 1", add("table=0,priority=0,actions=drop".into())),
            ("a foreign flow", add("table=0,priority=500,udp,tp_dst=9,actions=drop".into())),
            ("a foreign flow of ours", add(format!("{ours},table=1,priority=7,{tunnel},actions=drop"))),
            (
                "an address nobody has claimed",
                add(format!("{ours},table=1,priority=100,dl_dst=02:00:00:00:00:66,actions=drop")),
            ),
            ("all is deleted", of("del-flows", String::new())),
        ]
    }
}

/// The switch is restarted under a keeper: all flows come back, without anybody asking.
#[test]
fn a_restarted_switch_is_recovered() {
    if !able(&PROGRAMS) {
        return;
    }
    let (inside, underlay) = (Namespace::new("gw"), Underlay::V4);
    let switch = simple(&inside);
    let table = crate::conformance::table_of(underlay);
    let keeper = Keeper::start("gateway".parse().unwrap(), ovs::open(config(&switch)).unwrap(), &table).unwrap();
    for _ in 0..2 {
        inside.run(|| {
            switch.end_daemon().unwrap();
            until("the trouble is told", || keeper.status().trouble.is_some());
            switch.start_daemon().unwrap();
        });
        let begin = Instant::now();
        until("the flows are back", || {
            keeper.status().trouble.is_none() && keeper.audit().is_ok_and(|drifts| drifts.is_empty())
        });
        println!("recovered after {:?}", begin.elapsed());
        assert!(flows(&switch).contains(&format!("dl_dst={GUEST}")));
    }
}

/// A switch that does not answer is an error, and no hang; when it answers again, it obeys.
#[test]
fn a_stopped_switch_is_an_error() {
    if !able(&PROGRAMS) {
        return;
    }
    let inside = Namespace::new("gw");
    let switch = simple(&inside);
    let (mut plane, mut reader) = ovs::open(config(&switch)).unwrap();
    plane.prepare().unwrap();
    let stopped = Stopped::new(switch.daemon().unwrap());
    let begin = Instant::now();
    for error in [plane.apply(&[entry(1)]).unwrap_err(), reader.found().unwrap_err(), plane.prepare().unwrap_err()] {
        assert!(matches!(error, PlaneError::Unreachable { .. }), "{error:?}");
        assert!(error.source().unwrap().to_string().contains("does not answer"), "{error:?}");
    }
    assert!(begin.elapsed() < 2 * LIMIT, "{:?}", begin.elapsed());
    drop(stopped);
    until("it obeys", || plane.apply(&[entry(1)]).is_ok());
    assert_eq!(reader.found().unwrap().state.entries.len(), 1);
    assert!(!reader.changed());
}

/// Errors say what is missing and what to do.
#[test]
fn what_is_missing_is_named() {
    if !able(&PROGRAMS) {
        return;
    }
    let inside = Namespace::new("gw");
    let switch = simple(&inside);
    let open = |bridge: &str, tunnel: &str| {
        let config = ovs::Config { management: switch.management(bridge), tunnel: tunnel.into() };
        ovs::open(config).and_then(|(mut plane, _)| plane.prepare()).unwrap_err()
    };
    let error = open("br7", "vx0");
    assert!(matches!(error, PlaneError::Unreachable { .. }), "{error:?}");
    assert!(error.source().unwrap().to_string().contains("start ovs-vswitchd"), "{error:?}");
    let error = open("br0", "vx7").to_string();
    assert!(error.starts_with("vx7: the bridge has no such port: run `ovs-vsctl add-port"), "{error}");
    switch.vsctl("set bridge br0 protocols=OpenFlow10").unwrap();
    let error = open("br0", "vx0").to_string();
    assert!(error.contains("protocols=OpenFlow13"), "{error}");
    switch.vsctl("set bridge br0 protocols=OpenFlow13").unwrap();
    let (mut plane, _) = ovs::open(config(&switch)).unwrap();
    plane.prepare().unwrap();
    switch.vsctl("-- --id=@t create flow_table flow_limit=5 -- set bridge br0 flow_tables:1=@t").unwrap();
    let orders: Vec<_> = (1..=9).map(entry).collect();
    let error = plane.apply(&orders).unwrap_err();
    assert!(matches!(error, PlaneError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("set the flows of 02:00:00:00:00:"), "{error}");
    assert!(error.source().unwrap().to_string().contains("full"), "{error:?}");
}

/// Ten thousand addresses: all at once, read back, and one that moves among them.
#[test]
fn many_addresses() {
    const ADDRESSES: u16 = 10_000;
    if !able(&PROGRAMS) {
        return;
    }
    let inside = Namespace::new("gw");
    let switch = simple(&inside);
    let (mut plane, mut reader) = ovs::open(config(&switch)).unwrap();
    plane.prepare().unwrap();
    let orders: Vec<_> = (0..ADDRESSES).map(entry).collect();
    let mut wanted = State { ends: Ends::default(), entries: BTreeMap::new() };
    orders.iter().for_each(|order| wanted.obey(order));
    let begin = Instant::now();
    plane.apply(&orders).unwrap();
    let applied = begin.elapsed();
    assert_eq!(reader.found().unwrap().state, wanted);
    println!("{ADDRESSES} addresses: applied in {applied:?}, read back in {:?}", begin.elapsed() - applied);
    assert!(applied < 2 * LIMIT);
    let begin = Instant::now();
    plane.apply(&[entry(7)]).unwrap();
    println!("one among them in {:?}", begin.elapsed());
}

/// How long a switch takes, on a switch that has nothing else to do. Told, not tested.
#[test]
fn how_long_a_switch_takes() {
    if !able(&PROGRAMS) {
        return;
    }
    let inside = Namespace::new("gw");
    let switch = simple(&inside);
    let (mut plane, _) = ovs::open(config(&switch)).unwrap();
    plane.prepare().unwrap();
    let ends = [1, 2].map(|number| Hop::Tunnel(Underlay::V4.end(number)));
    let mut took: Vec<_> = (0..1_000)
        .map(|number| {
            let hop = ends[number % 2].clone();
            let order = Order::Set(Entry { mac: GUEST, ip: None, ip6: None, hop, relay: false });
            let begin = Instant::now();
            plane.apply(&[order]).unwrap();
            begin.elapsed()
        })
        .collect();
    took.sort();
    println!("a switch: p50 {:?}, p99 {:?}, max {:?}", took[500], took[990], took[999]);
}

/// A switch without links.
fn simple(inside: &Namespace) -> PrivateSwitch {
    let switch = inside.run(|| PrivateSwitch::start(&directory(inside))).unwrap();
    let words = "add-br br0 -- set bridge br0 datapath_type=netdev protocols=OpenFlow13 -- add-port br0 vx0 \
                 -- set interface vx0 type=vxlan options:remote_ip=flow options:key=90";
    switch.vsctl(words).unwrap();
    switch
}

fn entry(number: u16) -> Order {
    let [high, low] = number.to_be_bytes();
    let hop = Hop::Tunnel(Underlay::V4.end(1 + number % 2));
    Order::Set(Entry { mac: Mac([2, 0, 0, 0, high, low]), ip: None, ip6: None, hop, relay: false })
}

fn flows(switch: &PrivateSwitch) -> String {
    let at = format!("unix:{}", switch.management("br0").display());
    let output =
        std::process::Command::new("ovs-ofctl").args(["-O", "OpenFlow13", "dump-flows", &at]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A process that is stopped until this goes.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: Pid) -> Self {
        kill(pid, Signal::SIGSTOP).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}
