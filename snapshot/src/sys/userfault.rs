//! Tracking writes without being told of each: userfaultfd(2) in asynchronous write-protect mode.
//!
//! A range that is registered costs nothing until [`super::pagemap`] protects pages of it. The first write to a
//! protected page is resolved by the kernel alone, which lifts the protection: so a page without it was written. Writes
//! by the kernel for the process count too.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

/// `UFFD_USER_MODE_ONLY`: needs no privilege. In this mode no fault reaches anybody, the kernel's own included.
const USER_MODE_ONLY: libc::c_int = 1;
/// `UFFD_API`.
const API: u64 = 0xAA;
/// `UFFD_FEATURE_WP_UNPOPULATED`: pages that do not exist yet can be protected. Linux 6.4.
const WP_UNPOPULATED: u64 = 1 << 13;
/// `UFFD_FEATURE_WP_ASYNC`: nobody has to answer faults. Linux 6.7.
const WP_ASYNC: u64 = 1 << 15;
/// `UFFDIO_REGISTER_MODE_WP`.
const MODE_WP: u64 = 1 << 1;

/// `struct uffdio_api`.
#[repr(C)]
struct Handshake {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_range`.
#[repr(C)]
struct Range {
    start: u64,
    bytes: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct Register {
    range: Range,
    mode: u64,
    ioctls: u64,
}

#[allow(unreachable_pub, reason = "the macro's functions are public, as far as this module is")]
mod request {
    nix::ioctl_readwrite!(uffdio_api, 0xAA, 0x3F, super::Handshake);
    nix::ioctl_readwrite!(uffdio_register, 0xAA, 0x00, super::Register);
    nix::ioctl_read!(uffdio_unregister, 0xAA, 0x01, super::Range);
}

/// What a kernel lacks.
#[derive(Debug, thiserror::Error)]
pub enum Lacks {
    /// userfaultfd(2), or the right to call it.
    #[error("userfaultfd cannot be had here: the kernel lacks CONFIG_USERFAULTFD or forbids it")]
    Userfault(#[source] Errno),
    /// The mode that is needed.
    #[error("this kernel's userfaultfd has no asynchronous write protection; Linux 6.7 has")]
    AsyncWriteProtect(#[source] Errno),
}

/// Makes the userfaultfd that tracks this very process. Whoever has the descriptor can register ranges of it. The
/// error's inner one is [`Lacks`].
pub fn open() -> io::Result<OwnedFd> {
    let flags = USER_MODE_ONLY | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: the call takes a number and touches no memory of ours.
    let file = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    let unsupported = |lacks: Lacks| io::Error::new(io::ErrorKind::Unsupported, lacks);
    let file = Errno::result(file).map_err(|errno| unsupported(Lacks::Userfault(errno)))?;
    let file = i32::try_from(file).expect("a descriptor is an int");
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    let file = unsafe { OwnedFd::from_raw_fd(file) };
    let mut handshake = Handshake { api: API, features: WP_UNPOPULATED | WP_ASYNC, ioctls: 0 };
    // SAFETY: the descriptor is open, and the kernel reads and writes one `uffdio_api`, which lives on.
    let result = unsafe { request::uffdio_api(file.as_raw_fd(), &raw mut handshake) };
    result.map_err(|errno| unsupported(Lacks::AsyncWriteProtect(errno)))?;
    Ok(file)
}

/// A process's userfaultfd, made by [`open`] there. Closing its last descriptor anywhere ends all tracking.
#[derive(Debug)]
pub struct Userfault {
    file: OwnedFd,
}

impl From<OwnedFd> for Userfault {
    fn from(file: OwnedFd) -> Self {
        Self { file }
    }
}

impl Userfault {
    /// Has writes to a range tracked from the next [`super::pagemap::Pagemap::take`] on. Whole pages; what has no
    /// access rights yet may be among them, and has to, if it will get them: a mapping of which only a part is
    /// registered is two, and one that then grows into the other cannot be scanned.
    pub fn register(&self, address: u64, bytes: u64) -> io::Result<()> {
        let mut register = Register { range: Range { start: address, bytes }, mode: MODE_WP, ioctls: 0 };
        // SAFETY: the descriptor is open; the kernel reads and writes one `uffdio_register`, which lives on. What is
        // registered in this mode keeps its content and its rights.
        unsafe { request::uffdio_register(self.file.as_raw_fd(), &raw mut register) }?;
        Ok(())
    }

    /// Ends the tracking of a range; its pages are no longer protected.
    pub fn unregister(&self, address: u64, bytes: u64) -> io::Result<()> {
        let mut range = Range { start: address, bytes };
        // SAFETY: the descriptor is open, and the kernel reads one `uffdio_range`, which lives on.
        unsafe { request::uffdio_unregister(self.file.as_raw_fd(), &raw mut range) }?;
        Ok(())
    }
}
