//! One network namespace, held by a descriptor.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::resume_unwind;
use std::path::Path;
use std::process::{self, Command};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::fstat;

use super::{Finished, LabError, Missing, Process, search_path};
use crate::sys::process::{detach, die_with_parent, in_network};

/// How long a configuring command may take.
const SETUP_LIMIT: Duration = Duration::from_secs(20);

/// A network namespace; clones are the same one. It lives while a handle or a process in it does.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: Arc<str>,
    file: Arc<OwnedFd>,
}

impl Namespace {
    pub(super) fn new(name: &str) -> Result<Self, LabError> {
        // A thread of its own takes the new namespace, so that the caller stays where it is.
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let made = made.join().unwrap_or_else(|panic| resume_unwind(panic));
        let file = made.map_err(|source| Missing::Namespaces { source })?;
        let namespace = Self { name: name.into(), file: Arc::new(file.into()) };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The one that a file leads to: `/run/netns/NAME`, as `ip netns` makes them. It lives on without this handle.
    pub(super) fn open(name: &str, path: &Path) -> Result<Self, LabError> {
        let file = File::open(path).map_err(LabError::io(format!("opening namespace {}", path.display())))?;
        Ok(Self { name: name.into(), file: Arc::new(file.into()) })
    }

    /// What tells it from all others while it lives: device and inode (namespaces(7)).
    pub(super) fn identity(&self) -> Result<(u64, u64), LabError> {
        let stat = fstat(&*self.file).map_err(|errno| LabError::io("looking at a namespace")(errno.into()))?;
        Ok((stat.st_dev, stat.st_ino))
    }

    /// What messages call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A path that leads to this namespace while this handle lives, for `ip link set … netns`.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.file.as_raw_fd())
    }

    /// A command that will run inside and be killed when the spawning thread ends.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("PATH", search_path());
        die_with_parent(&mut command);
        in_network(&mut command, self.file.clone());
        command
    }

    /// A command that will run inside, in a session of its own: it outlives this process, and no terminal's keys reach
    /// it.
    pub(super) fn detached(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("PATH", search_path());
        detach(&mut command);
        in_network(&mut command, self.file.clone());
        command
    }

    /// A command that will run inside and take the place of this process (`exec`).
    pub(super) fn replacing(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env("PATH", search_path());
        in_network(&mut command, self.file.clone());
        command
    }

    /// As [`Namespace::call`] for a program that reads its commands from standard input: `ip -batch -`. It must succeed.
    pub(crate) fn batch(&self, line: &str, commands: &str) -> Result<(), LabError> {
        self.call(line, commands.as_bytes(), SETUP_LIMIT)?.success().map(drop)
    }

    /// Runs a command line (split at spaces, nothing else) to its end, with that standard input.
    pub fn call(&self, line: &str, input: &[u8], limit: Duration) -> Result<Finished, LabError> {
        let mut words = line.split_ascii_whitespace();
        let mut command = self.command(words.next().unwrap_or_default());
        command.args(words);
        Process::spawn(command)?.finish(input, limit)
    }

    /// `ip` with those arguments (split at spaces), which must succeed.
    pub fn ip(&self, arguments: &str) -> Result<(), LabError> {
        self.call(&format!("ip {arguments}"), b"", SETUP_LIMIT)?.success().map(drop)
    }

    /// Runs `work` on a thread inside. Sockets it opens belong to this namespace and may be used anywhere; children it
    /// spawns do not outlive it (see [`Namespace::command`], which needs no such thread).
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R, LabError> {
        let inside = || {
            setns(&*self.file, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| LabError::io(format!("entering namespace {}", self.name))(errno.into()))?;
            Ok(work())
        };
        thread::scope(|scope| scope.spawn(inside).join().unwrap_or_else(|panic| resume_unwind(panic)))
    }
}
