//! The side that changes the plane.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourMessage};
use nix::errno::Errno;

use super::devices::{self, Devices};
use super::message::{APPEND, BROADCAST, OF_BRIDGE, OF_TUNNEL, REPLACE, Seen, UNKNOWN, all_entries, entry, neighbour};
use super::rules::{self, Elements};
use super::shared::{Shared, Trace};
use super::socket::Link;
use super::{Config, refused};
use crate::model::{Kind, Mac};
use crate::plane::{Ends, Entry, Hop, Order, Plane, PlaneError};

pub(super) struct Hand {
    config: Config,
    link: Link,
    shared: Shared,
    /// What was ordered last: an address that only moves from end to end needs one message.
    ordered: HashMap<Mac, Entry>,
    /// Whose an IP address is: of two orders that hand one on, the later one must not lose it.
    owners: HashMap<IpAddr, Mac>,
    /// The bridge keeps its address.
    pinned: bool,
}

impl Hand {
    pub(super) fn new(config: Config, link: Link, shared: Shared) -> Self {
        Self { config, link, shared, ordered: HashMap::new(), owners: HashMap::new(), pinned: false }
    }

    fn devices(&mut self) -> Result<Devices, PlaneError> {
        let known = self.shared.lock().devices;
        match known {
            Some(devices) => Ok(devices),
            None => Ok(Devices::find(&mut self.link, &self.config)?.0),
        }
    }

    /// The switch: VXLAN and bridge entry in one message.
    fn switch(&mut self, devices: Devices, mac: Mac, end: IpAddr) -> Result<(), PlaneError> {
        let tables = match self.config.kind {
            Kind::Gateway => OF_TUNNEL | OF_BRIDGE,
            Kind::Host => OF_TUNNEL,
        };
        let message = entry(mac, devices.tunnel, tables, Some(end));
        self.add(message, REPLACE, || format!("send frames to {mac} to {end}"))
    }

    /// What must stand before frames are passed on: a relay without an end would send them anywhere.
    fn begin(&mut self, devices: Devices, wanted: &Entry) -> Result<(), PlaneError> {
        let mac = wanted.mac;
        match &wanted.hop {
            Hop::Tunnel(end) if wanted.relay => {
                let message = entry(mac, devices.tunnel, OF_TUNNEL, Some(*end));
                self.add(message, REPLACE, || format!("send frames to {mac} to {end}"))
            }
            Hop::Tunnel(end) => {
                self.switch(devices, mac, *end)?;
                self.leave_ports(devices, mac)
            }
            // As long as frames are passed on they need the end to which.
            Hop::Here(port) if self.ordered.get(&mac).is_some_and(|before| before.relay) => {
                port.as_ref().map_or(Ok(()), |port| self.deliver(mac, port))
            }
            Hop::Here(port) => self.receive(devices, mac, port.as_deref()),
        }
    }

    /// What follows when relay and counters are as they should be.
    fn finish(&mut self, devices: Devices, wanted: &Entry) -> Result<(), PlaneError> {
        let mac = wanted.mac;
        match &wanted.hop {
            Hop::Tunnel(end) if wanted.relay => {
                self.switch(devices, mac, *end)?;
                self.leave_ports(devices, mac)?;
            }
            Hop::Tunnel(_) => {}
            Hop::Here(port) => self.receive(devices, mac, port.as_deref())?,
        }
        self.neighbours(devices, wanted)
    }

    /// The address is this node's, at that port if any.
    fn receive(&mut self, devices: Devices, mac: Mac, port: Option<&str>) -> Result<(), PlaneError> {
        port.map_or(Ok(()), |port| self.deliver(mac, port))?;
        self.withdraw(devices, mac)?;
        let port = port.map(|port| devices::index_of(&mut self.link, port)).transpose()?.flatten();
        self.clear_port(mac, port)
    }

    /// The address is beyond the tunnel. A gateway's entry has moved there; a host's goes.
    fn leave_ports(&mut self, devices: Devices, mac: Mac) -> Result<(), PlaneError> {
        if self.config.kind == Kind::Gateway {
            return Ok(());
        }
        self.delete(entry(mac, devices.tunnel, OF_BRIDGE, None), || format!("have frames to {mac} received"))?;
        self.clear_port(mac, None)
    }

