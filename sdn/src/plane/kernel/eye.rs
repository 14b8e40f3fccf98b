//! The side that reads the plane.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NetlinkHeader, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::LinkHeader;
use netlink_packet_route::neighbour::{NeighbourHeader, NeighbourMessage};

use super::devices::{self, Devices};
use super::generation::Generations;
use super::message::{BROADCAST, Seen, UNKNOWN, all_entries, all_neighbours};
use super::rules::{self, Rules};
use super::shared::{Shared, Trace};
use super::socket::{Link, News};
use super::{Config, refused};
use crate::model::{Kind, Mac};
use crate::plane::{Counters, Ends, Entry, Found, Hop, PlaneError, Reader, State};

/// An entry of which a part is missing leads there: no table has such an end.
const NOWHERE: Hop = Hop::Tunnel(IpAddr::V4(Ipv4Addr::UNSPECIFIED));

pub(super) struct Eye {
    config: Config,
    link: Link,
    news: News,
    shared: Shared,
    generations: Generations,
    /// The rules as last read, and the generation they are of. What was counted since then is not in them.
    rules: Option<(u32, Option<Rules>)>,
}

/// What was read of one address.
#[derive(Default)]
struct Parts {
    /// Where the VXLAN device sends it, if it has an entry.
    tunnel: Option<Option<IpAddr>>,
    /// The bridge has an entry on the tunnel: sticky, or not.
    bridge: Option<bool>,
    /// The port that the bridge sends it to instead, sticky.
    port: Option<u32>,
    ips: BTreeSet<IpAddr>,
}

impl Eye {
    pub(super) fn new(config: Config, link: Link, news: News, shared: Shared, generations: Generations) -> Self {
        Self { config, link, news, shared, generations, rules: None }
    }

    /// Reads the rules anew if anybody has changed any since; whether they are as they should be. The generation is asked for first: what changes meanwhile
    /// is read again.
    fn read_rules(&mut self) -> Result<bool, PlaneError> {
        let current = self.generations.current();
        let current = current.map_err(|error| refused(error, || "ask for the rules' generation".into()))?;
        if current.is_none() || self.rules.as_ref().map(|(read, _)| *read) != current {
            let rules = rules::read(&self.config)?;
            self.rules = Some((current.unwrap_or_default(), rules));
        }
        Ok(self.rules.as_ref().is_some_and(|(_, rules)| rules.is_some()))
    }

    fn parts(&mut self, devices: Devices) -> Result<(Ends, BTreeMap<Mac, Parts>), PlaneError> {
        let mut ends = Ends::default();
        let mut parts: BTreeMap<Mac, Parts> = BTreeMap::new();
        let entries = self.link.dump(&all_entries());
        let entries = entries.map_err(|error| refused(error, || "read the forwarding entries".into()))?;
        for seen in entries.into_iter().filter_map(Seen::read) {
            let of_tunnel = seen.of_tunnel && seen.device == devices.tunnel;
            match seen.mac {
                UNKNOWN if of_tunnel => ends.unknown.extend(seen.ip),
                BROADCAST if of_tunnel => ends.all.extend(seen.ip),
                mac if of_tunnel && (seen.fixed || seen.permanent) => {
                    parts.entry(mac).or_default().tunnel = Some(seen.ip);
                }
                // With a VLAN they are copies, for a bridge that tells VLANs apart.
                mac if !seen.of_tunnel && seen.fixed && !seen.vlan => {
                    let parts = parts.entry(mac).or_default();
                    if seen.device == devices.tunnel {
                        parts.bridge = Some(seen.sticky);
                    } else if seen.sticky {
                        parts.port = Some(seen.device);
                    }
                }
                _ => {}
            }
        }
        let neighbours = self.link.dump(&all_neighbours());
        let neighbours = neighbours.map_err(|error| refused(error, || "read the neighbours".into()))?;
        for seen in neighbours.into_iter().filter_map(Seen::read) {
            if seen.device == devices.bridge && seen.permanent {
                parts.entry(seen.mac).or_default().ips.extend(seen.ip);
            }
        }
        Ok((ends, parts))
    }

    /// Puts together what was read, as far as it is whole.
    fn entries(&mut self, mut parts: BTreeMap<Mac, Parts>) -> Result<BTreeMap<Mac, Entry>, PlaneError> {
        let ports: BTreeSet<_> = parts.values().filter_map(|parts| parts.port).collect();
        let ports = ports.into_iter().map(|port| Ok((port, devices::name_of(&mut self.link, port)?)));
        let ports = ports.collect::<Result<BTreeMap<_, _>, PlaneError>>()?;
        let none = Rules::default();
        let rules = self.rules.as_ref().and_then(|(_, rules)| rules.as_ref()).unwrap_or(&none);
        for mac in rules.to.iter().chain(&rules.from).chain(&rules.relay) {
            parts.entry(*mac).or_default();
        }
        let mut traces = BTreeMap::new();
        let mut entries = BTreeMap::new();
        for (mac, parts) in parts {
            let counted = (rules.to.contains(&mac), rules.from.contains(&mac));
            let relay = rules.relay.contains(&mac);
            if parts.is_elses(counted, relay) {
                continue;
            }
            let port = parts.port.and_then(|port| ports.get(&port).cloned().flatten());
            let hop = if counted == (true, true) { parts.hop(port, self.config.kind) } else { NOWHERE };
            let (ip, ip6) = parts.ips();
            entries.insert(mac, Entry { mac, ip, ip6, hop, relay });
            if parts.port.is_some() || !parts.ips.is_empty() {
                traces.insert(mac, Trace { ips: parts.ips, port: parts.port });
            }
        }
        self.shared.lock().traces = traces;
        Ok(entries)
    }
}

