//! A guest as a function from inputs to outputs: what recording, replay and tests use.

use roam_netstack::{Config, FRAME_BYTES_MAX};
use serde::{Deserialize, Serialize};

use super::{Guest, LogLine, ReaddressError, Stopped};

/// An Ethernet frame without its checksum sequence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// From the destination address on.
    pub bytes: Vec<u8>,
    /// TCP payload bytes of each segment the edge must cut this frame into; 0 sends it as it is.
    pub segment_bytes: u16,
}

/// Everything that reaches a guest in one poll, and what was done to it before that, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs {
    /// The guest's clock.
    pub now_ns: i64,
    /// [`Guest::reseed`] was called before the poll.
    pub reseed: Option<[u8; 32]>,
    /// [`Guest::readdress`] was called before the frames came. One that is refused changes nothing.
    pub readdress: Option<Config>,
    /// Received frames, in order.
    pub frames: Vec<Frame>,
    /// [`Guest::announce`] was called before the poll.
    pub announce: bool,
}

/// Everything that leaves a guest after one poll.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outputs {
    /// Frames to send, in order.
    pub frames: Vec<Frame>,
    /// What it logged.
    pub log: Vec<LogLine>,
    /// Work is left: step again at once.
    pub again: bool,
    /// Received frames that found the ring full or were over [`FRAME_BYTES_MAX`], and were dropped.
    pub frames_dropped: u64,
}

impl Guest {
    /// One poll as a function. A log of [`Inputs`] replayed to a guest started alike gives the same [`Outputs`].
    pub fn step(&mut self, inputs: &Inputs) -> Result<Outputs, Stopped> {
        let mut outputs = Outputs::default();
        if let Some(seed) = inputs.reseed {
            self.reseed(seed)?;
        }
        if let Some(network) = &inputs.readdress
            && let Err(ReaddressError::Stopped(stopped)) = self.readdress(network)
        {
            return Err(stopped);
        }
        let mut rx = self.rx();
        for frame in &inputs.frames {
            let slot = (frame.bytes.len() <= FRAME_BYTES_MAX).then(|| rx.slot(frame.bytes.len())).flatten();
            if let Some(slot) = slot {
                slot.copy_from_slice(&frame.bytes);
                rx.push(frame.bytes.len(), frame.segment_bytes);
            } else {
                rx.count_dropped(1);
                outputs.frames_dropped += 1;
            }
        }
        if inputs.announce {
            self.announce()?;
        }
        outputs.again = self.poll(inputs.now_ns)?.again;
        let mut tx = self.tx();
        while let Some(frame) = tx.front() {
            outputs.frames.push(Frame { bytes: frame.bytes.to_vec(), segment_bytes: frame.segment_bytes });
            tx.pop();
        }
        outputs.log = self.take_log();
        Ok(outputs)
    }
}
