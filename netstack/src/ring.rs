//! Frames in linear memory: one writer, one reader, the same code on both sides of the sandbox.
//!
//! ```text
//! | magic u32 | head u32 | tail u32 | frames u32 | dropped u64 | passed u64 | records … |
//! record: | len u32 | segment_bytes u16 | 0 u16 | frame, padded to 8 |      all little-endian
//! ```
//!
//! `head` and `tail` are offsets into the records, multiples of 8. A record never wraps: where it does not fit before
//! the end, a record of length [`WRAP`] sends the reader back to 0. Whenever the ring becomes empty both rewind to 0,
//! so a ring that is drained often dirties only its first pages, however large it is.
//!
//! The two sides never run at the same time, so nothing here is atomic. Nothing in the bytes is trusted: a ring may
//! come out of a snapshot that a hostile peer made up. [`Ring::attach`] walks it once and refuses what is not sound.

use thiserror::Error;

/// The largest frame: an Ethernet header and an IP packet of the largest size.
pub const FRAME_BYTES_MAX: usize = 14 + 65_535;
/// Frames moved in one go.
pub const BATCH_FRAMES: usize = 32;
/// Bytes before the first record.
pub(crate) const HEADER_BYTES: usize = 32;
/// Bytes before each frame.
pub(crate) const RECORD_BYTES: usize = 8;

const MAGIC: u32 = u32::from_le_bytes(*b"ring");
const MAGIC_AT: usize = 0;
const HEAD_AT: usize = 4;
const TAIL_AT: usize = 8;
const FRAMES_AT: usize = 12;
const DROPPED_AT: usize = 16;
const PASSED_AT: usize = 24;

/// The length that marks "go on at offset 0".
const WRAP: u32 = u32::MAX;

/// Why bytes are not a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RingError {
    /// Too few bytes to hold the largest frame, or more than offsets can name.
    #[error("a ring cannot have {0} bytes")]
    Size(usize),
    /// The magic number is another one.
    #[error("no ring here")]
    Magic,
    /// `head`, `tail` or the count of frames contradict each other or the size.
    #[error("the ring's header is corrupt: head {head}, tail {tail}, frames {frames}")]
    Header {
        /// Where the next record is read.
        head: u32,
        /// Where the next record is written.
        tail: u32,
        /// How many records there are.
        frames: u32,
    },
    /// A record does not end where it must.
    #[error("the ring's record at {at} is corrupt: {len} bytes")]
    Record {
        /// Its offset.
        at: u32,
        /// Its length field.
        len: u32,
    },
}

/// A queued frame that may be changed, but not in length.
#[derive(Debug)]
pub struct FrameMut<'a> {
    /// From the destination address on, without frame check sequence.
    pub bytes: &'a mut [u8],
    /// As in [`Frame`].
    pub segment_bytes: u16,
}

/// A frame in a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The Ethernet frame, without checksum.
    pub bytes: &'a [u8],
    /// TCP payload bytes of each segment the host cuts this frame into; 0 for a frame that leaves as it is.
    pub segment_bytes: u16,
}

/// A view of a ring in borrowed memory.
#[derive(Debug)]
pub struct Ring<'a> {
    bytes: &'a mut [u8],
    head: u32,
    tail: u32,
    frames: u32,
    /// Where the last [`Ring::slot`] is, and its size.
    slot: Option<(u32, usize)>,
}

impl<'a> Ring<'a> {
    /// Makes an empty ring of `bytes`, touching only its header.
    pub fn format(bytes: &'a mut [u8]) -> Result<Self, RingError> {
        check_size(bytes.len())?;
        bytes[..HEADER_BYTES].fill(0);
        let mut ring = Self { bytes, head: 0, tail: 0, frames: 0, slot: None };
        ring.put_u32(MAGIC_AT, MAGIC);
        Ok(ring)
    }

    /// Takes up the ring that is in `bytes`; every record is checked.
    pub fn attach(bytes: &'a mut [u8]) -> Result<Self, RingError> {
        check_size(bytes.len())?;
        if read_u32(bytes, MAGIC_AT) != MAGIC {
            return Err(RingError::Magic);
        }
        let (head, tail) = (read_u32(bytes, HEAD_AT), read_u32(bytes, TAIL_AT));
        let ring = Self { head, tail, frames: read_u32(bytes, FRAMES_AT), bytes, slot: None };
        ring.check()?;
        Ok(ring)
    }

