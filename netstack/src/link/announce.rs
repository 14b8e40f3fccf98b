//! Announcements: where an address is now, said without being asked.
//!
//! Who knows a neighbour's old MAC goes on using it for half a minute before asking again, and a switch that has not
//! heard of a move sends frames the old way for minutes. One frame to everybody ends both at once. It is repeated,
//! because a bridge may not forward yet from a port that has just come up.

use core::net::IpAddr;

use super::{Link, OWN_FRAME_BYTES_MAX};
use crate::{Stats, ring::Ring};

/// How often, and how far apart: MAX_NEIGHBOR_ADVERTISEMENT and RetransTimer of RFC 4861, section 10. RFC 5227 has two
/// for ARP, and allows more.
const ROUNDS: u8 = 3;
const ROUND_NS: i64 = 1_000_000_000;

/// What of the announcements is still to be sent.
#[derive(Debug)]
pub(super) struct Announcing {
    rounds: u8,
    /// When the next round is due.
    at_ns: i64,
    /// Own addresses that have had their turn in it.
    announced: usize,
}

impl Link {
    /// Has the next [`Link::flush`] announce each own address.
    pub(crate) fn announce(&mut self) {
        self.announcing = Some(Announcing { rounds: ROUNDS, at_ns: 0, announced: 0 });
    }

    /// Sends the announcements that are due; whether all of them found space in `out`.
    pub(super) fn flush_announcements(&mut self, now_ns: i64, out: &mut Ring<'_>, stats: &mut Stats) -> bool {
        let Some(mut announcing) = self.announcing.take_if(|announcing| announcing.at_ns <= now_ns) else {
            return true;
        };
        for own in self.addresses.own().skip(announcing.announced) {
            if !out.has_space(OWN_FRAME_BYTES_MAX) {
                self.announcing = Some(announcing);
                return false;
            }
            match own {
                IpAddr::V4(own) => self.announce_arp(own, out, stats),
                IpAddr::V6(own) => self.announce_ndp(own, out, stats),
            }
            announcing.announced += 1;
        }
        let rounds = announcing.rounds - 1;
        self.announcing = (rounds > 0).then_some(Announcing { rounds, at_ns: now_ns + ROUND_NS, announced: 0 });
        true
    }

    /// When [`Link::flush_announcements`] has something to do.
    pub(super) fn announcements_deadline(&self) -> Option<i64> {
        self.announcing.as_ref().map(|announcing| announcing.at_ns)
    }
}
