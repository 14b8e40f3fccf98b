//! What a guest and its host agree on.
//!
//! A guest is a module that exports
//!
//! | export | type | meaning |
//! | --- | --- | --- |
//! | `memory` | memory | what pointers in imports refer to |
//! | `roam_abi_version` | `() -> i32` | [`VERSION`] it was built for |
//! | `roam_poll` | `(now_ns: i64) -> i64` | works until it would block; returns its next deadline |
//! | `_initialize` | `() -> ()` | optional, called once before the first poll (WASI reactors) |
//!
//! and imports what it needs from module [`MODULE`] (see [`Import`]) or the deterministic part of
//! `wasi_snapshot_preview1`. `now_ns` is the guest's own clock, 0 at its first poll, the same value for a whole poll;
//! the deadline is on that clock too, [`NO_DEADLINE`] for none. Between polls no frame of the guest is live, so its
//! linear memories and globals are all of its state.
//!
//! Integers cross as little-endian; pointers and lengths are `u32` offsets into the guest's `memory`. Every import
//! that can fail returns a negative [`Errno`]. Sockets never block: what cannot be done now is [`Errno::AGAIN`], and
//! [`Import`]`::ready` reports the socket once that may have changed (edge-triggered, like `EPOLLET`).
//!
//! Deliberately absent: files, threads, processes, host clocks, entropy of the host.
#![no_std]
#![forbid(unsafe_code)]

mod address;
mod errno;
pub mod pattern;

pub use address::{ADDRESS_BYTES, Address};
pub use errno::Errno;

/// The version of everything in this crate. A host refuses a guest built for another one.
pub const VERSION: u32 = 1;

/// The module name of the imports.
pub const MODULE: &str = "roam";

/// What `roam_poll` returns when only a frame can wake the guest.
pub const NO_DEADLINE: i64 = i64::MAX;

/// The imports of module [`MODULE`], as WebAssembly sees them.
///
/// `addr` points to an [`Address`] of [`ADDRESS_BYTES`] bytes. Buffer sizes are bytes, 0 for the default, and bounded
/// by [`limits::SOCKET_BUFFER_BYTES_MAX`].
///
/// | import | type | result |
/// | --- | --- | --- |
/// | `clock` | `(id) -> i64` | ns: [`CLOCK_REALTIME`] since 1970, or [`CLOCK_MONOTONIC`] as given to `roam_poll` |
/// | `random` | `(ptr, len) -> i32` | 0; fills from the guest's own generator |
/// | `log` | `(level, ptr, len) -> i32` | 0; one UTF-8 line, at most [`limits::LOG_LINE_BYTES_MAX`] |
/// | `exit` | `(code) -> !` | ends the guest |
/// | `arg`, `env` | `(index, ptr, cap) -> i32` | full length in bytes (copies at most `cap`); `NOENT` past the last; argument 0 is the guest's name |
/// | `udp_open` | `(addr, rx_bytes, tx_bytes) -> i32` | a socket bound to `addr` (port 0: any free one) |
/// | `icmp_open` | `(ident, rx_bytes, tx_bytes) -> i32` | a socket for echo messages with that identifier |
/// | `send_to` | `(socket, ptr, len, addr) -> i32` | `len`; one datagram |
/// | `recv_from` | `(socket, ptr, cap, addr) -> i32` | full length (copies at most `cap`; the rest is dropped) |
/// | `tcp_listen` | `(addr, backlog, rx_bytes, tx_bytes) -> i32` | a listening socket |
/// | `accept` | `(socket, addr) -> i32` | a connected socket |
/// | `tcp_connect` | `(addr, rx_bytes, tx_bytes) -> i32` | a connecting socket: writable once established |
/// | `send` | `(socket, ptr, len) -> i32` | bytes queued, at least 1 |
/// | `recv` | `(socket, ptr, cap) -> i32` | bytes received; 0 when the peer has sent everything |
/// | `shutdown` | `(socket) -> i32` | 0; no more sends (FIN once the queue is empty) |
/// | `close` | `(socket) -> i32` | 0; the handle is gone, queued bytes still leave |
/// | `abort` | `(socket) -> i32` | 0; the handle is gone, the peer gets a reset |
/// | `set_option` | `(socket, option, value: i64) -> i32` | 0; see [`SocketOption`] |
/// | `local_addr`, `peer_addr` | `(socket, addr) -> i32` | 0; `peer_addr` says `NOTCONN` until a connect was answered |
/// | `ready` | `(ptr, cap) -> i32` | count of [`Event`]s written, at most `cap` |
///
/// ICMP echo messages are sent and received whole (type, code, checksum, identifier, sequence, data); the checksum is
/// filled in on the way out, and the port of the address is ignored.
#[derive(Debug)]
pub enum Import {}

