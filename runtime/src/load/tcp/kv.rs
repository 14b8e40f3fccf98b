//! memcached's text protocol: `get` and `set` of keys that are this connection's own, so that it knows what every
//! `get` must return.
//!
//! A value is the [content](super::super::content) of (key, number of the request that set it), the item's flags are
//! the low bits of that number. What sets that were in flight when a connection broke did is not known; until such
//! a key is set again, its `get` may return any older value of it, or none.
use std::collections::VecDeque;
use std::io::Write;
use std::ops::Range;

use super::super::content::{self, Check};
use super::super::plan::Plan;
use super::dialogue::{Dialogue, Nonsense, Reply};

/// The longest line of a reply: `VALUE`, a key of 250 bytes and three numbers fit.
const LINE_BYTES_MAX: usize = 512;

/// The longest name of a key: `roam-`, 8 hexadecimal digits, two numbers.
const NAME_BYTES_MAX: usize = 64;

/// Of a key that was never set.
const NEVER: u64 = u64::MAX;

/// One connection that speaks memcached's text protocol.
#[derive(Debug)]
pub(crate) struct Kv {
    secret: u64,
    payload_bytes: usize,
    reads: f64,
    connection: usize,
    /// The request that last set each key.
    versions: Vec<u64>,
    /// Sets in this range may not have happened: the connection broke under them.
    unsure: Range<u64>,
    /// Requests that wait for their reply, and the number of the first.
    pending: VecDeque<Pending>,
    first_pending: u64,
    /// A reply that has not come whole.
    partial: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Pending {
    Set,
    Get { key: usize, version: u64 },
}

impl Kv {
    /// For connection number `connection` of a plan.
    pub(crate) fn new(plan: &Plan, connection: usize) -> Self {
        let keys = plan.keys.div_ceil(plan.connections);
        Self {
            secret: content::key(plan.seed, connection),
            payload_bytes: plan.payload_bytes,
            reads: plan.reads,
            connection,
            versions: vec![NEVER; keys],
            unsure: 0..0,
            pending: VecDeque::new(),
            first_pending: 0,
            partial: Vec::new(),
        }
    }

    fn secret_of(&self, key: usize) -> u64 {
        content::mix(self.secret.wrapping_add(key as u64))
    }

    /// Appends a key's name; runs with other seeds use other names.
    fn write_name(&self, key: usize, mut out: impl Write) {
        let run = self.secret as u32;
        write!(out, "roam-{run:08x}-{}-{key}", self.connection).expect("room for a name");
    }

    /// The reply at the start of `bytes` to the oldest request: how long it is and whether it is right; `None` if it
    /// has not come whole.
    fn reply(&self, bytes: &[u8], pending: Pending) -> Result<Option<(usize, bool)>, Nonsense> {
        let Some(line) = line(bytes)? else { return Ok(None) };
        let line_bytes = line.len() + LINE_END.len();
        match pending {
            Pending::Set => Ok(Some((line_bytes, line == b"STORED"))),
            Pending::Get { version, .. } if line == b"END" => Ok(Some((line_bytes, self.unsure.contains(&version)))),
            Pending::Get { key, version } => {
                let Some(header) = line.strip_prefix(b"VALUE ") else { return Ok(Some((line_bytes, false))) };
                let Some(header) = Header::parse(header) else { return Err(Nonsense::not_understood(line)) };
                if header.value_bytes > VALUE_BYTES_MAX {
                    return Err(Nonsense::TooLong { what: "value", limit: VALUE_BYTES_MAX });
                }
                let total = line_bytes + header.value_bytes + VALUE_END.len();
                let Some(rest) = bytes.get(line_bytes..total) else { return Ok(None) };
                let (value, end) = rest.split_at(header.value_bytes);
                if end != VALUE_END {
                    return Err(Nonsense::not_understood(end));
                }
                Ok(Some((total, self.is_right(&header, value, key, version))))
            }
        }
    }

    fn is_right(&self, header: &Header<'_>, value: &[u8], key: usize, expected: u64) -> bool {
        let mut name = [0; NAME_BYTES_MAX];
        let mut left = &mut name[..];
        self.write_name(key, &mut left);
        let name_bytes = NAME_BYTES_MAX - left.len();
        let Check::Intact(version) = content::check(value, self.secret_of(key), self.payload_bytes) else {
            return false;
        };
        let is_current = version == expected || (self.unsure.contains(&expected) && version < expected);
        is_current && header.flags == flags(version) && header.name == &name[..name_bytes]
    }
}

impl Dialogue for Kv {
    const LIVE: bool = false;

