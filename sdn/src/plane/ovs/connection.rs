//! A standing connection to a switch's management socket.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, recv};

use super::super::PlaneError;
use super::wire::{self, Change, FlowStats, Message, Port};

/// How long the switch may take for one answer, or be silent within a long one. Far more than it takes.
const SILENCE: Duration = Duration::from_secs(1);
/// How long any answer may take in all.
const ANSWER: Duration = Duration::from_secs(10);
/// What is sent before a barrier is waited for: less than a socket buffers, so that the switch, which may have as many
/// errors to tell, is never waited for while it waits for us.
const BATCH_BYTES: usize = 64 * 1024;
/// The most flows and ports of a switch that are read.
const FLOWS_MAX: usize = 1_000_000;
const PORTS_MAX: usize = 65_536;

/// A connection that has said hello. After an error it is of no more use.
pub(super) struct Connection {
    stream: UnixStream,
    /// Where it leads, in messages.
    at: String,
    /// The number of the last message that was sent.
    number: u32,
    /// What was received and not yet read, up to `filled`.
    received: Vec<u8>,
    read: usize,
}

/// Why changes were not made.
pub(super) enum Failed {
    /// This one was refused; those before it, and maybe after it, were made.
    Refused { index: usize, said: io::Error },
    /// The connection failed.
    Lost(PlaneError),
}

impl Connection {
    pub(super) fn open(management: &Path) -> Result<Self, PlaneError> {
        let at = management.display().to_string();
        let stream = UnixStream::connect(management).map_err(|source| unreachable(&at, source))?;
        let timeouts = stream.set_read_timeout(Some(SILENCE)).and_then(|()| stream.set_write_timeout(Some(SILENCE)));
        timeouts.map_err(|source| unreachable(&at, source))?;
        let mut connection = Self { stream, at, number: 0, received: Vec::new(), read: 0 };
        connection.greet()?;
        Ok(connection)
    }

    /// Makes changes, and returns when the switch says that all are made.
    pub(super) fn change(&mut self, changes: &[Change]) -> Result<(), Failed> {
        let (mut out, mut first) = (Vec::with_capacity(512), 0);
        for (index, change) in changes.iter().enumerate() {
            let number = self.next();
            wire::flow_mod(&mut out, number, change)
                .map_err(|error| Failed::Refused { index, said: io::Error::other(error) })?;
            if out.len() >= BATCH_BYTES {
                self.settle(&mut out, number - (index - first) as u32, first)?;
                first = index + 1;
            }
        }
        let last = self.number;
        if first < changes.len() {
            self.settle(&mut out, last.wrapping_sub((changes.len() - first - 1) as u32), first)?;
        }
        Ok(())
    }

    /// All flows.
    pub(super) fn flows(&mut self) -> Result<Vec<FlowStats>, PlaneError> {
        let mut all = Vec::new();
        self.gather(wire::flows, "flows", |message| match message {
            Message::Flows { flows, more } => {
                all.extend(flows);
                (all.len() <= FLOWS_MAX).then_some(more)
            }
            _ => Some(true),
        })?;
        Ok(all)
    }

    /// All ports.
    pub(super) fn ports(&mut self) -> Result<Vec<Port>, PlaneError> {
        let mut all = Vec::new();
        self.gather(wire::ports, "ports", |message| match message {
            Message::Ports { ports, more } => {
                all.extend(ports);
                (all.len() <= PORTS_MAX).then_some(more)
            }
            _ => Some(true),
        })?;
        Ok(all)
    }

    /// Answers what the switch has asked since. Never waits. An error when the connection is over.
    pub(super) fn tend(&mut self) -> Result<(), PlaneError> {
        loop {
            while self.take()?.is_some() {}
            let mut bytes = [0; 4096];
            match recv(self.stream.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => return Err(self.lost(ErrorKind::UnexpectedEof.into())),
                Ok(count) => self.received.extend(&bytes[..count]),
                Err(nix::errno::Errno::EAGAIN) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(self.lost(errno.into())),
            }
        }
    }

    fn greet(&mut self) -> Result<(), PlaneError> {
        let mut out = Vec::new();
        wire::hello(&mut out, self.next());
        self.send(&out)?;
        let until = Instant::now() + ANSWER;
        loop {
            match self.receive(until)? {
                (_, Message::Hello { fits: true }) => break,
                (_, Message::Hello { fits: false } | Message::Error { .. }) => {
                    return Err(self.odd(
                        "it does not speak OpenFlow 1.3: run `ovs-vsctl set bridge BRIDGE protocols=OpenFlow13`",
                    ));
                }
                _ => {}
            }
        }
        out.clear();
        wire::set_async(&mut out, self.next());
        self.send(&out)
    }

