//! Counters.

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What happened since the start. Only ever appended to: hosts read it from memory by [`Stats::NAMES`].
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[repr(C)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            /// The counters' names, in the order in which they lie in memory.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];

            /// The counters, in the order of [`Stats::NAMES`].
            pub fn values(&self) -> impl Iterator<Item = u64> {
                [$(self.$name),*].into_iter()
            }
        }
    };
}

stats! {
    /// Frames taken from the rx ring.
    rx_frames,
    /// Their bytes.
    rx_bytes,
    /// Frames put into the tx ring.
    tx_frames,
    /// Their bytes.
    tx_bytes,
    /// Received frames that were no valid Ethernet, ARP or IP, or not for us.
    rx_ignored,
    /// Frames the host could not put into the rx ring.
    rx_ring_dropped,
    /// Times a full tx ring made the stack wait.
    tx_backpressure,
    /// Rings found corrupt and emptied.
    ring_resets,
    /// Datagrams for a socket whose receive buffer was full.
    udp_rx_overflow,
    /// Echo messages for a socket whose receive buffer was full.
    icmp_rx_overflow,
    /// TCP and UDP packets no socket wanted.
    unclaimed,
    /// Connections accepted by the guest.
    tcp_accepted,
    /// Connections opened by the guest.
    tcp_connected,
    /// Connections reset by their peer.
    tcp_resets,
    /// Connections that timed out.
    tcp_timeouts,
    /// Connection attempts dropped because the backlog or the socket table was full.
    syn_dropped,
    /// Half-open connections given up for a newer one.
    half_open_evicted,
    /// Half-open connections given up because the peer did not answer.
    half_open_expired,
    /// Closed connections given up before the peer had acknowledged everything.
    orphans_reaped,
    /// Connections in TIME-WAIT forgotten early.
    time_wait_reaped,
    /// Packets for a neighbour that did not answer.
    neighbor_unreachable,
    /// Sockets in use, of every kind and state (a level, not a count).
    sockets,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_memory_agree() {
        assert_eq!(size_of::<Stats>(), 8 * Stats::NAMES.len());
        let stats = Stats { sockets: 7, ..Stats::default() };
        let last = Stats::NAMES.iter().zip(stats.values()).last();
        assert_eq!(last, Some((&"sockets", 7)));
    }
}
