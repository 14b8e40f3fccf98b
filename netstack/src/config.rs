//! How a guest's network interface is set up.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The smallest IP MTU: what every IPv4 host must be able to receive (RFC 791).
pub const MTU_BYTES_MIN: u16 = 576;
/// The smallest IP MTU with IPv6 (RFC 8200).
pub const MTU_BYTES_MIN_IPV6: u16 = 1280;
/// The largest IP MTU.
pub const MTU_BYTES_MAX: u16 = 9216;
/// The smallest ring: two of the largest frames.
pub const RING_BYTES_MIN: u32 = 160 * 1024;
/// The largest ring.
pub const RING_BYTES_MAX: u32 = 16 * 1024 * 1024;
/// The size of a ring when nothing else is asked for.
pub const RING_BYTES_DEFAULT: u32 = 512 * 1024;
/// The least limit of all sockets' buffers together.
pub const BUFFER_BYTES_MAX_MIN: u32 = 1024 * 1024;
/// The greatest: wasm's address space leaves room for the rest beside it.
pub const BUFFER_BYTES_MAX_MAX: u32 = 2 * 1024 * 1024 * 1024;
/// Their limit when nothing else is asked for.
pub const BUFFER_BYTES_MAX_DEFAULT: u32 = 256 * 1024 * 1024;
/// The largest encoded [`Config`].
pub const CONFIG_BYTES_MAX: usize = 256;

/// An address and the length of its network prefix in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cidr<A> {
    /// The interface's own address.
    pub address: A,
    /// How many leading bits name the network: up to 32 (IPv4) or 128 (IPv6).
    pub prefix: u8,
}

/// Everything a [`Netstack`](crate::Netstack) needs to know at its start. Crosses into wasm as postcard bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The interface's Ethernet address: unicast.
    pub mac: [u8; 6],
    /// Its IPv4 address, if it has one.
    pub ipv4: Option<Cidr<Ipv4Addr>>,
    /// Its IPv6 address, if it has one. A link-local one (EUI-64 of the MAC, RFC 4291) is added to it.
    pub ipv6: Option<Cidr<Ipv6Addr>>,
    /// Where IPv4 packets for other networks go: on-link.
    pub gateway4: Option<Ipv4Addr>,
    /// Where IPv6 packets for other networks go: on-link or link-local.
    pub gateway6: Option<Ipv6Addr>,
    /// The IP MTU in bytes (Ethernet header not included).
    pub mtu: u16,
    /// Seeds TCP sequence numbers and ephemeral ports.
    pub seed: u64,
    /// Bytes of the ring of received frames.
    pub rx_ring_bytes: u32,
    /// Bytes of the ring of frames to send.
    pub tx_ring_bytes: u32,
    /// Limit of all sockets' buffers together. Memory is only taken by what is in them.
    pub buffer_bytes_max: u32,
    /// Whether the host cuts large TCP frames into segments. Needs `checksums` off.
    pub segmentation: bool,
    /// Whether IPv4, UDP and TCP checksums are verified and computed here; off where the host does both.
    pub checksums: bool,
}

/// Why a [`Config`] was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// The MAC is a group address or all zero.
    #[error("the MAC must be a unicast address")]
    Mac,
    /// Neither `ipv4` nor `ipv6` is set.
    #[error("at least one IP address is needed")]
    NoAddress,
    /// The address cannot name one host.
    #[error("{0} is not an address of one host")]
    Address(IpAddr),
    /// The prefix is longer than the address.
    #[error("a prefix of {0} bits is too long")]
    Prefix(u8),
    /// The gateway is not on the interface's network, or is the interface itself.
    #[error("gateway {0} is not another host on the same network")]
    Gateway(IpAddr),
    /// The MTU is outside its limits.
    #[error("an MTU of {0} bytes is outside {MTU_BYTES_MIN} ({MTU_BYTES_MIN_IPV6} with IPv6) to {MTU_BYTES_MAX}")]
    Mtu(u16),
    /// A ring's size is outside its limits.
    #[error("a ring of {0} bytes is outside {RING_BYTES_MIN} to {RING_BYTES_MAX}")]
    Ring(u32),
    /// The limit of all buffers is outside its limits.
    #[error("{0} bytes for all sockets' buffers is outside {BUFFER_BYTES_MAX_MIN} to {BUFFER_BYTES_MAX_MAX}")]
    Buffers(u32),
    /// `segmentation` with `checksums`: who cuts a frame must compute its checksums.
    #[error("segmentation by the host needs checksums by the host")]
    Segmentation,
}

