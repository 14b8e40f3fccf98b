//! The body of an HTTP/1.1 response, without its framing (RFC 9112, 6 and 7.1).
use super::dialogue::Nonsense;

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// By its length in bytes.
    Length(u64),
    /// By chunks, the last of which is empty.
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

/// A piece of a body, and what follows it.
type Split<'a> = (&'a [u8], &'a [u8]);

/// A body that is being read.
#[derive(Debug)]
pub(crate) struct Body(State);

#[derive(Debug)]
enum State {
    /// So many bytes, then the end.
    Length(u64),
    UntilClose,
    /// In the line that says how long a chunk is.
    Size(Vec<u8>),
    /// So many bytes of a chunk, then its line end.
    Chunk(u64),
    ChunkEnd(Vec<u8>),
    /// After the last chunk: what follows is of no interest.
    Finished,
}

/// The longest line with a chunk's size, extensions included.
const SIZE_LINE_BYTES_MAX: usize = 256;

impl Body {
    /// A body of which nothing has come.
    pub(crate) fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size(Vec::new()),
            Framing::UntilClose => State::UntilClose,
        })
    }

    /// Splits what came into a piece of the body, and what follows it. `None` when `bytes` holds no more of it.
    pub(crate) fn next<'a>(&mut self, mut bytes: &'a [u8]) -> Result<Option<Split<'a>>, Nonsense> {
        while !bytes.is_empty() {
            match &mut self.0 {
                State::UntilClose => return Ok(Some((bytes, &[]))),
                State::Length(0) => return Err(Nonsense::Unasked(bytes.len())),
                State::Length(left) | State::Chunk(left) => {
                    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX).min(*left);
                    *left -= length;
                    let last_of_chunk = *left == 0 && matches!(self.0, State::Chunk(_));
                    if last_of_chunk {
                        self.0 = State::ChunkEnd(Vec::new());
                    }
                    return Ok(Some(bytes.split_at(length as usize)));
                }
                State::Size(line) => {
                    if let Some(rest) = take_line(line, bytes)? {
                        bytes = rest;
                        let size = chunk_size(line)?;
                        self.0 = if size == 0 { State::Finished } else { State::Chunk(size) };
                    } else {
                        return Ok(None);
                    }
                }
                State::ChunkEnd(line) => {
                    let Some(rest) = take_line(line, bytes)? else { return Ok(None) };
                    if !line.is_empty() {
                        return Err(Nonsense::not_understood(line));
                    }
                    bytes = rest;
                    self.0 = State::Size(Vec::new());
                }
                State::Finished => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Whether the whole body has come.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.0, State::Finished | State::Length(0))
    }
}

/// Moves bytes to `line` up to a line end, which is dropped; returns what follows, `None` if the line goes on.
fn take_line<'a>(line: &mut Vec<u8>, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, Nonsense> {
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let part = &bytes[..end.unwrap_or(bytes.len())];
    if line.len() + part.len() > SIZE_LINE_BYTES_MAX {
        return Err(Nonsense::TooLong { what: "chunk size line", limit: SIZE_LINE_BYTES_MAX });
    }
    line.extend_from_slice(part);
    let Some(end) = end else { return Ok(None) };
    if line.pop_if(|byte| *byte == b'\r').is_none() {
        return Err(Nonsense::not_understood(line));
    }
    Ok(Some(&bytes[end + 1..]))
}

/// The number a chunk's first line starts with; extensions after `;` are skipped.
fn chunk_size(line: &[u8]) -> Result<u64, Nonsense> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    std::str::from_utf8(digits)
        .ok()
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .and_then(|digits| u64::from_str_radix(digits, 16).ok())
        .ok_or_else(|| Nonsense::not_understood(line))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(framing: Framing, bytes: &[u8], piece: usize) -> Result<(Vec<u8>, bool), Nonsense> {
        let (mut body, mut content) = (Body::new(framing), Vec::new());
        for mut bytes in bytes.chunks(piece) {
            while let Some((part, rest)) = body.next(bytes)? {
                content.extend_from_slice(part);
                bytes = rest;
            }
        }
        Ok((content, body.is_finished()))
    }

    #[test]
    fn chunks_in_any_pieces() {
        let bytes = b"3\r\nabc\r\nA;name=value\r\n0123456789\r\n0\r\n\r\n";
        for piece in 1..bytes.len() {
            assert_eq!(read(Framing::Chunked, bytes, piece), Ok((b"abc0123456789".to_vec(), true)), "{piece}");
        }
    }

    #[test]
    fn broken_framing_is_an_error() {
        for bytes in [&b"x\r\n"[..], b"\r\n", b"3\nabc", b"3\r\nabcd\r\n", b"fffffffffffffffff\r\n", b"+3\r\nabc\r\n"] {
            assert!(read(Framing::Chunked, bytes, 100).is_err(), "{bytes:?}");
        }
        assert!(read(Framing::Chunked, &[b'1'; 300], 100).is_err());
        assert_eq!(read(Framing::Length(3), b"abcd", 100), Err(Nonsense::Unasked(1)));
    }

    proptest! {
        #[test]
        fn nothing_the_server_sends_panics(bytes: Vec<u8>, piece in 1_usize..20) {
            let _ = read(Framing::Chunked, &bytes, piece);
            let _ = read(Framing::Length(5), &bytes, piece);
        }
    }
}