    /// As [`Ring::attach`], but a ring that is not sound is emptied. The error says why.
    ///
    /// # Panics
    /// Where the number of bytes is not one that [`Ring::format`] takes.
    pub(crate) fn repair(bytes: &'a mut [u8]) -> (Self, Option<RingError>) {
        check_size(bytes.len()).expect("the caller has formatted a ring of this size");
        let (head, tail) = (read_u32(bytes, HEAD_AT), read_u32(bytes, TAIL_AT));
        let magic = read_u32(bytes, MAGIC_AT) == MAGIC;
        let mut ring = Self { head, tail, frames: read_u32(bytes, FRAMES_AT), bytes, slot: None };
        let error = if magic { ring.check().err() } else { Some(RingError::Magic) };
        if error.is_some() {
            ring.put_u32(MAGIC_AT, MAGIC);
            ring.clear();
        }
        (ring, error)
    }

    /// Free contiguous space of exactly `len_max` bytes for the next frame; `None` when the ring is too full for it,
    /// or `len_max` exceeds [`FRAME_BYTES_MAX`].
    pub fn slot(&mut self, len_max: usize) -> Option<&mut [u8]> {
        let at = self.free_at(len_max)?;
        self.slot = Some((at, len_max));
        let start = HEADER_BYTES + at as usize + RECORD_BYTES;
        self.bytes.get_mut(start..start + len_max)
    }

    /// Whether [`Ring::slot`] would find space.
    pub fn has_space(&self, len_max: usize) -> bool {
        self.free_at(len_max).is_some()
    }

    /// Queues the first `len` bytes of the last slot as a frame. Without a slot, or past its end, nothing happens.
    pub fn push(&mut self, len: usize, segment_bytes: u16) {
        let Some((at, len_max)) = self.slot.take() else { return };
        debug_assert!(len <= len_max, "{len} bytes in a slot of {len_max}");
        if len > len_max {
            return;
        }
        if at != self.tail && (self.tail as usize) < self.capacity() {
            self.put_u32(HEADER_BYTES + self.tail as usize, WRAP);
        }
        let start = HEADER_BYTES + at as usize;
        self.put_u32(start, len as u32);
        self.put_u32(start + 4, u32::from(segment_bytes));
        self.tail = at + record_bytes(len) as u32;
        self.frames += 1;
        self.store();
    }

