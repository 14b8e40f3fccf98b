//! What a state is in flows, and what flows say of a state. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use super::wire::{Change, Flow, FlowStats, Match, NORMAL, PORT_IN, Port, Step};
use crate::model::Mac;
use crate::plane::{Counters, Ends, Entry, Hop};

/// Marks flows as ours: "roam" and a version.
const COOKIE: u64 = 0x726f_616d_0000_0001;
/// Where sources are counted, and where frames are sent on.
const SOURCES: u8 = 0;
const TARGETS: u8 = 1;
/// Hop of an entry that is not whole.
const BROKEN: Hop = Hop::Tunnel(IpAddr::V4(Ipv4Addr::UNSPECIFIED));

/// The numbers that the switch has given its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) tunnel: u32,
    ports: BTreeMap<String, u32>,
}

/// What a flow is for, which is told by its table, priority and match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    From(Mac),
    AllSources,
    Relay(Mac),
    To(Mac),
    FromTunnel,
    Multicast,
    Unclaimed,
}

/// What all the flows of a switch say.
#[derive(Debug, Default)]
pub(super) struct Picture {
    /// `None` if one of the two flows is missing or another.
    pub(super) ends: Option<Ends>,
    pub(super) counters: BTreeMap<Mac, Counters>,
    parts: BTreeMap<Mac, Parts>,
    all_sources: bool,
    from_tunnel: bool,
    /// Flows in our tables in no place of ours.
    pub(super) foreign: Vec<FlowStats>,
}

/// The flows of one address.
#[derive(Debug, Default)]
struct Parts {
    from: bool,
    to: Option<Hop>,
    relay: Option<Hop>,
}

impl Numbers {
    pub(super) fn of(ports: Vec<Port>, tunnel: &str) -> Option<Self> {
        let ports: BTreeMap<_, _> = ports.into_iter().map(|port| (port.name, port.number)).collect();
        Some(Self { tunnel: *ports.get(tunnel)?, ports })
    }

    fn name(&self, number: u32) -> Option<&String> {
        self.ports.iter().find(|(_, port)| **port == number).map(|(name, _)| name)
    }
}

impl Place {
    fn key(self, tunnel: u32) -> (u8, u16, Match) {
        let all = Match::default();
        let to = |mac: Mac| Match { target: Some((mac.0, [0xff; 6])), ..all };
        match self {
            Self::From(mac) => (SOURCES, 100, Match { source: Some(mac.0), ..all }),
            Self::AllSources => (SOURCES, 0, all),
            Self::Relay(mac) => (TARGETS, 200, Match { port: Some(tunnel), ..to(mac) }),
            Self::To(mac) => (TARGETS, 100, to(mac)),
            Self::FromTunnel => (TARGETS, 60, Match { port: Some(tunnel), ..all }),
            Self::Multicast => {
                let group = [1, 0, 0, 0, 0, 0];
                (TARGETS, 50, Match { target: Some((group, group)), ..all })
            }
            Self::Unclaimed => (TARGETS, 0, all),
        }
    }

    /// Where a flow is, if that is a place of ours.
    fn of(flow: &FlowStats, tunnel: u32) -> Option<Self> {
        let matching = flow.matching?;
        let place = match (flow.table, flow.priority, matching.source, matching.target) {
            (SOURCES, 100, Some(mac), _) => Self::From(Mac(mac)),
            (SOURCES, 0, ..) => Self::AllSources,
            (TARGETS, 200, _, Some((mac, _))) => Self::Relay(Mac(mac)),
            (TARGETS, 100, _, Some((mac, _))) => Self::To(Mac(mac)),
            (TARGETS, 60, ..) => Self::FromTunnel,
            (TARGETS, 50, ..) => Self::Multicast,
            (TARGETS, 0, ..) => Self::Unclaimed,
            _ => return None,
        };
        (place.key(tunnel) == (flow.table, flow.priority, matching)).then_some(place)
    }

    fn with(self, tunnel: u32, steps: Vec<Step>) -> Change {
        let (table, priority, matching) = self.key(tunnel);
        Change::Add { flow: Flow { table, priority, matching, steps }, cookie: COOKIE }
    }

    fn without(self, tunnel: u32) -> Change {
        let (table, priority, matching) = self.key(tunnel);
        Change::Delete { table, priority, matching }
    }
}

