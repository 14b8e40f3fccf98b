//! One connection's conversation: bytes in, bytes out, no socket and no clock.
//!
//! Input may arrive in any pieces. Output is gathered until the input is used up or [`OUTPUT_BYTES_MAX`] is reached, so
//! that many pipelined answers leave in one send and no client can make the server gather without bound.

use crate::clock::{Deadline, Now};
use crate::command::{Command, CommandError, Header, Request, next_word};
use crate::reserve::{Reservation, Reserve};
use crate::store::{ArithmeticError, Store, Stored, Verb};
use crate::{reply, stats};

/// A session stops for its output to be sent once it has that much; a single value may go beyond.
pub const OUTPUT_BYTES_MAX: usize = 256 * 1024;
/// The longest part of a line to wait for the rest of, for a command without a list of keys.
pub const LINE_BYTES_MAX: usize = 2048;
/// The same for a command with a list of keys.
pub const RETRIEVE_LINE_BYTES_MAX: usize = 256 * 1024;

/// What a session works on besides its own state.
#[derive(Debug)]
pub struct Server<'a> {
    /// The items.
    pub store: &'a mut Store,
    /// What values that are still arriving may take.
    pub reserve: &'a Reserve,
    /// The time.
    pub now: Now,
}

/// What a session wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// More input.
    Input,
    /// Its output to be sent, then [`Session::run`] with no input.
    Flush,
    /// Its output to be sent, then the connection closed.
    Close,
}

/// The state of a connection between two calls.
#[derive(Debug, Default)]
pub struct Session {
    state: State,
    /// Stopped for its output, not for want of input.
    full: bool,
    /// Input that could not be used yet: a part of a line, or all that came after the output was full.
    pending: Vec<u8>,
    /// Bytes of `pending` known to have no line end.
    searched: usize,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Line,
    /// A value is arriving.
    Value {
        header: OwnedHeader,
        data: Vec<u8>,
        _reservation: Reservation,
    },
    /// A value that will not be stored is arriving.
    Swallow {
        bytes: usize,
    },
    /// Keys whose values had no room in the output.
    Keys {
        keys: Vec<u8>,
        cas: bool,
        deadline: Option<Deadline>,
    },
    Closed,
}

/// A [`Header`] that outlives its line.
#[derive(Debug)]
struct OwnedHeader {
    verb: Verb,
    key: Box<[u8]>,
    flags: u32,
    exptime: i64,
    data_bytes: usize,
    noreply: bool,
}

impl Session {
    /// Whether it can go on only with more input.
    pub fn wants_input(&self) -> bool {
        !self.full
    }

    /// Goes on with the conversation: uses `input` after what is pending, appends answers to `out`.
    pub fn run(&mut self, input: &[u8], server: &mut Server<'_>, out: &mut Vec<u8>) -> Next {
        let (used, next);
        if self.pending.is_empty() {
            (used, next) = self.consume(input, server, out);
            self.pending.extend_from_slice(&input[used..]);
        } else {
            let mut pending = std::mem::take(&mut self.pending);
            pending.extend_from_slice(input);
            (used, next) = self.consume(&pending, server, out);
            // What is left is usually nothing; then the buffer is given back, and an idle session is small.
            if used < pending.len() {
                pending.drain(..used);
                self.pending = pending;
            }
        }
        self.full = next == Next::Flush;
        next
    }

    /// Uses what it can of `input`; returns how much that was.
    fn consume(&mut self, input: &[u8], server: &mut Server<'_>, out: &mut Vec<u8>) -> (usize, Next) {
        let mut used = 0;
        loop {
            if out.len() >= OUTPUT_BYTES_MAX {
                return (used, Next::Flush);
            }
            let rest = &input[used..];
            match &mut self.state {
                State::Closed => return (input.len(), Next::Close),
                State::Keys { .. } => self.go_on_retrieving(server, out),
                State::Swallow { bytes } => {
                    let count = rest.len().min(*bytes);
                    *bytes -= count;
                    used += count;
                    if *bytes > 0 {
                        return (used, Next::Input);
                    }
                    self.state = State::Line;
                }
                State::Value { header, data, .. } => {
                    let count = rest.len().min(header.data_bytes + reply::LINE_END.len() - data.len());
                    data.extend_from_slice(&rest[..count]);
                    used += count;
                    if data.len() < header.data_bytes + reply::LINE_END.len() {
                        return (used, Next::Input);
                    }
                    self.finish_value(server, out);
                }
                State::Line => match self.line(rest, server, out) {
                    0 => return (used, Next::Input),
                    count => used += count,
                },
            }
        }
    }