    /// The bridge's entry on a port of this node. One that is gone, or not in a bridge yet, is like none.
    fn deliver(&mut self, mac: Mac, port: &str) -> Result<(), PlaneError> {
        let Some(index) = devices::index_of(&mut self.link, port)? else { return Ok(()) };
        self.shared.lock().expect_at(mac, index);
        let message = RouteNetlinkMessage::NewNeighbour(entry(mac, index, OF_BRIDGE, None));
        let done = self.link.change(message, REPLACE).and_then(|()| match self.config.kind {
            Kind::Gateway => Ok(()),
            Kind::Host => devices::spare(&mut self.link, index),
        });
        match done {
            Err(error) if is_one_of(&error, &[Errno::ENODEV, Errno::EOPNOTSUPP]) => Ok(()),
            done => done.map_err(|error| refused(error, || format!("send frames to {mac} to {port}"))),
        }
    }

    /// Nothing of the address leads to the tunnel any more.
    fn withdraw(&mut self, devices: Devices, mac: Mac) -> Result<(), PlaneError> {
        for table in [OF_BRIDGE, OF_TUNNEL] {
            self.delete(entry(mac, devices.tunnel, table, None), || format!("stop sending frames to {mac}"))?;
        }
        Ok(())
    }

    /// Nor to a port where it was before.
    fn clear_port(&mut self, mac: Mac, stays: Option<u32>) -> Result<(), PlaneError> {
        let before = match self.ordered.get(&mac).map(|entry| entry.hop.clone()) {
            Some(Hop::Here(Some(port))) => devices::index_of(&mut self.link, &port)?,
            _ => None,
        };
        let found = self.trace(mac).port;
        for port in [before, found].into_iter().flatten().filter(|port| Some(*port) != stays) {
            self.delete(entry(mac, port, OF_BRIDGE, None), || format!("stop sending frames to {mac}"))?;
        }
        Ok(())
    }

    /// Who answers to its IP addresses, and that nobody answers to those that were its own.
    fn neighbours(&mut self, devices: Devices, wanted: &Entry) -> Result<(), PlaneError> {
        let (mac, ips) = (wanted.mac, ips(wanted));
        let before = self.trace(mac).ips.into_iter().chain(self.ordered.get(&mac).map(self::ips).unwrap_or_default());
        for ip in before.filter(|ip| !ips.contains(ip)).collect::<Vec<_>>() {
            self.forget_neighbour(devices, mac, ip)?;
        }
        for ip in ips {
            self.owners.insert(ip, mac);
            let message = neighbour(ip, mac, devices.bridge);
            self.add(message, REPLACE, || format!("answer to who asks for {ip}"))?;
        }
        Ok(())
    }

    fn forget_neighbour(&mut self, devices: Devices, mac: Mac, ip: IpAddr) -> Result<(), PlaneError> {
        if self.owners.get(&ip).is_some_and(|owner| *owner != mac) {
            return Ok(());
        }
        self.owners.remove(&ip);
        self.delete(neighbour(ip, mac, devices.bridge), || format!("forget who has {ip}"))
    }

    fn remove(&mut self, devices: Devices, mac: Mac) -> Result<(), PlaneError> {
        self.withdraw(devices, mac)?;
        self.clear_port(mac, None)?;
        let before = self.trace(mac).ips.into_iter().chain(self.ordered.get(&mac).map(ips).unwrap_or_default());
        for ip in before.collect::<BTreeSet<_>>() {
            self.forget_neighbour(devices, mac, ip)?;
        }
        self.ordered.remove(&mac);
        Ok(())
    }

    /// Adds before it deletes, so that at no time an end is left out that stays.
    fn ends(&mut self, devices: Devices, ends: &Ends) -> Result<(), PlaneError> {
        let found = self.link.dump(&all_entries());
        let found = found.map_err(|error| refused(error, || "read the forwarding entries".into()))?;
        let found: Vec<_> = found.into_iter().filter_map(Seen::read).collect();
        for (mac, wanted) in [(UNKNOWN, &ends.unknown), (BROADCAST, &ends.all)] {
            let its = found.iter().filter(|seen| seen.of_tunnel && seen.device == devices.tunnel && seen.mac == mac);
            let found: BTreeSet<IpAddr> = its.filter_map(|seen| seen.ip).collect();
            for end in wanted.difference(&found) {
                let message = entry(mac, devices.tunnel, OF_TUNNEL, Some(*end));
                self.add(message, APPEND, || format!("send broadcast to {end}"))?;
            }
            for end in found.difference(wanted) {
                let message = entry(mac, devices.tunnel, OF_TUNNEL, Some(*end));
                self.delete(message, || format!("stop sending broadcast to {end}"))?;
            }
        }
        Ok(())
    }

