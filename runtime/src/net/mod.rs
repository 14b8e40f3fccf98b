//! Frames between the kernel and a guest.
//!
//! ```text
//!  TAP fd ── readv ──> rx ring ── Machine::poll ──> tx ring ── writev ──> TAP fd
//!      └ virtio-net header: checksums and segmentation are the kernel's or ours (`offload`), never the guest's
//! ```
//!
//! [`Edge`] is the loop; [`Machine`] is what it drives: a guest, or the same netstack natively in the benchmark.

mod edge;
mod offload;
mod tap;
mod watchdog;

pub use edge::{Edge, EdgeCounters, EdgeError, EdgeOptions, Ended, Watched};
pub use tap::{Tap, TapError, TapOptions};
pub use watchdog::{Overrun, Watchdog};

use roam_netstack::Ring;

use crate::guest::{Guest, LogLine, Stopped};

/// What [`Machine::poll`] reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polled {
    /// Work is left: drain the tx ring and poll again at once.
    pub again: bool,
}

/// What an [`Edge`] drives: frames in, time, frames out.
pub trait Machine {
    /// Where received frames go.
    fn rx(&mut self) -> Ring<'_>;
    /// Where frames to send are.
    fn tx(&mut self) -> Ring<'_>;
    /// Works through the rx ring at guest time `now_ns`.
    fn poll(&mut self, now_ns: i64) -> Result<Polled, Stopped>;
    /// When the next poll is due even if no frame arrives.
    fn deadline_ns(&mut self) -> Result<Option<i64>, Stopped>;
    /// Log lines since the last call.
    fn take_log(&mut self) -> Vec<LogLine>;
}

impl Machine for Guest {
    fn rx(&mut self) -> Ring<'_> {
        self.rx()
    }

    fn tx(&mut self) -> Ring<'_> {
        self.tx()
    }

    fn poll(&mut self, now_ns: i64) -> Result<Polled, Stopped> {
        self.poll(now_ns)
    }

    fn deadline_ns(&mut self) -> Result<Option<i64>, Stopped> {
        self.deadline_ns()
    }

    fn take_log(&mut self) -> Vec<LogLine> {
        self.take_log()
    }
}
