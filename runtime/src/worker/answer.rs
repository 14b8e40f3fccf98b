//! The control thread: answers the daemon, whatever its socket is sent.
//!
//! A few connections, one request at a time on each, until it is handed over to the datapath ([`Request::Hold`]). A request is read only when the one before it is answered and its answer taken
//! away, so a peer that floods or stalls holds up itself. The datapath is asked for stats at most once at a time, and
//! not again within [`STATS_AGE_MAX`]. Anything that is no request closes the connection.

use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};

use super::frame;
use super::line::{Closed, Line};
use super::mailbox::Mailbox;
use super::orders::Watcher;
use super::{Reply, Request};
use crate::api::GuestStats;

/// Longest request, bytes.
const REQUEST_BYTES_MAX: usize = 16;
/// Stats that are younger are sent again.
const STATS_AGE_MAX: Duration = Duration::from_millis(20);

/// Connections at a time; a further one takes the place of the youngest.
const CONNECTIONS_MAX: usize = 2;

/// What the control thread has.
pub(super) struct Answering {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) listener: UnixListener,
    pub(super) name: String,
    pub(super) id: String,
    /// The answer to the last request for stats, and when it was made.
    stats: Option<(Instant, Vec<u8>)>,
    /// The daemon's own, and that of somebody who comes to hold the datapath.
    connections: Vec<Connection>,
    /// The daemon that started the worker, if the worker is to end with it.
    leash: Option<Watcher>,
}

/// The daemon, or who says so.
struct Connection {
    line: Line,
    awaits_stats: bool,
    wants_stop: bool,
}

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
        Self { mailbox, listener, name, id, stats: None, connections: Vec::new(), leash: None }
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
            // From the last on: what is removed leaves those before it where they are.
            for (index, ready) in ready.into_iter().enumerate().rev() {
                if !ready.is_empty() {
                    self.attend(index, ready);
                }
            }
            if knocks && let Ok((stream, _)) = self.listener.accept() {
                self.connections.truncate(CONNECTIONS_MAX - 1);
                self.connections.push(Connection::new(stream));
            }
        }
    }

    /// Sleeps until something is to be done: news from the datapath, a knock at the socket, ready connections.
    fn wait(&self) -> (bool, bool, Vec<PollFlags>) {
        // Where there is no leash, one of the others is looked at twice.
        let leash = self.leash.as_ref().map_or(self.mailbox.control_bell(), AsFd::as_fd);
        let readable = |file| PollFd::new(file, PollFlags::POLLIN);
        let mut fds = vec![readable(self.mailbox.control_bell()), readable(self.listener.as_fd()), readable(leash)];
        fds.extend(self.connections.iter().map(|it| PollFd::new(it.line.as_fd(), it.interest())));
        let _ = ppoll(&mut fds, None, None);
        let mut flags = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let (news, knocks, _) = (flags.next(), flags.next(), flags.next());
        let is_ready = |flags: Option<PollFlags>| flags.is_some_and(|flags| !flags.is_empty());
        (is_ready(news), is_ready(knocks), flags.collect())
    }

    /// Reads, answers and writes as far as it goes without waiting. A connection that is of no further use is removed.
    fn attend(&mut self, index: usize, ready: PollFlags) {
        match self.answered(index, ready) {
            Ok(false) => {}
            Ok(true) => self.hand_over(index),
            Err(Closed) => drop(self.connections.remove(index)),
        }
    }

    /// Whether the connection is to be the datapath's.
    fn answered(&mut self, index: usize, ready: PollFlags) -> Result<bool, Closed> {
        let connection = &mut self.connections[index];
        if ready.contains(PollFlags::POLLIN) {
            connection.line.read()?;
        } else if ready.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
            return Err(Closed);
        }
        connection.line.write()?;
        while connection.is_idle()
            && let Some(request) = connection.line.take()?
        {
            match request {
                Request::Hold => return Ok(true),
                Request::Hello => {
                    connection.line.say(&Reply::Hello { name: self.name.clone(), id: self.id.clone() })?;
                }
                Request::Stop => {
                    connection.wants_stop = true;
                    let said = connection.line.say(&Reply::Stopping);
                    // Also when the answer cannot be taken away: it was asked.
                    self.mailbox.ask_stop();
                    said?;
                }
                Request::Stats => match &self.stats {
                    Some((made, answer)) if made.elapsed() < STATS_AGE_MAX => connection.line.say_encoded(answer)?,
                    _ => {
                        // Still under way if somebody asked before.
                        connection.awaits_stats = true;
                        self.mailbox.ask_stats();
                    }
                },
            }
        }
        Ok(false)
    }

    /// The connection is the datapath's own from now on.
    fn hand_over(&mut self, index: usize) {
        let mut line = self.connections.remove(index).line;
        if line.say(&Reply::Held).is_ok()
            && let Ok(stream) = line.into_stream()
        {
            self.mailbox.give_hold(stream);
        }
    }

    /// The datapath has given what it was asked for.
    fn pass_on(&mut self, stats: Box<GuestStats>) {
        let Ok(answer) = frame::encode(&Reply::Stats(stats)) else { return };
        let (_, answer) = self.stats.insert((Instant::now(), answer));
        for connection in &mut self.connections {
            if std::mem::take(&mut connection.awaits_stats) {
                // Whether it can be said is seen below.
                let _ = connection.line.say_encoded(answer);
            }
        }
        // What was asked next may be here already.
        for index in (0..self.connections.len()).rev() {
            self.attend(index, PollFlags::empty());
        }
    }
}

impl Connection {
    fn new(stream: UnixStream) -> Self {
        Self { line: Line::new(stream, REQUEST_BYTES_MAX), awaits_stats: false, wants_stop: false }
    }

    /// Nothing is waited for while the datapath is at it.
    fn interest(&self) -> PollFlags {
        if self.line.has_said_all() && self.awaits_stats { PollFlags::empty() } else { self.line.interest() }
    }

    fn is_idle(&self) -> bool {
        self.line.has_said_all() && !self.awaits_stats && !self.wants_stop
    }
}
