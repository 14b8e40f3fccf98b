//! What may happen to hosts and addresses. Pure: time and everything else is an argument.

mod refused;
mod route;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

pub use refused::Refused;

use crate::model::{
    Address, Change, Front, FrontKey, Generation, Host, Kind, Mac, Name, Presence, Revision, Route, Update,
};

/// Most addresses of a table.
pub const ROUTES_MAX: usize = 100_000;
/// Most nodes.
pub const HOSTS_MAX: usize = 1000;
/// Most fronts.
pub const FRONTS_MAX: usize = 10_000;

/// Who is there and who owns what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    revision: Revision,
    floor: Generation,
    hosts: BTreeMap<Name, Host>,
    routes: BTreeMap<Mac, Route>,
    /// Whose an IP address is; follows `routes`.
    ips: BTreeMap<IpAddr, Mac>,
    fronts: BTreeMap<FrontKey, Front>,
}

/// What happens. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A node is there, or has another address.
    Joined {
        /// Which.
        host: Name,
        /// What it is for.
        kind: Kind,
        /// Its end of the tunnels.
        vtep: IpAddr,
        /// Where it takes migrations, if it does.
        migrate: Option<SocketAddr>,
    },
    /// A node goes. Refused while it owns addresses.
    Left {
        /// Which.
        host: Name,
    },
    /// A node has been silent for too long.
    Lost {
        /// Which.
        host: Name,
    },
    /// A lost node is heard again.
    Heard {
        /// Which.
        host: Name,
    },
    /// A host says that it has an address.
    Claimed {
        /// Which.
        address: Address,
        /// Who.
        host: Name,
        /// The generation it has it since, if it had it before: after a restart, or because the table was lost.
        held: Option<Generation>,
        /// When.
        at_ms: u64,
    },
    /// An address goes to another host; or its owner begins a new generation, which fences all who would move it from
    /// the one before.
    Moved {
        /// Which.
        mac: Mac,
        /// The generation that ends. The new one is the next.
        from: Generation,
        /// To whom.
        to: Name,
        /// Frames go on to the owner before, which passes them on, until [`Event::Settled`].
        drain: bool,
        /// When.
        at_ms: u64,
    },
    /// The owner before need pass nothing on any more.
    Settled {
        /// Which.
        mac: Mac,
        /// Of which generation.
        generation: Generation,
    },
    /// An address is given up.
    Released {
        /// Which.
        mac: Mac,
        /// Of which generation.
        generation: Generation,
    },
    /// A front is opened, or leads elsewhere.
    Opened {
        /// Which.
        front: Front,
    },
    /// A front is closed.
    Closed {
        /// Which.
        front: FrontKey,
    },
}

/// What follows from an event, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Make this durable; then answer, and tell those who follow.
    Keep(Update),
    /// Have the planes follow in what was touched: the orders for a node's are in [`Table::orders`].
    Program(Touched),
}

/// What of a plane may have to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// These addresses.
    pub macs: Vec<Mac>,
    /// The ends of the tunnels.
    pub ends: bool,
    /// Everything: a node has moved.
    pub all: bool,
}

impl Table {
    /// The state, one event further. What is refused changes nothing.
    pub fn step(&mut self, event: &Event) -> Result<Vec<Command>, Refused> {
        let changes = self.changes(event)?;
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let update = Update { revision: self.revision.next(), changes };
        let touched = self.apply(&update);
        let mut commands = vec![Command::Keep(update)];
        if touched != Touched::default() {
            commands.push(Command::Program(touched));
        }
        Ok(commands)
    }

