//! Starting a worker.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::frame::{self, FrameError};
use super::{Launch, LaunchError, Launched, Task, WorkerProcess};
use crate::jail::{Cgroup, CgroupError, GO, map_ids};

/// A worker to be started.
#[derive(Clone, Copy, Debug)]
pub struct Spawn<'a> {
    /// roam itself; run as `PROGRAM worker`. Absolute.
    pub program: &'a Path,
    /// What it is to do.
    pub launch: &'a Launch,
    /// The descriptors that go with it, in the order of [`super::Descriptor`].
    pub descriptors: &'a [BorrowedFd<'a>],
    /// Where its last words go. Open for reading too: an error carries its end.
    pub stderr: &'a File,
    /// Its limits, where the machine has them.
    pub cgroup: Option<&'a Cgroup>,
    /// How long it may take.
    pub limit: Duration,
}

/// Why a worker did not come up. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The program cannot be run.
    #[error("the worker program {program} cannot be run")]
    Program {
        /// Its path.
        program: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A step on the daemon's side failed.
    #[error("starting a worker failed: {doing}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It could not be put under its limits.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// It said why.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// It took too long and was killed.
    #[error("the worker was not ready within {0:?}")]
    Timeout(Duration),
    /// It ended without saying why.
    #[error("the worker ended before it was ready{}{}", how(.status), words(.said))]
    Died {
        /// How, if that can be known.
        status: Option<ExitStatus>,
        /// The end of what it wrote to its standard error.
        said: String,
    },
    /// What it said cannot be understood.
    #[error("the worker said what cannot be understood")]
    Protocol(#[source] FrameError),
}

fn how(status: &Option<ExitStatus>) -> String {
    status.map_or_else(String::new, |status| format!(" ({status})"))
}

fn words(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": {said}") }
}

/// Longest message of a starting worker, bytes.
const LAUNCHED_BYTES_MAX: usize = 64 * 1024;
/// How much of its last words an error carries.
const SAID_BYTES_MAX: u64 = 2048;
/// How long a worker that was given up may take to end by itself before it is killed.
const GIVEN_UP_LIMIT: Duration = Duration::from_secs(2);

/// Starts a worker. Returns when it serves, or when it has compiled and ended. A failure, and dropping the future,
/// kill and reap what was started.
///
/// To learn later how a worker ended, this process must be a subreaper ([`super::become_subreaper`]).
pub async fn spawn(spawn: Spawn<'_>) -> Result<WorkerProcess, SpawnError> {
    let starting = async {
        let mut started = Started::begin(&spawn)?;
        started.launch(&spawn).await?;
        started.follow(&spawn).await
    };
    timeout(spawn.limit, starting).await.unwrap_or(Err(SpawnError::Timeout(spawn.limit)))
}

/// What there is of a worker so far. Dropping it ends that.
struct Started {
    stream: Option<UnixStream>,
    /// Makes the jail, and ends when the worker is in it.
    starter: Option<WorkerProcess>,
    worker: Option<WorkerProcess>,
}

impl Started {
    fn begin(spawn: &Spawn<'_>) -> Result<Self, SpawnError> {
        let (ours, theirs) = StdUnixStream::pair().map_err(io_error("making the launch connection"))?;
        ours.set_nonblocking(true).map_err(io_error("making the launch connection"))?;
        let stream = UnixStream::from_std(ours).map_err(io_error("making the launch connection"))?;
        let stderr = spawn.stderr.try_clone().map_err(io_error("handing over the standard error"))?;
        let mut command = Command::new(spawn.program);
        // A program that is several says by its name which it is.
        command
            .arg0("roam")
            .arg("worker")
            .arg(spawn.launch.task.label())
            .env_clear()
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(stderr);
        let program_failed = |source| SpawnError::Program { program: spawn.program.into(), source };
        let mut child = command.spawn().map_err(program_failed)?;
        let starter = WorkerProcess::open(child.id()).map_err(|source| {
            // Out of descriptors. Without one it cannot be reaped later on.
            let _ = child.kill().and_then(|()| child.wait());
            io_error("taking hold of the worker's process")(source)
        })?;
        Ok(Self { stream: Some(stream), starter: Some(starter), worker: None })
    }

