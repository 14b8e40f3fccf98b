//! Packets to sockets: smoltcp behind roam's socket calls. Built to `netstack.wasm`, one per guest, and natively.
//!
//! ```text
//!  host writes frames            guest's calls
//!        │                             │
//!     rx ring ─▶ link ─▶ demux ─▶ socket: smoltcp, and what it does not know
//!     tx ring ◀─ link ◀─────────── dirty sockets, timers
//!        │                             │
//!  host takes frames             events (ready)
//! ```
//!
//! In reading order: `config` (addresses, sizes, limits), `ring` (frames in memory), `netstack` (the parts, and what a
//! poll does in which order), `ingress` and `egress` (the way in and out), `settle` (events, timers, ends), `socket`
//! (what is kept of each, and how packets find it), `calls` (what the guest can do), `link` (Ethernet, ARP, neighbour
//! discovery), `renew` (another seed, other addresses: a clone), `address`, `packet`, `device`, `sequence`, `heard` (what smoltcp is given, and what it is spared), `sys`
//! (the wasm exports).
//!
//! What holds:
//! - All state is plain memory of this value; time and frames are its only inputs. Same inputs, same bytes out.
//! - A call never blocks, and sends nothing before the next poll.
//! - A full tx ring loses nothing: what cannot leave stays queued, and frames that would need an answer stay unread.
//! - What is dropped is counted in [`Stats`].
//! - No frame, ring or argument makes it panic. smoltcp's own assertions are kept out of reach.
//!
//! Deliberately absent: IPv6 fragmentation and router discovery (smoltcp fragments IPv4 only; routes are configured),
//! multicast groups beyond those every host is in, DHCP, DNS.
#![no_std]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that fails may panic"))]

extern crate alloc;
#[cfg(not(target_arch = "wasm32"))]
extern crate std;

mod address;
mod calls;
mod config;
mod device;
mod egress;
mod heard;
mod ingress;
mod link;
mod netstack;
mod packet;
mod random;
mod renew;
mod ring;
mod sequence;
mod settle;
mod socket;
mod stats;
mod sys;
mod timers;

pub use calls::{SocketInfo, SocketKind};
pub use config::{
    BUFFER_BYTES_MAX_DEFAULT, BUFFER_BYTES_MAX_MAX, BUFFER_BYTES_MAX_MIN, CONFIG_BYTES_MAX, Cidr, Config, ConfigError,
    MTU_BYTES_MAX, MTU_BYTES_MIN, MTU_BYTES_MIN_IPV6, RING_BYTES_DEFAULT, RING_BYTES_MAX, RING_BYTES_MIN,
};
pub use netstack::{Netstack, Polled};
pub use ring::{BATCH_FRAMES, FRAME_BYTES_MAX, Frame, FrameMut, Ring, RingError};
pub use socket::SocketId;
pub use stats::Stats;
