//! The interface's own addresses, and what others mean to it.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::IpCidr;

use crate::Config;

/// Which host or hosts a destination names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// This interface alone.
    Own,
    /// This interface among others: broadcast, or a multicast group it is in.
    Group,
    /// Somebody else.
    Other,
}

/// The interface's addresses and routes.
#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    config: Config,
    link_local: Option<Ipv6Addr>,
}

impl Addresses {
    pub(crate) fn new(config: &Config) -> Self {
        Self { config: config.clone(), link_local: config.link_local() }
    }

    pub(crate) fn mac(&self) -> [u8; 6] {
        self.config.mac
    }

    /// All own addresses.
    pub(crate) fn own(&self) -> impl Iterator<Item = IpAddr> {
        let ipv4 = self.config.ipv4.map(|own| own.address.into());
        let ipv6 = self.config.ipv6.map(|own| own.address.into());
        [ipv4, ipv6, self.link_local.map(IpAddr::V6)].into_iter().flatten()
    }

    /// The same with their prefixes, as smoltcp has them.
    pub(crate) fn cidrs(&self) -> impl Iterator<Item = IpCidr> {
        let ipv4 = self.config.ipv4.map(|own| IpCidr::new(own.address.into(), own.prefix));
        let ipv6 = self.config.ipv6.map(|own| IpCidr::new(own.address.into(), own.prefix));
        let link_local = self.link_local.map(|address| IpCidr::new(address.into(), 64));
        [ipv4, ipv6, link_local].into_iter().flatten()
    }

    /// The own address that stands where `old` stood, one of an interface that had `before`: of the same family, and
    /// link-local if that was. One that has no counterpart stays what it is.
    pub(crate) fn counterpart(&self, old: IpAddr, before: &Self) -> IpAddr {
        let new = match old {
            IpAddr::V4(_) => self.config.ipv4.map(|own| own.address.into()),
            IpAddr::V6(_) if before.link_local.map(IpAddr::V6) == Some(old) => self.link_local.map(IpAddr::V6),
            IpAddr::V6(_) => self.config.ipv6.map(|own| own.address.into()),
        };
        new.unwrap_or(old)
    }

    /// Whether the interface speaks the family of `address`.
    pub(crate) fn speaks(&self, address: IpAddr) -> bool {
        if address.is_ipv4() { self.config.ipv4.is_some() } else { self.config.ipv6.is_some() }
    }

    /// Whether `address` is one of the interface's own.
    pub(crate) fn owns(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.config.ipv4.is_some_and(|own| own.address == address),
            IpAddr::V6(address) => {
                self.config.ipv6.is_some_and(|own| own.address == address) || self.link_local == Some(address)
            }
        }
    }

    /// Whom a packet to `address` is for.
    pub(crate) fn target(&self, address: IpAddr) -> Target {
        if self.owns(address) {
            return Target::Own;
        }
        let group = self.speaks(address)
            && match address {
                IpAddr::V4(address) => self.is_broadcast(address) || address == Ipv4Addr::new(224, 0, 0, 1),
                IpAddr::V6(address) => self.is_own_group(address),
            };
        if group { Target::Group } else { Target::Other }
    }

    /// Whether a packet may come from `address`: one host, and not this one.
    pub(crate) fn is_peer(&self, address: IpAddr) -> bool {
        let one_host = match address {
            IpAddr::V4(v4) => {
                !(v4.octets()[0] == 0 || v4.is_loopback() || v4.octets()[0] >= 224 || self.is_broadcast(v4))
            }
            IpAddr::V6(v6) => {
                !(v6.is_unspecified() || v6.is_loopback() || v6.is_multicast() || v6.to_ipv4_mapped().is_some())
            }
        };
        one_host && !self.owns(address)
    }

    /// Whether `address` is all hosts of the network.
    pub(crate) fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        address.is_broadcast()
            || self.config.ipv4.is_some_and(|own| {
                let host_bits = u32::MAX.checked_shr(own.prefix.into()).unwrap_or(0);
                own.prefix < 31 && address.to_bits() == own.address.to_bits() | host_bits
            })
    }

    /// The neighbour to hand a packet for `to` to: `to` itself where it is on-link, else the gateway.
    pub(crate) fn next_hop(&self, to: IpAddr) -> Option<IpAddr> {
        match to {
            IpAddr::V4(address) => {
                let own = self.config.ipv4?;
                let network_bits = !u32::MAX.checked_shr(own.prefix.into()).unwrap_or(0);
                let on_link = (address.to_bits() ^ own.address.to_bits()) & network_bits == 0;
                if on_link { Some(to) } else { self.config.gateway4.map(IpAddr::V4) }
            }
            IpAddr::V6(address) => {
                let own = self.config.ipv6?;
                let network_bits = !u128::MAX.checked_shr(own.prefix.into()).unwrap_or(0);
                let on_link =
                    address.is_unicast_link_local() || (address.to_bits() ^ own.address.to_bits()) & network_bits == 0;
                if on_link { Some(to) } else { self.config.gateway6.map(IpAddr::V6) }
            }
        }
    }

    /// The own address to send to `to` from: of the same scope (RFC 6724, as far as three addresses need it).
    pub(crate) fn source(&self, to: IpAddr) -> Option<IpAddr> {
        match to {
            IpAddr::V4(_) => self.config.ipv4.map(|own| own.address.into()),
            IpAddr::V6(to) => {
                let own = self.config.ipv6?.address;
                let near = to.is_unicast_link_local() || (to.is_multicast() && to.octets()[1] & 0xf == 2);
                Some(if near { self.link_local.unwrap_or(own) } else { own }.into())
            }
        }
    }

    fn is_own_group(&self, address: Ipv6Addr) -> bool {
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let own = self.config.ipv6.map(|own| own.address);
        address == all_nodes || own.into_iter().chain(self.link_local).any(|own| solicited_node(own) == address)
    }
}

