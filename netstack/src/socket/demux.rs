//! Which socket a packet is for.

use alloc::collections::{BTreeMap, VecDeque};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Index, SocketId};

/// Fragmented packets whose socket is remembered: a few more than smoltcp reassembles at a time.
const FRAGMENTED_MAX: usize = 16;

/// A connection as its packets name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flow {
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
}

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
#[derive(Debug, Default)]
pub(crate) struct Demux {
    pub(crate) flows: BTreeMap<Flow, Index>,
    pub(crate) listeners: BTreeMap<Bind, Index>,
    pub(crate) udp: BTreeMap<Bind, Index>,
    pub(crate) echo: BTreeMap<u16, Index>,
    fragmented: VecDeque<(FragmentKey, SocketId)>,
    /// The flow that was found last: traffic comes in runs.
    last: Option<(Flow, Index)>,
}

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

/// Whether another socket has that port, on an address that `bind` covers.
pub(crate) fn is_taken(bound: &BTreeMap<Bind, Index>, bind: Bind) -> bool {
    let first = Bind { port: bind.port, scope: Scope::Any };
    bound
        .range(first..)
        .take_while(|(other, _)| other.port == bind.port)
        .any(|(other, _)| other.scope.overlaps(bind.scope))
}

/// The socket bound most closely to a destination.
pub(crate) fn bound(bound: &BTreeMap<Bind, Index>, to: IpAddr, port: u16, to_group: bool) -> Option<Index> {
    let at = |scope| bound.get(&Bind { port, scope }).copied();
    let any_ipv4 = || if to.is_ipv4() { at(Scope::AnyIpv4) } else { None };
    at(Scope::One(to)).or_else(any_ipv4).or_else(|| at(Scope::Any)).or_else(|| {
        // A datagram for many also reaches the socket that is bound to one address of that family.
        let first = Bind { port, scope: Scope::Any };
        let mut others = bound.range(first..).take_while(|(other, _)| other.port == port);
        if to_group { others.find(|(other, _)| other.scope.speaks(to)).map(|(_, index)| *index) } else { None }
    })
}

impl Demux {
    /// The connection a segment belongs to.
    pub(crate) fn flow(&mut self, flow: Flow) -> Option<Index> {
        match self.last {
            Some((last, index)) if last == flow => Some(index),
            _ => {
                let index = *self.flows.get(&flow)?;
                self.last = Some((flow, index));
                Some(index)
            }
        }
    }

    /// Forgets that packets of `flow` go to `index`, if they do.
    pub(crate) fn remove_flow(&mut self, flow: Flow, index: Index) {
        if self.flows.get(&flow) == Some(&index) {
            self.flows.remove(&flow);
            self.last = None;
        }
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
        let address: SocketAddr = address.parse().unwrap();
        Bind { port: address.port(), scope: Scope::of(address.ip()) }
    }

    #[test]
    fn ports_are_taken_where_addresses_overlap() {
        let table = BTreeMap::from([(bind("10.0.0.2:53"), 1), (bind("[fd00::2]:53"), 2), (bind("0.0.0.0:54"), 3)]);
        for taken in ["10.0.0.2:53", "0.0.0.0:53", "[::]:53", "[fd00::2]:53", "10.0.0.2:54", "[::]:54"] {
            assert!(is_taken(&table, bind(taken)), "{taken}");
        }
        for free in ["[fe80::2]:53", "[fd00::2]:54", "10.0.0.2:55", "[::]:52"] {
            assert!(!is_taken(&table, bind(free)), "{free}");
        }
    }

    #[test]
    fn the_closest_socket_gets_the_packet() {
        let mut table = BTreeMap::from([(bind("[::]:53"), 1), (bind("10.0.0.2:54"), 2), (bind("0.0.0.0:55"), 3)]);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(bound(&table, ip("10.0.0.2"), 53, false), Some(1));
        assert_eq!(bound(&table, ip("fd00::2"), 53, false), Some(1));
        assert_eq!(bound(&table, ip("10.0.0.2"), 54, false), Some(2));
        assert_eq!(bound(&table, ip("10.0.0.255"), 54, true), Some(2));
        assert_eq!(bound(&table, ip("10.0.0.255"), 54, false), None);
        assert_eq!(bound(&table, ip("ff02::1"), 54, true), None);
        assert_eq!(bound(&table, ip("fd00::2"), 55, false), None);
        table.insert(bind("10.0.0.2:53"), 4);
        assert_eq!(bound(&table, ip("10.0.0.2"), 53, false), Some(4));
    }
}