    /// Does the command on the first line; returns the bytes used, 0 where the line is not complete.
    fn line(&mut self, input: &[u8], server: &mut Server<'_>, out: &mut Vec<u8>) -> usize {
        let searched = std::mem::take(&mut self.searched).min(input.len());
        let Some(end) = input[searched..].iter().position(|byte| *byte == b'\n').map(|at| searched + at) else {
            if input.len() > line_bytes_max(input) {
                out.extend_from_slice(b"CLIENT_ERROR line too long\r\n");
                self.state = State::Closed;
                return input.len();
            }
            self.searched = input.len();
            return 0;
        };
        let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
        server.store.advance(server.now);
        let request = Request::parse(line);
        let mut quiet = Vec::new();
        let answer = if request.noreply { &mut quiet } else { out };
        match request.command {
            Ok(Command::Store(header)) => {
                return end + 1 + self.store(header, request.noreply, &input[end + 1..], server, answer);
            }
            Ok(Command::Retrieve { keys, cas, exptime }) => {
                let deadline = exptime.map(|exptime| Deadline::from_exptime(exptime, server.now));
                self.retrieve(keys, cas, deadline, server, answer);
            }
            Ok(Command::Quit) => self.state = State::Closed,
            Ok(command) => execute(command, server, answer),
            Err(error) => reply::line(&error.to_string(), answer),
        }
        end + 1
    }

    /// Stores a value that is there as a whole, or prepares for one that arrives in pieces; returns the bytes used.
    fn store(
        &mut self,
        header: Header<'_>,
        noreply: bool,
        input: &[u8],
        server: &mut Server<'_>,
        answer: &mut Vec<u8>,
    ) -> usize {
        server.store.stats.sets += 1;
        let block_bytes = header.data_bytes + reply::LINE_END.len();
        if let Err(refused) = server.store.admits(header.key, header.data_bytes) {
            return self.refuse(header, refused, block_bytes, server, answer);
        }
        if let Some(block) = input.get(..block_bytes) {
            put(header, block, server, answer);
            return block_bytes;
        }
        let Some(reservation) = server.reserve.take(block_bytes) else {
            return self.refuse(header, Stored::OutOfMemory, block_bytes, server, answer);
        };
        let Header { verb, key, flags, exptime, data_bytes } = header;
        let header = OwnedHeader { verb, key: key.into(), flags, exptime, data_bytes, noreply };
        self.state = State::Value { header, data: Vec::with_capacity(block_bytes), _reservation: reservation };
        0
    }

    /// Says no to a value and skips it. An old value under that key goes: better none than a stale one.
    fn refuse(
        &mut self,
        header: Header<'_>,
        refused: Stored,
        block_bytes: usize,
        server: &mut Server<'_>,
        answer: &mut Vec<u8>,
    ) -> usize {
        if header.verb == Verb::Set {
            server.store.delete(header.key, server.now);
        }
        reply::stored(refused, answer);
        self.state = State::Swallow { bytes: block_bytes };
        0
    }

    /// Stores a value that arrived in pieces.
    fn finish_value(&mut self, server: &mut Server<'_>, out: &mut Vec<u8>) {
        let State::Value { header, data, .. } = std::mem::take(&mut self.state) else { return };
        let OwnedHeader { verb, ref key, flags, exptime, data_bytes, noreply } = header;
        server.store.advance(server.now);
        let mut quiet = Vec::new();
        let answer = if noreply { &mut quiet } else { out };
        put(Header { verb, key, flags, exptime, data_bytes }, &data, server, answer);
    }

    /// Answers a retrieval as far as the output has room.
    fn retrieve(
        &mut self,
        mut keys: &[u8],
        cas: bool,
        deadline: Option<Deadline>,
        server: &mut Server<'_>,
        out: &mut Vec<u8>,
    ) {
        while let (key @ [_, ..], rest) = next_word(keys) {
            if out.len() >= OUTPUT_BYTES_MAX {
                self.state = State::Keys { keys: keys.to_vec(), cas, deadline };
                return;
            }
            retrieve_one(key, cas, deadline, server, out);
            keys = rest;
        }
        out.extend_from_slice(b"END\r\n");
    }

    fn go_on_retrieving(&mut self, server: &mut Server<'_>, out: &mut Vec<u8>) {
        let State::Keys { keys, cas, deadline } = std::mem::take(&mut self.state) else { return };
        self.retrieve(&keys, cas, deadline, server, out);
    }
}

fn line_bytes_max(line: &[u8]) -> usize {
    let list = line.starts_with(b"get") || line.starts_with(b"gat");
    if list { RETRIEVE_LINE_BYTES_MAX } else { LINE_BYTES_MAX }
}

