//! Connections: what any protocol over TCP has in common. Each protocol is a [`Dialogue`].
mod body;
mod dialogue;
mod echo;
mod http;
mod kv;
mod link;

pub(super) use echo::Echo;
pub(super) use http::HttpStream;
pub(super) use kv::Kv;

use std::io::{self, Read, Write};
use std::net::SocketAddr;

use super::account::{Account, in_flight_each};
use super::content::Check;
use super::plan::Plan;
use super::poller::{Clock, Poller, Ready};
use super::run::{Driver, LoadError};
use dialogue::{Dialogue, Reply};
use link::Link;

/// Requests are turned into bytes as long as fewer than this wait for the kernel: 64 KiB.
const OUT_BYTES: usize = 64 * 1024;

/// The most one read takes.
const IN_BYTES: usize = 256 * 1024;

/// Reads from one connection before the others have their turn.
const READS_IN_TURN: usize = 4;

/// The TCP side of a run.
pub(crate) struct Tcp<D> {
    target: SocketAddr,
    connections: Vec<Connection<D>>,
    /// Connections with something to send.
    waiting: Vec<usize>,
    in_flight_max: u64,
    /// When the earliest connection that is not up wants something.
    timer_ns: Option<u64>,
    inbox: Box<[u8]>,
    replies: Vec<Reply>,
}

struct Connection<D> {
    dialogue: D,
    link: Link,
    /// All its requests of the run, answered or not; 0 if not known.
    planned: u64,
    /// Requests that fell due.
    taken: u64,
    /// Requests that were turned into bytes.
    opened: u64,
    /// Requests that are settled: answered, or lost with a connection.
    settled: u64,
    out: Vec<u8>,
    out_done: usize,
    /// Whether it is in `waiting`.
    is_waiting: bool,
    /// Whether the kernel takes no more, and the socket is watched for writing.
    is_blocked: bool,
}

impl<D: Dialogue> Tcp<D> {
    /// Connections that are to be made.
    pub(crate) fn new(plan: &Plan, dialogue: impl Fn(&Plan, usize) -> D) -> Self {
        let connections = (0..plan.connections).map(|index| Connection {
            dialogue: dialogue(plan, index),
            link: Link::new(),
            planned: 0,
            taken: 0,
            opened: 0,
            settled: 0,
            out: Vec::new(),
            out_done: 0,
            is_waiting: false,
            is_blocked: false,
        });
        Self {
            target: plan.target,
            connections: connections.collect(),
            waiting: Vec::with_capacity(plan.connections),
            in_flight_max: in_flight_each(plan) as u64,
            timer_ns: Some(0),
            inbox: vec![0; IN_BYTES].into(),
            replies: Vec::new(),
        }
    }

    /// Starts what is to be started, gives up what takes too long. Returns the failures.
    fn run_timers(&mut self, poller: &Poller, now_ns: u64) -> Result<Vec<io::Error>, LoadError> {
        let mut failures = Vec::new();
        if self.timer_ns.is_none_or(|timer_ns| timer_ns > now_ns) {
            return Ok(failures);
        }
        for (index, connection) in self.connections.iter_mut().enumerate() {
            match connection.link {
                Link::Down { retry_ns, pause_ns } if retry_ns <= now_ns => {
                    connection.link = match Link::connect(self.target, now_ns, pause_ns) {
                        Ok(link) => link,
                        Err(error) => {
                            failures.push(error);
                            Link::failed(now_ns, pause_ns)
                        }
                    };
                    if let Link::Connecting { stream, .. } = &connection.link {
                        poller.add(stream, index, true).map_err(LoadError::Poll)?;
                    }
                }
                Link::Connecting { deadline_ns, pause_ns, .. } if deadline_ns <= now_ns => {
                    failures.push(io::ErrorKind::TimedOut.into());
                    connection.link = Link::failed(now_ns, pause_ns);
                }
                _ => {}
            }
        }
        self.set_timer();
        Ok(failures)
    }

    fn set_timer(&mut self) {
        self.timer_ns = self.connections.iter().filter_map(|connection| connection.link.next_ns()).min();
    }

