//! What a child process does between `fork` and `exec`.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{ForkResult, getpid, getppid, setsid};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Niceness of threads that others wait for.
const PREFERRED: libc::c_int = -10;

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

/// The child starts in a session of its own (setsid(2)), with no signal blocked.
pub(crate) fn detach(command: &mut Command) -> &mut Command {
    let prepare = || {
        setsid()?;
        Ok(SigSet::empty().thread_set_mask()?)
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

/// A descriptor of the process with that id (pidfd_open(2)).
pub(crate) fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two numbers and touches no memory of ours.
    let file = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let file = i32::try_from(Errno::result(file)?).expect("a descriptor is an int");
    // SAFETY: the kernel has just made this descriptor (close-on-exec), and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(file) })
}

/// `SIGKILL` to the process behind a pidfd (pidfd_send_signal(2)).
pub(crate) fn pidfd_kill(process: &OwnedFd) -> io::Result<()> {
    let nothing = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open while it is borrowed; the null pointer means "no details".
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), libc::SIGKILL, nothing, 0) };
    Errno::result(result)?;
    Ok(())
}

/// The calling thread gets a processor before others that want one (setpriority(2)): somebody waits for what it does. Takes
/// CAP_SYS_NICE; without it, all stays as it is.
pub(crate) fn prefer_thread() {
    // SAFETY: the call takes numbers only; 0 is the calling thread.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, PREFERRED) };
}

/// The calling thread gets a processor whenever it wants one, or is one among others again: for moments in which a guest
/// stands still.
pub(crate) fn hurry_thread(hurries: bool) {
    hurry(0, hurries);
}

/// The same for the first thread of a process.
pub(crate) fn hurry_process(pid: u32, hurries: bool) {
    if pid != 0 {
        hurry(pid.cast_signed(), hurries);
    }
}

/// sched_setscheduler(2), `SCHED_RR`; what it starts does not hurry. Where that is not allowed, all stays as it is.
fn hurry(thread: libc::pid_t, hurries: bool) {
    let (policy, sched_priority) =
        if hurries { (libc::SCHED_RR | libc::SCHED_RESET_ON_FORK, 1) } else { (libc::SCHED_OTHER, 0) };
    let parameters = libc::sched_param { sched_priority };
    // SAFETY: the parameters outlive the call, which reads them.
    let _ = unsafe { libc::sched_setscheduler(thread, policy, &raw const parameters) };
}

/// Which side of a fork this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Forked {
    /// The caller as it was.
    Parent {
        /// The new process's id, in the caller's pid namespace.
        child: u32,
    },
    /// The new process.
    Child,
}

/// Makes a copy of this process (fork(2)). Refused with `EBUSY` when it has several threads, of which the copy would
/// have one.
pub(crate) fn fork() -> Result<Forked, Errno> {
    let tasks = std::fs::read_dir("/proc/self/task").map_err(|_no_proc| Errno::ENOENT)?;
    if tasks.count() != 1 {
        return Err(Errno::EBUSY);
    }
    // SAFETY: this is the only thread, as was just seen, so no lock is held by another.
    Ok(match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Forked::Parent { child: child.as_raw().cast_unsigned() },
        ForkResult::Child => Forked::Child,
    })
}

/// Closes all descriptors from `first` on, so that nothing that was left open by whoever started this process stays.
///
/// To be called before anything of this process has opened one.
pub(crate) fn close_inherited(first: u32) -> Result<(), Errno> {
    // SAFETY: the caller is at its very start and owns no descriptor from `first` on; none is used afterwards.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    Errno::result(result).map(drop)
}

/// A descriptor whose readiness can be awaited.
pub(crate) fn watch(file: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, and the same descriptor, for as long as it lives, and the `AsyncFd` owns it.
    let watched = unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) };
    watched.map_err(|error| error.into_parts().1)
}