/// What everything else needs, each before what leads to it.
pub(super) fn base(numbers: &Numbers) -> [Change; 2] {
    [
        Place::FromTunnel.with(numbers.tunnel, vec![Step::Output(NORMAL)]),
        Place::AllSources.with(numbers.tunnel, vec![Step::Table(TARGETS)]),
    ]
}

/// The tunnels' ends.
pub(super) fn ends(ends: &Ends, numbers: &Numbers) -> [Change; 2] {
    // IPv6 ends clear what an IPv4 one has set, and an IPv4 one hides what they set: any order is right.
    let flood = |ends: &BTreeSet<IpAddr>| {
        let copies = ends.iter().flat_map(|end| through(*end, numbers.tunnel));
        [Step::Output(NORMAL)].into_iter().chain(copies).collect()
    };
    [
        Place::Unclaimed.with(numbers.tunnel, flood(&ends.unknown)),
        Place::Multicast.with(numbers.tunnel, flood(&ends.all)),
    ]
}

/// What makes the flows of an address those of an entry. `before` is what was done last for it, and was found whole.
pub(super) fn set(entry: &Entry, before: Option<&Entry>, numbers: &Numbers) -> Vec<Change> {
    let tunnel = numbers.tunnel;
    let mut changes = Vec::with_capacity(3);
    if before.is_none() {
        changes.push(Place::From(entry.mac).with(tunnel, vec![Step::Table(TARGETS)]));
    }
    if before.is_none_or(|before| before.hop != entry.hop) {
        changes.push(Place::To(entry.mac).with(tunnel, steps(&entry.hop, numbers)));
    }
    if before.is_none_or(|before| relayed(before) != relayed(entry)) {
        changes.push(match relayed(entry) {
            Some(end) => Place::Relay(entry.mac).with(tunnel, relay_steps(end)),
            None => Place::Relay(entry.mac).without(tunnel),
        });
    }
    changes
}

/// What removes an address.
pub(super) fn remove(mac: Mac, numbers: &Numbers) -> [Change; 3] {
    [Place::Relay(mac), Place::To(mac), Place::From(mac)].map(|place| place.without(numbers.tunnel))
}

/// Only what is elsewhere can be passed on.
fn relayed(entry: &Entry) -> Option<IpAddr> {
    match entry.hop {
        Hop::Tunnel(end) if entry.relay => Some(end),
        _ => None,
    }
}

/// A port that the switch does not have (yet) is as none: NORMAL finds the address once it is heard.
fn steps(hop: &Hop, numbers: &Numbers) -> Vec<Step> {
    match hop {
        Hop::Tunnel(end) => through(*end, numbers.tunnel),
        Hop::Here(port) => {
            let number = port.as_ref().and_then(|port| numbers.ports.get(port));
            vec![Step::Output(number.copied().unwrap_or(NORMAL))]
        }
    }
}

fn relay_steps(end: IpAddr) -> Vec<Step> {
    through(end, PORT_IN)
}

/// An IPv4 end comes first in Open vSwitch, so for an IPv6 one it is cleared: a frame from a tunnel has one.
fn through(end: IpAddr, port: u32) -> Vec<Step> {
    let cleared = end.is_ipv6().then_some(Step::End(Ipv4Addr::UNSPECIFIED.into()));
    cleared.into_iter().chain([Step::End(end), Step::Output(port)]).collect()
}

impl Picture {
    /// Of all flows.
    pub(super) fn of(flows: Vec<FlowStats>, numbers: &Numbers) -> Self {
        let (mut picture, mut multicast, mut unclaimed) = (Self::default(), None, None);
        for flow in flows.into_iter().filter(|flow| flow.table <= TARGETS) {
            let Some(place) = Place::of(&flow, numbers.tunnel) else {
                picture.foreign.push(flow);
                continue;
            };
            let ours = flow.cookie == COOKIE && flow.plain;
            let steps = flow.steps.as_deref().filter(|_| ours);
            match place {
                Place::AllSources => picture.all_sources = steps == Some(&[Step::Table(TARGETS)]),
                Place::FromTunnel => picture.from_tunnel = steps == Some(&[Step::Output(NORMAL)]),
                Place::Multicast => multicast = steps.and_then(|steps| flooded(steps, numbers)),
                Place::Unclaimed => unclaimed = steps.and_then(|steps| flooded(steps, numbers)),
                Place::From(mac) => {
                    picture.parts.entry(mac).or_default().from = steps == Some(&[Step::Table(TARGETS)]);
                    let counters = picture.counters.entry(mac).or_default();
                    (counters.from_packets, counters.from_bytes) = (flow.packets, flow.bytes);
                }
                Place::To(mac) => {
                    let hop = steps.and_then(|steps| hop(steps, numbers));
                    picture.parts.entry(mac).or_default().to = Some(hop.unwrap_or(BROKEN));
                    picture.count_to(mac, &flow);
                }
                Place::Relay(mac) => {
                    let end = steps.and_then(|steps| end_of(steps, PORT_IN)).map_or(BROKEN, Hop::Tunnel);
                    picture.parts.entry(mac).or_default().relay = Some(end);
                    picture.count_to(mac, &flow);
                }
            }
        }
        picture.ends = multicast.zip(unclaimed).map(|(all, unknown)| Ends { all, unknown });
        picture
    }