    /// What an event changes; nothing if it is so already.
    fn changes(&self, event: &Event) -> Result<Vec<Change>, Refused> {
        match event {
            Event::Joined { host, kind, vtep, migrate } => self.joined(host, *kind, *vtep, *migrate),
            Event::Left { host } => self.left(host),
            Event::Lost { host } => self.presence(host, Presence::Lost),
            Event::Heard { host } => self.presence(host, Presence::Live),
            Event::Claimed { address, host, held, at_ms } => self.claimed(address, host, *held, *at_ms),
            Event::Moved { mac, from, to, drain, at_ms } => self.moved(*mac, *from, to, *drain, *at_ms),
            Event::Settled { mac, generation } => self.settled(*mac, *generation),
            Event::Released { mac, generation } => self.released(*mac, *generation),
            Event::Opened { front } => self.opened(front),
            Event::Closed { front } => match self.fronts.contains_key(front) {
                true => Ok(vec![Change::NoFront(*front)]),
                false => Err(Refused::NoFront(*front)),
            },
        }
    }

    /// Takes over what a step has changed, here or elsewhere; what the planes have to follow.
    pub fn apply(&mut self, update: &Update) -> Touched {
        self.revision = update.revision;
        let mut touched = Touched::default();
        for change in &update.changes {
            self.touch(change, &mut touched);
            self.put(change.clone());
        }
        touched
    }

    /// What a change touches, before it is made.
    fn touch(&self, change: &Change, touched: &mut Touched) {
        match change {
            Change::Host(host) => {
                let before = self.hosts.get(&host.name);
                touched.ends |= before.is_none_or(|before| (before.vtep, before.kind) != (host.vtep, host.kind));
                touched.all |= before.is_some_and(|before| before.vtep != host.vtep);
            }
            Change::NoHost(_) => touched.ends = true,
            // A generation that its owner begins leaves frames where they go.
            Change::Route(route) => {
                if self.routes.get(&route.address.mac).map(way) != Some(way(route)) {
                    touched.macs.push(route.address.mac);
                }
            }
            Change::NoRoute(mac) => touched.macs.push(*mac),
            Change::Front(_) | Change::NoFront(_) | Change::Floor(_) => {}
        }
    }

    /// Takes over one row.
    pub fn put(&mut self, change: Change) {
        match change {
            Change::Host(host) => drop(self.hosts.insert(host.name.clone(), host)),
            Change::NoHost(name) => drop(self.hosts.remove(&name)),
            Change::Route(route) => {
                self.forget(route.address.mac);
                self.ips.extend(route.address.ips().map(|ip| (ip, route.address.mac)));
                self.routes.insert(route.address.mac, route);
            }
            Change::NoRoute(mac) => self.forget(mac),
            Change::Front(front) => drop(self.fronts.insert(front.key(), front)),
            Change::NoFront(key) => drop(self.fronts.remove(&key)),
            Change::Floor(floor) => self.floor = floor,
        }
    }

    fn forget(&mut self, mac: Mac) {
        if let Some(route) = self.routes.remove(&mac) {
            for ip in route.address.ips() {
                self.ips.remove(&ip);
            }
        }
    }

    /// The table of that revision, with those rows.
    pub fn from_rows(revision: Revision, rows: impl IntoIterator<Item = Change>) -> Self {
        let mut table = Self { revision, ..Self::default() };
        rows.into_iter().for_each(|row| table.put(row));
        table
    }

    /// All rows, as [`Self::from_rows`] takes them.
    pub fn rows(&self) -> impl Iterator<Item = Change> {
        let hosts = self.hosts.values().cloned().map(Change::Host);
        let routes = self.routes.values().cloned().map(Change::Route);
        let fronts = self.fronts.values().cloned().map(Change::Front);
        [Change::Floor(self.floor)].into_iter().chain(hosts).chain(routes).chain(fronts)
    }

