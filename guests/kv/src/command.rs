//! One line of memcached's text protocol (its `doc/protocol.txt`) as a command.

use crate::store::Verb;

/// Longest key.
pub const KEY_BYTES_MAX: usize = 250;
/// Longest value length a line may announce; the store's own limit is lower.
const DATA_BYTES_MAX: i64 = i32::MAX as i64 - 2;
/// Words of a command that has no list of keys, at most.
const WORDS_MAX: usize = 7;

/// A command and whether it is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What to do, or why nothing.
    pub command: Result<Command<'a>, CommandError>,
    /// The client wants no answer, not even an error.
    pub noreply: bool,
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `get`, `gets`, `gat`, `gats`: the values of all keys that are there.
    Retrieve {
        /// At least one key, separated by spaces; each of a legal length.
        keys: &'a [u8],
        /// Whether the answer has the items' cas numbers.
        cas: bool,
        /// A new expiry time for what is found.
        exptime: Option<i64>,
    },
    /// A storage command; the value follows.
    Store(Header<'a>),
    /// `delete`
    Delete(&'a [u8]),
    /// `incr` and `decr`
    Arithmetic {
        /// The item.
        key: &'a [u8],
        /// By how much.
        delta: u64,
        /// `incr`.
        up: bool,
    },
    /// `touch`
    Touch {
        /// The item.
        key: &'a [u8],
        /// Its new expiry time.
        exptime: i64,
    },
    /// `flush_all`, after so many seconds.
    FlushAll(i64),
    /// `stats`, of that kind.
    Stats(&'a [u8]),
    /// `version`
    Version,
    /// `verbosity`, which changes nothing here.
    Verbosity,
    /// `quit`
    Quit,
}

/// The line of a storage command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Which one.
    pub verb: Verb,
    /// The item.
    pub key: &'a [u8],
    /// The client's own flags.
    pub flags: u32,
    /// When it expires.
    pub exptime: i64,
    /// Length of the value that follows, without its line end.
    pub data_bytes: usize,
}

/// Why a line is no command; the text is what the protocol answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// No such command, or not with that many words.
    #[error("ERROR")]
    Unknown,
    /// A word is not what belongs there.
    #[error("CLIENT_ERROR bad command line format")]
    BadFormat,
    /// `delete` with more than a key.
    #[error("CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]")]
    BadDelete,
    /// Not an expiry time.
    #[error("CLIENT_ERROR invalid exptime argument")]
    BadExptime,
    /// Not a number to add or subtract.
    #[error("CLIENT_ERROR invalid numeric delta argument")]
    BadDelta,
}

impl<'a> Request<'a> {
    /// Reads a line, which comes without its line end.
    pub fn parse(line: &'a [u8]) -> Self {
        let (name, rest) = next_word(line);
        let retrieval = match name {
            b"get" => Some(retrieve(rest, false, None)),
            b"gets" => Some(retrieve(rest, true, None)),
            b"gat" => Some(touch_and_retrieve(rest, false)),
            b"gats" => Some(touch_and_retrieve(rest, true)),
            _ => None,
        };
        if let Some(command) = retrieval {
            return Self { command, noreply: false };
        }
        let (words, count) = match words(rest) {
            Ok(words) => words,
            Err(error) => return Self { command: Err(error), noreply: false },
        };
        let noreply = can_be_quiet(name, count) && words[..count].last() == Some(&&b"noreply"[..]);
        let command = match name {
            // Whatever level it is: nobody will hear of it.
            b"verbosity" if noreply => Ok(Command::Verbosity),
            _ => command(name, &words[..count - usize::from(noreply)]),
        };
        // A line that is no command at all is answered whatever its last word is.
        Self { command, noreply: noreply && command != Err(CommandError::Unknown) }
    }
}

/// Whether `noreply` after a command of so many words is one.
fn can_be_quiet(name: &[u8], words: usize) -> bool {
    match name {
        b"delete" => words > 1,
        b"set" | b"add" | b"replace" | b"append" | b"prepend" | b"cas" | b"incr" | b"decr" | b"touch" => true,
        b"flush_all" | b"verbosity" => true,
        _ => false,
    }
}