    /// Tells it what to do, once it is under its limits.
    async fn launch(&mut self, spawn: &Spawn<'_>) -> Result<(), SpawnError> {
        let (Some(stream), Some(starter)) = (&mut self.stream, &self.starter) else { return Ok(()) };
        if let Some(cgroup) = spawn.cgroup {
            cgroup.add(starter.pid())?;
        }
        let message = frame::encode(spawn.launch).map_err(SpawnError::Protocol)?;
        let files: Vec<_> = spawn.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&files)];
        let rights = if files.is_empty() { &rights[..0] } else { &rights[..] };
        let sent = stream.async_io(Interest::WRITABLE, || {
            Ok(sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&message)], rights, MsgFlags::MSG_NOSIGNAL, None)?)
        });
        let sent = sent.await;
        match sent {
            Ok(bytes) => match stream.write_all(&message[bytes..]).await {
                Ok(()) => Ok(()),
                Err(_) => Err(self.died(spawn).await),
            },
            // It ended before it listened: its own words say more.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(self.died(spawn).await),
            Err(source) => Err(SpawnError::Io { doing: "handing over its orders", source }),
        }
    }

    /// Hears it out until it is ready, or done.
    async fn follow(mut self, spawn: &Spawn<'_>) -> Result<WorkerProcess, SpawnError> {
        // Starter and worker share the connection: the worker may be ready before its starter comes to name it.
        let mut is_ready = false;
        while !is_ready || self.worker.is_none() {
            let Some(stream) = &mut self.stream else { return Err(self.died(spawn).await) };
            match frame::receive(stream, LAUNCHED_BYTES_MAX).await {
                Ok(Launched::Unshared) => self.map(spawn).await?,
                Ok(Launched::Process { pid }) => self.take_hold(pid).await?,
                Ok(Launched::Ready) => is_ready = true,
                Ok(Launched::Failed(error)) => return Err(error.into()),
                Err(FrameError::Io(_)) => return Err(self.died(spawn).await),
                Err(error) => return Err(SpawnError::Protocol(error)),
            }
        }
        if let Some(worker) = &self.worker
            && matches!(spawn.launch.task, Task::Compile { .. })
        {
            worker.ended().await;
        }
        // Nothing is left to be ended when this is dropped.
        let (leash, _) = (self.stream.take(), self.starter.take());
        let worker = self.worker.take().ok_or(SpawnError::Timeout(spawn.limit))?;
        Ok(if spawn.launch.leashed { worker.leashed(leash) } else { worker })
    }

    /// The starter is in its user namespace, and somebody outside must say who it is there.
    async fn map(&mut self, spawn: &Spawn<'_>) -> Result<(), SpawnError> {
        let (Some(stream), Some(starter)) = (&mut self.stream, &self.starter) else { return Ok(()) };
        map_ids(starter.pid(), spawn.launch.uid).map_err(io_error("mapping the worker's user"))?;
        stream.write_all(&[GO]).await.map_err(io_error("telling the worker to go on"))
    }

    async fn take_hold(&mut self, pid: u32) -> Result<(), SpawnError> {
        if self.worker.is_none() {
            self.worker = Some(WorkerProcess::open(pid).map_err(io_error("taking hold of the worker's process"))?);
        }
        if let Some(starter) = &self.starter {
            starter.ended().await;
        }
        Ok(())
    }

    /// The connection has ended, so the process has or is about to. Where there is a worker, how its starter ended says
    /// nothing: well.
    async fn died(&self, spawn: &Spawn<'_>) -> SpawnError {
        let status = match self.worker.as_ref().or(self.starter.as_ref()) {
            Some(process) => timeout(GIVEN_UP_LIMIT, process.ended()).await.ok().flatten(),
            None => None,
        };
        SpawnError::Died { status, said: tail(spawn.stderr) }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let (Some(stream), Some(starter)) = (self.stream.take(), self.starter.take()) else { return };
        let worker = self.worker.take();
        // On a thread, since it waits for processes. Where there can be none, closing the connection ends the worker,
        // too.
        let _ = thread::Builder::new().name("end-worker".into()).spawn(move || end(stream, &starter, worker));
    }
}

