//! What a guest has done, as the daemon wants to know it.

use std::time::Instant;

use super::log::Log;
use crate::api::{GuestStats, PollTimes, SocketView};
use crate::guest::Guest;
use crate::net::EdgeCounters;

/// Sockets told of.
const SOCKETS_MAX: usize = 4096;
/// Counters of a netstack, and the length of a name.
const NAMES_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 64;
/// Longest text of a socket, bytes: an IPv6 address with its port has 47.
const TEXT_BYTES_MAX: usize = 64;
/// Nothing is counted as far as this, and some of it can be added up: 36 years of nanoseconds.
const COUNT_MAX: u64 = 1 << 60;

/// Between two polls. `rss_bytes` and `cpu_us` are the daemon's to fill in.
/// Runs nothing of the guest.
pub(super) fn stats(
    guest: &mut Guest,
    sockets: &[SocketView],
    edge: &EdgeCounters,
    log: &Log,
    since: Instant,
) -> GuestStats {
    let counters = guest.counters();
    GuestStats {
        uptime_ms: uptime_ms(since),
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
        sockets: sockets.iter().take(SOCKETS_MAX).cloned().collect(),
    }
}

/// Of a guest whose memories are not in place yet.
pub(super) fn stats_of_waiting(guest: &Guest, since: Instant) -> GuestStats {
    GuestStats { uptime_ms: uptime_ms(since), memory_bytes: guest.memory_bytes() as u64, ..GuestStats::default() }
}

fn uptime_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Whether a worker can have counted that; else what is wrong. A hostile one may send anything.
pub(super) fn check(stats: &GuestStats) -> Result<(), &'static str> {
    let texts = |text: &str| text.len() <= TEXT_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    let sockets = stats.sockets.iter().all(|socket| {
        let told = [&socket.protocol, &socket.local, &socket.state];
        told.into_iter().chain(&socket.peer).all(|text| texts(text))
    });
    let name = |name: &String| {
        let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(letters)
    };
    let polls = stats.poll_times.counts.iter().try_fold(0u64, |sum, count| sum.checked_add(*count));
    let queued = stats.sockets.iter().flat_map(|socket| [socket.rx_queued_bytes, socket.tx_queued_bytes]);
    let plain = [
        stats.uptime_ms,
        stats.memory_bytes,
        stats.polls,
        stats.rx_frames,
        stats.rx_bytes,
        stats.tx_frames,
        stats.tx_bytes,
        stats.rx_dropped,
        stats.tx_dropped,
        stats.log_lines_dropped,
        stats.poll_times.sum_ns,
        stats.poll_times.max_ns,
    ];
    let mut counts = plain.into_iter().chain(stats.netstack.values().copied()).chain(queued);
    let checks = [
        (stats.sockets.len() <= SOCKETS_MAX, "too many sockets"),
        (sockets, "the text of a socket"),
        (stats.netstack.len() <= NAMES_MAX, "too many counters"),
        (stats.netstack.keys().all(name), "the name of a counter"),
        (stats.poll_times.counts.len() <= PollTimes::BUCKETS, "too many poll times"),
        (polls.is_some_and(|sum| sum <= COUNT_MAX), "poll times"),
        (counts.all(|count| count <= COUNT_MAX), "a count"),
    ];
    checks.into_iter().find(|(holds, _)| !holds).map_or(Ok(()), |(_, what)| Err(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::SocketView;

    #[test]
    fn what_cannot_be_is_told_apart() {
        let socket = SocketView {
            protocol: "tcp".into(),
            local: "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".into(),
            peer: Some("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".into()),
            state: "syn-received".into(),
            rx_queued_bytes: u32::MAX.into(),
            tx_queued_bytes: u32::MAX.into(),
        };
        let names = roam_netstack::Stats::NAMES;
        let mut good = GuestStats { sockets: vec![socket; SOCKETS_MAX], ..GuestStats::default() };
        good.netstack = names.iter().map(|name| ((*name).to_owned(), 1)).collect();
        good.poll_times.record(1);
        assert_eq!(check(&good), Ok(()));
        type Worsen = fn(&mut GuestStats);
        let worse: [(&str, Worsen); 9] = [
            ("too many sockets", |stats| stats.sockets.push(stats.sockets[0].clone())),
            ("the text of a socket", |stats| stats.sockets[7].state = "\u{1b}[2J".into()),
            ("the text of a socket", |stats| stats.sockets[7].peer = Some("x".repeat(65))),
            ("too many counters", |stats| stats.netstack = (0..65).map(|n| (format!("n{n}"), 0)).collect()),
            ("the name of a counter", |stats| {
                stats.netstack.insert("a\"} 1\n".into(), 0);
            }),
            ("too many poll times", |stats| stats.poll_times.counts.push(0)),
            ("poll times", |stats| stats.poll_times.counts = vec![u64::MAX, 1]),
            ("a count", |stats| stats.rx_bytes = u64::MAX),
            ("a count", |stats| stats.sockets[0].rx_queued_bytes = u64::MAX),
        ];
        for (what, make_worse) in worse {
            let mut stats = good.clone();
            make_worse(&mut stats);
            assert_eq!(check(&stats), Err(what));
        }
    }
}
