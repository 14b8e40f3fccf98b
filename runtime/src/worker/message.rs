//! The control socket's messages: postcard behind a `u32` length (little endian).
//!
//! One connection at a time is served; a later one replaces it (a restarted daemon). A message that is too long or
//! cannot be decoded closes the connection, on either side, and costs nothing else.

use serde::{Deserialize, Serialize};

use crate::api::GuestStats;

/// Longest message, bytes: [`GuestStats`] with all sockets a guest can have.
pub const MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Daemon to worker. Answered in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Who are you? Answered by the control thread itself. Reply: [`Reply::Hello`].
    Hello,
    /// Counters and sockets, taken between two polls. Reply: [`Reply::Stats`].
    Stats,
    /// End. Reply: [`Reply::Stopping`], then the process ends within moments.
    Stop,
}

/// Worker to daemon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// To [`Request::Hello`].
    Hello {
        /// The guest's name.
        name: String,
        /// [`crate::api::GuestView::id`].
        id: String,
    },
    /// To [`Request::Stats`]. `rss_bytes` and `cpu_us` are left 0: the worker sees no /proc; the daemon fills them in.
    Stats(Box<GuestStats>),
    /// To [`Request::Stop`].
    Stopping,
}
