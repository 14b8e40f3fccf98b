//! Who has which name, address and MAC on this host. Pure: it knows what it is told.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use roam_netstack::{Cidr, MTU_BYTES_MAX};

use super::Pool;
use super::record::GuestId;
use crate::api::{CidrText, ErrorCode, GuestName, GuestSpec, MTU_BYTES_DEFAULT, MacText, NetworkView, derived_mac};

/// Why a guest cannot be where it is asked to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// The name is another guest's.
    #[error("there is a guest `{0}` already; delete it first (`roam rm {0}`), or choose another name")]
    Name(GuestName),
    /// The address is another guest's.
    #[error("{address} is the address of guest `{guest}`; choose another, or leave it out to have one allocated")]
    Ip {
        /// The address.
        address: IpAddr,
        /// Who has it.
        guest: GuestName,
    },
    /// The address is the default gateway.
    #[error("{0} is the gateway's address; choose another, or leave it out to have one allocated")]
    Gateway(IpAddr),
    /// The MAC is another guest's.
    #[error("{mac} is the MAC of guest `{guest}`; choose another, or leave it out to have one derived")]
    Mac {
        /// The MAC.
        mac: MacText,
        /// Who has it.
        guest: GuestName,
    },
    /// Larger frames than the network carries.
    #[error(
        "an MTU of {asked} bytes; this host's network carries {most}: choose less, or leave it out, or have the tunnel's \
         devices carry more"
    )]
    Mtu {
        /// The guest's.
        asked: u16,
        /// The network's.
        most: u16,
    },
    /// Nothing to allocate from.
    #[error("this host has no pool of addresses; say which one the guest is to have (`--ip 10.90.0.10/24`)")]
    NoPool,
    /// All are taken.
    #[error("all addresses of the pool {0} are taken")]
    Exhausted(String),
}

impl AddressError {
    pub(super) fn code(&self) -> ErrorCode {
        match self {
            Self::NoPool | Self::Mtu { .. } => ErrorCode::Invalid,
            _ => ErrorCode::Conflict,
        }
    }
}

/// IP MTUs of a host's guests, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mtu {
    /// Of those that are not given another.
    pub(super) usual: u16,
    /// What their network carries.
    pub(super) most: u16,
}

impl Mtu {
    /// `asked` is the host's own wish, `tunnel` what the tunnels to other hosts carry, if it has any.
    pub(super) fn new(asked: Option<u16>, tunnel: Option<u32>) -> Self {
        let most =
            tunnel.map_or(MTU_BYTES_MAX, |carries| u16::try_from(carries).unwrap_or(u16::MAX).min(MTU_BYTES_MAX));
        Self { usual: asked.unwrap_or(MTU_BYTES_DEFAULT).min(most), most }
    }

    /// A guest's.
    fn of(self, asked: Option<u16>) -> Result<u16, AddressError> {
        match asked.unwrap_or(self.usual) {
            asked if asked > self.most => Err(AddressError::Mtu { asked, most: self.most }),
            mtu => Ok(mtu),
        }
    }
}

/// A guest that is here, or about to be.
pub(super) struct Neighbour<'a> {
    pub(super) name: &'a GuestName,
    pub(super) network: &'a NetworkView,
}

