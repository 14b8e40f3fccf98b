//! Addresses as people write them.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use roam_netstack::Cidr;
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

/// A unicast Ethernet address: `02:00:00:00:00:0a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacText(pub [u8; 6]);

impl MacText {
    /// The MAC of a guest that was given none: locally administered, and the same for the same addresses, so that a
    /// restarted guest needs no new neighbour entry.
    pub fn derived(ip: Option<CidrText<Ipv4Addr>>, ip6: Option<CidrText<Ipv6Addr>>) -> Self {
        let (ip, ip6) = (ip.map(String::from), ip6.map(String::from));
        let hash = blake3::hash(format!("{ip:?} {ip6:?}").as_bytes());
        let [a, b, c, d, e, ..] = *hash.as_bytes();
        Self([0x02, a, b, c, d, e])
    }
}

impl FromStr for MacText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || format!("`{text}`: write six bytes of a unicast address, for example 02:00:00:00:00:0a");
        let mut mac = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut mac {
            let part =
                parts.next().filter(|part| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit()));
            *byte = part.and_then(|part| u8::from_str_radix(part, 16).ok()).ok_or_else(refused)?;
        }
        if parts.next().is_some() || mac[0] & 1 != 0 || mac == [0; 6] {
            return Err(refused());
        }
        Ok(Self(mac))
    }
}

impl TryFrom<String> for MacText {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<MacText> for String {
    fn from(mac: MacText) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for MacText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
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
        let mac = MacText::derived(ip, None);
        assert_eq!((mac, mac.0[0] & 3), (MacText::derived(ip, None), 2));
        assert_ne!(mac, MacText::derived(ip, Some("fd90::1/64".parse().unwrap())));
    }

    #[test]
    fn macs() {
        assert_eq!("02:00:00:00:00:0A".parse(), Ok(MacText([2, 0, 0, 0, 0, 10])));
        for text in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:0a:0b",
            "01:00:00:00:00:0a",
            "2:0:0:0:0:a",
            "zz:00:00:00:00:00",
            "+2:00:00:00:00:00",
            "00:00:00:00:00:00",
        ] {
            assert!(text.parse::<MacText>().is_err(), "{text}");
        }
    }
}
