//! Reading and writing another process's memory (process_vm_readv(2)).

use std::io::{IoSlice, IoSliceMut};

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;

/// Ranges one call takes (`UIO_MAXIOV`).
const RANGES_MAX: usize = 1024;

/// Why memory of another process was not copied.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The process has ended.
    #[error("process {pid} has ended")]
    Gone {
        /// Which.
        pid: Pid,
    },
    /// There is no such memory.
    #[error("process {pid} has no memory at {address:#x}")]
    NotThere {
        /// Which.
        pid: Pid,
        /// In a range that begins here, or at it.
        address: u64,
    },
    /// The kernel refused.
    #[error("memory of process {pid} cannot be copied")]
    Refused {
        /// Which.
        pid: Pid,
        /// Why.
        #[source]
        errno: Errno,
    },
}

/// The memory of a process, by its id. Takes the rights to trace it. An id may come to mean another process once this
/// one has ended and was waited for: who uses it holds a pidfd or a connection that tells.
#[derive(Clone, Copy, Debug)]
pub struct RemoteMemory {
    pid: Pid,
}

impl RemoteMemory {
    /// Of the process with that id.
    pub fn new(pid: Pid) -> Self {
        Self { pid }
    }

    /// Reads as many bytes as fit.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), RemoteError> {
        self.read_ranges(&[(address, into.len())], into)
    }

    /// Writes all bytes.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), RemoteError> {
        self.write_ranges(&[(address, bytes.len())], bytes)
    }

    /// Reads ranges, each an address and bytes, one behind the other.
    ///
    /// # Panics
    /// If `into` has not as many bytes as the ranges.
    pub fn read_ranges(&self, ranges: &[(u64, usize)], into: &mut [u8]) -> Result<(), RemoteError> {
        self.each_part(ranges, into.len(), |at, remote| {
            process_vm_readv(self.pid, &mut [IoSliceMut::new(&mut into[at..])], remote)
        })
    }

    /// Writes bytes to ranges, each an address and bytes, one after the other.
    ///
    /// # Panics
    /// If `bytes` are not as many as those of the ranges.
    pub fn write_ranges(&self, ranges: &[(u64, usize)], bytes: &[u8]) -> Result<(), RemoteError> {
        self.each_part(ranges, bytes.len(), |at, remote| {
            process_vm_writev(self.pid, &[IoSlice::new(&bytes[at..])], remote)
        })
    }

    /// Calls `copy` with where it is in the local bytes and with the next ranges, until all are done. The kernel may
    /// stop anywhere, also within a range.
    fn each_part(
        &self,
        ranges: &[(u64, usize)],
        bytes: usize,
        mut copy: impl FnMut(usize, &[RemoteIoVec]) -> Result<usize, Errno>,
    ) -> Result<(), RemoteError> {
        let sum: usize = ranges.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(sum, bytes, "the local bytes are as many as the ranges'");
        let mut at = 0;
        let (mut next, mut skip) = (0, 0);
        while next < ranges.len() {
            let part = &ranges[next..ranges.len().min(next + RANGES_MAX)];
            let mut remote: Vec<_> = part.iter().map(|&range| remote(range, self.pid)).collect::<Result<_, _>>()?;
            remote[0].base += skip;
            remote[0].len -= skip;
            let wanted: usize = remote.iter().map(|range| range.len).sum();
            let copied = match copy(at, &remote) {
                Ok(0) if wanted > 0 => return Err(self.error(Errno::EFAULT, ranges[next].0 + skip as u64)),
                Ok(copied) => copied,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(self.error(errno, ranges[next].0 + skip as u64)),
            };
            at += copied;
            skip += copied;
            while next < ranges.len() && skip >= ranges[next].1 {
                skip -= ranges[next].1;
                next += 1;
            }
        }
        Ok(())
    }

    fn error(&self, errno: Errno, address: u64) -> RemoteError {
        match errno {
            Errno::ESRCH => RemoteError::Gone { pid: self.pid },
            Errno::EFAULT => RemoteError::NotThere { pid: self.pid, address },
            errno => RemoteError::Refused { pid: self.pid, errno },
        }
    }
}

fn remote((address, bytes): (u64, usize), pid: Pid) -> Result<RemoteIoVec, RemoteError> {
    let not_there = RemoteError::NotThere { pid, address };
    match usize::try_from(address) {
        Ok(base) if base.checked_add(bytes).is_some() => Ok(RemoteIoVec { base, len: bytes }),
        _ => Err(not_there),
    }
}

#[cfg(test)]
mod tests {
    use super::super::child::{Child, Do};
    use super::*;

    const PAGE: usize = 4096;

    #[test]
    fn ranges_are_read_and_written_in_order() {
        let pages = 3000;
        let Some(mut child) = Child::new(&[], 2 * pages * PAGE, 2 * pages * PAGE) else { return };
        let memory = child.memory();
        // More ranges than one call takes, of different sizes, one of them empty.
        let ranges: Vec<(u64, usize)> =
            (0..pages).map(|page| (child.address + (page * 2 * PAGE) as u64, (page * 37) % (PAGE + 1))).collect();
        let bytes: Vec<u8> = (0..ranges.iter().map(|range| range.1).sum()).map(|at: usize| (at % 251) as u8).collect();
        memory.write_ranges(&ranges, &bytes).unwrap();
        let mut read = vec![0; bytes.len()];
        memory.read_ranges(&ranges, &mut read).unwrap();
        assert_eq!(read, bytes);
        child.write(4, 9);
        let mut one = [0];
        memory.read(child.address + 4 * PAGE as u64, &mut one).unwrap();
        assert_eq!(one, [9]);
        memory.read_ranges(&[], &mut []).unwrap();
        memory.read_ranges(&[(1, 0)], &mut []).unwrap();
    }

    #[test]
    fn memory_that_is_not_there_is_named() {
        let Some(mut child) = Child::new(&[], 4 * PAGE, 8 * PAGE) else { return };
        let (memory, end) = (child.memory(), child.address + 4 * PAGE as u64);
        let mut bytes = vec![0; 6 * PAGE];
        let missing = memory.read(child.address, &mut bytes).unwrap_err();
        assert!(matches!(missing, RemoteError::NotThere { address, .. } if address == end), "{missing}");
        let ranges = [(child.address, PAGE), (end, PAGE)];
        let missing = memory.write_ranges(&ranges, &bytes[..2 * PAGE]).unwrap_err();
        assert!(matches!(missing, RemoteError::NotThere { address, .. } if address == end), "{missing}");
        assert!(matches!(memory.read(u64::MAX, &mut [0; 2]), Err(RemoteError::NotThere { .. })));
        child.run(Do::Allow, end, 4 * PAGE as u64, 0, 0);
        memory.read(child.address, &mut bytes).unwrap();
        child.end();
        assert!(matches!(memory.read(child.address, &mut bytes), Err(RemoteError::Gone { .. })));
    }
}
