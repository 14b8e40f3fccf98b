//! Into the jail, step by step.

use std::fs;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, chdir, setgroups, sethostname, setresgid, setresuid, setsid};

use super::{Rights, root};
use crate::sys::process::{Forked, fork};

/// What the daemon answers when a starting worker's ids are mapped.
pub const GO: u8 = 1;

/// A jail to be entered.
#[derive(Clone, Copy, Debug)]
pub struct Jail<'a> {
    /// An empty directory to mount the root on.
    pub root: &'a Path,
    /// Whether root inside is a user of its own outside.
    pub own_user: bool,
    /// What remains to the process.
    pub rights: Rights,
}

/// Which step failed.
#[derive(Debug, thiserror::Error)]
#[error("{doing}")]
pub struct JailError {
    /// What was tried.
    pub doing: &'static str,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// For `map_err`: that step failed.
pub(super) fn step<E: Into<io::Error>>(doing: &'static str) -> impl FnOnce(E) -> JailError {
    move |source| JailError { doing, source: source.into() }
}

/// Everything that has a namespace of its own, but time (see [`super`]).
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWUSER
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWCGROUP);

/// Puts this process into the jail, all but seccomp. Only while it has one thread.
///
/// Returns in a new process, pid 1 inside, whose id outside was told to `announce`; the calling process ends. `daemon`
/// is asked to map ids: `unshared` is called, then [`GO`] awaited.
pub fn enter(
    jail: &Jail<'_>,
    mut daemon: &UnixStream,
    unshared: impl FnOnce() -> io::Result<()>,
    announce: impl FnOnce(u32) -> io::Result<()>,
) -> Result<(), JailError> {
    // A terminal's signals are not for the worker.
    setsid().map_err(step("beginning a session"))?;
    unshare(NAMESPACES).map_err(step("making namespaces"))?;
    unshared().map_err(step("asking for a user"))?;
    let mut answer = [0];
    daemon.read_exact(&mut answer).map_err(step("waiting for a user"))?;
    if answer != [GO] {
        return Err(step("waiting for a user")(Errno::EPROTO));
    }
    if let Forked::Parent { child } = fork().map_err(step("making the worker's process"))? {
        // Should this fail, the daemon is gone: the worker notices by itself.
        let _ = announce(child);
        std::process::exit(0);
    }
    close(jail)
}

/// The rest, in the new process.
fn close(jail: &Jail<'_>) -> Result<(), JailError> {
    // No namespace within: there it would have rights again. Where /proc cannot be written, seccomp alone forbids it.
    let _ = fs::write("/proc/sys/user/max_user_namespaces", "0");
    sethostname("guest").map_err(step("setting the host name"))?;
    // While it still owns the directory: the user it becomes may not even look at it.
    root::enter(jail.root)?;
    if jail.own_user {
        setgroups(&[]).map_err(step("leaving all groups"))?;
    }
    setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0)).map_err(step("becoming its group"))?;
    setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).map_err(step("becoming its user"))?;
    chdir("/").map_err(step("going to the new root"))?;
    jail.rights.keep_only()
}
