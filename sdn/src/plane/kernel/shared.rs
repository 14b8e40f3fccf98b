//! What hand and eye know of each other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::devices::Devices;
use super::message::Seen;
use crate::model::Mac;
use crate::plane::{Hop, Order};

/// Clones are the same.
#[derive(Clone)]
pub(super) struct Shared {
    known: Arc<Mutex<Known>>,
    /// What notifications of the hand's changes carry as their sender, where the kernel names one.
    pub(super) port: u32,
}

pub(super) struct Known {
    /// What forwarding entries the hand was told to have: notifications of them name no sender, and are told apart by
    /// what they say. Of an address that is no more, none, until the plane is read.
    pub(super) forwards: HashMap<Mac, Option<Forward>>,
    /// What was last found of each address: who replaces or removes an entry removes these as well.
    pub(super) traces: BTreeMap<Mac, Trace>,
    /// The devices that were prepared.
    pub(super) devices: Option<Devices>,
}

/// The forwarding entries of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Forward {
    /// The tunnel's end, and then the bridge's entry is on the tunnel.
    pub(super) end: Option<IpAddr>,
    /// The port that the bridge's entry is on instead.
    pub(super) port: Option<u32>,
}

/// Parts of an address's entry that are not known by the address itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trace {
    /// Permanent neighbours on the bridge.
    pub(super) ips: BTreeSet<IpAddr>,
    /// The port other than the tunnel that the bridge sends it to.
    pub(super) port: Option<u32>,
}

impl Shared {
    pub(super) fn new(port: u32) -> Self {
        let known = Known { forwards: HashMap::new(), traces: BTreeMap::new(), devices: None };
        Self { known: Arc::new(Mutex::new(known)), port }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Notes what is about to be ordered, before the kernel can tell of it.
    pub(super) fn expect(&mut self, orders: &[Order]) {
        for order in orders {
            match order {
                Order::Ends(_) => {}
                Order::Set(entry) => {
                    let end = if let Hop::Tunnel(end) = entry.hop { Some(end) } else { None };
                    self.forwards.insert(entry.mac, Some(Forward { end, port: None }));
                }
                Order::Remove(mac) => drop(self.forwards.insert(*mac, None)),
            }
        }
    }

    /// The same of the port, when its number is known.
    pub(super) fn expect_at(&mut self, mac: Mac, port: u32) {
        self.forwards.insert(mac, Some(Forward { end: None, port: Some(port) }));
    }

    /// Whether an entry that was made, or is gone, is as was ordered.
    pub(super) fn is_ordered(&self, devices: Devices, seen: &Seen, gone: bool) -> bool {
        let Some(forward) = self.forwards.get(&seen.mac) else { return false };
        let forward = forward.unwrap_or_default();
        let is_as_wanted = match (seen.of_tunnel, seen.device == devices.tunnel) {
            (true, _) if gone => forward.end.is_none(),
            (true, _) => seen.ip.is_some() && seen.ip == forward.end,
            (false, true) => forward.end.is_some() != gone,
            (false, false) => (forward.port == Some(seen.device)) != gone,
        };
        is_as_wanted && (gone || seen.of_tunnel || seen.sticky)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::Entry;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const DEVICES: Devices = Devices { tunnel: 7, bridge: 8 };

    fn seen(of_tunnel: bool, device: u32, ip: Option<IpAddr>) -> Seen {
        Seen { device, mac: MAC, ip, permanent: false, fixed: true, sticky: true, of_tunnel, vlan: false }
    }

    #[test]
    fn only_what_was_ordered_is_ours() {
        let shared = Shared::new(1);
        let mut known = shared.lock();
        let [here, there] = [1, 2].map(|last| IpAddr::from([172, 30, 0, last]));
        let entry = |hop| Order::Set(Entry { mac: MAC, ip: None, ip6: None, hop, relay: false });
        let ours = |known: &Known, seen: &Seen| [false, true].map(|gone| known.is_ordered(DEVICES, seen, gone));
        let tunnel = seen(true, 7, Some(here));
        assert_eq!(ours(&known, &tunnel), [false, false], "nothing was ordered of it");

        known.expect(&[entry(Hop::Tunnel(here))]);
        assert_eq!(ours(&known, &tunnel), [true, false]);
        assert_eq!(ours(&known, &seen(true, 7, Some(there))), [false, false]);
        assert_eq!(ours(&known, &seen(false, 7, None)), [true, false]);
        assert_eq!(ours(&known, &Seen { sticky: false, ..seen(false, 7, None) }), [false, false]);
        assert_eq!(ours(&known, &seen(false, 9, None)), [false, true], "it has left another port");

        known.expect(&[entry(Hop::Here(Some("tap0".into())))]);
        known.expect_at(MAC, 9);
        assert_eq!(ours(&known, &seen(false, 9, None)), [true, false]);
        assert_eq!(ours(&known, &tunnel), [false, true]);
        assert_eq!(ours(&known, &seen(false, 7, None)), [false, true]);

        known.expect(&[Order::Remove(MAC)]);
        for seen in [tunnel, seen(false, 7, None), seen(false, 9, None)] {
            assert_eq!(ours(&known, &seen), [false, true]);
        }
    }
}