    /// A socket that was connecting is writable or broken: whether it is up now.
    fn finish_connecting(&mut self, poller: &Poller, index: usize, now_ns: u64) -> Result<(), ConnectFailure> {
        let connection = &mut self.connections[index];
        let (stream, pause_ns) = match std::mem::replace(&mut connection.link, Link::Finished) {
            Link::Connecting { stream, pause_ns, .. } => (stream, pause_ns),
            other => {
                connection.link = other;
                return Ok(());
            }
        };
        let result = match stream.take_error() {
            Ok(None) => Ok(()),
            Ok(Some(error)) | Err(error) => Err(ConnectFailure::Peer(error)),
        };
        connection.link = if result.is_ok() {
            poller.modify(&stream, index, false).map_err(ConnectFailure::Poll)?;
            connection.is_blocked = false;
            Link::Up(stream)
        } else {
            Link::failed(now_ns, pause_ns)
        };
        self.set_timer();
        result
    }

    /// A new connection: the dialogue goes on with the first request that was not sent.
    fn begin_dialogue(&mut self, index: usize, account: &mut Account, now_ns: u64) {
        let connection = &mut self.connections[index];
        if D::LIVE {
            let missed = connection.taken - connection.opened;
            for _ in 0..missed {
                account.open(index, now_ns);
            }
            connection.opened = connection.taken;
            connection.settled += missed;
            account.broken(index, missed);
        }
        connection.out.clear();
        connection.out_done = 0;
        connection.dialogue.begin(connection.opened, connection.planned, &mut connection.out);
        self.wait_to_send(index);
    }

    fn wait_to_send(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if !connection.is_waiting {
            connection.is_waiting = true;
            self.waiting.push(index);
        }
    }

    /// The connection is gone, and what was in flight with it.
    fn break_off(&mut self, index: usize, link: Link, account: &mut Account) {
        let connection = &mut self.connections[index];
        account.broken(index, connection.opened - connection.settled);
        connection.settled = connection.opened;
        connection.link = link;
        self.set_timer();
    }

    fn reset(&mut self, index: usize, error: &io::Error, account: &mut Account, now_ns: u64) {
        account.reset(now_ns);
        account.problem(error);
        self.break_off(index, Link::broken(now_ns), account);
    }

    /// Turns requests into bytes and gives them to the kernel, until it takes no more or none are left.
    fn send_on(
        &mut self,
        poller: &Poller,
        index: usize,
        account: &mut Account,
        clock: &Clock,
    ) -> Result<(), LoadError> {
        let in_flight_max = self.in_flight_max;
        let connection = &mut self.connections[index];
        loop {
            connection.encode(index, in_flight_max, account, clock.now_ns());
            let Link::Up(stream) = &mut connection.link else { return Ok(()) };
            let unsent = &connection.out[connection.out_done..];
            if unsent.is_empty() {
                return connection.watch_writing(poller, index, false);
            }
            match stream.write(unsent) {
                Ok(written) => connection.out_done += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return connection.watch_writing(poller, index, true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.reset(index, &error, account, clock.now_ns());
                    return Ok(());
                }
            }
        }
    }

    fn receive_from(&mut self, index: usize, account: &mut Account, clock: &Clock) {
        for _ in 0..READS_IN_TURN {
            let connection = &mut self.connections[index];
            let Link::Up(stream) = &mut connection.link else { return };
            let result = stream.read(&mut self.inbox);
            let now_ns = clock.now_ns();
            let length = match result {
                Ok(0) if connection.dialogue.is_finished() => return self.break_off(index, Link::Finished, account),
                Ok(0) => {
                    let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection");
                    return self.reset(index, &error, account, now_ns);
                }
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return self.reset(index, &error, account, now_ns),
            };
            account.bytes(length, now_ns);
            let outcome = connection.dialogue.receive(&self.inbox[..length], &mut self.replies);
            for reply in self.replies.drain(..) {
                match reply {
                    Reply::To(check) => {
                        if let Check::Damaged(_) = check {
                            account.problem(&format_args!("a reply with wrong content on connection {index}"));
                        }
                        account.reply(index, check, now_ns);
                        connection.settled += 1;
                    }
                    Reply::Pulled(intact) => account.pulled(intact, now_ns),
                }
            }
            if connection.opened < connection.taken {
                self.wait_to_send(index);
            }
            if let Err(nonsense) = outcome {
                account.nonsense(now_ns);
                account.problem(&nonsense);
                return self.break_off(index, Link::broken(now_ns), account);
            }
            if length < self.inbox.len() {
                return;
            }
        }
    }
}