impl Config {
    /// A configuration without an address: MTU 1500, default rings, checksums by the host, no segmentation.
    pub fn new(mac: [u8; 6]) -> Self {
        Self {
            mac,
            ipv4: None,
            ipv6: None,
            gateway4: None,
            gateway6: None,
            mtu: 1500,
            seed: 0,
            rx_ring_bytes: RING_BYTES_DEFAULT,
            tx_ring_bytes: RING_BYTES_DEFAULT,
            buffer_bytes_max: BUFFER_BYTES_MAX_DEFAULT,
            segmentation: false,
            checksums: false,
        }
    }

    /// Whether every field is within its limits.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.mac[0] & 1 != 0 || self.mac == [0; 6] {
            return Err(ConfigError::Mac);
        }
        if self.ipv4.is_none() && self.ipv6.is_none() {
            return Err(ConfigError::NoAddress);
        }
        self.check_ipv4()?;
        self.check_ipv6()?;
        let mtu_min = if self.ipv6.is_some() { MTU_BYTES_MIN_IPV6 } else { MTU_BYTES_MIN };
        if !(mtu_min..=MTU_BYTES_MAX).contains(&self.mtu) {
            return Err(ConfigError::Mtu(self.mtu));
        }
        for bytes in [self.rx_ring_bytes, self.tx_ring_bytes] {
            if !(RING_BYTES_MIN..=RING_BYTES_MAX).contains(&bytes) {
                return Err(ConfigError::Ring(bytes));
            }
        }
        if !(BUFFER_BYTES_MAX_MIN..=BUFFER_BYTES_MAX_MAX).contains(&self.buffer_bytes_max) {
            return Err(ConfigError::Buffers(self.buffer_bytes_max));
        }
        if self.segmentation && self.checksums {
            return Err(ConfigError::Segmentation);
        }
        Ok(())
    }

    /// The interface's link-local address (RFC 4291, appendix A), if it speaks IPv6.
    pub fn link_local(&self) -> Option<Ipv6Addr> {
        self.ipv6?;
        let [a, b, c, d, e, f] = self.mac;
        Some(Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]))
    }

    fn check_ipv4(&self) -> Result<(), ConfigError> {
        let Some(Cidr { address, prefix }) = self.ipv4 else {
            return self.gateway4.map_or(Ok(()), |gateway| Err(ConfigError::Gateway(gateway.into())));
        };
        if prefix > 32 {
            return Err(ConfigError::Prefix(prefix));
        }
        let host_bits = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
        let one_host = |address: Ipv4Addr| {
            let host = address.to_bits() & host_bits;
            let reserved = prefix < 31 && (host == 0 || host == host_bits);
            let special = address.is_multicast() || address.is_loopback() || address.is_broadcast();
            !(reserved || special || address.octets()[0] == 0)
        };
        if !one_host(address) {
            return Err(ConfigError::Address(address.into()));
        }
        match self.gateway4 {
            Some(gateway)
                if !one_host(gateway)
                    || gateway == address
                    || (gateway.to_bits() ^ address.to_bits()) & !host_bits != 0 =>
            {
                Err(ConfigError::Gateway(gateway.into()))
            }
            _ => Ok(()),
        }
    }

    fn check_ipv6(&self) -> Result<(), ConfigError> {
        let Some(Cidr { address, prefix }) = self.ipv6 else {
            return self.gateway6.map_or(Ok(()), |gateway| Err(ConfigError::Gateway(gateway.into())));
        };
        if prefix > 128 {
            return Err(ConfigError::Prefix(prefix));
        }
        let one_host = |address: Ipv6Addr| {
            !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
                && address.to_ipv4_mapped().is_none()
        };
        if !one_host(address) {
            return Err(ConfigError::Address(address.into()));
        }
        let host_bits = u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
        match self.gateway6 {
            Some(gateway)
                if !one_host(gateway)
                    || gateway == address
                    || Some(gateway) == self.link_local()
                    || !(gateway.is_unicast_link_local()
                        || (gateway.to_bits() ^ address.to_bits()) & !host_bits == 0) =>
            {
                Err(ConfigError::Gateway(gateway.into()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dual() -> Config {
        Config {
            ipv4: Some(Cidr { address: Ipv4Addr::new(10, 0, 0, 2), prefix: 24 }),
            ipv6: Some(Cidr { address: "fd00::2".parse().unwrap(), prefix: 64 }),
            gateway4: Some(Ipv4Addr::new(10, 0, 0, 1)),
            gateway6: Some("fe80::1".parse().unwrap()),
            ..Config::new([2, 0, 0, 0, 0, 1])
        }
    }

    #[test]
    fn a_sane_configuration_passes_and_travels() {
        let config = dual();
        assert_eq!(config.check(), Ok(()));
        let bytes = postcard::to_allocvec(&config).unwrap();
        assert!(bytes.len() <= CONFIG_BYTES_MAX);
        assert_eq!(postcard::from_bytes::<Config>(&bytes).unwrap(), config);
        assert_eq!(config.link_local(), Some("fe80::ff:fe00:1".parse().unwrap()));
    }

    #[test]
    fn a_single_host_prefix_passes() {
        let mut config = dual();
        config.gateway4 = None;
        config.ipv4 = Some(Cidr { address: Ipv4Addr::new(10, 0, 0, 2), prefix: 32 });
        assert_eq!(config.check(), Ok(()));
        config.ipv4 = Some(Cidr { address: Ipv4Addr::new(10, 0, 0, 2), prefix: 31 });
        assert_eq!(config.check(), Ok(()));
    }

    #[test]
    fn bad_fields_are_refused_by_name() {
        type Case = (fn(&mut Config), fn(&ConfigError) -> bool);
        let cases: [Case; 14] = [
            (|c| c.mac = [1, 0, 0, 0, 0, 1], |e| matches!(e, ConfigError::Mac)),
            (|c| c.mac = [0; 6], |e| matches!(e, ConfigError::Mac)),
            (|c| c.ipv4.as_mut().unwrap().prefix = 33, |e| matches!(e, ConfigError::Prefix(33))),
            (|c| c.ipv6.as_mut().unwrap().prefix = 129, |e| matches!(e, ConfigError::Prefix(129))),
            (|c| c.ipv4.as_mut().unwrap().address = Ipv4Addr::BROADCAST, |e| matches!(e, ConfigError::Address(_))),
            (|c| c.ipv4.as_mut().unwrap().address = [10, 0, 0, 255].into(), |e| matches!(e, ConfigError::Address(_))),
            (|c| c.ipv6.as_mut().unwrap().address = Ipv6Addr::UNSPECIFIED, |e| matches!(e, ConfigError::Address(_))),
            (|c| c.gateway4 = Some([10, 0, 1, 1].into()), |e| matches!(e, ConfigError::Gateway(_))),
            (|c| c.gateway4 = Some([10, 0, 0, 2].into()), |e| matches!(e, ConfigError::Gateway(_))),
            (|c| c.gateway6 = Some("fd01::1".parse().unwrap()), |e| matches!(e, ConfigError::Gateway(_))),
            (|c| c.mtu = 1279, |e| matches!(e, ConfigError::Mtu(1279))),
            (|c| c.tx_ring_bytes = 1, |e| matches!(e, ConfigError::Ring(1))),
            (|c| (c.segmentation, c.checksums) = (true, true), |e| matches!(e, ConfigError::Segmentation)),
            (
                |c| (c.ipv4, c.ipv6, c.gateway4, c.gateway6) = (None, None, None, None),
                |e| matches!(e, ConfigError::NoAddress),
            ),
        ];
        for (index, (spoil, expected)) in cases.into_iter().enumerate() {
            let mut config = dual();
            spoil(&mut config);
            let error = config.check().unwrap_err();
            assert!(expected(&error), "case {index}: {error}");
        }
    }
}
