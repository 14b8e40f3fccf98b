//! What sockets there are, for whoever looks from outside.

use core::net::SocketAddr;

use roam_abi::{ADDRESS_BYTES, Address};
use smoltcp::socket::{icmp, tcp::State, udp};

use crate::{Netstack, socket::Kind};

/// A socket as seen from outside, be it the guest's or on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketInfo {
    /// What it is, and a connection's state.
    pub kind: SocketKind,
    /// What it is bound to; of an ICMP socket, the port is the identifier.
    pub local: SocketAddr,
    /// The other end of a connection; unspecified for the others.
    pub peer: SocketAddr,
    /// Received bytes the guest has not taken; of a listener, connections it has not accepted.
    pub rx_queued: u32,
    /// Sent bytes that are not acknowledged (TCP) or not out; of a listener, half-open connections.
    pub tx_queued: u32,
}

/// Kinds of sockets. TCP states as in RFC 9293.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum SocketKind {
    Udp,
    Icmp,
    Listen,
    SynSent,
    SynReceived,
    Established,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
    Closed,
}

impl SocketKind {
    const ALL: [Self; 13] = [
        Self::Udp,
        Self::Icmp,
        Self::Listen,
        Self::SynSent,
        Self::SynReceived,
        Self::Established,
        Self::FinWait1,
        Self::FinWait2,
        Self::CloseWait,
        Self::Closing,
        Self::LastAck,
        Self::TimeWait,
        Self::Closed,
    ];

    fn of(state: State) -> Self {
        match state {
            State::Closed => Self::Closed,
            State::Listen => Self::Listen,
            State::SynSent => Self::SynSent,
            State::SynReceived => Self::SynReceived,
            State::Established => Self::Established,
            State::FinWait1 => Self::FinWait1,
            State::FinWait2 => Self::FinWait2,
            State::CloseWait => Self::CloseWait,
            State::Closing => Self::Closing,
            State::LastAck => Self::LastAck,
            State::TimeWait => Self::TimeWait,
        }
    }
}

impl SocketInfo {
    /// Its size in memory.
    pub const BYTES: usize = 12 + 2 * ADDRESS_BYTES;

    /// As it stands in memory: kind (`u32`), queued bytes received and sent (`u32` each, little endian), both addresses.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0] = self.kind as u8;
        bytes[4..8].copy_from_slice(&self.rx_queued.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.tx_queued.to_le_bytes());
        bytes[12..12 + ADDRESS_BYTES].copy_from_slice(&Address(self.local).to_bytes());
        bytes[12 + ADDRESS_BYTES..].copy_from_slice(&Address(self.peer).to_bytes());
        bytes
    }

    /// What stands in memory; `None` if it is no such record.
    pub fn from_bytes(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let (words, addresses) = bytes.split_at(12);
        let word = |index: usize| words[4 * index..].first_chunk().map(|word| u32::from_le_bytes(*word));
        let address = |at: usize| Address::from_bytes(addresses[at..].first_chunk()?).ok();
        Some(Self {
            kind: *SocketKind::ALL.get(word(0)? as usize)?,
            rx_queued: word(1)?,
            tx_queued: word(2)?,
            local: address(0)?.0,
            peer: address(ADDRESS_BYTES)?.0,
        })
    }
}

impl Netstack {
    /// The first socket at or after that place in the table, and its place. Changes nothing.
    pub fn inspect(&self, from: u32) -> Option<(u32, SocketInfo)> {
        let index = (from..self.table.places()).find(|index| self.table.get(*index).is_some())?;
        let unspecified = SocketAddr::from(([0; 4], 0));
        let bound = |kind, local, (rx, tx)| SocketInfo {
            kind,
            local,
            peer: unspecified,
            rx_queued: rx as u32,
            tx_queued: tx as u32,
        };
        let info = match &self.table.get(index)?.kind {
            Kind::Udp(datagram) => {
                let socket = datagram.single.get::<udp::Socket<'_>>();
                bound(SocketKind::Udp, datagram.bind.address(), (socket.recv_queue(), socket.send_queue()))
            }
            Kind::Icmp(datagram) => {
                let socket = datagram.single.get::<icmp::Socket<'_>>();
                bound(SocketKind::Icmp, datagram.bind.address(), (socket.recv_queue(), socket.send_queue()))
            }
            Kind::Listener(listener) => {
                let waiting = (listener.ready.len(), listener.half_open.len());
                bound(SocketKind::Listen, listener.bind.address(), waiting)
            }
            Kind::Tcp(tcp) => {
                let socket = tcp.socket();
                let kind = SocketKind::of(socket.state());
                let queued = (socket.recv_queue(), socket.send_queue());
                SocketInfo { peer: tcp.peer, ..bound(kind, tcp.local, queued) }
            }
        };
        Some((index, info))
    }
}
