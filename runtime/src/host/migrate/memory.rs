//! A guest's memories, read and written from outside its worker.

use std::io;
use std::os::fd::OwnedFd;

use nix::unistd::Pid;
use roam_snapshot::digest::{Digest, PageDigest};
use roam_snapshot::dirty::{self, Choice, Region};
use roam_snapshot::page::{MemoryIndex, PAGE_BYTES, PageIndex, PageRange, PageSet, Shape};
use roam_snapshot::protocol::wire::BATCH_PAGES_MAX;
use roam_snapshot::protocol::{BASE_PAGES_MAX, BasePage};
use roam_snapshot::sys::pagemap::{self, Pagemap};
use roam_snapshot::sys::remote::{RemoteError, RemoteMemory};

use crate::worker::WorkerLayout;

/// The memories of one guest, and a digest of each page: at the source of what the target has, as it was sent there; at
/// the target of what is there.
pub(in crate::host) struct Memories {
    pid: Pid,
    remote: RemoteMemory,
    /// What may have content that was never touched.
    unseen: PageSet,
    pub(in crate::host) regions: Vec<Region>,
    pub(in crate::host) digest: Digest,
}

/// Why memory could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The worker has ended, or has no such memory.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// Pages that it does not have.
    #[error("pages {0:?} are outside of the guest's memories")]
    Outside(PageRange),
    /// Its page tables cannot be read.
    #[error("the worker's page tables cannot be read")]
    Pagemap(#[source] io::Error),
}

impl Memories {
    /// Of the worker with that id.
    pub(in crate::host) fn new(pid: u32, layout: &WorkerLayout) -> Self {
        let pid = Pid::from_raw(pid.cast_signed());
        let regions = (0..).map(MemoryIndex).zip(&layout.memories).map(|(memory, it)| Region {
            memory,
            address: it.address,
            bytes: it.bytes,
            mapped_bytes: it.mapped_bytes,
        });
        let mut unseen = PageSet::default();
        for (memory, it) in (0..).map(MemoryIndex).zip(&layout.memories) {
            unseen.insert(PageRange { memory, first: PageIndex(0), count: pages(it.unseen_bytes) });
        }
        Self { pid, remote: RemoteMemory::new(pid), unseen, regions: regions.collect(), digest: Digest::default() }
    }

    /// Their sizes in pages.
    pub(in crate::host) fn shape(&self) -> Shape {
        Shape(self.regions.iter().map(|region| pages(region.bytes)).collect())
    }

    /// Bytes of all of them.
    pub(in crate::host) fn bytes(&self) -> u64 {
        self.regions.iter().map(|region| region.bytes).sum()
    }

    /// They have grown to that many bytes each.
    pub(in crate::host) fn resize(&mut self, bytes: &[u64]) {
        self.regions.iter_mut().zip(bytes).for_each(|(region, bytes)| region.bytes = *bytes);
        self.digest.grow(&self.shape());
    }

    /// What finds out which of their pages are written.
    pub(in crate::host) fn tracker(&self, userfault: Option<OwnedFd>) -> Choice {
        dirty::choose(self.pid, userfault)
    }

    /// The target has these, if there are such pages.
    pub(in crate::host) fn has(&mut self, base: &[BasePage]) {
        let shape = self.shape();
        self.digest.grow(&shape);
        for page in base {
            let range = PageRange { memory: page.memory, first: page.page, count: 1 };
            if shape.contains(range).is_ok() {
                self.digest.set(page.memory, page.page, PageDigest(page.digest));
            }
        }
    }

    /// The pages that may have content though nobody has touched them, and page tables do not show them: of an image that
    /// the guest was restored from. A tracker does not tell of them either, until they are written.
    pub(in crate::host) fn unseen(&self) -> &PageSet {
        &self.unseen
    }

    /// Adds the pages that were ever touched or are [unseen](Self::unseen), of a guest that stands still.
    pub(in crate::host) fn touched(&self, into: &mut PageSet) -> Result<(), MemoryError> {
        into.union(&self.unseen);
        let mut pagemap = Pagemap::open(self.pid).map_err(MemoryError::Pagemap)?;
        for region in &self.regions {
            let page = |address: u64| pages(address - region.address);
            let found = |start: u64, end: u64| {
                let (first, end) = (page(start), page(end));
                into.insert(PageRange { memory: region.memory, first: PageIndex(first), count: end - first });
            };
            if pagemap::swaps() {
                // What was swapped out is not told of: all of it, and what is zero shows when it is read.
                into.insert(PageRange { memory: region.memory, first: PageIndex(0), count: pages(region.bytes) });
            } else {
                pagemap.present(region.address, region.address + region.bytes, found).map_err(MemoryError::Pagemap)?;
            }
        }
        Ok(())
    }

