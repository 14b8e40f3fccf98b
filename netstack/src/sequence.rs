//! Puts right the sequence numbers of acknowledgements.
//!
//! After a retransmission timeout smoltcp forgets how far it had sent, and until it has sent all of that again its
//! empty segments carry a sequence number the peer is past. RFC 9293 (3.10.7.4) has the peer drop those, with the
//! acknowledgement in them: two such stacks that have lost data in both directions never hear each other again, and
//! a reset goes unheard. RFC 9293 (3.4) wants SND.NXT there, the highest number sent; here it is.

use crate::packet::{TCP, array, be16};

const SYN: u8 = 2;
const FIN: u8 = 1;
const ACK: u8 = 16;

/// How far one connection has sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sequence {
    next: Option<u32>,
}

impl Sequence {
    /// Takes note of a segment in `packet`, an IP packet that is about to leave, and corrects it if it is an empty one.
    /// Its checksum, where there is one, is kept right.
    pub(crate) fn correct(&mut self, packet: &mut [u8]) {
        let (header_bytes, protocol) = match packet.first().map(|first| first >> 4) {
            Some(4) => (20, packet.get(9)),
            _ => (40, packet.get(6)),
        };
        if protocol != Some(&TCP) {
            return;
        }
        let Some(segment) = packet.get_mut(header_bytes..) else { return };
        let (Some(sequence), Some(checksum)) = (array(segment, 4).map(u32::from_be_bytes), be16(segment, 16)) else {
            return;
        };
        let flags = segment[13];
        let payload_bytes = segment.len().saturating_sub(usize::from(segment[12] >> 4) * 4) as u32;
        let length = payload_bytes + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let end = sequence.wrapping_add(length);
        match self.next {
            Some(next) if is_before(end, next) => {
                if length == 0 && flags & ACK != 0 {
                    segment[4..8].copy_from_slice(&next.to_be_bytes());
                    if checksum != 0 {
                        let checksum = update(checksum, sequence, next);
                        segment[16..18].copy_from_slice(&checksum.to_be_bytes());
                    }
                }
            }
            // An empty segment ahead of everything sent is not one of the connection's.
            Some(_) if length == 0 => {}
            _ => self.next = Some(end),
        }
    }
}

fn is_before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

/// A checksum after a 32-bit field has changed (RFC 1624).
pub(crate) fn update(checksum: u16, old: u32, new: u32) -> u16 {
    let halves = |word: u32| (word >> 16) + (word & 0xffff);
    let mut sum = u32::from(!checksum) + halves(!old) + halves(new);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
pub(crate) mod tests {
    use alloc::{vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    /// An IPv4 packet with that segment.
    pub(crate) fn segment(sequence: u32, flags: u8, payload: usize) -> Vec<u8> {
        let mut packet = vec![0; 40 + payload];
        packet[0] = 0x45;
        packet[9] = TCP;
        packet[24..28].copy_from_slice(&sequence.to_be_bytes());
        packet[32] = 0x50;
        packet[33] = flags;
        packet
    }

    fn sequence_of(packet: &[u8]) -> u32 {
        u32::from_be_bytes(array(packet, 24).unwrap())
    }

    fn sum(bytes: &[u8]) -> u16 {
        let sum: u32 = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        (sum + (sum >> 16)) as u16
    }

    #[test]
    fn only_stale_empty_segments_change() {
        let mut sequence = Sequence::default();
        let mut send = |start: u32, flags, payload| {
            let mut packet = segment(start, flags, payload);
            sequence.correct(&mut packet);
            sequence_of(&packet)
        };
        let start = u32::MAX - 10;
        assert_eq!(send(start, SYN, 0), start);
        assert_eq!(send(start.wrapping_add(1), ACK, 100), start.wrapping_add(1));
        let next = start.wrapping_add(101);
        assert_eq!(send(next, ACK, 0), next);
        assert_eq!(send(start.wrapping_add(1), ACK, 50), start.wrapping_add(1), "a retransmission");
        assert_eq!(send(start.wrapping_add(51), ACK, 0), next, "an acknowledgement after it");
        assert_eq!(send(start.wrapping_add(51), ACK | 4, 0), next, "a reset after it");
        assert_eq!(send(next.wrapping_sub(1), ACK, 1), next.wrapping_sub(1), "a keep-alive");
    }

    proptest! {
        #[test]
        fn checksums_stay_right(old: u32, ahead in 1..1_000_000u32) {
            let mut sequence = Sequence { next: Some(old.wrapping_add(ahead)) };
            let mut packet = segment(old, ACK, 0);
            let checksum = !sum(&packet[20..]);
            packet[36..38].copy_from_slice(&checksum.to_be_bytes());
            prop_assume!(checksum != 0);
            sequence.correct(&mut packet);
            prop_assert_eq!(sequence_of(&packet), old.wrapping_add(ahead));
            prop_assert_eq!(sum(&packet[20..]), 0xffff);
        }
    }
}
