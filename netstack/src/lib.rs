//! Packets to sockets: smoltcp behind roam's socket calls.
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
mod ingress;
mod link;
mod netstack;
mod packet;
mod random;
mod ring;
mod sequence;
mod settle;
mod socket;
mod stats;
mod sys;
mod timers;

pub use config::{
    BUFFER_BYTES_MAX_DEFAULT, BUFFER_BYTES_MAX_MAX, BUFFER_BYTES_MAX_MIN, CONFIG_BYTES_MAX, Cidr, Config, ConfigError,
    MTU_BYTES_MAX, MTU_BYTES_MIN, MTU_BYTES_MIN_IPV6, RING_BYTES_DEFAULT, RING_BYTES_MAX, RING_BYTES_MIN,
};
pub use netstack::{Netstack, Polled};
pub use ring::{BATCH_FRAMES, FRAME_BYTES_MAX, Frame, FrameMut, Ring, RingError};
pub use socket::SocketId;
pub use stats::Stats;
