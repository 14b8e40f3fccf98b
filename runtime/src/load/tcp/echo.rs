//! Messages that come back: the stream is the [pattern](roam_abi::pattern) from an offset that is this connection's
//! own, so that bytes of another connection, or of the time before a reset, show.
use roam_abi::pattern;

use super::super::content::{self, Check};
use super::super::plan::Plan;
use super::dialogue::{Dialogue, Nonsense, Reply};

/// The echo protocol (RFC 862).
#[derive(Debug)]
pub(crate) struct Echo {
    key: u64,
    payload_bytes: usize,
    /// Connections so far.
    epoch: u64,
    /// Pattern offset of the first byte of this connection.
    base: u64,
    /// Sequence number of the message that is coming back.
    sequence: u64,
    sent_bytes: u64,
    received_bytes: u64,
    /// Whether the message that is coming back has a wrong byte.
    damaged: bool,
}

impl Echo {
    /// For connection number `connection` of a plan.
    pub(crate) fn new(plan: &Plan, connection: usize) -> Self {
        Self {
            key: content::key(plan.seed, connection),
            payload_bytes: plan.payload_bytes,
            epoch: 0,
            base: 0,
            sequence: 0,
            sent_bytes: 0,
            received_bytes: 0,
            damaged: false,
        }
    }
}

impl Dialogue for Echo {
    const LIVE: bool = false;

    fn begin(&mut self, first: u64, _planned: u64, _out: &mut Vec<u8>) {
        self.epoch += 1;
        self.base = content::mix(self.key ^ self.epoch);
        self.sequence = first;
        self.sent_bytes = 0;
        self.received_bytes = 0;
        self.damaged = false;
    }

    fn request(&mut self, _sequence: u64, out: &mut Vec<u8>) -> Option<Check> {
        let start = out.len();
        out.resize(start + self.payload_bytes, 0);
        pattern::fill(&mut out[start..], self.base.wrapping_add(self.sent_bytes));
        self.sent_bytes += self.payload_bytes as u64;
        None
    }

    fn receive(&mut self, mut bytes: &[u8], replies: &mut Vec<Reply>) -> Result<(), Nonsense> {
        let outstanding = self.sent_bytes - self.received_bytes;
        if bytes.len() as u64 > outstanding {
            return Err(Nonsense::Unasked(bytes.len() - outstanding as usize));
        }
        let payload_bytes = self.payload_bytes as u64;
        while !bytes.is_empty() {
            let left = payload_bytes - self.received_bytes % payload_bytes;
            let (part, rest) = bytes.split_at(bytes.len().min(left as usize));
            let offset = self.base.wrapping_add(self.received_bytes);
            self.damaged |= pattern::matching(part, offset) != part.len();
            self.received_bytes += part.len() as u64;
            bytes = rest;
            if part.len() as u64 == left {
                let sequence = self.sequence;
                replies.push(Reply::To(if self.damaged { Check::Damaged(sequence) } else { Check::Intact(sequence) }));
                self.sequence += 1;
                self.damaged = false;
            }
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::super::plan::Kind;
    use super::*;

    fn echo(connection: usize) -> Echo {
        let mut plan = Plan::new(Kind::TcpEcho, SocketAddr::from(([127, 0, 0, 1], 7)));
        plan.payload_bytes = 10;
        Echo::new(&plan, connection)
    }

    #[test]
    fn messages_come_back_in_pieces() {
        let (mut echo, mut out, mut replies) = (echo(0), Vec::new(), Vec::new());
        echo.begin(5, 0, &mut out);
        for sequence in 5..8 {
            echo.request(sequence, &mut out);
        }
        out[13] ^= 1;
        for piece in out.chunks(7) {
            echo.receive(piece, &mut replies).unwrap();
        }
        assert_eq!(replies, [Check::Intact(5), Check::Damaged(6), Check::Intact(7)].map(Reply::To));
        assert_eq!(echo.receive(b"x", &mut replies), Err(Nonsense::Unasked(1)));
    }

    #[test]
    fn another_connections_bytes_are_wrong() {
        let (mut ours, mut theirs, mut out, mut replies) = (echo(0), echo(1), Vec::new(), Vec::new());
        ours.begin(0, 0, &mut out);
        theirs.begin(0, 0, &mut out);
        ours.request(0, &mut Vec::new());
        theirs.request(0, &mut out);
        ours.receive(&out, &mut replies).unwrap();
        assert_eq!(replies, [Reply::To(Check::Damaged(0))]);
    }
}