/// The commands of a fixed number of words, `noreply` taken off. Where memcached overlooks a word too many, so do we.
fn command<'a>(name: &[u8], words: &[&'a [u8]]) -> Result<Command<'a>, CommandError> {
    let store = |verb| header(verb, words).map(Command::Store);
    match (name, words) {
        (b"set", [_, _, _, _] | [_, _, _, _, _]) => store(Verb::Set),
        (b"add", [_, _, _, _] | [_, _, _, _, _]) => store(Verb::Add),
        (b"replace", [_, _, _, _] | [_, _, _, _, _]) => store(Verb::Replace),
        (b"append", [_, _, _, _] | [_, _, _, _, _]) => store(Verb::Append),
        (b"prepend", [_, _, _, _] | [_, _, _, _, _]) => store(Verb::Prepend),
        (b"cas", [_, _, _, _, cas] | [_, _, _, _, cas, _]) => {
            store(Verb::Cas(number(cas).ok_or(CommandError::BadFormat)?))
        }
        (b"delete", [word] | [word, b"0"]) => Ok(Command::Delete(key(word)?)),
        (b"delete", [_, _, ..]) => Err(CommandError::BadDelete),
        (b"incr", [word, delta]) => arithmetic(word, delta, true),
        (b"decr", [word, delta]) => arithmetic(word, delta, false),
        (b"touch", [word, time]) => Ok(Command::Touch { key: key(word)?, exptime: exptime(time)? }),
        (b"flush_all", []) => Ok(Command::FlushAll(0)),
        (b"flush_all", [delay]) => Ok(Command::FlushAll(exptime(delay)?)),
        (b"stats", []) => Ok(Command::Stats(b"")),
        (b"stats", [kind, ..]) => Ok(Command::Stats(kind)),
        (b"version", _) => Ok(Command::Version),
        (b"verbosity", [level] | [level, _]) => {
            number::<u32>(level).map(|_| Command::Verbosity).ok_or(CommandError::BadFormat)
        }
        (b"quit", _) => Ok(Command::Quit),
        _ => Err(CommandError::Unknown),
    }
}

fn header<'a>(verb: Verb, words: &[&'a [u8]]) -> Result<Header<'a>, CommandError> {
    let [word, flags, exptime, bytes, ..] = words else { return Err(CommandError::Unknown) };
    let data_bytes = number(bytes).filter(|bytes| (0..=DATA_BYTES_MAX).contains(bytes));
    Ok(Header {
        verb,
        key: key(word)?,
        flags: number(flags).ok_or(CommandError::BadFormat)?,
        exptime: number(exptime).ok_or(CommandError::BadFormat)?,
        data_bytes: data_bytes.ok_or(CommandError::BadFormat)? as usize,
    })
}

fn arithmetic<'a>(word: &'a [u8], delta: &[u8], up: bool) -> Result<Command<'a>, CommandError> {
    Ok(Command::Arithmetic { key: key(word)?, delta: number(delta).ok_or(CommandError::BadDelta)?, up })
}

fn retrieve(keys: &[u8], cas: bool, exptime: Option<i64>) -> Result<Command<'_>, CommandError> {
    let mut rest = keys;
    let mut count = 0;
    while let (word @ [_, ..], after) = next_word(rest) {
        key(word)?;
        count += 1;
        rest = after;
    }
    if count == 0 { Err(CommandError::Unknown) } else { Ok(Command::Retrieve { keys, cas, exptime }) }
}

fn touch_and_retrieve(rest: &[u8], cas: bool) -> Result<Command<'_>, CommandError> {
    let (time, keys) = next_word(rest);
    if next_word(keys).0.is_empty() {
        return Err(CommandError::Unknown);
    }
    retrieve(keys, cas, Some(exptime(time)?))
}

fn key(word: &[u8]) -> Result<&[u8], CommandError> {
    if word.len() > KEY_BYTES_MAX { Err(CommandError::BadFormat) } else { Ok(word) }
}

fn exptime(word: &[u8]) -> Result<i64, CommandError> {
    number(word).ok_or(CommandError::BadExptime)
}

fn number<T: std::str::FromStr>(word: &[u8]) -> Option<T> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// The first word, which is empty at the end, and what comes after it.
pub(crate) fn next_word(text: &[u8]) -> (&[u8], &[u8]) {
    let start = text.iter().position(|byte| *byte != b' ').unwrap_or(text.len());
    let text = &text[start..];
    text.split_at(text.iter().position(|byte| *byte == b' ').unwrap_or(text.len()))
}

