//! Conversations as memcached would have them.

use proptest::prelude::*;

use super::*;
use crate::store::{ITEM_OVERHEAD_BYTES, Limits};

const LIMITS: Limits = Limits { memory_bytes: 8 << 20, item_bytes: 1 << 20 };

struct Pair {
    store: Store,
    reserve: Reserve,
    session: Session,
    seconds: u64,
}

impl Pair {
    fn new() -> Self {
        Self::with(LIMITS)
    }

    fn with(limits: Limits) -> Self {
        let reserve = Reserve::new(limits.memory_bytes);
        Self { store: Store::new(limits, [0, 0]), reserve, session: Session::default(), seconds: 100 }
    }

    /// Sends input in pieces and takes all answers.
    fn pieces(&mut self, input: &[u8], piece_bytes: usize) -> (Vec<u8>, Next) {
        let mut out = Vec::new();
        let mut next = Next::Input;
        for piece in input.chunks(piece_bytes.max(1)) {
            next = self.run(piece, &mut out);
        }
        (out, next)
    }

    fn run(&mut self, mut input: &[u8], all: &mut Vec<u8>) -> Next {
        loop {
            let now = Now { ns: self.seconds * 1_000_000_000, unix_s: 1_700_000_000 + self.seconds };
            let mut out = Vec::new();
            let mut server = Server { store: &mut self.store, reserve: &self.reserve, now };
            let next = self.session.run(input, &mut server, &mut out);
            assert!(out.len() <= OUTPUT_BYTES_MAX + LIMITS.item_bytes + 1024);
            all.extend_from_slice(&out);
            if next != Next::Flush {
                return next;
            }
            assert!(!self.session.wants_input());
            input = b"";
        }
    }

    /// Sends text and takes the answer as text.
    fn say(&mut self, text: &str) -> String {
        let (out, _) = self.pieces(text.as_bytes(), text.len());
        String::from_utf8(out).expect("answers to text are text")
    }

    #[track_caller]
    fn talk(&mut self, conversation: &[(&str, &str)]) {
        for (said, answered) in conversation {
            assert_eq!(self.say(said), *answered, "{said:?}");
        }
    }
}