/// Stores a data block, if its line end is where it belongs.
fn put(header: Header<'_>, block: &[u8], server: &mut Server<'_>, answer: &mut Vec<u8>) {
    let Some(data) = block.strip_suffix(reply::LINE_END) else {
        return answer.extend_from_slice(b"CLIENT_ERROR bad data chunk\r\n");
    };
    let deadline = Deadline::from_exptime(header.exptime, server.now);
    let stored = server.store.store(header.verb, header.key, data.to_vec(), header.flags, deadline, server.now);
    if let Verb::Cas(_) = header.verb {
        let stats = &mut server.store.stats;
        match stored {
            Stored::Stored => stats.cas_hits += 1,
            Stored::Exists => stats.cas_badval += 1,
            Stored::NotFound => stats.cas_misses += 1,
            _ => {}
        }
    }
    reply::stored(stored, answer);
}

fn retrieve_one(key: &[u8], cas: bool, deadline: Option<Deadline>, server: &mut Server<'_>, out: &mut Vec<u8>) {
    let item = match deadline {
        Some(deadline) => server.store.touch(key, deadline, server.now),
        None => server.store.find(key, server.now),
    };
    let hit = item.is_some();
    if let Some(item) = item {
        reply::value(key, item, cas, out);
    }
    let stats = &mut server.store.stats;
    stats.gets += 1;
    *if hit { &mut stats.get_hits } else { &mut stats.get_misses } += 1;
    if deadline.is_some() {
        stats.touches += 1;
        *if hit { &mut stats.touch_hits } else { &mut stats.touch_misses } += 1;
    }
}

/// Does a command that is one line and has one answer.
fn execute(command: Command<'_>, server: &mut Server<'_>, out: &mut Vec<u8>) {
    let Server { store, now, .. } = server;
    let now = *now;
    match command {
        Command::Delete(key) => {
            let hit = store.delete(key, now);
            *if hit { &mut store.stats.delete_hits } else { &mut store.stats.delete_misses } += 1;
            reply::line(if hit { "DELETED" } else { "NOT_FOUND" }, out);
        }
        Command::Touch { key, exptime } => {
            let hit = store.touch(key, Deadline::from_exptime(exptime, now), now).is_some();
            store.stats.touches += 1;
            *if hit { &mut store.stats.touch_hits } else { &mut store.stats.touch_misses } += 1;
            reply::line(if hit { "TOUCHED" } else { "NOT_FOUND" }, out);
        }
        Command::Arithmetic { key, delta, up } => arithmetic(key, delta, up, server, out),
        Command::FlushAll(delay) => {
            store.stats.flushes += 1;
            // Without a delay it is due now, which a deadline of "never" (0) would not be.
            store.flush(Deadline::from_exptime(if delay == 0 { -1 } else { delay }, now));
            store.advance(now);
            reply::line("OK", out);
        }
        Command::Stats(kind) => match kind {
            b"" => stats::print(store, now, out),
            b"settings" => stats::print_settings(store, out),
            b"reset" => {
                store.stats.reset();
                reply::line("RESET", out);
            }
            // There are no slab classes and no sizes are kept: nothing to tell.
            b"items" | b"slabs" | b"sizes" | b"conns" => reply::line("END", out),
            _ => reply::line(&CommandError::Unknown.to_string(), out),
        },
        Command::Version => reply::line(&format!("VERSION {}", stats::VERSION), out),
        Command::Verbosity => reply::line("OK", out),
        Command::Store(_) | Command::Retrieve { .. } | Command::Quit => {
            unreachable!("the session does these itself: {command:?}")
        }
    }
}

fn arithmetic(key: &[u8], delta: u64, up: bool, server: &mut Server<'_>, out: &mut Vec<u8>) {
    let result = server.store.arithmetic(key, delta, up, server.now);
    let stats = &mut server.store.stats;
    match (&result, up) {
        (Ok(_), true) => stats.incr_hits += 1,
        (Ok(_), false) => stats.decr_hits += 1,
        (Err(ArithmeticError::NotFound), true) => stats.incr_misses += 1,
        (Err(ArithmeticError::NotFound), false) => stats.decr_misses += 1,
        (Err(ArithmeticError::NotANumber), _) => {}
    }
    match result {
        Ok(number) => {
            reply::decimal(number, out);
            out.extend_from_slice(reply::LINE_END);
        }
        Err(ArithmeticError::NotFound) => reply::line("NOT_FOUND", out),
        Err(ArithmeticError::NotANumber) => {
            reply::line("CLIENT_ERROR cannot increment or decrement non-numeric value", out);
        }
    }
}

#[cfg(test)]
mod tests;
