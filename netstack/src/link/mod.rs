//! The Ethernet side of the interface: framing, neighbours, and who may pass.
//!
//! smoltcp runs above this as an IP device. Its own neighbour cache makes a whole socket wait for one neighbour that
//! does not answer, and asks for one neighbour a second; here a packet for an unknown neighbour waits by itself.

mod announce;
mod arp;
mod ndp;
mod neighbor;

use alloc::vec::Vec;
use core::net::IpAddr;

use self::{announce::Announcing, neighbor::Neighbors};
use crate::{
    Stats,
    address::{Addresses, Target},
    packet::{self, ETHERNET_BYTES, ICMPV6, Packet},
    ring::Ring,
};

pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
const BROADCAST: [u8; 6] = [0xff; 6];
/// The largest frame this layer makes itself: a neighbour solicitation.
pub(crate) const OWN_FRAME_BYTES_MAX: usize = ndp::FRAME_BYTES;

/// What a received frame turned out to be.
#[derive(Debug)]
pub(crate) enum Received<'a> {
    /// An IP packet for this host, or for a group it is in.
    Ip(Packet<'a>, Target),
    /// Dealt with, or not for us.
    Done,
}

/// What became of a packet to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The Ethernet header is filled in.
    Send,
    /// The neighbour's MAC is not known yet.
    Hold(IpAddr),
    /// There is no way there.
    Drop,
}

/// The Ethernet layer.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) addresses: Addresses,
    neighbors: Neighbors,
    announcing: Option<Announcing>,
}

impl Link {
    pub(crate) fn new(addresses: Addresses) -> Self {
        Self { addresses, neighbors: Neighbors::default(), announcing: None }
    }

