//! What a guest has done, as the daemon wants to know it.

use std::time::Instant;

use roam_netstack::{SocketInfo, SocketKind};

use super::log::Log;
use crate::api::{GuestStats, SocketView};
use crate::guest::{Guest, Stopped};
use crate::net::EdgeCounters;

/// Sockets told of.
const SOCKETS_MAX: usize = 4096;

/// Between two polls. `rss_bytes` and `cpu_us` are the daemon's to fill in.
pub(super) fn stats(guest: &mut Guest, edge: &EdgeCounters, log: &Log, since: Instant) -> Result<GuestStats, Stopped> {
    let counters = guest.counters();
    let sockets = guest.sockets()?;
    Ok(GuestStats {
        uptime_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
        cpu_us: 0,
        rss_bytes: 0,
        memory_bytes: guest.memory_bytes() as u64,
        polls: edge.polls,
        poll_times: edge.poll_times.clone(),
        rx_frames: edge.rx_frames,
        rx_bytes: edge.rx_bytes,
        tx_frames: edge.tx_frames,
        tx_bytes: edge.tx_bytes,
        rx_dropped: edge.rx_checksum_errors + u64::from(guest.rx().dropped()),
        tx_dropped: edge.tx_dropped,
        log_lines_dropped: log.lines_dropped(),
        netstack: counters.iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        sockets: sockets.iter().take(SOCKETS_MAX).map(view).collect(),
    })
}

fn view(socket: &SocketInfo) -> SocketView {
    let (protocol, state) = names(socket.kind);
    let connected = protocol == "tcp" && socket.kind != SocketKind::Listen;
    SocketView {
        protocol: protocol.into(),
        local: socket.local.to_string(),
        peer: connected.then(|| socket.peer.to_string()),
        state: state.into(),
        rx_queued_bytes: socket.rx_queued.into(),
        tx_queued_bytes: socket.tx_queued.into(),
    }
}

/// Protocol and state. TCP states as in RFC 9293, in lower case.
fn names(kind: SocketKind) -> (&'static str, &'static str) {
    match kind {
        SocketKind::Udp => ("udp", "open"),
        SocketKind::Icmp => ("icmp", "open"),
        SocketKind::Listen => ("tcp", "listen"),
        SocketKind::SynSent => ("tcp", "syn-sent"),
        SocketKind::SynReceived => ("tcp", "syn-received"),
        SocketKind::Established => ("tcp", "established"),
        SocketKind::FinWait1 => ("tcp", "fin-wait-1"),
        SocketKind::FinWait2 => ("tcp", "fin-wait-2"),
        SocketKind::CloseWait => ("tcp", "close-wait"),
        SocketKind::Closing => ("tcp", "closing"),
        SocketKind::LastAck => ("tcp", "last-ack"),
        SocketKind::TimeWait => ("tcp", "time-wait"),
        SocketKind::Closed => ("tcp", "closed"),
    }
}
