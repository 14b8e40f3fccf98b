//! What a plane should hold, what it holds, and what makes the one the other. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::model::{Kind, Mac, Name, Route};
use crate::table::{Table, Touched};

/// The devices of the addresses that a node has itself.
pub type Ports = BTreeMap<Mac, String>;

/// All that a plane should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The tunnels' ends.
    pub ends: Ends,
    /// Where frames go, by address.
    pub entries: BTreeMap<Mac, Entry>,
}

/// The other ends of the tunnels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Where broadcast goes.
    pub all: BTreeSet<IpAddr>,
    /// Where frames to addresses go that nobody has claimed, and multicast: the gateways, or all where there is none.
    pub unknown: BTreeSet<IpAddr>,
}

/// Where the frames of an address go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The address.
    pub mac: Mac,
    /// Its IPv4 address, for those who ask.
    pub ip: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ip6: Option<Ipv6Addr>,
    /// Where to.
    pub hop: Hop,
    /// Whether those that come in by the tunnel are to go out by it again: this node had the address before.
    pub relay: bool,
}

/// The next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hop {
    /// This node has the address, on this device if there is one yet. Without, the plane holds nothing for it but who
    /// to answer.
    Here(Option<String>),
    /// Through the tunnel to this end.
    Tunnel(IpAddr),
}

/// What is done to a plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// These are the tunnels' ends.
    Ends(Ends),
    /// Frames of an address go there, wherever they went before.
    Set(Entry),
    /// An address is no more.
    Remove(Mac),
}

/// What a plane was found to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// As far as it can be told. An entry of which a part is missing or wrong differs from the one wanted in some way.
    pub state: State,
    /// What [`Plane::prepare`](super::Plane::prepare) has to set again, in words.
    pub unprepared: Vec<String>,
}

/// How a plane differed from what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Drift {
    /// The tunnels' ends.
    Ends,
    /// An address's entry is missing or another one.
    Entry(Mac),
    /// It has one of an address that nobody has claimed.
    Foreign(Mac),
    /// A setting, in words.
    Setting(String),
}

impl State {
    /// What the plane of a node should hold.
    pub fn of(table: &Table, node: &Name, ports: &Ports) -> Self {
        let entries = table.routes().filter_map(|route| Entry::of(table, node, ports, route));
        Self { ends: Ends::of(table, node), entries: entries.map(|entry| (entry.mac, entry)).collect() }
    }

    /// What has to be done to a plane that was found in another state, and why. `skip` are addresses that may have
    /// changed while it was read.
    pub fn orders(&self, found: &State, skip: &BTreeSet<Mac>) -> Vec<(Drift, Order)> {
        let mut orders = Vec::new();
        if found.ends != self.ends {
            orders.push((Drift::Ends, Order::Ends(self.ends.clone())));
        }
        for (mac, entry) in self.entries.iter().filter(|(mac, _)| !skip.contains(mac)) {
            if found.entries.get(mac) != Some(entry) {
                orders.push((Drift::Entry(*mac), Order::Set(entry.clone())));
            }
        }
        for mac in found.entries.keys().filter(|mac| !skip.contains(mac) && !self.entries.contains_key(mac)) {
            orders.push((Drift::Foreign(*mac), Order::Remove(*mac)));
        }
        orders
    }

    /// As it will be after an order.
    pub fn obey(&mut self, order: &Order) {
        match order {
            Order::Ends(ends) => self.ends = ends.clone(),
            Order::Set(entry) => drop(self.entries.insert(entry.mac, entry.clone())),
            Order::Remove(mac) => drop(self.entries.remove(mac)),
        }
    }
}

impl Ends {
    fn of(table: &Table, node: &Name) -> Self {
        let others = || table.hosts().filter(|host| host.name != *node);
        let gateways: BTreeSet<_> = others().filter(|host| host.kind == Kind::Gateway).map(|host| host.vtep).collect();
        let all: BTreeSet<_> = others().map(|host| host.vtep).collect();
        let is_gateway = table.host(node).is_some_and(|host| host.kind == Kind::Gateway);
        let unknown = if gateways.is_empty() && !is_gateway { all.clone() } else { gateways };
        Self { all, unknown }
    }
}

impl Entry {
    /// What a node's plane should hold for an address; nothing while its owner has no end of the tunnels.
    pub fn of(table: &Table, node: &Name, ports: &Ports, route: &Route) -> Option<Self> {
        let (address, placement) = (&route.address, &route.placement);
        let relay = placement.via.as_ref() == Some(node);
        let hop = if placement.host == *node {
            Hop::Here(ports.get(&address.mac).cloned())
        } else {
            let next = placement.via.as_ref().filter(|via| *via != node).unwrap_or(&placement.host);
            Hop::Tunnel(table.host(next)?.vtep)
        };
        Some(Self { mac: address.mac, ip: address.ip, ip6: address.ip6, hop, relay })
    }
}

impl Table {
    /// What was touched, as orders to the plane of a node.
    pub fn orders(&self, node: &Name, ports: &Ports, touched: &Touched) -> Vec<Order> {
        let mut orders = Vec::new();
        if touched.ends {
            orders.push(Order::Ends(Ends::of(self, node)));
        }
        let entry = |route| Entry::of(self, node, ports, route).map(Order::Set);
        if touched.all {
            orders.extend(self.routes().filter_map(entry));
        }
        for mac in &touched.macs {
            orders.push(self.route(*mac).and_then(entry).unwrap_or(Order::Remove(*mac)));
        }
        orders
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ends => f.write_str("the tunnels' ends were changed"),
            Self::Entry(mac) => write!(f, "the entry of {mac} was changed or removed"),
            Self::Foreign(mac) => write!(f, "there was an entry of {mac}, which nobody has claimed"),
            Self::Setting(what) => f.write_str(what),
        }
    }
}
