//! The body of a request, taken out of its framing (RFC 9112, 6 and 7) as it arrives.

use crate::head::BodyLength;

/// Longest line of a chunk's size with its extensions, and all trailer fields together.
pub const FRAMING_BYTES_MAX: usize = 4096;

/// What is left of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body(State);

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Known {
        left: u64,
    },
    /// In a chunk's first line: the digits so far, then perhaps an extension.
    Size {
        size: u64,
        digits: usize,
        in_extension: bool,
        line_bytes: usize,
    },
    Data {
        left: u64,
    },
    /// Before the line end after a chunk's data.
    DataEnd,
    /// After the last chunk: in a line of so many bytes.
    Trailer {
        line_bytes: usize,
        all_bytes: usize,
    },
    Done,
}

/// A step through a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// The body's next bytes; may be empty.
    pub data: &'a [u8],
    /// How much of the input was used.
    pub used: usize,
}

/// Why a chunked body cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Not a hexadecimal number of 64 bits.
    #[error("a chunk's size is not a hexadecimal number")]
    Size,
    /// Data longer than the size said.
    #[error("a chunk does not end where its size says")]
    ChunkEnd,
    /// More than [`FRAMING_BYTES_MAX`].
    #[error("chunk extensions or trailers are longer than {FRAMING_BYTES_MAX} bytes")]
    TooLong,
}

impl Body {
    /// A body of which nothing has been read.
    pub fn new(length: BodyLength) -> Self {
        Self(match length {
            BodyLength::Known(0) => State::Done,
            BodyLength::Known(left) => State::Known { left },
            BodyLength::Chunked => SIZE,
        })
    }

    /// Whether all of it has been read.
    pub fn is_done(&self) -> bool {
        self.0 == State::Done
    }

    /// Takes the next data out of `input`; uses all of it where no data comes back, unless the body is done.
    pub fn step<'a>(&mut self, input: &'a [u8]) -> Result<Step<'a>, BodyError> {
        let mut used = 0;
        while used < input.len() {
            match &mut self.0 {
                State::Known { left } | State::Data { left } => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len() - used);
                    *left -= count as u64;
                    if *left == 0 {
                        self.0 = if matches!(self.0, State::Known { .. }) { State::Done } else { State::DataEnd };
                    }
                    return Ok(Step { data: &input[used..used + count], used: used + count });
                }
                State::Done => break,
                _ => self.framing(input[used])?,
            }
            used += 1;
        }
        Ok(Step { data: &[], used })
    }

    /// Takes one byte that is not data.
    fn framing(&mut self, byte: u8) -> Result<(), BodyError> {
        match &mut self.0 {
            State::Size { size, digits, in_extension, line_bytes } => {
                *line_bytes += 1;
                if *line_bytes > FRAMING_BYTES_MAX {
                    return Err(BodyError::TooLong);
                }
                match byte {
                    b'\n' if *digits == 0 => return Err(BodyError::Size),
                    b'\n' if *size == 0 => self.0 = State::Trailer { line_bytes: 0, all_bytes: 0 },
                    b'\n' => self.0 = State::Data { left: *size },
                    _ if *in_extension => {}
                    b';' | b' ' | b'\t' | b'\r' if *digits > 0 => *in_extension = true,
                    _ => {
                        let digit = (byte as char).to_digit(16).ok_or(BodyError::Size)?;
                        *size = size.checked_mul(16).ok_or(BodyError::Size)? + u64::from(digit);
                        *digits += 1;
                    }
                }
            }
            State::DataEnd => match byte {
                b'\r' => {}
                b'\n' => self.0 = SIZE,
                _ => return Err(BodyError::ChunkEnd),
            },
            State::Trailer { line_bytes, all_bytes } => {
                *all_bytes += 1;
                match byte {
                    _ if *all_bytes > FRAMING_BYTES_MAX => return Err(BodyError::TooLong),
                    b'\n' if *line_bytes == 0 => self.0 = State::Done,
                    b'\n' => *line_bytes = 0,
                    b'\r' => {}
                    _ => *line_bytes += 1,
                }
            }
            State::Known { .. } | State::Data { .. } | State::Done => unreachable!("these have no framing: {self:?}"),
        }
        Ok(())
    }
}

/// Before a chunk.
const SIZE: State = State::Size { size: 0, digits: 0, in_extension: false, line_bytes: 0 };

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All data, and what was left over.
    fn decode(length: BodyLength, input: &[u8], piece_bytes: usize) -> Result<(Vec<u8>, usize, bool), BodyError> {
        let (mut body, mut data, mut used) = (Body::new(length), Vec::new(), 0);
        for piece in input.chunks(piece_bytes) {
            let mut piece = piece;
            while !piece.is_empty() && !body.is_done() {
                let step = body.step(piece)?;
                data.extend_from_slice(step.data);
                used += step.used;
                piece = &piece[step.used..];
            }
        }
        Ok((data, used, body.is_done()))
    }

    #[test]
    fn known_lengths_end_where_they_say() {
        assert_eq!(decode(BodyLength::Known(3), b"abcGET", 2), Ok((b"abc".to_vec(), 3, true)));
        assert_eq!(decode(BodyLength::Known(0), b"GET", 2), Ok((vec![], 0, true)));
        assert_eq!(decode(BodyLength::Known(9), b"abc", 2), Ok((b"abc".to_vec(), 3, false)));
    }

    #[test]
    fn chunks_are_joined() {
        let body = b"3\r\nabc\r\n00A;ext=\"x\"\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n";
        let input = [&body[..], b"GET"].concat();
        for piece_bytes in 1..input.len() {
            let expected = (b"abc0123456789".to_vec(), body.len(), true);
            assert_eq!(decode(BodyLength::Chunked, &input, piece_bytes), Ok(expected));
        }
    }

    #[test]
    fn broken_chunks_are_named() {
        for (input, error) in [
            (&b"\r\n"[..], BodyError::Size),
            (b"x\r\n", BodyError::Size),
            (b"-1\r\n", BodyError::Size),
            (b"10000000000000000\r\n", BodyError::Size),
            (b"1\r\nab\r\n", BodyError::ChunkEnd),
            (&[b"1;".to_vec(), vec![b'x'; FRAMING_BYTES_MAX]].concat(), BodyError::TooLong),
            (&[b"0\r\n".to_vec(), vec![b'x'; FRAMING_BYTES_MAX + 1]].concat(), BodyError::TooLong),
        ] {
            assert_eq!(decode(BodyLength::Chunked, input, 7), Err(error));
        }
    }

    proptest! {
        #[test]
        fn any_chunks_are_joined(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..10), piece in 1..20usize) {
            let mut input = Vec::new();
            for chunk in &chunks {
                input.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                input.extend_from_slice(chunk);
                input.extend_from_slice(b"\r\n");
            }
            input.extend_from_slice(b"0\r\n\r\n");
            prop_assert_eq!(decode(BodyLength::Chunked, &input, piece), Ok((chunks.concat(), input.len(), true)));
        }

        #[test]
        fn any_bytes_are_survived(input: Vec<u8>, piece in 1..20usize) {
            let _ = decode(BodyLength::Chunked, &input, piece);
        }
    }
}
