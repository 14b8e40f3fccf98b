//! Addresses as people write them.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use roam_netstack::Cidr;
use roam_sdn::Mac;
use serde::{Deserialize, Serialize};

/// An address with its prefix: `10.90.0.10/24`, `fd90::10/64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String", bound(serialize = "A: Family", deserialize = "A: Family"))]
pub struct CidrText<A>(pub Cidr<A>);

/// IPv4 or IPv6.
pub trait Family: Copy + fmt::Display + FromStr {
    /// Bits of an address.
    const BITS: u8;
    /// How to write one.
    const EXAMPLE: &'static str;
}

impl Family for Ipv4Addr {
    const BITS: u8 = 32;
    const EXAMPLE: &'static str = "10.90.0.10/24";
}

impl Family for Ipv6Addr {
    const BITS: u8 = 128;
    const EXAMPLE: &'static str = "fd90::10/64";
}

impl<A: Family> FromStr for CidrText<A> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .split_once('/')
            .and_then(|(address, prefix)| Some(Cidr { address: address.parse().ok()?, prefix: prefix.parse().ok()? }))
            .filter(|cidr| cidr.prefix <= A::BITS);
        parsed.map(Self).ok_or_else(|| format!("`{text}`: write address and prefix, for example {}", A::EXAMPLE))
    }
}

impl<A: Family> TryFrom<String> for CidrText<A> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl<A: Family> From<CidrText<A>> for String {
    fn from(cidr: CidrText<A>) -> Self {
        cidr.to_string()
    }
}

impl<A: Family> fmt::Display for CidrText<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0.address, self.0.prefix)
    }
}

/// The MAC of a guest that was given none: locally administered, and the same for the same addresses, so that a restarted
/// guest needs no new neighbour entry.
pub fn derived_mac(ip: Option<CidrText<Ipv4Addr>>, ip6: Option<CidrText<Ipv6Addr>>) -> Mac {
    let (ip, ip6) = (ip.map(String::from), ip6.map(String::from));
    let hash = blake3::hash(format!("{ip:?} {ip6:?}").as_bytes());
    let [a, b, c, d, e, ..] = *hash.as_bytes();
    Mac([0x02, a, b, c, d, e])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_need_a_prefix_that_fits() {
        assert!("10.0.0.1/24".parse::<CidrText<Ipv4Addr>>().is_ok());
        for text in ["10.0.0.1", "10.0.0/24", "10.0.0.1/x", "/24", "10.0.0.1/33", "fd90::1/64", "10.0.0.1/-1"] {
            assert!(text.parse::<CidrText<Ipv4Addr>>().is_err(), "{text}");
        }
        assert_eq!("FD90::1/64".parse::<CidrText<Ipv6Addr>>().map(|cidr| cidr.to_string()), Ok("fd90::1/64".into()));
        assert!("fd90::1/129".parse::<CidrText<Ipv6Addr>>().is_err());
    }

    #[test]
    fn a_derived_mac_is_locally_administered_and_stays() {
        let ip = Some("10.0.0.1/24".parse().unwrap());
        let mac = derived_mac(ip, None);
        assert_eq!((mac, mac.0[0] & 3), (derived_mac(ip, None), 2));
        assert_ne!(mac, derived_mac(ip, Some("fd90::1/64".parse().unwrap())));
    }
}