    fn trace(&self, mac: Mac) -> Trace {
        self.shared.lock().traces.get(&mac).cloned().unwrap_or_default()
    }

    fn add(&mut self, message: NeighbourMessage, flags: u16, doing: impl FnOnce() -> String) -> Result<(), PlaneError> {
        let done = self.link.change(RouteNetlinkMessage::NewNeighbour(message), flags);
        done.map_err(|error| self.lost(error, doing))
    }

    /// What is not there need not be deleted.
    fn delete(&mut self, message: NeighbourMessage, doing: impl FnOnce() -> String) -> Result<(), PlaneError> {
        let of_tunnel = message.header.flags.contains(NeighbourFlags::Own);
        match self.link.change(RouteNetlinkMessage::DelNeighbour(message), 0) {
            Err(error) if is_one_of(&error, &[Errno::ENOENT]) => Ok(()),
            Err(error) if !of_tunnel && is_one_of(&error, &[Errno::ENODEV, Errno::EOPNOTSUPP]) => Ok(()),
            done => done.map_err(|error| self.lost(error, doing)),
        }
    }

    fn lost(&self, error: io::Error, doing: impl FnOnce() -> String) -> PlaneError {
        if !devices::is_absent(&error) {
            return refused(error, doing);
        }
        let how = format!("it or {} is gone; make it again", self.config.bridge);
        PlaneError::Device { device: self.config.tunnel.clone(), how }
    }

    /// Whether all that an order changes is the tunnel's end.
    fn only_switches(&self, order: &Order) -> Option<(Mac, IpAddr)> {
        let Order::Set(wanted) = order else { return None };
        let before = self.ordered.get(&wanted.mac)?;
        match (&before.hop, &wanted.hop) {
            (Hop::Tunnel(from), Hop::Tunnel(to)) if from != to => {
                let same = (before.ip, before.ip6, before.relay) == (wanted.ip, wanted.ip6, wanted.relay);
                same.then_some((wanted.mac, *to))
            }
            _ => None,
        }
    }

    fn apply_rest(&mut self, devices: Devices, orders: &[&Order]) -> Result<(), PlaneError> {
        let mut elements = Elements::default();
        for order in orders {
            match order {
                Order::Ends(ends) => self.ends(devices, ends)?,
                Order::Set(wanted) => {
                    self.begin(devices, wanted)?;
                    elements.set(wanted.mac, wanted.relay);
                }
                Order::Remove(mac) => elements.remove(*mac),
            }
        }
        elements.apply(&self.config)?;
        for order in orders {
            match order {
                Order::Ends(_) => {}
                Order::Set(wanted) => {
                    self.finish(devices, wanted)?;
                    self.ordered.insert(wanted.mac, wanted.clone());
                }
                Order::Remove(mac) => self.remove(devices, *mac)?,
            }
        }
        Ok(())
    }
}

impl Plane for Hand {
    fn kind(&self) -> &'static str {
        "kernel"
    }

    fn prepare(&mut self) -> Result<(), PlaneError> {
        let (devices, _) = Devices::find(&mut self.link, &self.config)?;
        devices.set(&mut self.link, &self.config)?;
        if !self.pinned {
            devices.pin(&mut self.link, &self.config)?;
            self.pinned = true;
        }
        if rules::read(&self.config)?.is_none() {
            rules::make(&self.config)?;
            self.ordered.clear();
        }
        self.shared.lock().devices = Some(devices);
        Ok(())
    }

    fn apply(&mut self, orders: &[Order]) -> Result<(), PlaneError> {
        if orders.is_empty() {
            return Ok(());
        }
        let devices = self.devices()?;
        self.shared.lock().expect(orders);
        let mut rest = Vec::new();
        for order in orders {
            let Some((mac, end)) = self.only_switches(order) else {
                rest.push(order);
                continue;
            };
            self.switch(devices, mac, end)?;
            if let Some(before) = self.ordered.get_mut(&mac) {
                before.hop = Hop::Tunnel(end);
            }
        }
        if rest.is_empty() { Ok(()) } else { self.apply_rest(devices, &rest) }
    }
}

fn ips(entry: &Entry) -> BTreeSet<IpAddr> {
    entry.ip.map(IpAddr::from).into_iter().chain(entry.ip6.map(IpAddr::from)).collect()
}

fn is_one_of(error: &io::Error, codes: &[Errno]) -> bool {
    codes.iter().any(|code| error.raw_os_error() == Some(*code as i32))
}
