//! System calls as a hostile worker would make them.
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::libc;

/// One system call with these arguments.
pub(crate) fn call(number: libc::c_long, arguments: [usize; 6]) -> Result<i64, Errno> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: a process that was started to be killed makes this call; what becomes of its memory matters to nobody.
    Errno::result(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}
