//! A worker's process, held by a descriptor: its id cannot come to mean another process meanwhile.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::time::clock_getcpuclockid;
use nix::unistd::{Pid, SysconfVar, sysconf};
use tokio::net::UnixStream;

use crate::sys;

/// A process by id and pidfd (pidfd_open(2)).
#[derive(Debug)]
pub struct WorkerProcess {
    pid: u32,
    file: OwnedFd,
    /// Set once it has been reaped: `None` inside if somebody else did.
    status: Mutex<Option<Option<ExitStatus>>>,
    /// Its launch connection, if the worker is to end with us.
    leash: Mutex<Option<UnixStream>>,
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of all its threads, microseconds.
    pub cpu_us: u64,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
}

/// How often a process is looked at that cannot be waited for.
const LOOK_STEP: Duration = Duration::from_millis(50);

/// Makes this process the parent of workers whose own parent has ended, so that it learns how they ended.
pub fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

impl WorkerProcess {
    /// The process that has this id now.
    pub fn open(pid: u32) -> io::Result<Self> {
        Ok(Self { pid, file: sys::process::pidfd_open(pid)?, status: Mutex::new(None), leash: Mutex::new(None) })
    }

    /// It ends when this value is dropped.
    pub(super) fn leashed(self, leash: Option<UnixStream>) -> Self {
        Self { leash: Mutex::new(leash), ..self }
    }

    /// A worker that was to end with us ends now, in order; any other serves on.
    pub fn let_go(&self) {
        self.leash.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Its id in our pid namespace.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Readable when it has ended.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Waits until it has ended, and reaps it. How it ended; `None` if it is not our child, or was reaped elsewhere.
    /// Within a tokio runtime.
    pub async fn ended(&self) -> Option<ExitStatus> {
        if self.readable().await.is_err() {
            // Out of descriptors: then by looking now and again.
            while !self.has_ended() {
                tokio::time::sleep(LOOK_STEP).await;
            }
        }
        self.reap()
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.wait(Duration::ZERO)
    }

    /// Kills it (`SIGKILL`). No error if it has ended.
    pub fn kill(&self) -> io::Result<()> {
        match sys::process::pidfd_kill(&self.file) {
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(()),
            result => result,
        }
    }

    /// What it has used so far.
    pub fn usage(&self) -> io::Result<Usage> {
        let cpu = clock_getcpuclockid(Pid::from_raw(self.pid.cast_signed()))?.now()?;
        let rss_pages = resident_pages(&fs::read_to_string(format!("/proc/{}/statm", self.pid))?);
        let page_bytes = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|bytes| u64::try_from(bytes).ok());
        // Its id may be another's by now.
        if self.has_ended() {
            return Err(Errno::ESRCH.into());
        }
        let cpu_us = u64::try_from(Duration::from(cpu).as_micros()).unwrap_or(u64::MAX);
        Ok(Usage { cpu_us, rss_bytes: rss_pages.unwrap_or(0) * page_bytes.unwrap_or(4096) })
    }

    async fn readable(&self) -> io::Result<()> {
        // A descriptor of its own, so that several may wait at once.
        let file = sys::process::watch(self.file.try_clone()?)?;
        let _ready = file.readable().await?;
        Ok(())
    }

    /// Waits for its end without a runtime; whether it has ended. Reaps nothing.
    pub(super) fn wait(&self, limit: Duration) -> bool {
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        matches!(poll(&mut fds, timeout), Ok(1..))
    }

    /// How it ended, once it has.
    pub(super) fn reap(&self) -> Option<ExitStatus> {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        *status.get_or_insert_with(|| {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
            match waitid(Id::PIDFd(self.file.as_fd()), flags) {
                Ok(WaitStatus::Exited(_, code)) => Some(ExitStatus::from_raw(code << 8)),
                Ok(WaitStatus::Signaled(_, signal, _)) => Some(ExitStatus::from_raw(signal as i32)),
                _ => None,
            }
        })
    }
}

/// Second field of `statm`, proc(5).
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn sleeper() -> WorkerProcess {
        #[expect(clippy::zombie_processes, reason = "reaped through the descriptor")]
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        WorkerProcess::open(child.id()).unwrap()
    }

    #[tokio::test]
    async fn a_killed_process_is_reaped_once_and_all_who_wait_hear_of_it() {
        let process = sleeper();
        assert!(!process.has_ended());
        assert!(process.usage().unwrap().rss_bytes > 0);
        process.kill().unwrap();
        let (first, second) = tokio::join!(process.ended(), process.ended());
        assert_eq!(first.and_then(|status| status.signal()), Some(9));
        assert_eq!(second.and_then(|status| status.signal()), Some(9));
        assert!(process.has_ended());
        process.kill().unwrap();
        assert!(process.usage().is_err());
        assert!(WorkerProcess::open(process.pid()).is_err(), "it was reaped");
    }

    #[tokio::test]
    async fn how_somebody_elses_child_ended_is_unknown() {
        let process = WorkerProcess::open(1).unwrap();
        assert!(!process.has_ended());
        assert_eq!(resident_pages("100 25 3"), Some(25));
        assert_eq!(resident_pages("100"), None);
    }
}
