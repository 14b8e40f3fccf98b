//! The control thread: answers the daemon, whatever its socket is sent.
//!
//! One connection, one request at a time. A request is read only when the one before it is answered and its answer taken
//! away, so a peer that floods or stalls holds up itself. The datapath is asked for stats at most once at a time, and
//! not again within [`STATS_AGE_MAX`]. Anything that is no request closes the connection.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::{MsgFlags, recv, send};

use super::frame::{self, PREFIX_BYTES};
use super::mailbox::Mailbox;
use super::orders::Watcher;
use super::{Reply, Request};
use crate::api::GuestStats;

/// Longest request, bytes.
const REQUEST_BYTES_MAX: usize = 16;
/// Stats that are younger are sent again.
const STATS_AGE_MAX: Duration = Duration::from_millis(20);

/// What the control thread has.
pub(super) struct Answering {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) listener: UnixListener,
    pub(super) name: String,
    pub(super) id: String,
    /// The answer to the last request for stats, and when it was made.
    stats: Option<(Instant, Vec<u8>)>,
    connection: Option<Connection>,
    /// The daemon that started the worker, if the worker is to end with it.
    leash: Option<Watcher>,
}

/// The daemon, or who says so.
struct Connection {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    awaits_stats: bool,
    wants_stop: bool,
}

/// The connection is of no further use.
struct Closed;

/// Whether the guest came to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The daemon has gone before it did.
    GivenUp,
    Serves,
}

/// Until the guest serves, the daemon may give it up.
pub(super) fn wait_until_serving(mailbox: &Mailbox, daemon: &Watcher) -> Outcome {
    loop {
        let readable = |file| PollFd::new(file, PollFlags::POLLIN);
        let mut fds = [readable(mailbox.control_bell()), readable(daemon.as_fd())];
        let _ = ppoll(&mut fds, None, None);
        if mailbox.take_news().0 {
            return Outcome::Serves;
        }
        if fds[1].any() == Some(true) && daemon.is_gone() {
            return Outcome::GivenUp;
        }
    }
}

impl Answering {
    pub(super) fn new(mailbox: Arc<Mailbox>, listener: UnixListener, name: String, id: String) -> Self {
        Self { mailbox, listener, name, id, stats: None, connection: None, leash: None }
    }

    /// The guest stops when that daemon goes.
    pub(super) fn leashed(self, leash: Watcher) -> Self {
        Self { leash: Some(leash), ..self }
    }

    /// For as long as the process lives.
    pub(super) fn run(mut self) -> ! {
        loop {
            let (news, knocks, ready) = self.wait();
            if self.leash.as_ref().is_some_and(Watcher::is_gone) {
                self.mailbox.say_daemon_gone();
                self.leash = None;
            }
            if news && let (_, Some(stats)) = self.mailbox.take_news() {
                self.pass_on(stats);
            }
            // A restarted daemon takes the place of the one before it.
            if knocks && let Ok((stream, _)) = self.listener.accept() {
                self.connection = Some(Connection::new(stream));
            } else if !ready.is_empty() && self.attend(ready).is_err() {
                self.connection = None;
            }
        }
    }

    /// Sleeps until something is to be done: news from the datapath, a knock at the socket, a ready connection.
    fn wait(&self) -> (bool, bool, PollFlags) {
        let interest = self.connection.as_ref().map_or(PollFlags::empty(), Connection::interest);
        let connection = self.connection.as_ref().map_or(self.listener.as_fd(), |connection| connection.stream.as_fd());
        // Where there is no leash or no connection, one of the others is looked at twice.
        let leash = self.leash.as_ref().map_or(self.mailbox.control_bell(), AsFd::as_fd);
        let mut fds = [
            PollFd::new(self.mailbox.control_bell(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(leash, PollFlags::POLLIN),
            PollFd::new(connection, interest),
        ];
        let count = if self.connection.is_some() { 4 } else { 3 };
        let _ = ppoll(&mut fds[..count], None, None);
        let [news, knocks, _, ready] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        (!news.is_empty(), !knocks.is_empty(), ready)
    }

    /// Reads, answers and writes as far as it goes without waiting.
    fn attend(&mut self, ready: PollFlags) -> Result<(), Closed> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        if ready.contains(PollFlags::POLLIN) {
            connection.read()?;
        } else if ready.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
            return Err(Closed);
        }
        connection.write()?;
        while let Some(connection) = &mut self.connection
            && connection.is_idle()
            && let Some(request) = connection.take_request()?
        {
            self.answer(request)?;
        }
        Ok(())
    }

