//! The daemon's end of a worker's control socket.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind as bind_socket, socket};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::frame::{self, FrameError};
use super::{MESSAGE_BYTES_MAX, Reply, Request};
use crate::api::{GuestName, GuestStats, NameError};

/// A connection to a worker. One request at a time; after an error it is of no further use.
#[derive(Debug)]
pub struct Control {
    /// Taken while an exchange is under way, so that one cut short is not taken up half-way by the next.
    stream: Option<UnixStream>,
    pid: u32,
}

/// Why a worker did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens: there is no such socket, or its worker is gone or has not begun to serve.
    #[error("no worker listens on {path}")]
    NotThere {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Connecting failed otherwise.
    #[error("cannot connect to {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// No answer in time: the worker hangs, or is stopped.
    #[error("the worker did not answer within {0:?}")]
    TimedOut(Duration),
    /// It answered something else than it was asked.
    #[error("the worker answered with something else")]
    Unexpected,
    /// It told counters that cannot be.
    #[error("the worker tells impossible counters: {0}")]
    Impossible(&'static str),
    /// It said a name that is none.
    #[error("the worker says an impossible name")]
    Name(#[from] NameError),
    /// The connection failed, or the answer cannot be read.
    #[error("the conversation with the worker failed")]
    Frame(#[from] FrameError),
    /// An earlier request on this connection failed or was given up.
    #[error("the connection to the worker was given up; connect again")]
    Spent,
}

impl Control {
    /// Connects to the worker that listens there.
    pub async fn connect(path: &Path, limit: Duration) -> Result<Self, ControlError> {
        let failed = |source: io::Error| {
            let path = path.to_path_buf();
            match source.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ControlError::NotThere { path, source },
                _ => ControlError::Connect { path, source },
            }
        };
        let near = Near::open(path).map_err(failed)?;
        let connecting = timeout(limit, UnixStream::connect(near.path()));
        let stream = match connecting.await {
            Ok(Ok(stream)) => stream,
            // It has not taken any connection for a long time: its line is full.
            Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => return Err(ControlError::TimedOut(limit)),
            Ok(Err(error)) => return Err(failed(error)),
            Err(_elapsed) => return Err(ControlError::TimedOut(limit)),
        };
        let pid = stream.peer_cred().map_err(failed)?.pid().and_then(|pid| u32::try_from(pid).ok());
        // A process outside our pid namespace has no number here; it would be 0.
        let pid = pid.filter(|pid| *pid != 0).ok_or_else(|| failed(Errno::ESRCH.into()))?;
        Ok(Self { stream: Some(stream), pid })
    }

    /// The process that listens, by the kernel's word (`SO_PEERCRED`).
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The guest's name and id.
    pub async fn hello(&mut self, limit: Duration) -> Result<(GuestName, String), ControlError> {
        match self.ask(Request::Hello, limit).await? {
            Reply::Hello { name, id } => Ok((name.parse()?, id)),
            _ => Err(self.unexpected()),
        }
    }

    /// The guest's counters; `rss_bytes` and `cpu_us` are 0.
    pub async fn stats(&mut self, limit: Duration) -> Result<GuestStats, ControlError> {
        match self.ask(Request::Stats, limit).await? {
            Reply::Stats(stats) => match super::stats::check(&stats) {
                Ok(()) => Ok(*stats),
                Err(what) => {
                    self.stream = None;
                    Err(ControlError::Impossible(what))
                }
            },
            _ => Err(self.unexpected()),
        }
    }

    /// Tells the worker to end; it does so within moments of the answer.
    pub async fn stop(&mut self, limit: Duration) -> Result<(), ControlError> {
        match self.ask(Request::Stop, limit).await? {
            Reply::Stopping => Ok(()),
            _ => Err(self.unexpected()),
        }
    }

    async fn ask(&mut self, request: Request, limit: Duration) -> Result<Reply, ControlError> {
        let mut stream = self.stream.take().ok_or(ControlError::Spent)?;
        let exchange = async {
            frame::send(&mut stream, &request).await?;
            frame::receive(&mut stream, MESSAGE_BYTES_MAX).await
        };
        let reply = timeout(limit, exchange).await.map_err(|_elapsed| ControlError::TimedOut(limit))??;
        self.stream = Some(stream);
        Ok(reply)
    }

    fn unexpected(&mut self) -> ControlError {
        self.stream = None;
        ControlError::Unexpected
    }
}

/// Makes a worker's control socket: bound, not listening yet ([`super::Descriptor::Control`]). The path must not exist.
pub fn bind(path: &Path) -> io::Result<OwnedFd> {
    let near = Near::open(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    bind_socket(socket.as_raw_fd(), &UnixAddr::new(&near.path())?)?;
    Ok(socket)
}

/// A path through its directory's descriptor: a socket's address has room for 107 bytes only (unix(7)).
pub(super) struct Near {
    directory: OwnedFd,
    name: PathBuf,
}

impl Near {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let flags = nix::libc::O_PATH | nix::libc::O_DIRECTORY;
        let directory = OpenOptions::new().read(true).custom_flags(flags).open(parent)?;
        Ok(Self { directory: directory.into(), name: name.into() })
    }

    pub(super) fn path(&self) -> PathBuf {
        Path::new("/proc/self/fd").join(self.directory.as_raw_fd().to_string()).join(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;
    use std::thread;

    /// A worker that answers anything with these bytes, and then holds the line.
    async fn asked(answer: &[u8], name: &str) -> ControlError {
        let long = "x".repeat(100);
        let directory = std::env::temp_dir().join(format!("roam-control-{name}-{}", std::process::id())).join(long);
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("control.sock");
        let listener = bind(&path).unwrap();
        let early = Control::connect(&path, LIMIT).await.unwrap_err();
        assert!(matches!(early, ControlError::NotThere { .. }), "nobody listens yet: {early}");
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(1).unwrap()).unwrap();
        let listener = UnixListener::from(listener);
        listener.set_nonblocking(false).unwrap();
        let answer = answer.to_vec();
        let worker = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 5]).unwrap();
            stream.write_all(&answer).unwrap();
            let _ = stream.read(&mut [0]);
        });
        let mut control = Control::connect(&path, LIMIT).await.unwrap();
        assert_eq!(control.pid(), std::process::id());
        let error = control.stats(Duration::from_millis(200)).await.unwrap_err();
        assert!(matches!(control.stats(LIMIT).await, Err(ControlError::Spent)));
        drop(control);
        worker.join().unwrap();
        std::fs::remove_dir_all(directory.parent().unwrap()).unwrap();
        error
    }

    const LIMIT: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn whatever_a_worker_answers_is_an_error_or_an_answer() {
        let silent = asked(b"", "silent").await;
        assert!(matches!(silent, ControlError::TimedOut(_)), "{silent}");
        let half = asked(&[5, 0, 0, 0, 2], "half").await;
        assert!(matches!(half, ControlError::TimedOut(_)), "{half}");
        let endless = asked(&[0xFF; 4096], "endless").await;
        assert!(matches!(endless, ControlError::Frame(FrameError::TooLong { .. })), "{endless}");
        let garbage = asked(&[3, 0, 0, 0, 9, 9, 9], "garbage").await;
        assert!(matches!(garbage, ControlError::Frame(FrameError::Decode(_))), "{garbage}");
        let other = asked(&frame::encode(&Reply::Stopping).unwrap(), "other").await;
        assert!(matches!(other, ControlError::Unexpected), "{other}");
        let stats = crate::api::GuestStats { rx_bytes: u64::MAX, ..Default::default() };
        let lies = asked(&frame::encode(&Reply::Stats(Box::new(stats))).unwrap(), "lies").await;
        assert!(matches!(lies, ControlError::Impossible(_)), "{lies}");
    }

    #[tokio::test]
    async fn where_no_worker_is_is_told_apart() {
        let missing = Control::connect(Path::new("/nonexistent/control.sock"), LIMIT).await.unwrap_err();
        assert!(matches!(missing, ControlError::NotThere { .. }), "{missing}");
    }
}
