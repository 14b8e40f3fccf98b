//! An IP address and port as both sides see it in memory.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::Errno;

/// Size of an [`Address`] in memory.
pub const ADDRESS_BYTES: usize = 20;

/// An IP address and port: family (`u16`: 4 or 6), port (`u16`), then 16 address bytes in network order, of which
/// IPv4 uses the first four.
///
/// To bind "any address of either family" use `[::]`; `0.0.0.0` binds IPv4 only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub SocketAddr);

impl Address {
    /// The address as it stands in memory.
    pub fn to_bytes(self) -> [u8; ADDRESS_BYTES] {
        let mut bytes = [0; ADDRESS_BYTES];
        bytes[2..4].copy_from_slice(&self.0.port().to_le_bytes());
        match self.0.ip() {
            IpAddr::V4(ip) => {
                bytes[0] = 4;
                bytes[4..8].copy_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                bytes[0] = 6;
                bytes[4..20].copy_from_slice(&ip.octets());
            }
        }
        bytes
    }

    /// The address that stands in memory; [`Errno::AFNOSUPPORT`] for a family other than 4 and 6.
    pub fn from_bytes(bytes: &[u8; ADDRESS_BYTES]) -> Result<Self, Errno> {
        let port = u16::from_le_bytes([bytes[2], bytes[3]]);
        let mut octets = [0; 16];
        octets.copy_from_slice(&bytes[4..]);
        let ip = match u16::from_le_bytes([bytes[0], bytes[1]]) {
            4 => IpAddr::V4(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3])),
            6 => IpAddr::V6(Ipv6Addr::from(octets)),
            _ => return Err(Errno::AFNOSUPPORT),
        };
        Ok(Self(SocketAddr::new(ip, port)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_memory() {
        for text in ["10.1.2.3:80", "[2001:db8::7]:65535", "0.0.0.0:0", "[::]:9"] {
            let address = Address(text.parse().expect("a literal"));
            assert_eq!(Address::from_bytes(&address.to_bytes()), Ok(address));
        }
    }

    #[test]
    fn unknown_families_are_refused() {
        let mut bytes = [0; ADDRESS_BYTES];
        for family in [0u8, 1, 5, 7, 255] {
            bytes[0] = family;
            assert_eq!(Address::from_bytes(&bytes), Err(Errno::AFNOSUPPORT));
        }
    }
}
