//! What a guest has done, as the daemon wants to know it.

use std::time::Instant;

use super::log::Log;
use crate::api::GuestStats;
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
        rx_dropped: edge.rx_checksum_errors + guest.rx().dropped(),
        tx_dropped: edge.tx_dropped,
        log_lines_dropped: log.lines_dropped(),
        netstack: counters.iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        sockets: sockets.into_iter().take(SOCKETS_MAX).map(Into::into).collect(),
    })
}