    fn begin(&mut self, first: u64, _planned: u64, _out: &mut Vec<u8>) {
        if !self.pending.is_empty() {
            let start = if self.unsure.is_empty() { self.first_pending } else { self.unsure.start };
            self.unsure = start..first;
        }
        self.pending.clear();
        self.partial.clear();
        self.first_pending = first;
    }

    fn request(&mut self, sequence: u64, out: &mut Vec<u8>) -> Option<Check> {
        let dice = content::mix(self.secret ^ content::mix(sequence));
        let key = (((dice & 0xffff_ffff) * self.versions.len() as u64) >> 32) as usize;
        let is_read = ((dice >> 32) as f64) < self.reads * 4_294_967_296.0;
        let version = self.versions[key];
        if is_read && version != NEVER {
            out.extend_from_slice(b"get ");
            self.write_name(key, &mut *out);
            out.extend_from_slice(LINE_END);
            self.pending.push_back(Pending::Get { key, version });
        } else {
            out.extend_from_slice(b"set ");
            self.write_name(key, &mut *out);
            write!(out, " {} 0 {}\r\n", flags(sequence), self.payload_bytes).expect("a Vec takes all");
            let start = out.len();
            out.resize(start + self.payload_bytes, 0);
            content::write(&mut out[start..], self.secret_of(key), sequence);
            out.extend_from_slice(LINE_END);
            self.versions[key] = sequence;
            self.pending.push_back(Pending::Set);
        }
        None
    }

    fn receive(&mut self, bytes: &[u8], replies: &mut Vec<Reply>) -> Result<(), Nonsense> {
        let mut partial = std::mem::take(&mut self.partial);
        partial.extend_from_slice(bytes);
        let mut done = 0;
        while done < partial.len() {
            let Some(pending) = self.pending.front() else { return Err(Nonsense::Unasked(partial.len() - done)) };
            let Some((reply_bytes, is_right)) = self.reply(&partial[done..], *pending)? else { break };
            let sequence = self.first_pending;
            replies.push(Reply::To(if is_right { Check::Intact(sequence) } else { Check::Damaged(sequence) }));
            self.pending.pop_front();
            self.first_pending += 1;
            done += reply_bytes;
        }
        partial.drain(..done);
        self.partial = partial;
        Ok(())
    }

    fn is_finished(&self) -> bool {
        false
    }
}

const LINE_END: &[u8] = b"\r\n";
const VALUE_END: &[u8] = b"\r\nEND\r\n";

/// The longest value that is taken in: twice the longest that is set.
const VALUE_BYTES_MAX: usize = 2_000_000;

/// The flags an item is stored with: memcached keeps 32 bits, old ones 16.
fn flags(version: u64) -> u32 {
    (version & 0xffff) as u32
}

/// The line at the start of `bytes`, without its end; `None` if it has not come whole.
fn line(bytes: &[u8]) -> Result<Option<&[u8]>, Nonsense> {
    let searched = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    match searched.iter().position(|byte| *byte == b'\n') {
        Some(end) => match searched[..end].strip_suffix(b"\r") {
            Some(line) => Ok(Some(line)),
            None => Err(Nonsense::not_understood(&searched[..end])),
        },
        None if searched.len() == LINE_BYTES_MAX => Err(Nonsense::TooLong { what: "line", limit: LINE_BYTES_MAX }),
        None => Ok(None),
    }
}

/// `VALUE <name> <flags> <bytes>`.
struct Header<'a> {
    name: &'a [u8],
    flags: u32,
    value_bytes: usize,
}