    /// The oldest frame.
    pub fn front(&self) -> Option<Frame<'_>> {
        self.frames().next()
    }

    /// The oldest frame, to be finished in place: the host fills in what the netstack left to its network card.
    pub fn front_mut(&mut self) -> Option<FrameMut<'_>> {
        let (at, len) = self.record(self.head)?;
        let start = HEADER_BYTES + at as usize;
        let segment_bytes = read_u32(self.bytes, start + 4) as u16;
        Some(FrameMut { bytes: &mut self.bytes[start + RECORD_BYTES..start + RECORD_BYTES + len], segment_bytes })
    }

    /// Removes the oldest frame, if there is one.
    pub fn pop(&mut self) {
        let Some((at, len)) = self.record(self.head) else { return };
        self.head = at + record_bytes(len) as u32;
        self.frames = self.frames.saturating_sub(1);
        if self.frames == 0 {
            (self.head, self.tail) = (0, 0);
        }
        self.store();
        let passed = read_u64(self.bytes, PASSED_AT).wrapping_add(1);
        self.put_u64(PASSED_AT, passed);
    }

    /// Forgets all queued frames.
    pub(crate) fn clear(&mut self) {
        (self.head, self.tail, self.frames, self.slot) = (0, 0, 0, None);
        self.store();
    }

    /// All queued frames, oldest first.
    pub fn frames(&self) -> impl Iterator<Item = Frame<'_>> {
        let (mut left, mut next) = (self.frames, self.head);
        core::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            let (at, len) = self.record(next)?;
            next = at + record_bytes(len) as u32;
            let start = HEADER_BYTES + at as usize;
            Some(Frame {
                bytes: &self.bytes[start + RECORD_BYTES..start + RECORD_BYTES + len],
                segment_bytes: read_u32(self.bytes, start + 4) as u16,
            })
        })
    }

    /// Whether no frame is queued.
    pub fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Frames queued.
    pub fn len(&self) -> usize {
        self.frames as usize
    }

    /// Counts frames that found no space.
    pub fn count_dropped(&mut self, frames: u64) {
        let dropped = self.dropped().wrapping_add(frames);
        self.put_u64(DROPPED_AT, dropped);
    }

    /// Frames that found no space, ever.
    pub fn dropped(&self) -> u64 {
        read_u64(self.bytes, DROPPED_AT)
    }

    /// Frames taken out, ever.
    pub fn passed(&self) -> u64 {
        read_u64(self.bytes, PASSED_AT)
    }

    /// Bytes for records, a multiple of 8.
    fn capacity(&self) -> usize {
        (self.bytes.len() - HEADER_BYTES) & !7
    }

    /// The offset at which a frame of `len` bytes can be written.
    fn free_at(&self, len: usize) -> Option<u32> {
        if len > FRAME_BYTES_MAX {
            return None;
        }
        let need = record_bytes(len) as u32;
        let (head, tail, capacity) = (self.head, self.tail, self.capacity() as u32);
        // With frames queued, head == tail is a full ring, and tail < head one that has wrapped.
        let wrapped = self.frames > 0 && tail <= head;
        match wrapped {
            true if head - tail >= need => Some(tail),
            false if capacity - tail >= need => Some(tail),
            false if self.frames > 0 && head >= need => Some(0),
            _ => None,
        }
    }

    /// The offset and length of the record that `at` leads to.
    fn record(&self, mut at: u32) -> Option<(u32, usize)> {
        if self.frames == 0 {
            return None;
        }
        let capacity = self.capacity();
        if at as usize == capacity || read_u32(self.bytes, HEADER_BYTES + at as usize) == WRAP {
            at = 0;
        }
        let len = read_u32(self.bytes, HEADER_BYTES + at as usize) as usize;
        (len <= FRAME_BYTES_MAX && at as usize + record_bytes(len) <= capacity).then_some((at, len))
    }

    fn check(&self) -> Result<(), RingError> {
        let Self { head, tail, frames, .. } = *self;
        let corrupt = RingError::Header { head, tail, frames };
        let capacity = self.capacity();
        if head as usize > capacity || tail as usize > capacity || (head | tail) % 8 != 0 {
            return Err(corrupt);
        }
        if frames as usize > capacity / RECORD_BYTES || (frames == 0 && (head | tail) != 0) {
            return Err(corrupt);
        }
        let (mut at, mut used, mut wraps) = (head, 0, 0);
        for _ in 0..frames {
            let Some((start, len)) = self.record(at) else {
                return Err(RingError::Record { at, len: self.len_at(at) });
            };
            wraps += u32::from(start < at);
            used += record_bytes(len);
            at = start + record_bytes(len) as u32;
        }
        // The records lie one after another and go round at most once, so they do not overlap when they fit.
        if at != tail || wraps > 1 || used > capacity || (wraps == 1 && tail > head) {
            return Err(corrupt);
        }
        Ok(())
    }

    fn len_at(&self, at: u32) -> u32 {
        self.bytes
            .get(HEADER_BYTES + at as usize..)
            .map_or(0, |bytes| if bytes.len() < 4 { 0 } else { read_u32(bytes, 0) })
    }

    fn store(&mut self) {
        self.put_u32(HEAD_AT, self.head);
        self.put_u32(TAIL_AT, self.tail);
        self.put_u32(FRAMES_AT, self.frames);
    }

    fn put_u32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn put_u64(&mut self, at: usize, value: u64) {
        self.bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
}

fn check_size(bytes: usize) -> Result<(), RingError> {
    let enough = HEADER_BYTES + record_bytes(FRAME_BYTES_MAX);
    if bytes < enough || bytes > i32::MAX as usize { Err(RingError::Size(bytes)) } else { Ok(()) }
}

