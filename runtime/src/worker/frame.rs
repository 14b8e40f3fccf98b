//! Messages on a stream: postcard behind a `u32` length (little endian).

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::MESSAGE_BYTES_MAX;

/// Bytes of the length before a message.
pub(super) const PREFIX_BYTES: usize = 4;

/// Why a message was not sent or understood.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Over its limit.
    #[error("a message of {bytes} bytes; the limit is {bytes_max}")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Its bytes are no such message.
    #[error("a message that cannot be decoded")]
    Decode(#[from] postcard::Error),
    /// Bytes after the end of what it says.
    #[error("a message with {0} bytes too many")]
    Trailing(usize),
    /// The stream failed or ended.
    #[error("the connection failed")]
    Io(#[from] io::Error),
}

/// A message as it travels.
pub(super) fn encode(message: &impl Serialize) -> Result<Vec<u8>, FrameError> {
    let body = postcard::to_allocvec(message)?;
    check(body.len(), MESSAGE_BYTES_MAX)?;
    let mut frame = Vec::with_capacity(PREFIX_BYTES + body.len());
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// What a prefix says, if it is within the limit.
pub(super) fn length(prefix: [u8; PREFIX_BYTES], bytes_max: usize) -> Result<usize, FrameError> {
    check(u32::from_le_bytes(prefix) as usize, bytes_max)
}

/// A message from exactly its bytes, without the prefix.
pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    let (message, rest) = postcard::take_from_bytes(body)?;
    if rest.is_empty() { Ok(message) } else { Err(FrameError::Trailing(rest.len())) }
}

/// Sends a message.
pub(super) async fn send(stream: &mut UnixStream, message: &impl Serialize) -> Result<(), FrameError> {
    Ok(stream.write_all(&encode(message)?).await?)
}

/// Receives a message; an end before or within it is an error.
pub(super) async fn receive<T: DeserializeOwned>(stream: &mut UnixStream, bytes_max: usize) -> Result<T, FrameError> {
    let mut prefix = [0; PREFIX_BYTES];
    stream.read_exact(&mut prefix).await?;
    let mut body = vec![0; length(prefix, bytes_max)?];
    stream.read_exact(&mut body).await?;
    decode(&body)
}

fn check(bytes: usize, bytes_max: usize) -> Result<usize, FrameError> {
    if bytes <= bytes_max { Ok(bytes) } else { Err(FrameError::TooLong { bytes, bytes_max }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::Request;

    #[test]
    fn a_message_is_exactly_its_bytes() {
        let frame = encode(&Request::Stats).unwrap();
        let (prefix, body) = frame.split_first_chunk().unwrap();
        assert_eq!(length(*prefix, 16).unwrap(), body.len());
        assert_eq!(decode::<Request>(body).unwrap(), Request::Stats);
        assert!(matches!(decode::<Request>(&[body, b"x"].concat()), Err(FrameError::Trailing(1))));
        assert!(matches!(decode::<Request>(b""), Err(FrameError::Decode(_))));
        assert!(matches!(length([0xFF; 4], MESSAGE_BYTES_MAX), Err(FrameError::TooLong { .. })));
    }
}
