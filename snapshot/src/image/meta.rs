//! What describes an image, and the frames it carries.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::chain::Link;
use super::error::ImageError;
use super::header::word32;
use super::{FRAMES_BYTES_MAX, FRAMES_MAX};
use crate::page::Shape;
use crate::protocol::{FRAME_BYTES_MAX, GUEST_BYTES_MAX, STATE_BYTES_MAX};

/// blake3 of an image, or of code. Written as hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ImageDigest(pub [u8; 32]);

impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// All of an image that is no page and no frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// The guest as hosts describe it to each other; at most [`GUEST_BYTES_MAX`]. Not decoded here.
    pub guest: Vec<u8>,
    /// blake3 of its module.
    pub module: [u8; 32],
    /// blake3 of its netstack.
    pub netstack: [u8; 32],
    /// The ABI between guest and host.
    pub abi: u32,
    /// Its memories when it was stopped.
    pub shape: Shape,
    /// When it was stopped, milliseconds since 1970.
    pub created_ms: u64,
    /// Which image of the guest this is: one more than its parent.
    pub sequence: u64,
    /// The image that this one follows, if it has only what changed since; `None` if it has everything.
    pub parent: Option<ImageDigest>,
    /// The image whose place a merged one takes: what follows that one follows this one as well.
    pub stands_for: Option<ImageDigest>,
    /// Globals, clock, random generator; at most [`STATE_BYTES_MAX`]. Not decoded here.
    pub state: Vec<u8>,
}

impl Meta {
    /// How it hangs together with others, if that is its image's digest.
    pub fn link(&self, digest: ImageDigest) -> Link {
        Link { digest, stands_for: self.stands_for, parent: self.parent, sequence: self.sequence }
    }

    /// Whether it belongs to this code, by blake3 of module and netstack, and this ABI.
    pub fn belongs_to(&self, module: [u8; 32], netstack: [u8; 32], abi: u32) -> Result<(), ImageError> {
        for (what, expected, found) in [("module", self.module, module), ("netstack", self.netstack, netstack)] {
            if expected != found {
                return Err(ImageError::Code { what, expected: ImageDigest(expected), found: ImageDigest(found) });
            }
        }
        if self.abi == abi { Ok(()) } else { Err(ImageError::Abi { expected: self.abi, found: abi }) }
    }

    pub(super) fn encode(&self) -> Result<Vec<u8>, ImageError> {
        self.check()?;
        postcard::to_allocvec(self).map_err(ImageError::Meta)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, ImageError> {
        let (meta, rest) = postcard::take_from_bytes::<Self>(bytes).map_err(ImageError::Meta)?;
        if !rest.is_empty() {
            return Err(ImageError::MetaRest(rest.len()));
        }
        meta.check()?;
        Ok(meta)
    }

    fn check(&self) -> Result<(), ImageError> {
        let parts = [("guest", self.guest.len(), GUEST_BYTES_MAX), ("state", self.state.len(), STATE_BYTES_MAX)];
        if let Some((what, bytes, bytes_max)) = parts.into_iter().find(|(_, bytes, bytes_max)| bytes > bytes_max) {
            return Err(ImageError::TooLong { what, bytes, bytes_max });
        }
        Ok(self.shape.check()?)
    }
}

pub(super) fn encode_frames(frames: &[Vec<u8>]) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    for (number, frame) in frames.iter().enumerate() {
        check_frame(number, frame.len() as u64, bytes.len() + 4 + frame.len())?;
        bytes.extend_from_slice(&(frame.len() as u32).to_le_bytes());
        bytes.extend_from_slice(frame);
    }
    Ok(bytes)
}

pub(super) fn decode_frames(mut bytes: &[u8]) -> Result<Vec<Vec<u8>>, ImageError> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let frame_bytes = if bytes.len() < 4 { 0 } else { word32(bytes, 0) };
        check_frame(frames.len(), frame_bytes.into(), bytes.len())?;
        let rest = &bytes[4..];
        let (frame, rest) = rest.split_at_checked(frame_bytes as usize).ok_or(ImageError::Frame {
            number: frames.len(),
            bytes: frame_bytes.into(),
            bytes_max: rest.len(),
        })?;
        frames.push(frame.to_vec());
        bytes = rest;
    }
    Ok(frames)
}

fn check_frame(number: usize, bytes: u64, all: usize) -> Result<(), ImageError> {
    if number >= FRAMES_MAX || bytes == 0 || bytes > FRAME_BYTES_MAX as u64 || all > FRAMES_BYTES_MAX {
        return Err(ImageError::Frame { number, bytes, bytes_max: FRAME_BYTES_MAX });
    }
    Ok(())
}