    /// Takes in a frame. Answers to ARP and neighbour discovery go to `out`, which must have space for
    /// [`OWN_FRAME_BYTES_MAX`].
    pub(crate) fn receive<'a>(
        &mut self,
        frame: &'a [u8],
        now_ns: i64,
        out: &mut Ring<'_>,
        stats: &mut Stats,
    ) -> Received<'a> {
        let received = self.sort(frame, now_ns, out, stats);
        received.unwrap_or_else(|| {
            stats.rx_ignored += 1;
            Received::Done
        })
    }

    fn sort<'a>(
        &mut self,
        frame: &'a [u8],
        now_ns: i64,
        out: &mut Ring<'_>,
        stats: &mut Stats,
    ) -> Option<Received<'a>> {
        let (to, from) = (packet::array::<6>(frame, 0)?, packet::array::<6>(frame, 6)?);
        let group = to[0] & 1 != 0;
        if (!group && to != self.addresses.mac()) || from[0] & 1 != 0 {
            return None;
        }
        let payload = frame.get(ETHERNET_BYTES..)?;
        let packet = match packet::be16(frame, 12)? {
            ETHERTYPE_ARP => return self.receive_arp(payload, now_ns, out, stats).then_some(Received::Done),
            ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => Packet::parse(payload)?,
            _ => return None,
        };
        if packet.protocol == ICMPV6 && ndp::is_discovery(&packet) {
            return self.receive_ndp(&packet, now_ns, out, stats).then_some(Received::Done);
        }
        let target = self.addresses.target(packet.to);
        // RFC 1122, section 3.3.6: a packet for one host does not come in a frame for many.
        if target == Target::Other || (group && target == Target::Own) || !self.addresses.is_peer(packet.from) {
            return None;
        }
        if target == Target::Own
            && let Some(hop) = self.addresses.next_hop(packet.from)
        {
            self.neighbors.confirm(hop, from, now_ns);
        }
        Some(Received::Ip(packet, target))
    }

    /// Fills in the Ethernet header in front of the IP packet in `frame`.
    pub(crate) fn address(&mut self, frame: &mut [u8], now_ns: i64) -> Verdict {
        let Some((header, packet)) = frame.split_first_chunk_mut::<ETHERNET_BYTES>() else { return Verdict::Drop };
        let Some(to) = packet::destination(packet) else { return Verdict::Drop };
        let mac = match to {
            IpAddr::V4(v4) if self.addresses.is_broadcast(v4) => BROADCAST,
            IpAddr::V4(v4) if v4.is_multicast() => {
                let [_, b, c, d] = v4.octets();
                [1, 0, 0x5e, b & 0x7f, c, d]
            }
            IpAddr::V6(v6) if v6.is_multicast() => {
                let [.., a, b, c, d] = v6.octets();
                [0x33, 0x33, a, b, c, d]
            }
            _ => {
                let Some(hop) = self.addresses.next_hop(to) else { return Verdict::Drop };
                match self.neighbors.lookup(hop, now_ns) {
                    Some(mac) => mac,
                    None => return Verdict::Hold(hop),
                }
            }
        };
        let ethertype = if to.is_ipv4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
        *header = ethernet(mac, self.addresses.mac(), ethertype);
        Verdict::Send
    }

    /// Keeps a frame until the MAC of `hop` is known, and asks for that where nobody has.
    pub(crate) fn hold(&mut self, hop: IpAddr, frame: Vec<u8>, segment_bytes: u16, now_ns: i64, stats: &mut Stats) {
        stats.neighbor_unreachable += self.neighbors.hold(hop, frame, segment_bytes, now_ns);
    }

    /// Sends what is due: announcements, frames whose neighbour has become known, and questions about those who are not. Returns
    /// whether all of it found space in `out`.
    pub(crate) fn flush(&mut self, now_ns: i64, out: &mut Ring<'_>, stats: &mut Stats) -> bool {
        if !self.flush_announcements(now_ns, out, stats) {
            return false;
        }
        while let Some((mac, held)) = self.neighbors.released() {
            let Some(slot) = out.slot(held.frame.len()) else { return false };
            slot.copy_from_slice(&held.frame);
            let ethertype = match held.frame.get(ETHERNET_BYTES).map(|first| first >> 4) {
                Some(4) => ETHERTYPE_IPV4,
                _ => ETHERTYPE_IPV6,
            };
            slot[..ETHERNET_BYTES].copy_from_slice(&ethernet(mac, self.addresses.mac(), ethertype));
            out.push(held.frame.len(), held.segment_bytes);
            count_sent(held.frame.len(), stats);
            self.neighbors.pop_released();
        }
        stats.neighbor_unreachable += self.neighbors.expire(now_ns);
        while let Some((hop, mac)) = self.neighbors.due(now_ns) {
            if !out.has_space(OWN_FRAME_BYTES_MAX) {
                return false;
            }
            match hop {
                IpAddr::V4(target) => self.ask_arp(target, mac, out, stats),
                IpAddr::V6(target) => self.ask_ndp(target, mac, out, stats),
            }
            self.neighbors.asked(hop, now_ns);
        }
        true
    }

    /// When [`Link::flush`] has something to do.
    pub(crate) fn deadline(&self) -> Option<i64> {
        self.neighbors.deadline().into_iter().chain(self.announcements_deadline()).min()
    }
}

fn ethernet(to: [u8; 6], from: [u8; 6], ethertype: u16) -> [u8; ETHERNET_BYTES] {
    let mut header = [0; ETHERNET_BYTES];
    header[..6].copy_from_slice(&to);
    header[6..12].copy_from_slice(&from);
    header[12..].copy_from_slice(&ethertype.to_be_bytes());
    header
}

fn count_sent(bytes: usize, stats: &mut Stats) {
    stats.tx_frames += 1;
    stats.tx_bytes += bytes as u64;
}

/// Queues a frame of this layer's own; one without space is lost, as on any link.
fn emit(frame: &[u8], out: &mut Ring<'_>, stats: &mut Stats) {
    match out.slot(frame.len()) {
        Some(slot) => {
            slot.copy_from_slice(frame);
            out.push(frame.len(), 0);
            count_sent(frame.len(), stats);
        }
        None => stats.tx_backpressure += 1,
    }
}
