//! The tracker where the kernel does the work: see [`crate::sys::userfault`].

use std::io;

use nix::errno::Errno;

use super::tracker::{Region, TrackError, Tracker, check};
use crate::digest::Digest;
use crate::page::{MemoryIndex, PAGE_BYTES, PageIndex, PageRange, PageSet};
use crate::sys::pagemap::{Pagemap, swaps};
use crate::sys::userfault::Userfault;

/// What is unregistered at once, bytes: about 0.2 ms.
const UNREGISTERED_AT_ONCE_BYTES: usize = 4 * 1024 * 1024;

/// Asks the kernel which pages were written. Costs the guest a fault for the first write to a page after each
/// [`Tracker::collect`], and nothing before the first one.
pub struct Userfaults {
    userfault: Userfault,
    pagemap: Pagemap,
    /// `None` while it is not armed.
    memories: Option<Vec<Memory>>,
    /// Whether a page that is not in memory may have content nevertheless.
    swaps: bool,
}

struct Memory {
    region: Region,
    /// Up to here all pages were protected at least once, bytes. Beyond, the kernel cannot tell a page that was written
    /// from one that does not exist.
    known_bytes: u64,
}

impl Userfaults {
    /// Of the process whose userfaultfd and page tables these are.
    pub fn new(userfault: Userfault, pagemap: Pagemap) -> Self {
        Self { userfault, pagemap, memories: None, swaps: swaps() }
    }

    fn register(&self, region: &Region) -> Result<(), TrackError> {
        let Region { memory, address, mapped_bytes, .. } = *region;
        let failed = |source| TrackError::Register { memory, source };
        // A daemon that was ended while it migrated has left pages protected, and those look as if they had been sent.
        match self.unregister(region) {
            // So a mapped file is answered that is not registered: then nothing around it is, either.
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {}
            result => result.map_err(failed)?,
        }
        // With the room to grow: a tail that is registered later cannot be scanned with the rest.
        self.userfault.register(address, mapped_bytes).map_err(failed)
    }

    /// In steps: the kernel lifts the protection of each page while the process cannot fault, and a guest may run. All
    /// of them are tried, the first error is returned.
    fn unregister(&self, region: &Region) -> io::Result<()> {
        let end = region.address + region.bytes;
        let mut result = Ok(());
        for start in (region.address..end).step_by(UNREGISTERED_AT_ONCE_BYTES) {
            let step = (end - start).min(UNREGISTERED_AT_ONCE_BYTES as u64);
            result = result.and(self.userfault.unregister(start, step));
        }
        match region.mapped_bytes - region.bytes {
            0 => result,
            room => result.and(self.userfault.unregister(end, room)),
        }
    }

    /// Runs `scan` for every memory; disarms if it fails.
    fn each(&mut self, mut scan: impl FnMut(&mut Pagemap, &mut Memory) -> io::Result<()>) -> Result<(), TrackError> {
        let memories = self.memories.as_mut().ok_or(TrackError::NotArmed)?;
        let scanned = memories.iter_mut().try_for_each(|memory| {
            scan(&mut self.pagemap, memory).map_err(|source| TrackError::Scan { memory: memory.region.memory, source })
        });
        if scanned.is_err() {
            let _the_first_error_says_why = self.disarm();
        }
        scanned
    }
}

impl Memory {
    /// Adds the pages between two addresses.
    fn add(&self, into: &mut PageSet, start: u64, end: u64) {
        let page = |address: u64| {
            let index = (address - self.region.address) / PAGE_BYTES as u64;
            u32::try_from(index).expect("a memory has no more pages")
        };
        let first = page(start);
        into.insert(PageRange { memory: self.region.memory, first: PageIndex(first), count: page(end) - first });
    }

    /// Where it begins, where what is known ends, where it ends.
    fn addresses(&self) -> (u64, u64, u64) {
        let start = self.region.address;
        (start, start + self.known_bytes, start + self.region.bytes)
    }
}

impl Tracker for Userfaults {
    fn arm(&mut self, regions: &[Region]) -> Result<(), TrackError> {
        self.disarm()?;
        check(regions)?;
        // Before any is registered: what fails from here on is undone.
        self.memories = Some(regions.iter().map(|&region| Memory { region, known_bytes: 0 }).collect());
        let registered = regions.iter().try_for_each(|region| self.register(region));
        if registered.is_err() {
            let _the_first_error_says_why = self.disarm();
        }
        registered
    }

    fn resize(&mut self, memory: MemoryIndex, bytes: u64) -> Result<(), TrackError> {
        let memories = self.memories.as_mut().ok_or(TrackError::NotArmed)?;
        let found = memories.iter_mut().find(|it| it.region.memory == memory);
        let grown = found.ok_or(TrackError::NotArmed).and_then(|found| found.region.grow(bytes));
        if grown.is_err() {
            let _the_first_error_says_why = self.disarm();
        }
        grown
    }

    fn collect(&mut self, _sent: &Digest, into: &mut PageSet) -> Result<(), TrackError> {
        let swaps = self.swaps;
        self.each(|pagemap, memory| {
            let (start, known, end) = memory.addresses();
            pagemap.take(start, known, |start, end| memory.add(into, start, end))?;
            let mut new = PageSet::default();
            pagemap.take(known, end, |start, end| memory.add(&mut new, start, end))?;
            if !swaps && known < end {
                // Asked for after they were protected: what is written in between is among both.
                let mut present = PageSet::default();
                pagemap.present(known, end, |start, end| memory.add(&mut present, start, end))?;
                new.intersect(&present);
            }
            into.union(&new);
            memory.known_bytes = memory.region.bytes;
            Ok(())
        })
    }

    fn look(&mut self, _sent: &Digest, into: &mut PageSet) -> Result<(), TrackError> {
        let swaps = self.swaps;
        self.each(|pagemap, memory| {
            let (start, known, end) = memory.addresses();
            pagemap.look(start, known, |start, end| memory.add(into, start, end))?;
            match swaps {
                true => pagemap.look(known, end, |start, end| memory.add(into, start, end)),
                false => pagemap.present(known, end, |start, end| memory.add(into, start, end)),
            }
        })
    }

    fn disarm(&mut self) -> Result<(), TrackError> {
        let mut result = Ok(());
        for Memory { region, .. } in self.memories.take().unwrap_or_default() {
            match self.unregister(&region) {
                Err(source) if source.raw_os_error() != Some(Errno::ESRCH as i32) => {
                    result = result.and(Err(TrackError::Register { memory: region.memory, source }));
                }
                _ => {}
            }
        }
        result
    }
}

impl Drop for Userfaults {
    fn drop(&mut self) {
        let _nobody_is_left_to_tell = self.disarm();
    }
}
