//! What a tracker is, and which one is had.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use nix::unistd::Pid;

use super::{Compare, Userfaults};
use crate::digest::Digest;
use crate::page::{MEMORIES_MAX, MemoryIndex, PAGE_BYTES, PAGES_MAX, PageSet};
use crate::sys::pagemap::Pagemap;
use crate::sys::remote::{RemoteError, RemoteMemory};

/// Where a linear memory is in the process whose writes are tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Which.
    pub memory: MemoryIndex,
    /// Where it begins there.
    pub address: u64,
    /// Its size, bytes: whole pages.
    pub bytes: u64,
    /// What is mapped for it, room to grow and guards included, bytes: whole pages.
    pub mapped_bytes: u64,
}

/// Why writes are not tracked. Nothing is armed any more.
#[derive(Debug, thiserror::Error)]
pub enum TrackError {
    /// There cannot be such a memory.
    #[error("memory {} has {} of {} bytes at {:#x}, which cannot be", .0.memory.0, .0.bytes, .0.mapped_bytes, .0.address)]
    Region(Region),
    /// More memories than a guest can have.
    #[error("{0} memories; the limit is {MEMORIES_MAX}")]
    Regions(usize),
    /// It was asked what was written, or told of growth, while it was not armed.
    #[error("nothing is tracked: the tracker is not armed, or failed before")]
    NotArmed,
    /// The kernel does not track a memory.
    #[error("writes to memory {} cannot be tracked", memory.0)]
    Register {
        /// Which.
        memory: MemoryIndex,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel does not say what was written.
    #[error("what was written to memory {} cannot be found out", memory.0)]
    Scan {
        /// Which.
        memory: MemoryIndex,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It cannot be read.
    #[error("memory {} cannot be read", memory.0)]
    Read {
        /// Which.
        memory: MemoryIndex,
        /// Why.
        #[source]
        source: RemoteError,
    },
}

/// Finds out which pages of a guest were written. Dropping it disarms it, and so does any error.
///
/// `sent` are the digests of the pages as the target has them or is about to, those of its fresh memories first.
pub trait Tracker: Send {
    /// Begins. Whatever is not as in a fresh memory counts as written.
    fn arm(&mut self, regions: &[Region]) -> Result<(), TrackError>;
    /// A memory has grown to that many bytes. What it has gained counts as written where it is not zero.
    fn resize(&mut self, memory: MemoryIndex, bytes: u64) -> Result<(), TrackError>;
    /// Adds the pages that were written since this was called last, or that are not as they were sent. It may add
    /// others. A page that is written after this began and before it is read is told of next time, too.
    fn collect(&mut self, sent: &Digest, into: &mut PageSet) -> Result<(), TrackError>;
    /// Adds what [`Self::collect`] would, and leaves it to be told of again. The quicker one, for a guest that is
    /// frozen or to count.
    fn look(&mut self, sent: &Digest, into: &mut PageSet) -> Result<(), TrackError>;
    /// Ends. An ended process is no error.
    fn disarm(&mut self) -> Result<(), TrackError>;
}

/// The tracker that this machine and this worker allow, and why it is not the quick one.
pub struct Choice {
    /// It.
    pub tracker: Box<dyn Tracker>,
    /// Why all memory is read each time, if it is.
    pub untracked: Option<Untracked>,
}

/// Why the kernel does not track writes.
#[derive(Debug, thiserror::Error)]
pub enum Untracked {
    /// The worker has no userfaultfd; its log says why.
    #[error("the worker has no userfaultfd with asynchronous write protection (Linux 6.7)")]
    NoUserfault,
    /// Its page tables cannot be scanned.
    #[error("its page tables cannot be scanned (Linux 6.7)")]
    NoScan(#[source] io::Error),
}

impl fmt::Display for Choice {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.untracked {
            None => write!(to, "the kernel tracks what is written"),
            Some(why) => write!(to, "all memory is read to find what was written, for {why}"),
        }
    }
}

/// The best tracker that can be had for a process, given its userfaultfd, if it has one.
pub fn choose(pid: Pid, userfault: Option<OwnedFd>) -> Choice {
    match quick(pid, userfault) {
        Ok(tracker) => Choice { tracker: Box::new(tracker), untracked: None },
        Err(untracked) => {
            Choice { tracker: Box::new(Compare::new(RemoteMemory::new(pid))), untracked: Some(untracked) }
        }
    }
}

fn quick(pid: Pid, userfault: Option<OwnedFd>) -> Result<Userfaults, Untracked> {
    let userfault = userfault.ok_or(Untracked::NoUserfault)?;
    let mut pagemap = Pagemap::open(pid).map_err(Untracked::NoScan)?;
    // Nothing is ever mapped at 0: all there is to see is whether it can be asked.
    pagemap.look(0, PAGE_BYTES as u64, |_, _| ()).map_err(Untracked::NoScan)?;
    Ok(Userfaults::new(userfault.into(), pagemap))
}

/// Whether a process can have such memories, whatever it says.
pub(super) fn check(regions: &[Region]) -> Result<(), TrackError> {
    if regions.len() > MEMORIES_MAX {
        return Err(TrackError::Regions(regions.len()));
    }
    regions.iter().try_for_each(|region| region.check())
}

impl Region {
    pub(super) fn check(&self) -> Result<(), TrackError> {
        let Self { memory, address, bytes, mapped_bytes } = *self;
        let whole = [address, bytes, mapped_bytes].iter().all(|it| it.is_multiple_of(PAGE_BYTES as u64));
        let fits = bytes <= mapped_bytes && address.checked_add(mapped_bytes).is_some();
        let small = bytes <= u64::from(PAGES_MAX) * PAGE_BYTES as u64 && usize::from(memory.0) < MEMORIES_MAX;
        if whole && fits && small { Ok(()) } else { Err(TrackError::Region(*self)) }
    }
    pub(super) fn grow(&mut self, bytes: u64) -> Result<(), TrackError> {
        let grown = Self { bytes, ..*self };
        grown.check()?;
        if bytes < self.bytes {
            return Err(TrackError::Region(grown));
        }
        *self = grown;
        Ok(())
    }
}
