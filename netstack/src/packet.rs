//! A first look at an IP packet: for which socket is it?
//!
//! smoltcp parses and checks every packet itself; this only finds what selects the socket, and takes nothing from a
//! packet that is cut short.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Ethernet header bytes.
pub(crate) const ETHERNET_BYTES: usize = 14;
/// IP protocol numbers.
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;

/// An IP packet, as far as needed to find its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet<'a> {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) protocol: u8,
    /// TTL or hop limit.
    pub(crate) hops: u8,
    /// Set for a fragment.
    pub(crate) fragment: Option<Fragment>,
    /// What follows the IP header. Of a fragment: that piece of it.
    pub(crate) payload: &'a [u8],
}

/// Where a piece belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    pub(crate) ident: u16,
    /// Whether the piece starts with the transport header.
    pub(crate) first: bool,
}

/// The head of a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) from_port: u16,
    pub(crate) to_port: u16,
    /// SYN without ACK, FIN or RST.
    pub(crate) opens: bool,
    pub(crate) payload_bytes: usize,
}

impl<'a> Packet<'a> {
    /// Looks at `bytes`, an IP packet with or without padding behind it.
    pub(crate) fn parse(bytes: &'a [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::parse_ipv4(bytes),
            6 => Self::parse_ipv6(bytes),
            _ => None,
        }
    }

    fn parse_ipv4(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.get(..20)?;
        let (header_bytes, total_bytes) = (usize::from(header[0] & 0xf) * 4, usize::from(be16(header, 2)?));
        if header_bytes < 20 {
            return None;
        }
        let place = be16(header, 6)?;
        let fragment =
            (place & 0x3fff != 0).then_some(Fragment { ident: be16(header, 4)?, first: place & 0x1fff == 0 });
        Some(Self {
            from: Ipv4Addr::from_octets(array(header, 12)?).into(),
            to: Ipv4Addr::from_octets(array(header, 16)?).into(),
            protocol: header[9],
            hops: header[8],
            fragment,
            payload: bytes.get(header_bytes..total_bytes)?,
        })
    }

    fn parse_ipv6(bytes: &'a [u8]) -> Option<Self> {
        let (header, rest) = bytes.split_at_checked(40)?;
        let (mut protocol, mut payload) = (header[6], rest.get(..usize::from(be16(header, 4)?))?);
        if protocol == HOP_BY_HOP {
            let [next, eights, ..] = *payload else { return None };
            (protocol, payload) = (next, payload.get((usize::from(eights) + 1) * 8..)?);
        }
        Some(Self {
            from: Ipv6Addr::from_octets(array(header, 8)?).into(),
            to: Ipv6Addr::from_octets(array(header, 24)?).into(),
            protocol,
            hops: header[7],
            fragment: None,
            payload,
        })
    }

    /// The TCP header, if the packet has one.
    pub(crate) fn segment(&self) -> Option<Segment> {
        let (from_port, to_port) = self.ports()?;
        let flags = *self.payload.get(13)?;
        let header_bytes = usize::from(self.payload[12] >> 4) * 4;
        Some(Segment {
            from_port,
            to_port,
            opens: flags & 0x17 == 2,
            payload_bytes: self.payload.len().checked_sub(header_bytes)?,
        })
    }

    /// Source and destination port of a TCP or UDP header.
    pub(crate) fn ports(&self) -> Option<(u16, u16)> {
        Some((be16(self.payload, 0)?, be16(self.payload, 2)?))
    }

    /// The identifier of an echo request or reply.
    pub(crate) fn echo_ident(&self) -> Option<u16> {
        let echo = match self.protocol {
            ICMP => [0, 8],
            ICMPV6 => [128, 129],
            _ => return None,
        };
        if echo.contains(self.payload.first()?) { be16(self.payload, 4) } else { None }
    }
}

/// The destination of an IP packet that the stack itself has made.
pub(crate) fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(Ipv4Addr::from_octets(array(packet, 16)?).into()),
        _ => Some(Ipv6Addr::from_octets(array(packet, 24)?).into()),
    }
}

/// Whether more fragments of an IP packet that the stack itself has made will follow.
pub(crate) fn has_more_fragments(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first >> 4 == 4) && packet.get(6).is_some_and(|flags| flags & 0x20 != 0)
}

/// The big-endian `u16` at `at`.
pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

/// The `N` bytes at `at`.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// The internet checksum of an ICMPv6 message and its pseudo-header (RFC 8200, section 8.1); 0 for a message that
/// already carries the right one.
pub(crate) fn icmpv6_checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low))).sum()
    };
    let mut sum =
        words(&from.octets()) + words(&to.octets()) + message.len() as u32 + u32::from(ICMPV6) + words(message);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    fn ipv4_tcp(flags: u8, place: u16) -> Vec<u8> {
        let mut packet = [0; 44];
        packet[..10].copy_from_slice(&[0x45, 0, 0, 43, 0, 9, (place >> 8) as u8, place as u8, 64, TCP]);
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        packet[20..24].copy_from_slice(&[0x12, 0x34, 0, 80]);
        packet[32..34].copy_from_slice(&[0x50, flags]);
        packet.to_vec()
    }

    #[test]
    fn a_segment_is_found() {
        let bytes = ipv4_tcp(2, 0x4000);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.from, packet.to), ([10, 0, 0, 1].into(), [10, 0, 0, 2].into()));
        assert_eq!(packet.fragment, None, "don't-fragment is no fragment");
        let expected = Segment { from_port: 0x1234, to_port: 80, opens: true, payload_bytes: 3 };
        assert_eq!(packet.segment(), Some(expected));
        for flags in [0x12, 3, 6, 0x10, 0] {
            assert!(!Packet::parse(&ipv4_tcp(flags, 0)).unwrap().segment().unwrap().opens);
        }
    }

    #[test]
    fn fragments_are_seen() {
        let piece = |place| Packet::parse(&ipv4_tcp(2, place)).unwrap().fragment;
        assert_eq!(piece(0x2000), Some(Fragment { ident: 9, first: true }));
        assert_eq!(piece(0x2003), Some(Fragment { ident: 9, first: false }));
        assert_eq!(piece(0x0003), Some(Fragment { ident: 9, first: false }));
    }

    #[test]
    fn hop_by_hop_options_are_skipped() {
        let mut packet = [0; 40 + 8 + 8];
        packet[0] = 0x60;
        packet[5] = 16;
        packet[40] = UDP;
        packet[48..52].copy_from_slice(&[0, 7, 0, 9]);
        let parsed = Packet::parse(&packet).unwrap();
        assert_eq!((parsed.protocol, parsed.ports()), (UDP, Some((7, 9))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            mut bytes in prop::collection::vec(any::<u8>(), 0..100),
            version in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()],
        ) {
            if let Some(first) = bytes.first_mut() {
                *first = version;
            }
            if let Some(packet) = Packet::parse(&bytes) {
                let _ = (packet.segment(), packet.ports(), packet.echo_ident());
            }
        }
    }
}