    /// Sends a batch and a barrier, and waits for its answer. `first` is the number of the batch's first message, which
    /// stands for the change of that index.
    fn settle(&mut self, out: &mut Vec<u8>, first: u32, index: usize) -> Result<(), Failed> {
        let barrier = self.next();
        wire::barrier(out, barrier);
        self.send(out).map_err(Failed::Lost)?;
        out.clear();
        let (until, mut refused) = (Instant::now() + ANSWER, None);
        loop {
            match self.receive(until).map_err(Failed::Lost)? {
                (number, Message::BarrierReply) if number == barrier => break,
                (number, Message::Error { kind, code }) if number == barrier => {
                    return Err(Failed::Lost(self.odd(&refusal(kind, code))));
                }
                (number, Message::Error { kind, code }) if refused.is_none() => {
                    refused = Some((number.wrapping_sub(first) as usize, refusal(kind, code)));
                }
                _ => {}
            }
        }
        match refused {
            Some((offset, said)) => {
                Err(Failed::Refused { index: index.saturating_add(offset), said: io::Error::other(said) })
            }
            None => Ok(()),
        }
    }

    /// Asks, and hands each part of the answer over until there are no more: `Some(more)`, or `None` for too many.
    fn gather(
        &mut self,
        ask: impl FnOnce(&mut Vec<u8>, u32),
        what: &str,
        mut take: impl FnMut(Message) -> Option<bool>,
    ) -> Result<(), PlaneError> {
        let (mut out, number) = (Vec::new(), self.next());
        ask(&mut out, number);
        self.send(&out)?;
        let until = Instant::now() + ANSWER;
        loop {
            match self.receive(until)? {
                (answered, Message::Error { kind, code }) if answered == number => {
                    return Err(self.odd(&format!("it does not tell its {what}: {}", refusal(kind, code))));
                }
                (answered, part) if answered == number => match take(part) {
                    Some(true) => {}
                    Some(false) => return Ok(()),
                    None => return Err(self.odd(&format!("it has more {what} than are read"))),
                },
                _ => {}
            }
        }
    }

    fn next(&mut self) -> u32 {
        self.number = self.number.wrapping_add(1);
        self.number
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), PlaneError> {
        self.stream.write_all(bytes).map_err(|source| self.lost(source))
    }

    /// The next message that is no request.
    fn receive(&mut self, until: Instant) -> Result<(u32, Message), PlaneError> {
        let mut bytes = [0; 16 * 1024];
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            if Instant::now() >= until {
                return Err(self.lost(ErrorKind::TimedOut.into()));
            }
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(self.lost(ErrorKind::UnexpectedEof.into())),
                Ok(count) => self.received.extend(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(self.lost(ErrorKind::TimedOut.into()));
                }
                Err(error) => return Err(self.lost(error)),
            }
        }
    }

    /// The next whole message that was received. Echo requests are answered on the way.
    fn take(&mut self) -> Result<Option<(u32, Message)>, PlaneError> {
        loop {
            let taken = wire::decode(&self.received[self.read..]).map_err(|error| self.odd(&error.to_string()))?;
            let Some((number, message, bytes)) = taken else {
                self.received.drain(..self.read);
                self.read = 0;
                return Ok(None);
            };
            self.read += bytes;
            match message {
                Message::EchoRequest(content) => {
                    let mut out = Vec::new();
                    wire::echo_reply(&mut out, number, &content);
                    self.send(&out)?;
                }
                message => return Ok(Some((number, message))),
            }
        }
    }

    fn lost(&self, source: io::Error) -> PlaneError {
        unreachable(&self.at, source)
    }

    fn odd(&self, how: &str) -> PlaneError {
        PlaneError::Protocol { at: self.at.clone(), how: how.into() }
    }
}

/// What to do depends on why.
pub(super) fn unreachable(at: &str, source: io::Error) -> PlaneError {
    let advice = match source.kind() {
        ErrorKind::NotFound => {
            "there is no such socket: start ovs-vswitchd, add the bridge, or name another with --ovs-management"
        }
        ErrorKind::ConnectionRefused => "nobody listens there: start ovs-vswitchd",
        ErrorKind::PermissionDenied => return PlaneError::Permission { doing: format!("connect to {at}") },
        ErrorKind::TimedOut => "it does not answer: ovs-vswitchd is stopped or overloaded",
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
            "it has closed the connection: ovs-vswitchd was restarted, or the bridge removed"
        }
        _ => return PlaneError::Unreachable { at: at.into(), source },
    };
    PlaneError::Unreachable { at: at.into(), source: io::Error::new(source.kind(), advice) }
}

/// An error in words (§7.5.4).
fn refusal(kind: u16, code: u16) -> String {
    match (kind, code) {
        (1, 5) | (5, 4) => "it does not permit that (read-only, or not the master)".into(),
        (5, 1) => "the table of flows is full".into(),
        (2, _) => format!("it does not know an action (error {kind}, {code})"),
        (4, _) => format!("it does not know a match (error {kind}, {code})"),
        _ => format!("it answered with error {kind}, {code}"),
    }
}