impl Parts {
    /// Entries of the bridge's other ports are whoever's made them, and so is one that has no neighbour.
    fn is_elses(&self, counted: (bool, bool), relay: bool) -> bool {
        self.tunnel.is_none() && self.bridge.is_none() && self.ips.is_empty() && counted == (false, false) && !relay
    }

    fn hop(&self, port: Option<String>, kind: Kind) -> Hop {
        match (self.tunnel, self.bridge, self.port) {
            (Some(Some(end)), Some(true), None) if kind == Kind::Gateway => Hop::Tunnel(end),
            (Some(Some(end)), None, None) if kind == Kind::Host => Hop::Tunnel(end),
            (None, None, None) => Hop::Here(None),
            (None, None, Some(_)) => Hop::Here(port),
            _ => NOWHERE,
        }
    }

    /// Several of a family are none that an address can have.
    fn ips(&self) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
        let (mut four, mut six) = (None, None);
        for ip in &self.ips {
            match ip {
                IpAddr::V4(ip) => four = Some(if four.is_some() { Ipv4Addr::UNSPECIFIED } else { *ip }),
                IpAddr::V6(ip) => six = Some(if six.is_some() { Ipv6Addr::UNSPECIFIED } else { *ip }),
            }
        }
        (four, six)
    }
}

impl Reader for Eye {
    fn found(&mut self) -> Result<Found, PlaneError> {
        // Whatever was told of until now is about to be read.
        self.shared.lock().forwards.retain(|_, forward| forward.is_some());
        let _ = self.news.drain(&mut |_, _| ());
        let (devices, mut unprepared) = Devices::find(&mut self.link, &self.config)?;
        let prepared = self.shared.lock().devices;
        if prepared.is_some_and(|prepared| prepared != devices) {
            unprepared.push(format!("{} or {} was made anew", self.config.tunnel, self.config.bridge));
        }
        if !self.read_rules()? {
            unprepared.push(format!("the nftables rules of {} were changed or removed", self.config.tunnel));
        }
        let (ends, parts) = self.parts(devices)?;
        let entries = self.entries(parts)?;
        Ok(Found { state: State { ends, entries }, unprepared })
    }

    fn counters(&mut self) -> Result<BTreeMap<Mac, Counters>, PlaneError> {
        Ok(rules::read(&self.config)?.map(|rules| rules.counters).unwrap_or_default())
    }

    fn changed(&mut self) -> bool {
        let Some(devices) = self.shared.lock().devices else { return true };
        let port = self.shared.port;
        let (mut changed, mut last) = (false, HashMap::new());
        let lost = self.news.drain(&mut |header, body| {
            if header.port_number != port {
                match Told::read(devices, header, body) {
                    Told::Nothing => {}
                    Told::Change => changed = true,
                    // What came before it is over, whoever did it.
                    Told::Entry(seen, gone) => drop(last.insert((seen.mac, seen.of_tunnel, seen.vlan), (seen, gone))),
                }
            }
        });
        let known = self.shared.lock();
        changed || lost || last.values().any(|(seen, gone)| !known.is_ordered(devices, seen, *gone))
    }
}

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_DELNEIGH: u16 = 29;

/// What a notification tells.
enum Told {
    /// Nothing that is ours.
    Nothing,
    /// Somebody else has changed something.
    Change,
    /// A forwarding entry is so, or gone: by us or others.
    Entry(Seen, bool),
}

impl Told {
    /// What cannot be read may be anything.
    fn read(devices: Devices, header: &NetlinkHeader, body: &[u8]) -> Self {
        let change = |is: bool| if is { Self::Change } else { Self::Nothing };
        if matches!(header.message_type, RTM_NEWLINK | RTM_DELLINK) {
            let ours = |link: LinkHeader| link.index == devices.tunnel || link.index == devices.bridge;
            return change(LinkHeader::parse(body).map_or(true, ours));
        }
        let Ok(message) = NeighbourMessage::parse(body) else { return Self::Change };
        let NeighbourHeader { ifindex, family, .. } = message.header;
        if family != AddressFamily::Bridge {
            // The kernel's own changes, learnt neighbours, name no sender.
            return change(ifindex == devices.bridge && header.port_number != 0);
        }
        match Seen::of(&message) {
            Some(seen) if seen.of_tunnel && ifindex != devices.tunnel => Self::Nothing,
            Some(seen) if seen.of_tunnel || seen.fixed => Self::Entry(seen, header.message_type == RTM_DELNEIGH),
            _ => Self::Nothing,
        }
    }
}
