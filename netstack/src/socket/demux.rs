//! Which socket a packet is for.

use alloc::{collections::VecDeque, vec::Vec};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Flow, Flows, Index, SocketId};

/// Fragmented packets whose socket is remembered: a few more than smoltcp reassembles at a time.
const FRAGMENTED_MAX: usize = 16;

/// What a socket is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Bind {
    pub(crate) port: u16,
    pub(crate) scope: Scope,
}

/// Which of the interface's addresses a socket is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// All of them: `[::]`.
    Any,
    /// The IPv4 one, broadcasts included: `0.0.0.0`.
    AnyIpv4,
    /// This one.
    One(IpAddr),
}

/// What the fragments of a packet have in common (RFC 791).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FragmentKey {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) ident: u16,
}

/// Where packets go.
#[derive(Debug)]
pub(crate) struct Demux {
    pub(crate) flows: Flows,
    pub(crate) listeners: Bound,
    pub(crate) udp: Bound,
    /// By identifier.
    pub(crate) echo: Bound,
    fragmented: VecDeque<(FragmentKey, SocketId)>,
    /// The flow that was found last: traffic comes in runs.
    last: Option<(Flow, Index)>,
}

/// Sockets by what they are bound to, in that order.
#[derive(Debug, Default)]
pub(crate) struct Bound(Vec<(Bind, Index)>);

impl Scope {
    /// The scope that a local address asks for.
    pub(crate) fn of(local: IpAddr) -> Self {
        match local {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Self::Any,
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Self::AnyIpv4,
            address => Self::One(address),
        }
    }

    /// The local address that asks for it.
    pub(crate) fn address(self) -> IpAddr {
        match self {
            Self::Any => Ipv6Addr::UNSPECIFIED.into(),
            Self::AnyIpv4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::One(address) => address,
        }
    }

    /// Whether packets of the family of `address` are within it.
    pub(crate) fn speaks(self, address: IpAddr) -> bool {
        self == Self::Any || self.address().is_ipv4() == address.is_ipv4()
    }

    fn overlaps(self, other: Self) -> bool {
        match (self, other) {
            (Self::One(a), Self::One(b)) => a == b,
            (Self::One(a), Self::AnyIpv4) | (Self::AnyIpv4, Self::One(a)) => a.is_ipv4(),
            _ => true,
        }
    }
}

impl Bound {
    pub(crate) fn insert(&mut self, bind: Bind, index: Index) {
        let place = self.0.partition_point(|(other, _)| *other < bind);
        self.0.insert(place, (bind, index));
    }

    pub(crate) fn remove(&mut self, bind: Bind) {
        if let Ok(place) = self.0.binary_search_by(|(other, _)| other.cmp(&bind)) {
            self.0.remove(place);
        }
    }

    /// Whether another socket has that port, on an address that `bind` covers.
    pub(crate) fn is_taken(&self, bind: Bind) -> bool {
        self.of_port(bind.port).iter().any(|(other, _)| other.scope.overlaps(bind.scope))
    }

    /// The socket bound most closely to a destination.
    pub(crate) fn find(&self, to: IpAddr, port: u16, to_group: bool) -> Option<Index> {
        let candidates = self.of_port(port);
        let at = |scope| candidates.iter().find(|(bind, _)| bind.scope == scope);
        let found =
            at(Scope::One(to)).or_else(|| at(Scope::AnyIpv4).filter(|_| to.is_ipv4())).or_else(|| at(Scope::Any));
        // A datagram for many also reaches a socket that is bound to one address of that family.
        let found = found.or_else(|| candidates.iter().find(|(bind, _)| to_group && bind.scope.speaks(to)));
        found.map(|(_, index)| *index)
    }

    /// The sockets of one port: at most as many as the interface has addresses.
    fn of_port(&self, port: u16) -> &[(Bind, Index)] {
        let start = self.0.partition_point(|(bind, _)| bind.port < port);
        let count = self.0[start..].iter().take_while(|(bind, _)| bind.port == port).count();
        &self.0[start..start + count]
    }
}

impl Demux {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            flows: Flows::new(seed),
            listeners: Bound::default(),
            udp: Bound::default(),
            echo: Bound::default(),
            fragmented: VecDeque::new(),
            last: None,
        }
    }

    /// The connection a segment belongs to.
    pub(crate) fn flow(&mut self, flow: Flow) -> Option<Index> {
        match self.last {
            Some((last, index)) if last == flow => Some(index),
            _ => {
                let index = self.flows.get(&flow)?;
                self.last = Some((flow, index));
                Some(index)
            }
        }
    }

    /// Forgets that packets of `flow` go to `index`, if they do.
    pub(crate) fn remove_flow(&mut self, flow: Flow, index: Index) {
        if self.flows.get(&flow) == Some(index) {
            self.flows.remove(&flow);
            self.last = None;
        }
    }

    /// Forgets which packets' first fragments have come.
    pub(crate) fn forget_fragments(&mut self) {
        self.fragmented.clear();
    }

    /// Remembers where the first fragment of a packet went; the others do not say.
    pub(crate) fn remember(&mut self, key: FragmentKey, socket: SocketId) {
        self.fragmented.retain(|(other, _)| *other != key);
        if self.fragmented.len() >= FRAGMENTED_MAX {
            self.fragmented.pop_front();
        }
        self.fragmented.push_back((key, socket));
    }

    /// Where the first fragment of that packet went.
    pub(crate) fn recall(&self, key: FragmentKey) -> Option<SocketId> {
        self.fragmented.iter().find(|(other, _)| *other == key).map(|(_, socket)| *socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(address: &str) -> Bind {
        let address: core::net::SocketAddr = address.parse().unwrap();
        Bind { port: address.port(), scope: Scope::of(address.ip()) }
    }

    fn table(entries: &[(&str, Index)]) -> Bound {
        let mut table = Bound::default();
        entries.iter().for_each(|(address, index)| table.insert(bind(address), *index));
        table
    }

    #[test]
    fn ports_are_taken_where_addresses_overlap() {
        let table = table(&[("10.0.0.2:53", 1), ("[fd00::2]:53", 2), ("0.0.0.0:54", 3)]);
        for taken in ["10.0.0.2:53", "0.0.0.0:53", "[::]:53", "[fd00::2]:53", "10.0.0.2:54", "[::]:54"] {
            assert!(table.is_taken(bind(taken)), "{taken}");
        }
        for free in ["[fe80::2]:53", "[fd00::2]:54", "10.0.0.2:55", "[::]:52"] {
            assert!(!table.is_taken(bind(free)), "{free}");
        }
    }

    #[test]
    fn the_closest_socket_gets_the_packet() {
        let mut table = table(&[("[::]:53", 1), ("10.0.0.2:54", 2), ("0.0.0.0:55", 3)]);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(table.find(ip("10.0.0.2"), 53, false), Some(1));
        assert_eq!(table.find(ip("fd00::2"), 53, false), Some(1));
        assert_eq!(table.find(ip("10.0.0.2"), 54, false), Some(2));
        assert_eq!(table.find(ip("10.0.0.255"), 54, true), Some(2));
        assert_eq!(table.find(ip("10.0.0.255"), 54, false), None);
        assert_eq!(table.find(ip("ff02::1"), 54, true), None);
        assert_eq!(table.find(ip("fd00::2"), 55, false), None);
        table.insert(bind("10.0.0.2:53"), 4);
        assert_eq!(table.find(ip("10.0.0.2"), 53, false), Some(4));
    }
}
