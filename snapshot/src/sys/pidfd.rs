//! Descriptors of another process.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;

/// The descriptor that the process behind a pidfd has by that number; close-on-exec (pidfd_getfd(2)). Takes the rights
/// to trace that process.
pub fn getfd(process: BorrowedFd<'_>, number: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes three numbers and touches no memory of ours.
    let file = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    let file = i32::try_from(Errno::result(file)?).expect("a descriptor is an int");
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(file) })
}
