//! IPv6 neighbour discovery (RFC 4861): solicitations and advertisements. Routers are configured, not discovered.

use core::net::{IpAddr, Ipv6Addr};

use super::{ETHERNET_BYTES, ETHERTYPE_IPV6, Link, emit, ethernet};
use crate::{
    Stats,
    address::{Target, solicited_node},
    packet::{ICMPV6, Packet, array, icmpv6_checksum},
    ring::Ring,
};

const ROUTER_SOLICITATION: u8 = 133;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
const SOURCE_MAC: u8 = 1;
const TARGET_MAC: u8 = 2;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
/// Messages do not cross routers (RFC 4861, section 7.1).
const HOPS: u8 = 255;
const MESSAGE_BYTES: usize = 32;
const MESSAGE_BYTES_MIN: usize = 24;
/// A solicitation or advertisement with its link-layer address option.
pub(super) const FRAME_BYTES: usize = ETHERNET_BYTES + 40 + MESSAGE_BYTES;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// Whether the packet belongs to neighbour discovery.
pub(super) fn is_discovery(packet: &Packet<'_>) -> bool {
    packet.payload.first().is_some_and(|kind| (ROUTER_SOLICITATION..=REDIRECT).contains(kind))
}

impl Link {
    /// Takes in a discovery message; whether it was a valid one for us.
    pub(super) fn receive_ndp(
        &mut self,
        packet: &Packet<'_>,
        now_ns: i64,
        out: &mut Ring<'_>,
        stats: &mut Stats,
    ) -> bool {
        let (IpAddr::V6(from), IpAddr::V6(to)) = (packet.from, packet.to) else { return false };
        let message = packet.payload;
        let valid = packet.hops == HOPS
            && message.len() >= MESSAGE_BYTES_MIN
            && message[1] == 0
            && self.addresses.target(packet.to) != Target::Other
            && icmpv6_checksum(from, to, message) == 0;
        let Some(subject) = array::<16>(message, 8).map(Ipv6Addr::from).filter(|_| valid) else { return false };
        match message[0] {
            SOLICITATION => self.receive_solicitation(from, subject, message, now_ns, out, stats),
            ADVERTISEMENT => self.receive_advertisement(subject, message, now_ns),
            _ => false,
        }
    }

    fn receive_solicitation(
        &mut self,
        from: Ipv6Addr,
        subject: Ipv6Addr,
        message: &[u8],
        now_ns: i64,
        out: &mut Ring<'_>,
        stats: &mut Stats,
    ) -> bool {
        if !self.addresses.owns(subject.into()) {
            return false;
        }
        // From the unspecified address somebody wants our address for itself (RFC 4862, section 5.4): tell everybody.
        if from.is_unspecified() {
            self.announce_ndp(subject, out, stats);
            return true;
        }
        if !self.addresses.is_peer(from.into()) {
            return false;
        }
        if let Some(mac) = option(message, SOURCE_MAC) {
            self.neighbors.learn(from.into(), mac, true, true, now_ns);
            self.send(ADVERTISEMENT, SOLICITED | OVERRIDE, subject, from, subject, mac, out, stats);
        } else if let Some(mac) = self.neighbors.lookup(from.into(), now_ns) {
            self.send(ADVERTISEMENT, SOLICITED | OVERRIDE, subject, from, subject, mac, out, stats);
        }
        true
    }

    fn receive_advertisement(&mut self, subject: Ipv6Addr, message: &[u8], now_ns: i64) -> bool {
        let Some(mac) = option(message, TARGET_MAC) else { return false };
        self.neighbors.learn(subject.into(), mac, false, message[4] & OVERRIDE != 0, now_ns);
        true
    }

    /// Asks who has `target`: the neighbour itself where its MAC was known, else its group.
    pub(super) fn ask_ndp(&self, target: Ipv6Addr, mac: Option<[u8; 6]>, out: &mut Ring<'_>, stats: &mut Stats) {
        let Some(IpAddr::V6(own)) = self.addresses.source(target.into()) else { return };
        let group = solicited_node(target);
        let [.., a, b, c, d] = group.octets();
        let (to, mac) = mac.map_or((group, [0x33, 0x33, a, b, c, d]), |mac| (target, mac));
        self.send(SOLICITATION, 0, own, to, target, mac, out, stats);
    }

    /// Tells everybody whose `own` is (RFC 4861, section 7.2.6).
    pub(super) fn announce_ndp(&self, own: Ipv6Addr, out: &mut Ring<'_>, stats: &mut Stats) {
        self.send(ADVERTISEMENT, OVERRIDE, own, ALL_NODES, own, ALL_NODES_MAC, out, stats);
    }

    #[expect(clippy::too_many_arguments, reason = "a message has that many fields")]
    fn send(
        &self,
        kind: u8,
        flags: u8,
        from: Ipv6Addr,
        to: Ipv6Addr,
        subject: Ipv6Addr,
        mac: [u8; 6],
        out: &mut Ring<'_>,
        stats: &mut Stats,
    ) {
        let mut frame = [0; FRAME_BYTES];
        frame[..14].copy_from_slice(&ethernet(mac, self.addresses.mac(), ETHERTYPE_IPV6));
        frame[14] = 0x60;
        frame[19] = MESSAGE_BYTES as u8;
        frame[20] = ICMPV6;
        frame[21] = HOPS;
        frame[22..38].copy_from_slice(&from.octets());
        frame[38..54].copy_from_slice(&to.octets());
        let message = &mut frame[54..];
        message[0] = kind;
        message[4] = flags;
        message[8..24].copy_from_slice(&subject.octets());
        message[24] = if kind == SOLICITATION { SOURCE_MAC } else { TARGET_MAC };
        message[25] = 1;
        message[26..32].copy_from_slice(&self.addresses.mac());
        let checksum = icmpv6_checksum(from, to, message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        emit(&frame, out, stats);
    }
}

/// The unicast MAC in the option of that kind.
fn option(message: &[u8], kind: u8) -> Option<[u8; 6]> {
    let mut options = message.get(MESSAGE_BYTES_MIN..)?;
    while let [found, eights, rest @ ..] = options {
        if *eights == 0 {
            return None;
        }
        if *found == kind {
            return array(rest, 0).filter(|mac: &[u8; 6]| mac[0] & 1 == 0);
        }
        options = options.get(usize::from(*eights) * 8..)?;
    }
    None
}
