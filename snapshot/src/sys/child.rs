//! A process with memory that tests tell what to do: as a worker is, another one.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::libc;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

use super::userfault::{self, Userfault};
use super::{pidfd, remote::RemoteMemory};

/// What a child does.
#[derive(Clone, Copy)]
#[repr(u64)]
pub(crate) enum Do {
    /// Writes `value` at `address` and at `count` addresses in all, `step` bytes apart.
    Write,
    /// Reads them.
    Read,
    /// Gives `count` bytes from `address` on rights to be read and written.
    Allow,
    /// Drops the pages of `count` bytes from `address` on (`MADV_DONTNEED`).
    Drop,
    /// Asks for huge pages there.
    Huge,
    /// Writes to `count` of the first `step` pages from `address` on, each chosen by chance from the seed `value`.
    Storm,
}

/// One order: what, where, how many, how far apart, which value.
pub(crate) type Order = [u64; 5];

/// The child. It ends when this is dropped.
pub(crate) struct Child {
    pub(crate) pid: Pid,
    /// Where its memory begins. That this process has a mapping there, too, is of no use to anybody.
    pub(crate) address: u64,
    socket: UnixStream,
    mapping: (u64, usize),
    fault: i32,
    ended: bool,
}

impl Child {
    /// One with `mapped` bytes of memory, the first `image.len()` of which map a file privately, and of which the first
    /// `bytes` can be read and written. `None`, with the reason printed, where it cannot have a userfaultfd.
    pub(crate) fn new(image: &[u8], bytes: usize, mapped: usize) -> Option<Self> {
        if image.is_empty() {
            return Self::mapping(None, &[], bytes, mapped);
        }
        let mut file = File::from(memfd_create(c"image", MFdFlags::MFD_CLOEXEC).unwrap());
        file.write_all(image).unwrap();
        Self::mapping(Some(&file), &[(0, image.len())], bytes, mapped)
    }

    /// The same with ranges of its memory, each where it begins and how long it is, that map the same place of a file.
    pub(crate) fn mapping(file: Option<&File>, ranges: &[(usize, usize)], bytes: usize, mapped: usize) -> Option<Self> {
        let room = map(std::ptr::null_mut(), mapped + HUGE, libc::PROT_NONE, libc::MAP_NORESERVE, (None, 0));
        let address = (room as usize).next_multiple_of(HUGE) as *mut libc::c_void;
        for &(start, bytes) in ranges {
            let at = address.wrapping_byte_add(start);
            map(at, bytes, libc::PROT_NONE, libc::MAP_FIXED, (file, start));
        }
        // SAFETY: that range is within the mapping made above, of which nobody else knows.
        assert_eq!(unsafe { libc::mprotect(address, bytes, libc::PROT_READ | libc::PROT_WRITE) }, 0);
        let (socket, mut theirs) = UnixStream::pair().unwrap();
        let mapping = (room as u64, mapped + HUGE);
        // SAFETY: the child makes system calls and touches memory of its own; it takes no lock and no heap unless it
        // fails.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let _ends_with_its_test = prctl::set_pdeathsig(Signal::SIGKILL);
                drop(socket);
                serve(&mut theirs);
            }
            ForkResult::Parent { child } => {
                drop(theirs);
                socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                let mut this = Self { pid: child, address: address as u64, socket, mapping, fault: 0, ended: false };
                let number = this.answer() as i64;
                this.fault = i32::try_from(number).unwrap();
                if this.fault < 0 {
                    eprintln!("skipped: no userfaultfd in write-protect mode here");
                    return None;
                }
                Some(this)
            }
        }
    }

    /// Has it do that; how long it took, nanoseconds.
    pub(crate) fn run(&mut self, what: Do, address: u64, count: u64, step: u64, value: u64) -> u64 {
        self.begin(what, address, count, step, value);
        self.answer()
    }

    /// Has it begin to do that; [`Self::answer`] waits until it is done.
    pub(crate) fn begin(&mut self, what: Do, address: u64, count: u64, step: u64, value: u64) {
        let order: Order = [what as u64, address, count, step, value];
        self.socket.write_all(&bytes(order)).unwrap();
    }

    /// Has it write a byte to a page of its memory.
    pub(crate) fn write(&mut self, page: u64, value: u8) {
        self.run(Do::Write, self.address + page * 4096, 1, 4096, value.into());
    }

    pub(crate) fn write_each(&mut self, pages: &[u64], value: u8) {
        pages.iter().for_each(|&page| self.write(page, value));
    }

    /// Its userfaultfd.
    pub(crate) fn userfault(&self) -> Userfault {
        self.userfault_file().into()
    }

    pub(crate) fn userfault_file(&self) -> OwnedFd {
        pidfd::getfd(self.pidfd().as_fd(), self.fault).unwrap()
    }

    fn pidfd(&self) -> OwnedFd {
        // SAFETY: the call takes two numbers and touches no memory of ours.
        let file = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid.as_raw(), 0) };
        // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
        unsafe { OwnedFd::from_raw_fd(nix::errno::Errno::result(file).unwrap() as i32) }
    }

    pub(crate) fn memory(&self) -> RemoteMemory {
        RemoteMemory::new(self.pid)
    }

    /// Ends it, and waits until it has.
    pub(crate) fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            kill(self.pid, Signal::SIGKILL).unwrap();
            waitpid(self.pid, None).unwrap();
        }
    }

    /// How long it took, nanoseconds.
    pub(crate) fn answer(&mut self) -> u64 {
        let mut answer = [0; 8];
        self.socket.read_exact(&mut answer).unwrap();
        u64::from_le_bytes(answer)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.end();
        let (address, bytes) = self.mapping;
        // SAFETY: this process made that mapping and has not used it since.
        unsafe { libc::munmap(address as *mut libc::c_void, bytes) };
    }
}

