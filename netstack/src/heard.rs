//! Puts acknowledgements from beyond the receive window where smoltcp hears them.
//!
//! A scaled window is rounded down to its unit (RFC 7323, 2.3), so its right edge can move left by a few bytes while
//! it closes. A peer that had filled it by then sends its acknowledgements from beyond it. RFC 9293 (3.10.7.4) wants
//! valid acknowledgements taken even when no data is; smoltcp drops the segment whole. Where both directions are full,
//! as behind a server that echoes, neither side would ever hear that there is room again.

use crate::packet::{TCP, array, be16};
use crate::sequence::update;

const FIN_SYN_RST: u8 = 7;
const ACK: u8 = 16;
/// The longest IP and TCP headers.
const EMPTY_BYTES_MAX: usize = 120;
/// How far ahead an acknowledgement may come from: what has been received need not be all that was sent.
const AHEAD_BYTES_MAX: u32 = roam_abi::limits::SOCKET_BUFFER_BYTES_MAX as u32;

/// How far one connection has been read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Heard {
    /// The sequence number of the next byte to be read, from the peer's SYN on.
    next: Option<u32>,
}

/// A segment without data, put right.
pub(crate) struct Empty {
    bytes: [u8; EMPTY_BYTES_MAX],
    len: usize,
}

impl Empty {
    /// The IP packet.
    pub(crate) fn packet(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Heard {
    /// `bytes` more have left the receive buffer.
    pub(crate) fn read(&mut self, bytes: usize) {
        self.next = self.next.map(|next| next.wrapping_add(bytes as u32));
    }

    /// Takes note of a received packet, whose TCP segment is `segment`, while `queued` bytes are in the receive buffer
    /// and the peer has not sent its FIN. `Some` when it is an acknowledgement from ahead of what was received: the same
    /// from where the window starts. Its checksum, where there is one, is kept right.
    pub(crate) fn correct(&mut self, packet: &[u8], segment: &[u8], queued: usize) -> Option<Empty> {
        let sequence = u32::from_be_bytes(array(segment, 4)?);
        let (checksum, flags) = (be16(segment, 16)?, segment[13]);
        if flags & FIN_SYN_RST == 2 {
            self.next.get_or_insert(sequence.wrapping_add(1));
            return None;
        }
        let header_bytes = usize::from(segment[12] >> 4) * 4;
        if flags & (ACK | FIN_SYN_RST) != ACK || header_bytes != segment.len() {
            return None;
        }
        let start = self.next?.wrapping_add(queued as u32);
        if !(1..=AHEAD_BYTES_MAX).contains(&sequence.wrapping_sub(start)) {
            return None;
        }
        let ip_bytes = match packet[0] >> 4 {
            4 => usize::from(packet[0] & 0xf) * 4,
            _ if packet[6] == TCP => 40,
            _ => return None,
        };
        let len = ip_bytes + header_bytes;
        let mut empty = Empty { bytes: [0; EMPTY_BYTES_MAX], len };
        empty.bytes.get_mut(..len)?.copy_from_slice(packet.get(..len)?);
        let segment = &mut empty.bytes[ip_bytes..];
        segment[4..8].copy_from_slice(&start.to_be_bytes());
        if checksum != 0 {
            segment[16..18].copy_from_slice(&update(checksum, sequence, start).to_be_bytes());
        }
        Some(empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::tests::segment;

    const SYN: u8 = 2;
    const RST: u8 = 4;

    #[test]
    fn only_acknowledgements_from_ahead_change() {
        let mut heard = Heard::default();
        let mut moved = |sequence, flags, payload, queued| {
            let packet = segment(sequence, flags, payload);
            let empty = heard.correct(&packet, &packet[20..], queued)?;
            Some(u32::from_be_bytes(array(empty.packet(), 24).unwrap()))
        };
        let first = u32::MAX - 3;
        assert_eq!(moved(first, ACK, 0, 0), None, "before the SYN");
        assert_eq!(moved(first.wrapping_sub(1), SYN, 0, 0), None);
        assert_eq!(moved(first, ACK, 0, 0), None);
        assert_eq!(moved(first.wrapping_add(10), ACK, 0, 10), None, "all of it has been received");
        assert_eq!(moved(first.wrapping_add(14), ACK, 0, 10), Some(first.wrapping_add(10)));
        assert_eq!(moved(first.wrapping_add(9), ACK, 0, 10), None, "a keep-alive");
        assert_eq!(moved(first.wrapping_add(14), ACK, 1, 10), None, "data");
        assert_eq!(moved(first.wrapping_add(14), ACK | RST, 0, 10), None, "a reset");
        assert_eq!(moved(first.wrapping_add(1 << 30), ACK, 0, 10), None, "far from any window");
        heard.read(10);
        let packet = segment(first.wrapping_add(14), ACK, 0);
        assert!(heard.correct(&packet, &packet[20..], 4).is_none());
        assert!(heard.correct(&packet, &packet[20..], 3).is_some());
    }
}