impl<D: Dialogue> Connection<D> {
    /// Turns requests into bytes while there is room and the window allows.
    fn encode(&mut self, index: usize, in_flight_max: u64, account: &mut Account, now_ns: u64) {
        if !matches!(self.link, Link::Up(_)) {
            return;
        }
        if self.out_done == self.out.len() {
            self.out.clear();
            self.out_done = 0;
        }
        while self.opened < self.taken && self.out.len() < OUT_BYTES && self.opened - self.settled < in_flight_max {
            let sequence = account.open(index, now_ns);
            debug_assert_eq!(sequence, self.opened, "ledger and connection count alike");
            self.opened += 1;
            if let Some(check) = self.dialogue.request(sequence, &mut self.out) {
                account.reply(index, check, now_ns);
                self.settled += 1;
            }
        }
    }

    fn watch_writing(&mut self, poller: &Poller, index: usize, blocked: bool) -> Result<(), LoadError> {
        if self.is_blocked == blocked {
            return Ok(());
        }
        let Link::Up(stream) = &self.link else { return Ok(()) };
        self.is_blocked = blocked;
        poller.modify(stream, index, blocked).map_err(LoadError::Poll)
    }
}

/// Why a connection did not come up.
enum ConnectFailure {
    Peer(io::Error),
    Poll(nix::errno::Errno),
}

impl<D: Dialogue> Driver for Tcp<D> {
    fn is_connected(&mut self, poller: &Poller, ready: &[Ready], now_ns: u64) -> Result<bool, LoadError> {
        let mut failure = None;
        for ready in ready {
            match self.finish_connecting(poller, ready.connection, now_ns) {
                Ok(()) => {}
                Err(ConnectFailure::Peer(source)) => failure = Some(source),
                Err(ConnectFailure::Poll(errno)) => return Err(LoadError::Poll(errno)),
            }
        }
        failure = self.run_timers(poller, now_ns)?.into_iter().next().or(failure);
        match failure {
            Some(source) => Err(LoadError::Connect { target: self.target, source }),
            None => Ok(self.connections.iter().all(|connection| matches!(connection.link, Link::Up(_)))),
        }
    }

    fn begin(&mut self, account: &mut Account) {
        for index in 0..self.connections.len() {
            self.connections[index].planned = account.planned(index);
            self.begin_dialogue(index, account, 0);
        }
    }

    fn send(&mut self, poller: &Poller, account: &mut Account, clock: &Clock) -> Result<(), LoadError> {
        let now_ns = clock.now_ns();
        for failure in self.run_timers(poller, now_ns)? {
            account.reset(now_ns);
            account.problem(&failure);
        }
        while let Some(index) = account.take(now_ns) {
            self.connections[index].taken += 1;
            self.wait_to_send(index);
        }
        while let Some(index) = self.waiting.pop() {
            self.connections[index].is_waiting = false;
            self.send_on(poller, index, account, clock)?;
        }
        Ok(())
    }

    fn receive(
        &mut self,
        poller: &Poller,
        ready: &[Ready],
        account: &mut Account,
        clock: &Clock,
    ) -> Result<(), LoadError> {
        for ready in ready {
            let index = ready.connection;
            if matches!(self.connections[index].link, Link::Connecting { .. }) {
                let now_ns = clock.now_ns();
                match self.finish_connecting(poller, index, now_ns) {
                    Ok(()) => self.begin_dialogue(index, account, now_ns),
                    Err(ConnectFailure::Peer(error)) => {
                        account.reset(now_ns);
                        account.problem(&error);
                    }
                    Err(ConnectFailure::Poll(errno)) => return Err(LoadError::Poll(errno)),
                }
                continue;
            }
            if ready.readable {
                self.receive_from(index, account, clock);
            }
            if ready.writable {
                self.wait_to_send(index);
            }
        }
        Ok(())
    }

    fn next_ns(&self) -> Option<u64> {
        if self.waiting.is_empty() { self.timer_ns } else { Some(0) }
    }
}