    fn count_to(&mut self, mac: Mac, flow: &FlowStats) {
        let counters = self.counters.entry(mac).or_default();
        counters.to_packets = counters.to_packets.saturating_add(flow.packets);
        counters.to_bytes = counters.to_bytes.saturating_add(flow.bytes);
    }

    /// What has to be prepared again, in words.
    pub(super) fn unprepared(&self) -> Vec<String> {
        let mut words = Vec::new();
        for (is, what) in [
            (self.all_sources, "the flow that leads from table 0 to table 1"),
            (self.from_tunnel, "the flow for frames from the tunnel"),
            (self.ends.is_some(), "a flow for broadcast or for unclaimed addresses"),
        ] {
            if !is {
                words.push(format!("{what} was changed or removed"));
            }
        }
        for flow in &self.foreign {
            let FlowStats { table, priority, cookie, .. } = flow;
            words.push(format!("there was a foreign flow: table={table}, priority={priority}, cookie={cookie:#x}"));
        }
        words
    }

    /// The entries. What no flow tells is taken from what was asked for.
    pub(super) fn entries(&self, asked: &BTreeMap<Mac, Entry>, numbers: &Numbers) -> BTreeMap<Mac, Entry> {
        let entry = |(mac, parts): (&Mac, &Parts)| (*mac, parts.entry(*mac, asked.get(mac), numbers));
        self.parts.iter().map(entry).collect()
    }
}

impl Parts {
    fn entry(&self, mac: Mac, asked: Option<&Entry>, numbers: &Numbers) -> Entry {
        let whole = match (&self.to, &self.relay) {
            (Some(to), None) => self.from.then_some(to),
            (Some(to @ Hop::Tunnel(_)), Some(relay)) => (self.from && to == relay).then_some(to),
            _ => None,
        };
        let hop = match (whole, asked.map(|asked| &asked.hop)) {
            // Nothing else can be done for a port that is not there.
            (Some(Hop::Here(None)), Some(Hop::Here(Some(port)))) if !numbers.ports.contains_key(port) => {
                Hop::Here(Some(port.clone()))
            }
            (Some(hop), _) => hop.clone(),
            (None, _) => BROKEN,
        };
        let relay = match hop {
            Hop::Tunnel(_) => self.relay.is_some(),
            Hop::Here(_) => asked.is_some_and(|asked| asked.relay),
        };
        Entry { mac, ip: asked.and_then(|asked| asked.ip), ip6: asked.and_then(|asked| asked.ip6), hop, relay }
    }
}

/// Where a flow sends copies to.
fn flooded(steps: &[Step], numbers: &Numbers) -> Option<BTreeSet<IpAddr>> {
    let mut copies = steps.strip_prefix(&[Step::Output(NORMAL)])?;
    let mut ends = BTreeSet::new();
    while let Some(out) = copies.iter().position(|step| matches!(step, Step::Output(_))) {
        let (copy, rest) = copies.split_at(out + 1);
        ends.insert(end_of(copy, numbers.tunnel)?);
        copies = rest;
    }
    copies.is_empty().then_some(ends)
}

fn hop(steps: &[Step], numbers: &Numbers) -> Option<Hop> {
    match steps {
        [Step::Output(NORMAL)] => Some(Hop::Here(None)),
        [Step::Output(port)] => numbers.name(*port).cloned().map(|port| Hop::Here(Some(port))),
        steps => end_of(steps, numbers.tunnel).map(Hop::Tunnel),
    }
}

/// The end, if this is [`through`] it and that port.
fn end_of(steps: &[Step], port: u32) -> Option<IpAddr> {
    let [.., Step::End(end), Step::Output(_)] = steps else { return None };
    (steps == through(*end, port)).then_some(*end)
}