/// Bytes of a huge page.
pub(crate) const HUGE: usize = 2 * 1024 * 1024;

fn map(
    address: *mut libc::c_void,
    bytes: usize,
    rights: i32,
    flags: i32,
    (file, offset): (Option<&File>, usize),
) -> *mut libc::c_void {
    let (flags, file) = match file {
        Some(file) => (flags | libc::MAP_PRIVATE, file.as_raw_fd()),
        None => (flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
    };
    // SAFETY: a fixed address is within a mapping that was made for this and that nobody uses.
    let address = unsafe { libc::mmap(address, bytes, rights, flags, file, offset as libc::off_t) };
    assert_ne!(address, libc::MAP_FAILED);
    address
}

fn bytes(order: Order) -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes.chunks_exact_mut(8).zip(order).for_each(|(bytes, word)| bytes.copy_from_slice(&word.to_le_bytes()));
    bytes
}

/// The child: tells its userfaultfd's number, then does what it is told until nobody is left who tells it.
fn serve(socket: &mut UnixStream) -> ! {
    let file = userfault::open();
    let number = file.as_ref().map_or(-1, |file| i64::from(file.as_raw_fd()));
    let mut said = socket.write_all(&number.to_le_bytes());
    let mut order = [0; 40];
    while said.is_ok() && socket.read_exact(&mut order).is_ok() {
        let word = |at: usize| u64::from_le_bytes(order[at * 8..][..8].try_into().expect("eight bytes"));
        let took = obey([word(0), word(1), word(2), word(3), word(4)]);
        said = socket.write_all(&took.to_le_bytes());
    }
    // SAFETY: the process ends; nothing of the parent's is run or flushed.
    unsafe { libc::_exit(0) }
}

fn obey([what, address, count, step, value]: Order) -> u64 {
    let start = std::time::Instant::now();
    let at = |index: u64| (address + index * step) as *mut u8;
    let range = address as *mut libc::c_void;
    match what {
        // SAFETY: tests name addresses within the memory that was mapped for them, and nothing else uses it.
        0 => (0..count).for_each(|index| unsafe { at(index).write_volatile(value as u8) }),
        1 => (0..count).for_each(|index| {
            // SAFETY: as above.
            let _byte = unsafe { at(index).read_volatile() };
        }),
        // SAFETY: as above.
        2 => assert_eq!(unsafe { libc::mprotect(range, count as usize, libc::PROT_READ | libc::PROT_WRITE) }, 0),
        // SAFETY: as above.
        3 => assert_eq!(unsafe { libc::madvise(range, count as usize, libc::MADV_DONTNEED) }, 0),
        5 => {
            let mut random = value;
            for _ in 0..count {
                // xorshift64: Marsaglia, "Xorshift RNGs", 2003.
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let place = (address + (random >> 16) % step * 4096 + random % 512 * 8) as *mut u64;
                // SAFETY: as above; eight bytes at a place of theirs within a page.
                unsafe { place.write_volatile(random) };
            }
        }
        // SAFETY: as above.
        _ => assert_eq!(unsafe { libc::madvise(range, count as usize, libc::MADV_HUGEPAGE) }, 0),
    }
    start.elapsed().as_nanos() as u64
}
