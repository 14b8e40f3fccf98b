//! The tracker for any kernel: reads everything and compares it.

use super::tracker::{Region, TrackError, Tracker, check};
use crate::digest::{Digest, PageDigest};
use crate::page::{MemoryIndex, PAGE_BYTES, PageIndex, PageRange, PageSet};
use crate::sys::remote::RemoteMemory;

/// Pages read at once: what stays in a processor's cache.
const PAGES_AT_ONCE: usize = 64;

/// Compares all memory with what was sent, each time. A page that became what it was before is not told of, for it is
/// what the target has; that is why it compares with what was sent, not with what it saw last.
pub struct Compare {
    memory: RemoteMemory,
    regions: Vec<Region>,
    armed: bool,
    buffer: Vec<u8>,
}

impl Compare {
    /// Of that process.
    pub fn new(memory: RemoteMemory) -> Self {
        Self { memory, regions: Vec::new(), armed: false, buffer: vec![0; PAGES_AT_ONCE * PAGE_BYTES] }
    }

    fn compare(&mut self, sent: &Digest, into: &mut PageSet) -> Result<(), TrackError> {
        if !self.armed {
            return Err(TrackError::NotArmed);
        }
        for region in &self.regions {
            let memory = region.memory;
            let mut offset = 0;
            while offset < region.bytes {
                let bytes = self.buffer.len().min(usize::try_from(region.bytes - offset).unwrap_or(usize::MAX));
                let buffer = &mut self.buffer[..bytes];
                let read = self.memory.read(region.address + offset, buffer);
                read.map_err(|source| TrackError::Read { memory, source })?;
                let (pages, _none_is_left) = buffer.as_chunks::<PAGE_BYTES>();
                let first = u32::try_from(offset / PAGE_BYTES as u64).expect("a memory has no more pages");
                for (page, bytes) in (first..).map(PageIndex).zip(pages) {
                    if PageDigest::of(memory, page, bytes) != sent.get(memory, page) {
                        into.insert(PageRange { memory, first: page, count: 1 });
                    }
                }
                offset += bytes as u64;
            }
        }
        Ok(())
    }
}

impl Tracker for Compare {
    fn arm(&mut self, regions: &[Region]) -> Result<(), TrackError> {
        self.armed = false;
        check(regions)?;
        self.regions = regions.to_vec();
        self.armed = true;
        Ok(())
    }

    fn resize(&mut self, memory: MemoryIndex, bytes: u64) -> Result<(), TrackError> {
        let armed = std::mem::replace(&mut self.armed, false);
        let region = self.regions.iter_mut().find(|region| region.memory == memory);
        region.filter(|_| armed).ok_or(TrackError::NotArmed)?.grow(bytes)?;
        self.armed = true;
        Ok(())
    }

    fn collect(&mut self, sent: &Digest, into: &mut PageSet) -> Result<(), TrackError> {
        let compared = self.compare(sent, into);
        self.armed = compared.is_ok();
        compared
    }

    fn look(&mut self, sent: &Digest, into: &mut PageSet) -> Result<(), TrackError> {
        self.collect(sent, into)
    }

    fn disarm(&mut self) -> Result<(), TrackError> {
        self.armed = false;
        Ok(())
    }
}
