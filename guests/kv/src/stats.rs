//! What `stats` tells.

use std::io::Write;

use crate::clock::Now;
use crate::store::Store;

/// The memcached whose text protocol this is: clients read a number out of it and refuse what is below 1.
pub const VERSION: &str = "1.6.18";

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $field:ident = $name:literal,)*) => {
        /// Events since the start or since `stats reset`.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Stats {
            $($(#[doc = $doc])* pub $field: u64,)*
        }

        impl Stats {
            /// The counters with the names memcached gives them.
            fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$(($name, self.$field),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Connections open now.
    connections = "curr_connections",
    /// Connections accepted.
    connections_total = "total_connections",
    /// Connections turned away.
    connections_rejected = "rejected_connections",
    /// Keys asked for.
    gets = "cmd_get",
    /// Storage commands.
    sets = "cmd_set",
    /// `flush_all` commands.
    flushes = "cmd_flush",
    /// Keys touched.
    touches = "cmd_touch",
    /// Keys found.
    get_hits = "get_hits",
    /// Keys not found.
    get_misses = "get_misses",
    /// Items that were there, but expired.
    expired_found = "get_expired",
    /// Deletes of no item.
    delete_misses = "delete_misses",
    /// Items deleted.
    delete_hits = "delete_hits",
    /// Increments of no item.
    incr_misses = "incr_misses",
    /// Increments done.
    incr_hits = "incr_hits",
    /// Decrements of no item.
    decr_misses = "decr_misses",
    /// Decrements done.
    decr_hits = "decr_hits",
    /// `cas` of no item.
    cas_misses = "cas_misses",
    /// `cas` done.
    cas_hits = "cas_hits",
    /// `cas` of an item that had changed.
    cas_badval = "cas_badval",
    /// Touches done.
    touch_hits = "touch_hits",
    /// Touches of no item.
    touch_misses = "touch_misses",
    /// Bytes received.
    bytes_read = "bytes_read",
    /// Bytes sent.
    bytes_written = "bytes_written",
    /// Items stored under a new key.
    items_total = "total_items",
    /// Items removed for want of memory.
    evictions = "evictions",
}

impl Stats {
    /// Forgets everything but what is open.
    pub fn reset(&mut self) {
        *self = Self { connections: self.connections, ..Self::default() };
    }
}

/// Writes the answer to `stats`.
pub(crate) fn print(store: &Store, now: Now, out: &mut Vec<u8>) {
    // There is no process in a guest: 1 stands for it, clients want a number there.
    let fixed = [("pid", 1), ("uptime", now.ns / 1_000_000_000), ("time", now.unix_s)];
    for (name, value) in fixed {
        line(name, value, out);
    }
    line("version", VERSION, out);
    line("pointer_size", usize::BITS, out);
    line("threads", 1, out);
    line("curr_items", store.items(), out);
    line("bytes", store.bytes(), out);
    line("limit_maxbytes", store.limits().memory_bytes, out);
    for (name, value) in store.stats.named() {
        line(name, value, out);
    }
    out.extend_from_slice(b"END\r\n");
}

/// Writes the answer to `stats settings`.
pub(crate) fn print_settings(store: &Store, out: &mut Vec<u8>) {
    line("maxbytes", store.limits().memory_bytes, out);
    line("item_size_max", store.limits().item_bytes, out);
    line("evictions", "on", out);
    line("cas_enabled", "yes", out);
    out.extend_from_slice(b"END\r\n");
}

fn line(name: &str, value: impl std::fmt::Display, out: &mut Vec<u8>) {
    write!(out, "STAT {name} {value}\r\n").expect("a Vec takes all bytes");
}