/// All words and their number.
fn words(mut text: &[u8]) -> Result<([&[u8]; WORDS_MAX], usize), CommandError> {
    let mut words: [&[u8]; WORDS_MAX] = [b""; WORDS_MAX];
    let mut count = 0;
    while let (word @ [_, ..], rest) = next_word(text) {
        *words.get_mut(count).ok_or(CommandError::Unknown)? = word;
        count += 1;
        text = rest;
    }
    Ok((words, count))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ok(line: &str) -> Command<'_> {
        Request::parse(line.as_bytes()).command.expect(line)
    }

    fn error(line: &str) -> CommandError {
        Request::parse(line.as_bytes()).command.expect_err(line)
    }

    #[test]
    fn storage_commands() {
        let header = Header { verb: Verb::Set, key: b"k", flags: 4_294_967_295, exptime: -1, data_bytes: 3 };
        assert_eq!(ok("set k 4294967295 -1 3"), Command::Store(header));
        assert_eq!(ok("set  k 4294967295  -1 3 "), Command::Store(header));
        assert_eq!(ok("cas k 4294967295 -1 3 9"), Command::Store(Header { verb: Verb::Cas(9), ..header }));
        for line in ["set k 4294967296 0 1", "set k -1 0 1", "set k 0 x 1", "set k 0 0 -1", "set k 0 0 9999999999"] {
            assert_eq!(error(line), CommandError::BadFormat, "{line}");
        }
        assert_eq!(error("cas k 0 0 1 x"), CommandError::BadFormat);
        for line in
            ["set", "set k", "set k 0 0", "set k 0 0 1 2 3", "cas k 0 0 1", "cas k 0 0 1 2 3 4 5", "SET k 0 0 1"]
        {
            assert_eq!(error(line), CommandError::Unknown, "{line}");
        }
    }

    #[test]
    fn keys_have_a_length() {
        let (longest, longer) = ("k".repeat(KEY_BYTES_MAX), "k".repeat(KEY_BYTES_MAX + 1));
        for (before, after) in [("get ", ""), ("get a ", " b"), ("set ", " 0 0 1"), ("delete ", ""), ("incr ", " 1")] {
            ok(&format!("{before}{longest}{after}"));
            assert_eq!(error(&format!("{before}{longer}{after}")), CommandError::BadFormat);
        }
    }

    #[test]
    fn retrieval_commands() {
        assert_eq!(ok("get a b"), Command::Retrieve { keys: b" a b", cas: false, exptime: None });
        assert_eq!(ok("gats -1 a"), Command::Retrieve { keys: b" a", cas: true, exptime: Some(-1) });
        for line in ["get", "gets ", "gat", "gat 1", "gat x"] {
            assert_eq!(error(line), CommandError::Unknown, "{line}");
        }
        assert_eq!(error("gat x a"), CommandError::BadExptime);
    }

    #[test]
    fn other_commands() {
        assert_eq!(ok("delete k"), Command::Delete(b"k"));
        assert_eq!(ok("delete k 0"), Command::Delete(b"k"));
        assert_eq!(error("delete k 1"), CommandError::BadDelete);
        assert_eq!(error("delete"), CommandError::Unknown);
        assert_eq!(ok("incr k 5"), Command::Arithmetic { key: b"k", delta: 5, up: true });
        assert_eq!(error("decr k -5"), CommandError::BadDelta);
        assert_eq!(ok("touch k 10"), Command::Touch { key: b"k", exptime: 10 });
        assert_eq!(error("touch k x"), CommandError::BadExptime);
        assert_eq!(ok("flush_all"), Command::FlushAll(0));
        assert_eq!(ok("flush_all 9"), Command::FlushAll(9));
        assert_eq!(error("flush_all x"), CommandError::BadExptime);
        assert_eq!(ok("stats items"), Command::Stats(b"items"));
        assert_eq!(ok("verbosity 1"), Command::Verbosity);
        assert_eq!(ok("verbosity noreply"), Command::Verbosity);
        assert_eq!(error("verbosity x"), CommandError::BadFormat);
        assert_eq!((ok("version 1"), ok("quit now")), (Command::Version, Command::Quit));
        for line in ["", " ", "verbosity", "verbosity a b c", "mg a v", "\0", "get\ta"] {
            assert_eq!(error(line), CommandError::Unknown, "{line:?}");
        }
    }

    #[test]
    fn noreply_also_hides_errors_in_the_words() {
        for (line, noreply) in [
            ("set k 0 0 1 noreply", true),
            ("cas k 0 0 1 2 noreply", true),
            ("delete k noreply", true),
            ("delete k 0 noreply", true),
            ("delete k 1 noreply", true),
            ("flush_all noreply", true),
            ("flush_all 3 noreply", true),
            ("set k x 0 1 noreply", true),
            ("set k noreply", false),
            ("delete noreply", false),
            ("get noreply", false),
            ("set k 0 0 1 reply", false),
        ] {
            assert_eq!(Request::parse(line.as_bytes()).noreply, noreply, "{line}");
        }
        assert_eq!(ok("flush_all noreply"), Command::FlushAll(0));
    }

    proptest! {
        #[test]
        fn any_line_is_read(line: Vec<u8>) {
            let _ = Request::parse(&line);
        }
    }
}