    fn answer(&mut self, request: Request) -> Result<(), Closed> {
        let Some(connection) = &mut self.connection else { return Ok(()) };
        match request {
            Request::Hello => connection.reply(&Reply::Hello { name: self.name.clone(), id: self.id.clone() }),
            Request::Stop => {
                connection.wants_stop = true;
                let replied = connection.reply(&Reply::Stopping);
                // Also when the answer cannot be taken away: it was asked.
                self.mailbox.ask_stop();
                replied
            }
            Request::Stats => match &self.stats {
                Some((made, answer)) if made.elapsed() < STATS_AGE_MAX => {
                    connection.output.extend_from_slice(answer);
                    connection.write()
                }
                _ => {
                    // Still under way if somebody asked before.
                    connection.awaits_stats = true;
                    self.mailbox.ask_stats();
                    Ok(())
                }
            },
        }
    }

    /// The datapath has given what it was asked for.
    fn pass_on(&mut self, stats: Box<GuestStats>) {
        let Ok(answer) = frame::encode(&Reply::Stats(stats)) else { return };
        let mut closed = false;
        if let Some(connection) = self.connection.as_mut().filter(|connection| connection.awaits_stats) {
            connection.awaits_stats = false;
            connection.output.extend_from_slice(&answer);
            closed = connection.write().is_err();
        }
        if closed {
            self.connection = None;
        }
        self.stats = Some((Instant::now(), answer));
    }
}

impl Connection {
    fn new(stream: UnixStream) -> Self {
        Self { stream, input: Vec::new(), output: Vec::new(), awaits_stats: false, wants_stop: false }
    }

    /// What to wait for: room for the answer, else a request; neither while the datapath is at it.
    fn interest(&self) -> PollFlags {
        match (self.output.is_empty(), self.awaits_stats) {
            (false, _) => PollFlags::POLLOUT,
            (true, true) => PollFlags::empty(),
            (true, false) => PollFlags::POLLIN,
        }
    }

    fn is_idle(&self) -> bool {
        self.output.is_empty() && !self.awaits_stats && !self.wants_stop
    }

    fn read(&mut self) -> Result<(), Closed> {
        let mut bytes = [0; PREFIX_BYTES + REQUEST_BYTES_MAX];
        match recv(self.stream.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Err(Closed),
            Ok(read) => {
                self.input.extend_from_slice(&bytes[..read]);
                Ok(())
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
            Err(_) => Err(Closed),
        }
    }

    fn take_request(&mut self) -> Result<Option<Request>, Closed> {
        let Some((prefix, rest)) = self.input.split_first_chunk() else { return Ok(None) };
        let length = frame::length(*prefix, REQUEST_BYTES_MAX).map_err(|_too_long| Closed)?;
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let request = frame::decode(body).map_err(|_garbage| Closed)?;
        self.input.drain(..PREFIX_BYTES + length);
        Ok(Some(request))
    }

    fn reply(&mut self, reply: &Reply) -> Result<(), Closed> {
        let answer = frame::encode(reply).map_err(|_too_long| Closed)?;
        self.output.extend_from_slice(&answer);
        self.write()
    }

    fn write(&mut self) -> Result<(), Closed> {
        if self.output.is_empty() {
            return Ok(());
        }
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(self.stream.as_raw_fd(), &self.output, flags) {
            Ok(sent) => {
                self.output.drain(..sent);
                Ok(())
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
            Err(_) => Err(Closed),
        }
    }
}