/// Finds a place for a guest among its neighbours.
pub(super) fn place(
    spec: &GuestSpec,
    id: GuestId,
    pools: (Option<Pool<Ipv4Addr>>, Option<Pool<Ipv6Addr>>),
    mtu: Mtu,
    neighbours: &[Neighbour<'_>],
) -> Result<NetworkView, AddressError> {
    if neighbours.iter().any(|neighbour| *neighbour.name == spec.name) {
        return Err(AddressError::Name(spec.name.clone()));
    }
    let allocate = spec.ip.is_none() && spec.ip6.is_none();
    if allocate && pools.0.is_none() && pools.1.is_none() {
        return Err(AddressError::NoPool);
    }
    let (ip, gateway) = family(allocate, spec.ip, spec.gateway, pools.0, neighbours, |network| network.ip)?;
    let (ip6, gateway6) = family(allocate, spec.ip6, spec.gateway6, pools.1, neighbours, |network| network.ip6)?;
    let (mac, mtu) = (mac(spec.mac, ip, ip6, neighbours)?, mtu.of(spec.mtu)?);
    Ok(NetworkView { ip, ip6, mac, gateway, gateway6, tap: id.tap(), mtu })
}

/// Address and gateway of one family.
type Place<A> = (Option<CidrText<A>>, Option<A>);

fn family<A: Address>(
    allocate: bool,
    asked: Option<CidrText<A>>,
    gateway: Option<A>,
    pool: Option<Pool<A>>,
    neighbours: &[Neighbour<'_>],
    of: impl Fn(&NetworkView) -> Option<CidrText<A>>,
) -> Result<Place<A>, AddressError> {
    let own_gateway = pool.and_then(|pool| pool.gateway);
    if let Some(asked) = asked {
        let address = asked.0.address;
        let taken = |neighbour: &&Neighbour<'_>| of(neighbour.network).is_some_and(|it| it.0.address == address);
        if let Some(Neighbour { name, .. }) = neighbours.iter().find(taken) {
            return Err(AddressError::Ip { address: address.into(), guest: (*name).clone() });
        }
        if own_gateway == Some(address) {
            return Err(AddressError::Gateway(address.into()));
        }
        // The host's gateway is of use only to who is in its network.
        let reaches = |gateway: &A| contains(Cidr { address, prefix: asked.0.prefix }, *gateway);
        return Ok((Some(asked), gateway.or(own_gateway.filter(reaches))));
    }
    let Some(pool) = pool.filter(|_| allocate) else { return Ok((None, gateway)) };
    let taken = neighbours.iter().filter_map(|neighbour| of(neighbour.network)).map(|it| it.0.address.number());
    let gateways = [gateway, pool.gateway].into_iter().flatten().map(Address::number);
    let address = free(&pool, &taken.chain(gateways).collect());
    let address = address.ok_or_else(|| AddressError::Exhausted(CidrText(pool.range).to_string()))?;
    let ip = CidrText(Cidr { address: A::from_number(address), prefix: pool.prefix });
    Ok((Some(ip), gateway.or(pool.gateway)))
}

/// The first address of a pool that may be a host's and is not taken.
fn free<A: Address>(pool: &Pool<A>, taken: &BTreeSet<u128>) -> Option<u128> {
    let range_bits = host_bits::<A>(pool.range.prefix);
    let first = pool.range.address.number() & !range_bits;
    let network_bits = host_bits::<A>(pool.prefix);
    // The network's own address (or subnet router's, RFC 4291) and its broadcast address are no host's, but where
    // there are two addresses at most.
    let of_network = |address: u128| {
        let host = address & network_bits;
        network_bits > 1 && (host == 0 || (A::HAS_BROADCAST && host == network_bits))
    };
    // A part of a network has no such addresses of its own, but people and tools take its ends for them.
    let is_end = |address: u128| range_bits > 1 && [0, range_bits].contains(&(address & range_bits));
    let reserved = |address: u128| of_network(address) || is_end(address);
    let mut address = first;
    loop {
        if !reserved(address) && !taken.contains(&address) {
            return Some(address);
        }
        address = address.checked_add(1).filter(|next| next & !range_bits == first)?;
    }
}

fn mac(
    asked: Option<MacText>,
    ip: Option<CidrText<Ipv4Addr>>,
    ip6: Option<CidrText<Ipv6Addr>>,
    neighbours: &[Neighbour<'_>],
) -> Result<MacText, AddressError> {
    let owner = |mac| neighbours.iter().find(|neighbour| neighbour.network.mac == mac);
    if let Some(mac) = asked {
        return match owner(mac) {
            Some(Neighbour { name, .. }) => Err(AddressError::Mac { mac, guest: (*name).clone() }),
            None => Ok(mac),
        };
    }
    let MacText(mut mac) = derived_mac(ip, ip6);
    while owner(MacText(mac)).is_some() {
        // The last five bytes count on; the first says that it is nobody's by assignment.
        let [_, rest @ ..] = &mut mac;
        rest.iter_mut().rev().any(|byte| {
            *byte = byte.wrapping_add(1);
            *byte != 0
        });
    }
    Ok(MacText(mac))
}

/// An address as a number.
trait Address: crate::api::AddressFamily + Copy + PartialEq + Into<IpAddr> + Display {
    const HAS_BROADCAST: bool;
    fn number(self) -> u128;
    fn from_number(number: u128) -> Self;
}

impl Address for Ipv4Addr {
    const HAS_BROADCAST: bool = true;

    fn number(self) -> u128 {
        self.to_bits().into()
    }

    fn from_number(number: u128) -> Self {
        Self::from_bits(number as u32)
    }
}

impl Address for Ipv6Addr {
    const HAS_BROADCAST: bool = false;

    fn number(self) -> u128 {
        self.to_bits()
    }

    fn from_number(number: u128) -> Self {
        Self::from_bits(number)
    }
}

/// Ones where a prefix of that length leaves the address to the host.
fn host_bits<A: Address>(prefix: u8) -> u128 {
    let free = u32::from(A::BITS.saturating_sub(prefix));
    1u128.checked_shl(free).map_or(u128::MAX, |next| next - 1)
}

fn contains<A: Address>(network: Cidr<A>, address: A) -> bool {
    let bits = host_bits::<A>(network.prefix);
    network.address.number() & !bits == address.number() & !bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ModuleHash;
    use proptest::prelude::*;

    fn spec(name: &str) -> GuestSpec {
        GuestSpec::new(name.parse().unwrap(), ModuleHash::of(b""))
    }

    fn pool4(range: &str, prefix: u8, gateway: Option<Ipv4Addr>) -> Pool<Ipv4Addr> {
        Pool { range: range.parse::<CidrText<_>>().unwrap().0, prefix, gateway }
    }

    type Pools = (Option<Pool<Ipv4Addr>>, Option<Pool<Ipv6Addr>>);

    /// Places them one after the other.
    fn place_all(specs: &[GuestSpec], pools: Pools) -> Vec<Result<NetworkView, AddressError>> {
        let mut placed: Vec<(GuestName, NetworkView)> = Vec::new();
        let mut results = Vec::new();
        for (number, spec) in specs.iter().enumerate() {
            let neighbours: Vec<_> = placed.iter().map(|(name, network)| Neighbour { name, network }).collect();
            let result = place(spec, GuestId::new((number as u64) << 16), pools, Mtu::new(None, None), &neighbours);
            placed.extend(result.iter().map(|network| (spec.name.clone(), network.clone())));
            results.push(result);
        }
        results
    }

    #[test]
    fn allocation_skips_what_no_host_may_have() {
        let pool = pool4("10.90.0.0/30", 30, Some(Ipv4Addr::new(10, 90, 0, 1)));
        let results = place_all(&[spec("a"), spec("b")], (Some(pool), None));
        let first = results[0].as_ref().unwrap();
        assert_eq!((first.ip, first.gateway), (Some("10.90.0.2/30".parse().unwrap()), pool.gateway));
        assert_eq!(results[1], Err(AddressError::Exhausted("10.90.0.0/30".into())));
    }

    #[test]
    fn allocation_leaves_out_the_ends_of_a_part() {
        let part = pool4("10.90.1.0/24", 16, None);
        let part6 =
            Pool { range: Cidr { address: "fd90::1:0".parse().unwrap(), prefix: 112 }, prefix: 64, gateway: None };
        let results = place_all(&[spec("a")], (Some(part), Some(part6)));
        let first = results[0].as_ref().unwrap();
        assert_eq!(first.ip, Some("10.90.1.1/16".parse().unwrap()));
        assert_eq!(first.ip6, Some("fd90::1:1/64".parse().unwrap()));
        // Of four there are two; of two or one, all.
        for (range, expected) in [("10.90.1.4/30", &[5, 6][..]), ("10.90.1.4/31", &[4, 5]), ("10.90.1.4/32", &[4])] {
            let specs: Vec<_> = ["a", "b", "c"].map(spec).into_iter().take(expected.len() + 1).collect();
            let mut results = place_all(&specs, (Some(pool4(range, 16, None)), None));
            assert_eq!(results.pop().unwrap(), Err(AddressError::Exhausted(range.into())));
            let last = |result: &Result<NetworkView, _>| result.as_ref().unwrap().ip.unwrap().0.address.octets()[3];
            assert_eq!(results.iter().map(last).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn frames_are_no_larger_than_tunnels_carry() {
        for (host, tunnel, guest, expected) in [
            (None, None, None, Ok(1500)),
            (None, Some(1450), None, Ok(1450)),
            (None, Some(8950), None, Ok(1500)),
            (None, Some(65_535), Some(9216), Ok(9216)),
            (Some(9000), None, None, Ok(9000)),
            (Some(9000), Some(8950), None, Ok(8950)),
            (None, Some(1450), Some(1500), Err(AddressError::Mtu { asked: 1500, most: 1450 })),
            (None, None, Some(9216), Ok(9216)),
            (Some(1400), None, Some(1500), Ok(1500)),
        ] {
            let spec = GuestSpec { mtu: guest, ip: Some("10.90.0.10/24".parse().unwrap()), ..spec("a") };
            let placed = place(&spec, GuestId::new(1), (None, None), Mtu::new(host, tunnel), &[]);
            assert_eq!(placed.map(|network| network.mtu), expected, "{host:?} {tunnel:?} {guest:?}");
        }
    }

    #[test]
    fn conflicts_name_who_has_it() {
        let mut first = spec("a");
        first.ip = Some("10.90.0.10/24".parse().unwrap());
        first.mac = Some(MacText([2, 0, 0, 0, 0, 1]));
        let same_ip = GuestSpec { name: "b".parse().unwrap(), mac: None, ..first.clone() };
        let same_mac = GuestSpec { ip: Some("10.90.0.11/24".parse().unwrap()), ..same_ip.clone() };
        let same_mac = GuestSpec { mac: first.mac, ..same_mac };
        let gateway = GuestSpec { ip: Some("10.90.0.1/24".parse().unwrap()), mac: None, ..same_mac.clone() };
        let specs = [first.clone(), first.clone(), same_ip, same_mac, gateway, spec("c")];
        let pool = pool4("10.90.0.0/24", 24, Some(Ipv4Addr::new(10, 90, 0, 1)));
        let results = place_all(&specs, (Some(pool), None));
        assert_eq!(results[0].as_ref().unwrap().gateway, pool.gateway, "it is in the same network");
        assert_eq!(results[1], Err(AddressError::Name("a".parse().unwrap())));
        assert!(matches!(&results[2], Err(AddressError::Ip { guest, .. }) if guest.as_str() == "a"));
        assert!(matches!(&results[3], Err(AddressError::Mac { guest, .. }) if guest.as_str() == "a"));
        assert!(matches!(results[4], Err(AddressError::Gateway(_))));
        assert!(results[5].is_ok());
        assert_eq!(place_all(&[spec("a")], (None, None)), [Err(AddressError::NoPool)]);
    }

    #[test]
    fn a_derived_mac_that_is_taken_is_counted_on() {
        let mut asked = spec("b");
        asked.ip = Some("10.90.0.10/24".parse().unwrap());
        let mut first = spec("a");
        first.ip = Some("10.90.0.9/24".parse().unwrap());
        first.mac = Some(derived_mac(asked.ip, None));
        let results = place_all(&[first.clone(), asked], (None, None));
        let mac = results[1].as_ref().unwrap().mac;
        assert!(Some(mac) != first.mac && mac.0[..4] == first.mac.unwrap().0[..4]);
    }

    proptest! {
        /// However guests come, no two have an address or MAC in common, and each is a host's address of the pool.
        #[test]
        fn nothing_is_given_twice(
            asked in proptest::collection::vec(proptest::option::of(1u8..40), 1..60), prefix in 24u8..30,
        ) {
            let range = pool4(&format!("10.90.0.0/{prefix}"), 24, Some(Ipv4Addr::new(10, 90, 0, 3)));
            let six = Pool { range: Cidr { address: "fd90::".parse().unwrap(), prefix: 121 }, prefix: 64, gateway: None };
            let specs: Vec<_> = asked.iter().enumerate().map(|(number, last)| {
                let mut spec = spec(&format!("g{number}"));
                spec.ip = last.map(|last| format!("10.90.0.{last}/24").parse().unwrap());
                spec
            }).collect();
            let results = place_all(&specs, (Some(range), Some(six)));
            let placed: Vec<_> = results.iter().flatten().collect();
            for (index, network) in placed.iter().enumerate() {
                let ip = network.ip.unwrap().0.address;
                prop_assert!(![0, 3, 255].contains(&ip.octets()[3]), "{ip}");
                // The last of the pool is only who asked for it.
                let last = (1u16 << (32 - prefix)) - 1;
                prop_assert!(specs.iter().any(|spec| spec.ip == network.ip) || u16::from(ip.octets()[3]) < last, "{ip}");
                for other in &placed[..index] {
                    prop_assert!(other.ip != network.ip && other.mac != network.mac);
                    prop_assert!(network.ip6.is_none() || other.ip6 != network.ip6);
                }
            }
            for (spec, result) in specs.iter().zip(&results) {
                match result {
                    Ok(network) => prop_assert!(spec.ip.is_none() || spec.ip == network.ip),
                    Err(AddressError::Ip { .. } | AddressError::Gateway(_)) => prop_assert!(spec.ip.is_some()),
                    Err(AddressError::Exhausted(_)) => prop_assert!(spec.ip.is_none()),
                    Err(error) => prop_assert!(false, "{error}"),
                }
            }
        }
    }
}