fn record_bytes(len: usize) -> usize {
    RECORD_BYTES + len.next_multiple_of(8)
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn read_u64(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use alloc::{collections::VecDeque, vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    const SIZE: usize = 160 * 1024;

    #[derive(Clone, Debug)]
    enum Step {
        Push(usize, usize, u16),
        Pop(usize),
        Reattach,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let push = (0..=FRAME_BYTES_MAX, 0..2000usize, any::<u16>()).prop_map(|(len, slack, segment)| {
            let len = if slack < 1000 { len % 1600 } else { len };
            Step::Push(len, (len + slack).min(FRAME_BYTES_MAX), segment)
        });
        prop::collection::vec(
            prop_oneof![4 => push, 3 => (1..40usize).prop_map(Step::Pop), 1 => Just(Step::Reattach)],
            1..200,
        )
    }

    proptest! {
        #[test]
        fn frames_leave_in_order_and_unchanged(steps in steps()) {
            let mut memory = vec![0xaa; SIZE];
            let mut ring = Ring::format(&mut memory).unwrap();
            let mut model: VecDeque<(Vec<u8>, u16)> = VecDeque::new();
            for (index, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push(len, len_max, segment) => match ring.slot(len_max) {
                        Some(slot) => {
                            let frame: Vec<u8> = (0..len).map(|i| (i + index) as u8).collect();
                            slot[..len].copy_from_slice(&frame);
                            prop_assert_eq!(slot.len(), len_max);
                            ring.push(len, segment);
                            model.push_back((frame, segment));
                        }
                        None => prop_assert!(!model.is_empty(), "an empty ring takes any frame"),
                    },
                    Step::Pop(count) => for _ in 0..count {
                        let expected = model.pop_front();
                        let got = ring.front().map(|frame| (frame.bytes.to_vec(), frame.segment_bytes));
                        prop_assert_eq!(got, expected);
                        ring.pop();
                    },
                    Step::Reattach => {}
                }
                ring = Ring::attach(&mut *ring.bytes).unwrap();
                prop_assert_eq!(ring.len(), model.len());
                prop_assert!(ring.frames().map(|frame| frame.bytes).eq(model.iter().map(|(frame, _)| &frame[..])));
                prop_assert!(!model.is_empty() || (ring.head, ring.tail) == (0, 0), "an empty ring rewinds");
            }
        }

        #[test]
        fn made_up_rings_are_refused_or_harmless(
            head in prop_oneof![0..64u32, any::<u32>()], tail in prop_oneof![0..64u32, any::<u32>()],
            frames in prop_oneof![0..5u32, any::<u32>()],
            words in prop::collection::vec(prop_oneof![0..200u32, any::<u32>(), Just(WRAP)], 64),
        ) {
            let mut memory = vec![0; SIZE];
            Ring::format(&mut memory).unwrap();
            for (at, value) in [(HEAD_AT, head), (TAIL_AT, tail), (FRAMES_AT, frames)] {
                memory[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
            for (index, word) in words.iter().enumerate() {
                memory[HEADER_BYTES + 4 * index..][..4].copy_from_slice(&word.to_le_bytes());
            }
            if let Ok(mut ring) = Ring::attach(&mut memory) {
                prop_assert_eq!(ring.frames().count(), ring.len());
                if ring.slot(100).is_some() {
                    ring.push(100, 0);
                }
                while !ring.is_empty() {
                    prop_assert!(ring.front().is_some());
                    ring.pop();
                }
            }
        }
    }

    #[test]
    fn sizes_have_limits() {
        assert_eq!(Ring::format(&mut [0; 64]).unwrap_err(), RingError::Size(64));
        assert_eq!(Ring::attach(&mut vec![0; SIZE]).unwrap_err(), RingError::Magic);
        let mut memory = vec![0; SIZE];
        assert!(Ring::format(&mut memory).unwrap().slot(FRAME_BYTES_MAX + 1).is_none());
    }

    #[test]
    fn drops_are_counted() {
        let mut memory = vec![0; SIZE];
        Ring::format(&mut memory).unwrap().count_dropped(3);
        let mut ring = Ring::attach(&mut memory).unwrap();
        ring.count_dropped(4);
        assert_eq!(ring.dropped(), 7);
    }
}
