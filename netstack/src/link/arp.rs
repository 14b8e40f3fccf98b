//! ARP (RFC 826).

use core::net::{IpAddr, Ipv4Addr};

use super::{BROADCAST, ETHERNET_BYTES, ETHERTYPE_ARP, Link, emit, ethernet};
use crate::{Stats, packet::array, ring::Ring};

const ARP_BYTES: usize = 28;
/// Ethernet, IPv4, address lengths 6 and 4.
const HEADER: [u8; 6] = [0, 1, 8, 0, 6, 4];
const REQUEST: u16 = 1;
const REPLY: u16 = 2;

impl Link {
    /// Takes in an ARP message; whether it was one.
    pub(super) fn receive_arp(&mut self, message: &[u8], now_ns: i64, out: &mut Ring<'_>, stats: &mut Stats) -> bool {
        let Some(message) = message.first_chunk::<ARP_BYTES>() else { return false };
        let (Some(mac), Some(sender), Some(target)) =
            (array::<6>(message, 8), array::<4>(message, 14), array::<4>(message, 24))
        else {
            return false;
        };
        let (sender, target) = (Ipv4Addr::from(sender), IpAddr::from(target));
        let on_link = self.addresses.next_hop(sender.into()) == Some(sender.into());
        if !message.starts_with(&HEADER) || mac[0] & 1 != 0 || !on_link || !self.addresses.is_peer(sender.into()) {
            return false;
        }
        // Who asks for us will talk to us. What others say is only news about neighbours already known.
        let for_us = self.addresses.owns(target);
        self.neighbors.learn(sender.into(), mac, for_us, true, now_ns);
        if let (true, [0, 1], IpAddr::V4(own)) = (for_us, [message[6], message[7]], target) {
            emit(&arp(REPLY, self.addresses.mac(), own, mac, sender), out, stats);
        }
        true
    }

    /// Asks who has `target`: the neighbour itself where its MAC was known, else everybody.
    pub(super) fn ask_arp(&self, target: Ipv4Addr, mac: Option<[u8; 6]>, out: &mut Ring<'_>, stats: &mut Stats) {
        let Some(IpAddr::V4(own)) = self.addresses.source(target.into()) else { return };
        let mut frame = arp(REQUEST, self.addresses.mac(), own, [0; 6], target);
        frame[..6].copy_from_slice(&mac.unwrap_or(BROADCAST));
        emit(&frame, out, stats);
    }

    /// Tells everybody whose `own` is: a request for itself, which those who know it take over (RFC 5227, section 3).
    pub(super) fn announce_arp(&self, own: Ipv4Addr, out: &mut Ring<'_>, stats: &mut Stats) {
        let mut frame = arp(REQUEST, self.addresses.mac(), own, [0; 6], own);
        frame[..6].copy_from_slice(&BROADCAST);
        emit(&frame, out, stats);
    }
}

fn arp(
    operation: u16,
    from_mac: [u8; 6],
    from: Ipv4Addr,
    to_mac: [u8; 6],
    to: Ipv4Addr,
) -> [u8; ETHERNET_BYTES + ARP_BYTES] {
    let mut frame = [0; ETHERNET_BYTES + ARP_BYTES];
    frame[..14].copy_from_slice(&ethernet(to_mac, from_mac, ETHERTYPE_ARP));
    frame[14..20].copy_from_slice(&HEADER);
    frame[20..22].copy_from_slice(&operation.to_be_bytes());
    frame[22..28].copy_from_slice(&from_mac);
    frame[28..32].copy_from_slice(&from.octets());
    frame[32..38].copy_from_slice(&to_mac);
    frame[38..42].copy_from_slice(&to.octets());
    frame
}