    /// How often it has changed.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// All nodes, by name.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.hosts.values()
    }

    /// A node.
    pub fn host(&self, name: &Name) -> Option<&Host> {
        self.hosts.get(name)
    }

    /// All addresses, by MAC.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.values()
    }

    /// How many addresses there are.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there is no address.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// An address and its owner.
    pub fn route(&self, mac: Mac) -> Option<&Route> {
        self.routes.get(&mac)
    }

    /// The same by IP address.
    pub fn route_of_ip(&self, ip: IpAddr) -> Option<&Route> {
        self.routes.get(self.ips.get(&ip)?)
    }

    /// All fronts.
    pub fn fronts(&self) -> impl Iterator<Item = &Front> {
        self.fronts.values()
    }

    /// What has been claimed anew never has a generation as low as this.
    pub fn floor(&self) -> Generation {
        self.floor
    }

    fn joined(
        &self,
        name: &Name,
        kind: Kind,
        vtep: IpAddr,
        migrate: Option<SocketAddr>,
    ) -> Result<Vec<Change>, Refused> {
        let no_machine = |ip: IpAddr| ip.is_multicast() || ip.is_unspecified() || ip.is_loopback();
        if no_machine(vtep) {
            return Err(Refused::NoHostAddress(vtep));
        }
        if let Some(migrate) = migrate.filter(|migrate| no_machine(migrate.ip()) || migrate.port() == 0) {
            return Err(Refused::MigrateAddress(migrate));
        }
        if let Some(other) = self.hosts.values().find(|host| host.vtep == vtep && host.name != *name) {
            return Err(Refused::Vtep { vtep, host: other.name.clone() });
        }
        if !self.hosts.contains_key(name) && self.hosts.len() >= HOSTS_MAX {
            return Err(Refused::Full { what: "nodes", max: HOSTS_MAX });
        }
        if self.hosts.get(name).is_some_and(|host| host.kind != kind) {
            self.owns_nothing(name)?;
        }
        let host = Host { name: name.clone(), kind, vtep, migrate, presence: Presence::Live };
        Ok(if self.hosts.get(name) == Some(&host) { Vec::new() } else { vec![Change::Host(host)] })
    }

    fn left(&self, name: &Name) -> Result<Vec<Change>, Refused> {
        self.known(name)?;
        self.owns_nothing(name)?;
        // Whom it passed frames on for goes there directly.
        let through = |route: &&Route| route.placement.via.as_ref() == Some(name);
        let settled = self.routes.values().filter(through).map(|route| {
            let mut route = route.clone();
            route.placement.via = None;
            Change::Route(route)
        });
        Ok(settled.chain([Change::NoHost(name.clone())]).collect())
    }

    fn presence(&self, name: &Name, presence: Presence) -> Result<Vec<Change>, Refused> {
        let host = self.known(name)?;
        let same = host.presence == presence;
        Ok(if same { Vec::new() } else { vec![Change::Host(Host { presence, ..host.clone() })] })
    }

    fn opened(&self, front: &Front) -> Result<Vec<Change>, Refused> {
        if front.listen.is_ipv4() != front.to.is_ipv4() {
            return Err(Refused::Families(front.clone()));
        }
        if front.listen.port() == 0 || front.to.port() == 0 || front.listen.ip().is_unspecified() {
            return Err(Refused::FrontAddress(front.clone()));
        }
        match self.fronts.get(&front.key()) {
            Some(same) if same == front => Ok(Vec::new()),
            None if self.fronts.len() >= FRONTS_MAX => Err(Refused::Full { what: "fronts", max: FRONTS_MAX }),
            _ => Ok(vec![Change::Front(front.clone())]),
        }
    }

    fn owns_nothing(&self, name: &Name) -> Result<(), Refused> {
        match self.routes.values().filter(|route| route.placement.host == *name).count() {
            0 => Ok(()),
            addresses => Err(Refused::Owns { host: name.clone(), addresses }),
        }
    }

    fn known(&self, name: &Name) -> Result<&Host, Refused> {
        self.hosts.get(name).ok_or_else(|| Refused::NoHost(name.clone()))
    }
}

/// All of a route that says where frames go.
fn way(route: &Route) -> (&Address, &Name, Option<&Name>) {
    (&route.address, &route.placement.host, route.placement.via.as_ref())
}