    /// What a guest that waits has in its memories that is no zero page: of what was touched, and of what its modules may
    /// have given it. What is more than can be told is made zero: the source takes a page it is not told of to be so, and
    /// would not send one that its guest has zeroed.
    pub(in crate::host) fn base(&mut self, layout: &WorkerLayout) -> Result<Vec<BasePage>, MemoryError> {
        let mut wanted = PageSet::default();
        self.touched(&mut wanted)?;
        for (memory, it) in (0..).map(MemoryIndex).zip(&layout.memories) {
            let count = pages(it.initial_bytes.min(it.bytes));
            wanted.insert(PageRange { memory, first: PageIndex(0), count });
        }
        self.digest.grow(&self.shape());
        let (mut base, mut untold) = (Vec::new(), PageSet::default());
        let mut bytes = vec![0; BATCH_PAGES_MAX as usize * PAGE_BYTES];
        for range in wanted.ranges(BATCH_PAGES_MAX) {
            let bytes = &mut bytes[..range.bytes() as usize];
            self.read(&[range], bytes)?;
            let mut found = Vec::new();
            self.digest.set_range(range, bytes, |page| found.push(page));
            let of = |page: PageIndex| BasePage {
                memory: range.memory,
                page,
                digest: self.digest.get(range.memory, page).0,
            };
            let told = found.len().min(BASE_PAGES_MAX - base.len());
            for page in found.split_off(told) {
                untold.insert(PageRange { memory: range.memory, first: page, count: 1 });
            }
            base.extend(found.into_iter().map(of));
        }
        self.zero(&untold)?;
        Ok(base)
    }

    fn zero(&mut self, pages: &PageSet) -> Result<(), MemoryError> {
        let zeros = vec![0; BATCH_PAGES_MAX as usize * PAGE_BYTES];
        for range in pages.ranges(BATCH_PAGES_MAX) {
            self.write(&[range], &zeros[..range.bytes() as usize])?;
        }
        Ok(())
    }

    /// Reads pages, one range after the other.
    pub(in crate::host) fn read(&self, ranges: &[PageRange], bytes: &mut [u8]) -> Result<(), MemoryError> {
        Ok(self.remote.read_ranges(&self.places(ranges)?, bytes)?)
    }

    /// Writes pages.
    pub(in crate::host) fn write(&mut self, ranges: &[PageRange], bytes: &[u8]) -> Result<(), MemoryError> {
        self.remote.write_ranges(&self.places(ranges)?, bytes)?;
        let mut rest = bytes;
        for range in ranges {
            let (these, others) = rest.split_at(range.bytes() as usize);
            self.digest.set_range(*range, these, |_| {});
            rest = others;
        }
        Ok(())
    }

    /// Of pages that were read, keeps those the target does not have like this, at the front; which, and how many. From now
    /// on it counts as having them.
    pub(in crate::host) fn keep_news(&mut self, ranges: &[PageRange], bytes: &mut [u8]) -> (Vec<PageRange>, usize) {
        let (mut news, mut kept, mut from) = (Vec::<PageRange>::new(), 0, 0);
        for range in ranges {
            let start = from;
            let mut changed = Vec::with_capacity(range.count as usize);
            self.digest.set_range(*range, &bytes[start..start + range.bytes() as usize], |page| changed.push(page));
            from += range.bytes() as usize;
            for page in changed {
                let at = start + (page.0 - range.first.0) as usize * PAGE_BYTES;
                bytes.copy_within(at..at + PAGE_BYTES, kept * PAGE_BYTES);
                kept += 1;
                match news.last_mut().filter(|last| last.memory == range.memory && last.end() == u64::from(page.0)) {
                    Some(last) => last.count += 1,
                    None => news.push(PageRange { memory: range.memory, first: page, count: 1 }),
                }
            }
        }
        (news, kept)
    }

    /// Where ranges are in the worker, address and bytes.
    fn places(&self, ranges: &[PageRange]) -> Result<Vec<(u64, usize)>, MemoryError> {
        let place = |range: &PageRange| {
            let region = self.regions.get(usize::from(range.memory.0));
            let region = region.filter(|it| range.end() * PAGE_BYTES as u64 <= it.bytes);
            let region = region.ok_or(MemoryError::Outside(*range))?;
            Ok((region.address + range.offset(), range.bytes() as usize))
        };
        ranges.iter().map(place).collect()
    }
}

fn pages(bytes: u64) -> u32 {
    u32::try_from(bytes / PAGE_BYTES as u64).unwrap_or(u32::MAX)
}
