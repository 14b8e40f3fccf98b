//! Ethernet frames by hand, right in every checksum, for tests to spoil.

use std::net::{Ipv4Addr, Ipv6Addr};

/// The MAC address tests give a guest they send frames to.
pub(crate) const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
/// Who sends such frames.
pub(crate) const ROGUE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x66];

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SYN: u8 = 2;

/// A frame to the guest.
pub(crate) fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&GUEST_MAC[..], &ROGUE_MAC, &ethertype.to_be_bytes(), payload].concat()
}

/// Who has `target`? Says `source`.
pub(crate) fn arp_request(source: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    ethernet(ETHERTYPE_ARP, &[&head[..], &ROGUE_MAC, &source.octets(), &[0; 6], &target.octets()].concat())
}

/// An IPv4 packet with its header checksum (RFC 791).
pub(crate) fn ipv4(source: Ipv4Addr, target: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let mut header = [&[0x45, 0][..], &length.to_be_bytes(), &[0, 1, 0x40, 0, 64, protocol, 0, 0]].concat();
    header.extend(source.octets());
    header.extend(target.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    ethernet(ETHERTYPE_IPV4, &[&header, payload].concat())
}

/// An IPv6 packet (RFC 8200).
pub(crate) fn ipv6(source: Ipv6Addr, target: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let head = [&[0x60, 0, 0, 0][..], &(payload.len() as u16).to_be_bytes(), &[next, 64]].concat();
    ethernet(ETHERTYPE_IPV6, &[&head, &source.octets()[..], &target.octets(), payload].concat())
}

/// A TCP segment of one header in an IPv4 packet (RFC 9293).
pub(crate) fn tcp(source: (Ipv4Addr, u16), target: (Ipv4Addr, u16), sequence: u32, flags: u8) -> Vec<u8> {
    let mut segment = [source.1.to_be_bytes(), target.1.to_be_bytes()].concat();
    segment.extend(sequence.to_be_bytes());
    segment.extend([0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    finish(source.0, target.0, TCP, segment, 16)
}

/// A UDP datagram in an IPv4 packet (RFC 768).
pub(crate) fn udp(source: (Ipv4Addr, u16), target: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let mut datagram = [source.1.to_be_bytes(), target.1.to_be_bytes()].concat();
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    finish(source.0, target.0, UDP, datagram, 6)
}

/// Puts the checksum over pseudo header and payload to its place, and the packet around it.
fn finish(source: Ipv4Addr, target: Ipv4Addr, protocol: u8, mut payload: Vec<u8>, at: usize) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    let pseudo = [&source.octets()[..], &target.octets(), &[0, protocol], &length].concat();
    let sum = checksum(&[&pseudo, &payload[..]].concat());
    payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    ipv4(source, target, protocol, &payload)
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}