/// Ends and reaps what was started.
fn end(stream: UnixStream, starter: &WorkerProcess, worker: Option<WorkerProcess>) {
    let worker = worker.or_else(|| announced(stream, starter));
    for process in worker.iter().chain([starter]) {
        if process.kill().is_ok() {
            process.wait(GIVEN_UP_LIMIT);
            process.reap();
        }
    }
}

/// The worker the starter may have made but was not heard of yet. It ends by itself when the connection is closed; its
/// name is wanted to reap it.
fn announced(stream: UnixStream, starter: &WorkerProcess) -> Option<WorkerProcess> {
    use std::io::Read;
    use std::net::Shutdown;
    let mut stream = stream.into_std().ok()?;
    stream.set_nonblocking(false).ok()?;
    stream.shutdown(Shutdown::Write).ok()?;
    starter.wait(GIVEN_UP_LIMIT);
    starter.kill().ok()?;
    let deadline = Instant::now() + GIVEN_UP_LIMIT;
    loop {
        let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        stream.set_read_timeout(Some(left)).ok()?;
        let mut prefix = [0; frame::PREFIX_BYTES];
        stream.read_exact(&mut prefix).ok()?;
        let mut body = vec![0; frame::length(prefix, LAUNCHED_BYTES_MAX).ok()?];
        stream.read_exact(&mut body).ok()?;
        if let Launched::Process { pid } = frame::decode(&body).ok()? {
            return WorkerProcess::open(pid).ok();
        }
    }
}

/// The end of what a file has, as text.
fn tail(file: &File) -> String {
    let bytes = file.metadata().map_or(0, |metadata| metadata.len());
    let mut said = vec![0; bytes.min(SAID_BYTES_MAX) as usize];
    let read = file.read_at(&mut said, bytes.saturating_sub(SAID_BYTES_MAX)).unwrap_or(0);
    String::from_utf8_lossy(&said[..read]).trim().to_owned()
}

fn io_error(doing: &'static str) -> impl FnOnce(io::Error) -> SpawnError {
    move |source| SpawnError::Io { doing, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn child() -> WorkerProcess {
        #[expect(clippy::zombie_processes, reason = "reaped through the descriptor")]
        let child = Command::new("true").spawn().unwrap();
        WorkerProcess::open(child.id()).unwrap()
    }

    /// Its starter may be kept from the processor for as long as that takes.
    #[tokio::test]
    async fn a_worker_may_be_ready_before_its_starter_names_it() {
        let (ours, mut theirs) = StdUnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let pid = child().pid();
        for launched in [Launched::Ready, Launched::Process { pid }] {
            theirs.write_all(&frame::encode(&launched).unwrap()).unwrap();
        }
        let stream = Some(UnixStream::from_std(ours).unwrap());
        let started = Started { stream, starter: Some(child()), worker: None };
        let task = Task::Compile { guest: true };
        let launch = Launch { task, root: String::new(), uid: None, leashed: false };
        let spawn = Spawn {
            program: Path::new("/nonexistent"),
            launch: &launch,
            descriptors: &[],
            stderr: &File::open("/dev/null").unwrap(),
            cgroup: None,
            limit: GIVEN_UP_LIMIT,
        };
        assert_eq!(started.follow(&spawn).await.unwrap().pid(), pid);
    }
}