/// The multicast group neighbour solicitations for `address` go to (RFC 4291, section 2.7.1).
pub(crate) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cidr;

    fn addresses() -> Addresses {
        Addresses::new(&Config {
            ipv4: Some(Cidr { address: [10, 0, 0, 2].into(), prefix: 24 }),
            ipv6: Some(Cidr { address: "2001:db8::2".parse().unwrap(), prefix: 64 }),
            gateway4: Some([10, 0, 0, 1].into()),
            ..Config::new([2, 0, 0, 0, 0, 1])
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn destinations_are_told_apart() {
        let own = addresses();
        for text in ["10.0.0.2", "2001:db8::2", "fe80::ff:fe00:1"] {
            assert_eq!(own.target(ip(text)), Target::Own, "{text}");
        }
        for text in ["10.0.0.255", "255.255.255.255", "224.0.0.1", "ff02::1", "ff02::1:ff00:2", "ff02::1:ff00:1"] {
            assert_eq!(own.target(ip(text)), Target::Group, "{text}");
        }
        for text in ["10.0.0.3", "0.0.0.0", "127.0.0.1", "::1", "::", "ff02::1:ff00:3", "2001:db8::1:2"] {
            assert_eq!(own.target(ip(text)), Target::Other, "{text}");
        }
    }

    #[test]
    fn impossible_sources_are_no_peers() {
        let own = addresses();
        for text in
            ["10.0.0.2", "0.0.0.0", "10.0.0.255", "127.0.0.1", "224.0.0.1", "::", "::1", "ff02::1", "::ffff:1.2.3.4"]
        {
            assert!(!own.is_peer(ip(text)), "{text}");
        }
        for text in ["10.0.0.3", "8.8.8.8", "fe80::1", "2001:db8:1::1"] {
            assert!(own.is_peer(ip(text)), "{text}");
        }
    }

    #[test]
    fn routes_and_sources() {
        let own = addresses();
        assert_eq!(own.next_hop(ip("10.0.0.9")), Some(ip("10.0.0.9")));
        assert_eq!(own.next_hop(ip("8.8.8.8")), Some(ip("10.0.0.1")));
        assert_eq!(own.next_hop(ip("2001:db8:1::1")), None);
        assert_eq!(own.next_hop(ip("fe80::9")), Some(ip("fe80::9")));
        assert_eq!(own.source(ip("fd00::1")), Some(ip("2001:db8::2")));
        assert_eq!(own.source(ip("fe80::9")), Some(ip("fe80::ff:fe00:1")));
        assert_eq!(own.source(ip("ff02::1")), Some(ip("fe80::ff:fe00:1")));
    }
}