/// `clock`: wall-clock time, nanoseconds since 1970.
pub const CLOCK_REALTIME: u32 = 0;
/// `clock`: the guest's own clock, nanoseconds since its first poll.
pub const CLOCK_MONOTONIC: u32 = 1;

/// `log` levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum LogLevel {
    /// The guest cannot go on, or lost something.
    Error = 1,
    /// Something an operator should look at.
    Warn = 2,
    /// Normal events.
    Info = 3,
    /// For the guest's developer.
    Debug = 4,
}

impl LogLevel {
    /// The level with that number.
    pub fn from_raw(raw: u32) -> Option<Self> {
        [Self::Error, Self::Warn, Self::Info, Self::Debug].into_iter().find(|level| *level as u32 == raw)
    }
}

/// What `set_option` can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SocketOption {
    /// TCP: 1 sends small segments at once (Nagle off), 0 (default) gathers them.
    NoDelay = 1,
    /// TCP: keep-alive interval in nanoseconds; 0 (default) is off.
    KeepAlive = 2,
    /// TCP: nanoseconds without an answer from the peer after which the connection is aborted; 0 (default) is never.
    Timeout = 3,
    /// UDP and TCP: IP time to live / hop limit, 1 to 255 (default 64).
    HopLimit = 4,
}

impl SocketOption {
    /// The option with that number.
    pub fn from_raw(raw: u32) -> Option<Self> {
        [Self::NoDelay, Self::KeepAlive, Self::Timeout, Self::HopLimit].into_iter().find(|o| *o as u32 == raw)
    }
}

/// What may have changed on a socket. Spurious events are allowed; missing ones are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The socket's handle.
    pub socket: u32,
    /// Bits of [`Event::READABLE`], [`Event::WRITABLE`] and [`Event::CLOSED`].
    pub flags: u32,
}

impl Event {
    /// `recv`, `recv_from` or `accept` may succeed.
    pub const READABLE: u32 = 1;
    /// `send` or `send_to` may succeed.
    pub const WRITABLE: u32 = 2;
    /// The connection is over: both directions fail or return 0.
    pub const CLOSED: u32 = 4;
    /// Size in memory: `socket` and `flags`, each a little-endian `u32`.
    pub const BYTES: usize = 8;

    /// The event as it stands in memory.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..4].copy_from_slice(&self.socket.to_le_bytes());
        bytes[4..].copy_from_slice(&self.flags.to_le_bytes());
        bytes
    }

    /// The event that stands in memory.
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let [a, b, c, d, e, f, g, h] = bytes;
        Self { socket: u32::from_le_bytes([a, b, c, d]), flags: u32::from_le_bytes([e, f, g, h]) }
    }
}

/// Named limits. What exceeds one is an error, never a panic.
pub mod limits {
    /// Sockets of one guest, listening and half-open ones included.
    pub const SOCKETS_MAX: usize = 4096;
    /// A listener's connections that are half-open or wait for `accept`.
    pub const BACKLOG_MAX: usize = 1024;
    /// A socket's receive or send buffer.
    pub const SOCKET_BUFFER_BYTES_MAX: usize = 4 * 1024 * 1024;
    /// A socket's receive or send buffer when the guest does not choose.
    pub const SOCKET_BUFFER_BYTES_DEFAULT: usize = 64 * 1024;
    /// The smallest buffer: what a guest asks for below this is rounded up to it.
    pub const SOCKET_BUFFER_BYTES_MIN: usize = 1024;
    /// Datagrams in one direction of one socket.
    pub const SOCKET_DATAGRAMS_MAX: usize = 256;
    /// A UDP payload.
    pub const DATAGRAM_BYTES_MAX: usize = 65_507;
    /// A log line; longer ones are cut.
    pub const LOG_LINE_BYTES_MAX: usize = 4096;
    /// Events one `ready` call returns.
    pub const EVENTS_MAX: usize = 256;
    /// Arguments or environment entries.
    pub const ARGS_MAX: usize = 1024;
    /// All arguments or all environment entries together.
    pub const ARGS_BYTES_MAX: usize = 128 * 1024;
    /// Bytes one `random` call fills.
    pub const RANDOM_BYTES_MAX: usize = 1024 * 1024;
}