impl<'a> Header<'a> {
    fn parse(header: &'a [u8]) -> Option<Self> {
        let mut words = header.split(|byte| *byte == b' ');
        let name = words.next()?;
        let mut number = || std::str::from_utf8(words.next()?).ok()?.parse().ok();
        let (flags, value_bytes): (u32, u32) = (number()?, number()?);
        words.next().is_none().then_some(Self { name, flags, value_bytes: value_bytes as usize })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::SocketAddr;

    use super::super::super::plan::Kind;
    use super::*;

    /// As much of memcached as this client uses: `set` and `get`, whole requests only.
    #[derive(Default)]
    struct Server(HashMap<Vec<u8>, (String, Vec<u8>)>);

    impl Server {
        fn answer(&mut self, mut requests: &[u8]) -> Vec<u8> {
            let mut out = Vec::new();
            while !requests.is_empty() {
                let line = line(requests).unwrap().unwrap();
                requests = &requests[line.len() + 2..];
                let words: Vec<&str> = std::str::from_utf8(line).unwrap().split(' ').collect();
                if words[0] == "set" {
                    let size: usize = words[4].parse().unwrap();
                    self.0.insert(words[1].into(), (words[2].to_owned(), requests[..size].to_vec()));
                    requests = &requests[size + 2..];
                    out.extend_from_slice(b"STORED\r\n");
                } else {
                    if let Some((flags, value)) = self.0.get(words[1].as_bytes()) {
                        write!(out, "VALUE {} {flags} {}\r\n", words[1], value.len()).unwrap();
                        out.extend_from_slice(value);
                        out.extend_from_slice(b"\r\n");
                    }
                    out.extend_from_slice(b"END\r\n");
                }
            }
            out
        }
    }

    fn kv() -> Kv {
        let mut plan = Plan::new(Kind::Kv, SocketAddr::from(([127, 0, 0, 1], 11211)));
        (plan.keys, plan.reads) = (8, 0.5);
        Kv::new(&plan, 0)
    }

    fn ask(kv: &mut Kv, sequences: Range<u64>) -> Vec<u8> {
        let mut out = Vec::new();
        for sequence in sequences {
            kv.request(sequence, &mut out);
        }
        out
    }

    fn damaged(replies: &[Reply]) -> usize {
        replies.iter().filter(|reply| matches!(reply, Reply::To(Check::Damaged(_)))).count()
    }

    #[test]
    fn right_replies_in_any_pieces_are_right() {
        let (mut kv, mut server) = (kv(), Server::default());
        kv.begin(0, 0, &mut Vec::new());
        let reply = server.answer(&ask(&mut kv, 0..200));
        for piece in [1, 3, 50, 5000] {
            let mut replies = Vec::new();
            for bytes in reply.chunks(piece) {
                kv.receive(bytes, &mut replies).unwrap();
            }
            assert_eq!(replies.len(), 200);
            assert_eq!(damaged(&replies), 0);
            kv = self::kv();
            kv.begin(0, 0, &mut Vec::new());
            ask(&mut kv, 0..200);
        }
    }

    #[test]
    fn stale_missing_and_foreign_values_are_wrong() {
        let (mut kv, mut server) = (kv(), Server::default());
        kv.begin(0, 0, &mut Vec::new());
        let mut replies = Vec::new();
        let reply = server.answer(&ask(&mut kv, 0..200));
        kv.receive(&reply, &mut replies).unwrap();

        // The server forgets everything: every `get` of the next 20 requests before its key's `set` is wrong.
        server.0.clear();
        replies.clear();
        let reply = server.answer(&ask(&mut kv, 200..220));
        kv.receive(&reply, &mut replies).unwrap();
        assert!(damaged(&replies) > 0);
    }

    #[test]
    fn after_a_reset_unanswered_sets_may_have_happened_or_not() {
        for happened in [true, false] {
            let (mut kv, mut server) = (kv(), Server::default());
            kv.begin(0, 0, &mut Vec::new());
            let mut replies = Vec::new();
            let reply = server.answer(&ask(&mut kv, 0..50));
            kv.receive(&reply, &mut replies).unwrap();
            let in_flight = ask(&mut kv, 50..80);
            if happened {
                server.answer(&in_flight);
            }
            kv.begin(80, 0, &mut Vec::new());
            let reply = server.answer(&ask(&mut kv, 80..200));
            kv.receive(&reply, &mut replies).unwrap();
            assert_eq!((replies.len(), damaged(&replies)), (170, 0));
        }
    }

    #[test]
    fn nonsense_is_an_error() {
        for nonsense in [&b"VALUE x y z\r\n"[..], b"VALUE x 0 9999999\r\n", &[b'a'; 600], b"STORED\n"] {
            let mut kv = kv();
            kv.begin(0, 0, &mut Vec::new());
            ask(&mut kv, 0..1);
            kv.pending[0] = Pending::Get { key: 0, version: 0 };
            assert!(kv.receive(nonsense, &mut Vec::new()).is_err());
        }
        let mut kv = kv();
        kv.begin(0, 0, &mut Vec::new());
        assert_eq!(kv.receive(b"STORED\r\n", &mut Vec::new()), Err(Nonsense::Unasked(8)));
    }

    #[test]
    fn an_error_reply_is_damaged_and_the_next_is_read() {
        let mut kv = kv();
        kv.begin(0, 0, &mut Vec::new());
        ask(&mut kv, 0..2);
        kv.pending[1] = Pending::Set;
        let mut replies = Vec::new();
        kv.receive(b"SERVER_ERROR out of memory storing object\r\nSTORED\r\n", &mut replies).unwrap();
        assert_eq!(replies, [Check::Damaged(0), Check::Intact(1)].map(Reply::To));
    }
}