#[test]
fn storing_and_retrieving() {
    Pair::new().talk(&[
        ("get a\r\n", "END\r\n"),
        ("set a 5 0 3\r\nabc\r\n", "STORED\r\n"),
        ("get a\r\n", "VALUE a 5 3\r\nabc\r\nEND\r\n"),
        ("add a 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
        ("add b 0 0 0\r\n\r\n", "STORED\r\n"),
        ("replace c 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
        ("replace b 7 0 1\r\ny\r\n", "STORED\r\n"),
        ("append a 9 9 2\r\nde\r\n", "STORED\r\n"),
        ("prepend a 9 9 2\r\n__\r\n", "STORED\r\n"),
        ("append c 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
        ("prepend c 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
        ("get a c b\r\n", "VALUE a 5 7\r\n__abcde\r\nVALUE b 7 1\r\ny\r\nEND\r\n"),
        ("get a a\n", "VALUE a 5 7\r\n__abcde\r\nVALUE a 5 7\r\n__abcde\r\nEND\r\n"),
        ("set n 0 0 6\r\na\r\nb\r\n\r\n", "STORED\r\n"),
        ("get n\r\n", "VALUE n 0 6\r\na\r\nb\r\n\r\nEND\r\n"),
        ("delete a\r\n", "DELETED\r\n"),
        ("delete a\r\n", "NOT_FOUND\r\n"),
    ]);
}

#[test]
fn cas_sees_every_change() {
    Pair::new().talk(&[
        ("cas a 0 0 1 1\r\nx\r\n", "NOT_FOUND\r\n"),
        ("set a 0 0 1\r\n1\r\n", "STORED\r\n"),
        ("gets a\r\n", "VALUE a 0 1 1\r\n1\r\nEND\r\n"),
        ("cas a 3 0 1 1\r\n2\r\n", "STORED\r\n"),
        ("cas a 3 0 1 1\r\n9\r\n", "EXISTS\r\n"),
        ("gets a\r\n", "VALUE a 3 1 2\r\n2\r\nEND\r\n"),
        ("incr a 1\r\n", "3\r\n"),
        ("touch a 50\r\n", "TOUCHED\r\n"),
        ("gats 0 a\r\n", "VALUE a 3 1 3\r\n3\r\nEND\r\n"),
    ]);
}

#[test]
fn numbers() {
    Pair::new().talk(&[
        ("incr n 1\r\n", "NOT_FOUND\r\n"),
        ("set n 4 0 2\r\n99\r\n", "STORED\r\n"),
        ("incr n 1\r\n", "100\r\n"),
        ("decr n 1\r\n", "99\r\n"),
        ("decr n 1000\r\n", "0\r\n"),
        ("get n\r\n", "VALUE n 4 3\r\n0  \r\nEND\r\n"),
        ("incr n 18446744073709551615\r\n", "18446744073709551615\r\n"),
        ("incr n 18446744073709551616\r\n", "CLIENT_ERROR invalid numeric delta argument\r\n"),
        ("incr n x\r\n", "CLIENT_ERROR invalid numeric delta argument\r\n"),
        ("get n\r\n", "VALUE n 4 20\r\n18446744073709551615\r\nEND\r\n"),
        ("incr n 1\r\n", "0\r\n"),
        ("set n 0 0 1\r\nx\r\n", "STORED\r\n"),
        ("incr n 1\r\n", "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n"),
    ]);
}

#[test]
fn expiry() {
    let mut pair = Pair::new();
    pair.talk(&[
        ("set a 0 10 1\r\na\r\n", "STORED\r\n"),
        ("set b 0 -1 1\r\nb\r\n", "STORED\r\n"),
        ("set c 0 1700000105 1\r\nc\r\n", "STORED\r\n"),
        ("set d 0 2592001 1\r\nd\r\n", "STORED\r\n"),
        ("get a b c d\r\n", "VALUE a 0 1\r\na\r\nVALUE c 0 1\r\nc\r\nEND\r\n"),
        ("gat 20 a\r\n", "VALUE a 0 1\r\na\r\nEND\r\n"),
        ("gat 20 b\r\n", "END\r\n"),
        ("gat x a\r\n", "CLIENT_ERROR invalid exptime argument\r\n"),
        ("touch a x\r\n", "CLIENT_ERROR invalid exptime argument\r\n"),
        ("touch x 1\r\n", "NOT_FOUND\r\n"),
    ]);
    pair.seconds += 19;
    pair.talk(&[("get a c\r\n", "VALUE a 0 1\r\na\r\nEND\r\n"), ("touch a 100\r\n", "TOUCHED\r\n")]);
    pair.seconds += 99;
    pair.talk(&[("get a\r\n", "VALUE a 0 1\r\na\r\nEND\r\n")]);
    pair.seconds += 1;
    pair.talk(&[("get a\r\n", "END\r\n"), ("add a 0 0 1\r\n2\r\n", "STORED\r\n")]);
}

#[test]
fn flushing() {
    let mut pair = Pair::new();
    pair.talk(&[
        ("set a 0 0 1\r\na\r\n", "STORED\r\n"),
        ("flush_all\r\n", "OK\r\n"),
        ("get a\r\n", "END\r\n"),
        ("flush_all x\r\n", "CLIENT_ERROR invalid exptime argument\r\n"),
        ("flush_all 10\r\n", "OK\r\n"),
        ("set a 0 0 1\r\na\r\n", "STORED\r\n"),
        ("get a\r\n", "VALUE a 0 1\r\na\r\nEND\r\n"),
    ]);
    pair.seconds += 10;
    pair.talk(&[
        ("get a\r\n", "END\r\n"),
        ("set a 0 0 1\r\na\r\n", "STORED\r\n"),
        ("get a\r\n", "VALUE a 0 1\r\na\r\nEND\r\n"),
        ("flush_all noreply\r\nget a\r\n", "END\r\n"),
    ]);
}

#[test]
fn noreply_is_silent() {
    Pair::new().talk(&[
        ("set a 0 0 1 noreply\r\n5\r\nadd a 0 0 1 noreply\r\nx\r\nincr a 2 noreply\r\n", ""),
        ("get a\r\n", "VALUE a 0 1\r\n7\r\nEND\r\n"),
        ("set a x 0 1 noreply\r\n", ""),
        ("set a 0 0 1 noreply\r\nxyz", ""),
        ("get a\r\n", "VALUE a 0 1\r\n7\r\nEND\r\n"),
        ("touch a 0 noreply\r\ndelete a noreply\r\nverbosity 1 noreply\r\nget a\r\n", "END\r\n"),
    ]);
}

#[test]
fn errors() {
    let mut pair = Pair::new();
    pair.talk(&[
        ("\r\n", "ERROR\r\n"),
        ("hello\r\n", "ERROR\r\n"),
        ("set a 0 0\r\n", "ERROR\r\n"),
        ("set a b 0 1\r\n", "CLIENT_ERROR bad command line format\r\n"),
        ("set a 0 0 -1\r\n", "CLIENT_ERROR bad command line format\r\n"),
        ("set a 0 0 3\r\nabcdefgh\r\n", "CLIENT_ERROR bad data chunk\r\nERROR\r\n"),
        ("set a 0 0 3\r\nab\r\nget a\r\n", "CLIENT_ERROR bad data chunk\r\nERROR\r\n"),
        ("delete a 5\r\n", "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]\r\n"),
        ("stats nonsense\r\n", "ERROR\r\n"),
        ("verbosity 1\r\n", "OK\r\n"),
        ("version\r\n", "VERSION 1.6.18\r\n"),
    ]);
    let long = "k".repeat(251);
    pair.talk(&[(&format!("get {long}\r\n"), "CLIENT_ERROR bad command line format\r\n")]);
}

#[test]
fn large_items_are_refused_and_swallowed() {
    let mut pair = Pair::new();
    let largest = LIMITS.item_bytes - ITEM_OVERHEAD_BYTES - 1;
    let value = "v".repeat(largest);
    pair.talk(&[
        (&format!("set a 0 0 {largest}\r\n{value}\r\n"), "STORED\r\n"),
        ("get a\r\n", &format!("VALUE a 0 {largest}\r\n{value}\r\nEND\r\n")),
        ("append a 0 0 1\r\nx\r\n", "SERVER_ERROR object too large for cache\r\n"),
        (
            &format!("set a 0 0 {}\r\n{value}v\r\nget a\r\n", largest + 1),
            "SERVER_ERROR object too large for cache\r\nEND\r\n",
        ),
        ("set a 0 0 2000000000\r\n", "SERVER_ERROR object too large for cache\r\n"),
        ("get a\r\n", ""),
    ]);
}

#[test]
fn values_that_arrive_slowly_are_bounded() {
    let mut pair = Pair::with(Limits { memory_bytes: 1 << 20, item_bytes: 1 << 20 });
    let _others = pair.reserve.take((1 << 20) - 100).expect("nothing is taken yet");
    pair.talk(&[
        ("set a 0 0 10\r\n0123", ""),
        ("456789\r\nget a\r\n", "STORED\r\nVALUE a 0 10\r\n0123456789\r\nEND\r\n"),
        ("set a 0 0 200\r\n0123", "SERVER_ERROR out of memory storing object\r\n"),
    ]);
}

#[test]
fn endless_lines_end_the_connection() {
    let mut pair = Pair::new();
    assert_eq!(pair.pieces(&[b'x'; LINE_BYTES_MAX], 100), (vec![], Next::Input));
    assert_eq!(pair.pieces(b"x", 1), (b"CLIENT_ERROR line too long\r\n".to_vec(), Next::Close));
    let mut pair = Pair::new();
    let line = format!("get {}", "k ".repeat(RETRIEVE_LINE_BYTES_MAX / 2));
    assert_eq!(pair.pieces(line.as_bytes(), 1000), (b"CLIENT_ERROR line too long\r\n".to_vec(), Next::Close));
}

#[test]
fn quit_ends_the_connection() {
    let mut pair = Pair::new();
    assert_eq!(pair.pieces(b"version\r\nquit\r\nversion\r\n", 100).1, Next::Close);
    assert_eq!(pair.pieces(b"version\r\n", 100), (vec![], Next::Close));
}

#[test]
fn many_large_answers_do_not_pile_up() {
    let mut pair = Pair::new();
    let value = "v".repeat(100_000);
    pair.say(&format!("set a 0 0 100000\r\n{value}\r\n"));
    let answer = format!("VALUE a 0 100000\r\n{value}\r\n");
    assert_eq!(pair.say(&format!("get{}\r\n", " a".repeat(50))), format!("{}END\r\n", answer.repeat(50)));
    assert_eq!(pair.say(&"get a\r\n".repeat(50)), format!("{answer}END\r\n").repeat(50));
}

#[test]
fn stats_count() {
    let mut pair = Pair::new();
    pair.say("set a 0 0 1\r\nx\r\nget a b\r\ndelete b\r\n");
    let stats = pair.say("stats\r\n");
    for line in ["cmd_get 2", "get_hits 1", "get_misses 1", "cmd_set 1", "curr_items 1", "delete_misses 1"] {
        assert!(stats.contains(&format!("STAT {line}\r\n")), "{line} in {stats}");
    }
    assert!(stats.ends_with("END\r\n"));
    pair.talk(&[("stats reset\r\n", "RESET\r\n"), ("stats items\r\n", "END\r\n")]);
    assert!(pair.say("stats\r\n").contains("STAT cmd_get 0\r\n"));
    assert!(pair.say("stats settings\r\n").contains("STAT item_size_max 1048576\r\n"));
}

/// A sensible command or a bit of junk.
fn command() -> impl Strategy<Value = Vec<u8>> {
    let key = prop::sample::select(vec!["a", "b", "key"]);
    let verb = prop::sample::select(vec!["set", "add", "replace", "append", "prepend"]);
    prop_oneof![
        4 => (verb, key.clone(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(verb, key, data)| {
            let mut command = format!("{verb} {key} 1 0 {}\r\n", data.len()).into_bytes();
            command.extend_from_slice(&data);
            command.extend_from_slice(b"\r\n");
            command
        }),
        3 => key.clone().prop_map(|key| format!("get {key} b\r\n").into_bytes()),
        1 => key.prop_map(|key| format!("delete {key}\r\n").into_bytes()),
        1 => "[ -~]{0,30}\r\n".prop_map(String::into_bytes),
    ]
}

proptest! {
    // How input is cut into pieces changes nothing.
    #[test]
    fn pieces_do_not_matter(commands in prop::collection::vec(command(), 0..20), piece_bytes in 1..50usize) {
        let input = commands.concat();
        let (whole, next) = Pair::new().pieces(&input, input.len());
        prop_assert_eq!(Pair::new().pieces(&input, piece_bytes), (whole, next));
    }

    #[test]
    fn any_input_is_survived(input: Vec<u8>, piece_bytes in 1..50usize) {
        Pair::new().pieces(&input, piece_bytes);
    }
}
