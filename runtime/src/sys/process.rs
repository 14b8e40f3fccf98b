//! What a child process does between `fork` and `exec`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{getpid, getppid};

/// The kernel kills the child (`SIGKILL`) when the *thread* that spawns it ends, however that ends
/// (`PR_SET_PDEATHSIG`, prctl(2)). So spawn from a thread that
/// outlives the child. The child starts with no signal blocked.
pub(crate) fn die_with_parent(command: &mut Command) -> &mut Command {
    let parent = getpid();
    let prepare = move || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // A thread that waits for signals has blocked them for whoever it spawns, too.
        SigSet::empty().thread_set_mask()?;
        // The parent may have died before the line above.
        if getppid() != parent { Err(io::Error::from(Errno::ESRCH)) } else { Ok(()) }
    };
    // SAFETY: `prepare` makes system calls only and touches no heap and no lock, so it is async-signal-safe.
    unsafe { command.pre_exec(prepare) }
}

/// The child starts in that network namespace (setns(2)); this process stays where it is.
pub(crate) fn in_network(command: &mut Command, namespace: Arc<OwnedFd>) -> &mut Command {
    let prepare = move || Ok(setns(&*namespace, CloneFlags::CLONE_NEWNET)?);
    // SAFETY: `prepare` makes one system call and touches no heap and no lock, so it is async-signal-safe; the
    // descriptor is open, since the closure owns a count of it.
    unsafe { command.pre_exec(prepare) }
}
