//! Claiming, moving and releasing addresses.

use super::{ROUTES_MAX, Refused, Table};
use crate::model::{Address, Change, Generation, Kind, Mac, Name, Placement, Presence, Route};

/// No address changes hands that often: a host that says so is wrong.
const GENERATION_HELD_MAX: Generation = Generation(1 << 52);

impl Table {
    /// A claim of what is free begins a generation above all that ended; one of what the host has already is no
    /// change but of the address's own particulars; every other one is refused.
    pub(super) fn claimed(
        &self,
        address: &Address,
        host: &Name,
        held: Option<Generation>,
        at_ms: u64,
    ) -> Result<Vec<Change>, Refused> {
        if self.known(host)?.kind == Kind::Gateway {
            return Err(Refused::Gateway(host.clone()));
        }
        self.check_ips(address)?;
        let Some(route) = self.routes.get(&address.mac) else {
            return self.claimed_free(address, host, held, at_ms);
        };
        let placement = &route.placement;
        let its_own = placement.host == *host && held.is_none_or(|held| held == placement.generation);
        if !its_own {
            return Err(self.fenced(route, held));
        }
        let now = Route { address: address.clone(), placement: placement.clone() };
        Ok(if now == *route { Vec::new() } else { vec![Change::Route(now)] })
    }

    fn claimed_free(
        &self,
        address: &Address,
        host: &Name,
        held: Option<Generation>,
        at_ms: u64,
    ) -> Result<Vec<Change>, Refused> {
        if self.routes.len() >= ROUTES_MAX {
            return Err(Refused::Full { what: "addresses", max: ROUTES_MAX });
        }
        let generation = match held {
            Some(held) if held <= self.floor || held > GENERATION_HELD_MAX => {
                return Err(Refused::Released { mac: address.mac, held });
            }
            Some(held) => held,
            // Not limited: whoever held the highest one and released it must not end all claims after that.
            None => self.floor.next(),
        };
        let placement =
            Placement { host: host.clone(), generation, via: None, since_ms: at_ms, revision: self.revision.next() };
        Ok(vec![Change::Route(Route { address: address.clone(), placement })])
    }

    /// The generation that ends must be the present one: of two who move at once, one comes too late. Who asks again
    /// because the answer was lost is told yes: a generation has one owner for ever, so that it cannot be somebody else's.
    ///
    /// That holds for the owner as well, which moves its address to itself when it cannot know whether it was moved away:
    /// it has the next generation then, or is fenced by whoever has it.
    pub(super) fn moved(
        &self,
        mac: Mac,
        from: Generation,
        to: &Name,
        drain: bool,
        at_ms: u64,
    ) -> Result<Vec<Change>, Refused> {
        let route = self.routes.get(&mac).ok_or(Refused::NoRoute(mac))?;
        let host = self.known(to)?;
        let placement = &route.placement;
        if placement.host == *to && placement.generation.0 == from.0.saturating_add(1) {
            return Ok(Vec::new());
        }
        if placement.generation != from {
            return Err(self.fenced(route, Some(from)));
        }
        if placement.host == *to {
            // Frames go where they went, by another if they did.
            let revision = self.revision.next();
            let placement = Placement { generation: from.next(), since_ms: at_ms, revision, ..placement.clone() };
            return Ok(vec![Change::Route(Route { address: route.address.clone(), placement })]);
        }
        if host.kind == Kind::Gateway {
            return Err(Refused::Gateway(to.clone()));
        }
        if host.presence == Presence::Lost {
            return Err(Refused::Lost(to.clone()));
        }
        let via = drain.then(|| placement.host.clone());
        let placement = Placement {
            host: to.clone(),
            generation: from.next(),
            via,
            since_ms: at_ms,
            revision: self.revision.next(),
        };
        Ok(vec![Change::Route(Route { address: route.address.clone(), placement })])
    }

    pub(super) fn settled(&self, mac: Mac, generation: Generation) -> Result<Vec<Change>, Refused> {
        let mut route = self.current(mac, generation)?.clone();
        let drained = route.placement.via.take();
        route.placement.revision = self.revision.next();
        Ok(if drained.is_some() { vec![Change::Route(route)] } else { Vec::new() })
    }

    pub(super) fn released(&self, mac: Mac, generation: Generation) -> Result<Vec<Change>, Refused> {
        self.current(mac, generation)?;
        let mut changes = vec![Change::NoRoute(mac)];
        if generation > self.floor {
            changes.push(Change::Floor(generation));
        }
        Ok(changes)
    }

    fn current(&self, mac: Mac, generation: Generation) -> Result<&Route, Refused> {
        let route = self.routes.get(&mac).ok_or(Refused::NoRoute(mac))?;
        if route.placement.generation != generation {
            return Err(self.fenced(route, Some(generation)));
        }
        Ok(route)
    }

    fn fenced(&self, route: &Route, held: Option<Generation>) -> Refused {
        Refused::Fenced {
            mac: route.address.mac,
            held,
            generation: route.placement.generation,
            owner: route.placement.host.clone(),
            name: route.address.name.clone(),
        }
    }

    fn check_ips(&self, address: &Address) -> Result<(), Refused> {
        for ip in address.ips() {
            if ip.is_multicast() || ip.is_unspecified() || ip.is_loopback() {
                return Err(Refused::NoHostAddress(ip));
            }
            let taken = self.ips.get(&ip).filter(|mac| **mac != address.mac).and_then(|mac| self.routes.get(mac));
            if let Some(other) = taken {
                return Err(Refused::Taken {
                    ip,
                    mac: other.address.mac,
                    owner: other.placement.host.clone(),
                    name: other.address.name.clone(),
                });
            }
        }
        Ok(())
    }
}
