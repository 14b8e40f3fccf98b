//! Connections by address and port.

use alloc::{vec, vec::Vec};
use core::net::{IpAddr, SocketAddr};

use super::Index;

/// Places of the smallest table.
const PLACES_MIN: usize = 16;

/// A connection as its packets name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
}

/// A hash table with open addressing. Its hash is seeded, so that peers cannot choose ports that collide.
#[derive(Debug)]
pub(crate) struct Flows {
    /// A power of two, at most half full.
    places: Vec<Option<(Flow, Index)>>,
    len: usize,
    seed: u64,
}

impl Flows {
    pub(crate) fn new(seed: u64) -> Self {
        Self { places: vec![None; PLACES_MIN], len: 0, seed }
    }

    pub(crate) fn get(&self, flow: &Flow) -> Option<Index> {
        self.places[self.find(flow)].map(|(_, index)| index)
    }

    pub(crate) fn insert(&mut self, flow: Flow, index: Index) {
        if 2 * (self.len + 1) > self.places.len() {
            let larger = vec![None; 2 * self.places.len()];
            for (flow, index) in core::mem::replace(&mut self.places, larger).into_iter().flatten() {
                let place = self.find(&flow);
                self.places[place] = Some((flow, index));
            }
        }
        let place = self.find(&flow);
        self.len += usize::from(self.places[place].is_none());
        self.places[place] = Some((flow, index));
    }

    pub(crate) fn remove(&mut self, flow: &Flow) {
        let mut hole = self.find(flow);
        if self.places[hole].take().is_none() {
            return;
        }
        self.len -= 1;
        // Those behind that were pushed past the hole move up, so that a search may stop at the first free place.
        let mask = self.places.len() - 1;
        let mut place = hole;
        loop {
            place = (place + 1) & mask;
            let Some((other, _)) = &self.places[place] else { return };
            let home = self.home(other);
            if place.wrapping_sub(home) & mask >= place.wrapping_sub(hole) & mask {
                self.places[hole] = self.places[place].take();
                hole = place;
            }
        }
    }

    /// Hashes anew.
    pub(crate) fn reseed(&mut self, seed: u64) {
        self.seed = seed;
        let empty = vec![None; self.places.len()];
        for (flow, index) in core::mem::replace(&mut self.places, empty).into_iter().flatten() {
            let place = self.find(&flow);
            self.places[place] = Some((flow, index));
        }
    }

    /// The place of `flow`, or the free one it would get.
    fn find(&self, flow: &Flow) -> usize {
        let mut place = self.home(flow);
        while self.places[place].is_some_and(|(other, _)| other != *flow) {
            place = (place + 1) & (self.places.len() - 1);
        }
        place
    }

    fn home(&self, flow: &Flow) -> usize {
        let mut hash = self.seed ^ u64::from(flow.local.port()) << 16 ^ u64::from(flow.peer.port());
        for ip in [flow.local.ip(), flow.peer.ip()] {
            let bits = match ip {
                IpAddr::V4(ip) => ip.to_bits().into(),
                IpAddr::V6(ip) => ip.to_bits(),
            };
            hash = mix(mix(hash ^ bits as u64) ^ (bits >> 64) as u64);
        }
        hash as usize & (self.places.len() - 1)
    }
}

fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ hash >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ hash >> 32
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map(seed: u64, steps in prop::collection::vec((0..60u16, prop::option::of(0..100u32)), 1..300)) {
            let (mut flows, mut model) = (Flows::new(seed), HashMap::new());
            let flow = |port| Flow { local: ([10, 0, 0, 1], 80).into(), peer: ([10, 0, 0, 2], port).into() };
            for (port, index) in steps {
                match index {
                    Some(index) => {
                        flows.insert(flow(port), index);
                        model.insert(port, index);
                    }
                    None => {
                        flows.remove(&flow(port));
                        model.remove(&port);
                    }
                }
                if index == Some(99) {
                    flows.reseed(seed ^ u64::from(port));
                }
                for port in 0..60 {
                    prop_assert_eq!(flows.get(&flow(port)), model.get(&port).copied());
                }
                prop_assert_eq!(flows.len, model.len());
            }
        }
    }
}
