//! A connection as the worker has it: read and written as far as it goes without waiting.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{MsgFlags, recv, send};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::frame::{self, PREFIX_BYTES};

/// Most bytes that are read at once.
const READ_BYTES_MAX: usize = 4096;

/// Messages in and out. Of what comes no more is kept than one message.
pub(super) struct Line {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Longest message that may come, bytes.
    bytes_max: usize,
}

/// The connection is of no further use.
#[derive(Debug)]
pub(super) struct Closed;

impl Line {
    pub(super) fn new(stream: UnixStream, bytes_max: usize) -> Self {
        Self { stream, input: Vec::new(), output: Vec::new(), bytes_max }
    }

    /// What to wait for: room for what is to be said, else what comes.
    pub(super) fn interest(&self) -> PollFlags {
        if self.has_said_all() { PollFlags::POLLIN } else { PollFlags::POLLOUT }
    }

    pub(super) fn has_said_all(&self) -> bool {
        self.output.is_empty()
    }

    /// Reads on, unless a whole message is there.
    pub(super) fn read(&mut self) -> Result<(), Closed> {
        let room = match self.body_bytes()? {
            Some(bytes) if self.input.len() >= PREFIX_BYTES + bytes => return Ok(()),
            Some(bytes) => PREFIX_BYTES + bytes - self.input.len(),
            None => PREFIX_BYTES + self.bytes_max - self.input.len(),
        };
        let mut bytes = [0; READ_BYTES_MAX];
        match recv(self.stream.as_raw_fd(), &mut bytes[..room.min(READ_BYTES_MAX)], MsgFlags::MSG_DONTWAIT) {
            Ok(0) => Err(Closed),
            Ok(read) => {
                self.input.extend_from_slice(&bytes[..read]);
                Ok(())
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
            Err(_) => Err(Closed),
        }
    }

    /// The next message, if it is there whole.
    pub(super) fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Closed> {
        let Some(bytes) = self.body_bytes()? else { return Ok(None) };
        let Some(body) = self.input.get(PREFIX_BYTES..PREFIX_BYTES + bytes) else { return Ok(None) };
        let message = frame::decode(body).map_err(|_garbage| Closed)?;
        self.input.drain(..PREFIX_BYTES + bytes);
        Ok(Some(message))
    }

    pub(super) fn say(&mut self, message: &impl Serialize) -> Result<(), Closed> {
        self.say_encoded(&frame::encode(message).map_err(|_too_long| Closed)?)
    }

    /// What [`frame::encode`] made.
    pub(super) fn say_encoded(&mut self, message: &[u8]) -> Result<(), Closed> {
        self.output.extend_from_slice(message);
        self.write()
    }

    pub(super) fn write(&mut self) -> Result<(), Closed> {
        if self.output.is_empty() {
            return Ok(());
        }
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(self.stream.as_raw_fd(), &self.output, flags) {
            Ok(sent) => {
                self.output.drain(..sent);
                Ok(())
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
            Err(_) => Err(Closed),
        }
    }

    /// The connection itself, if nothing is on its way here.
    pub(super) fn into_stream(self) -> Result<UnixStream, Closed> {
        if self.input.is_empty() && self.output.is_empty() { Ok(self.stream) } else { Err(Closed) }
    }

    /// What the prefix says, once it is there.
    fn body_bytes(&self) -> Result<Option<usize>, Closed> {
        let Some(prefix) = self.input.first_chunk() else { return Ok(None) };
        frame::length(*prefix, self.bytes_max).map(Some).map_err(|_too_long| Closed)
    }
}

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::Request;
    use std::io::{Read, Write};

    #[test]
    fn messages_come_one_at_a_time_and_no_more_is_kept() {
        let (mut peer, ours) = UnixStream::pair().unwrap();
        let mut line = Line::new(ours, 16);
        assert!(line.take::<Request>().unwrap().is_none());
        let hello = frame::encode(&Request::Hello).unwrap();
        peer.write_all(&hello.repeat(100)).unwrap();
        for _ in 0..100 {
            line.read().unwrap();
            assert!(line.input.len() <= PREFIX_BYTES + 16);
            assert_eq!(line.take::<Request>().unwrap(), Some(Request::Hello));
        }
        line.say(&Request::Stats).unwrap();
        peer.read_exact(&mut [0; 5]).unwrap();
        assert!(line.has_said_all());
        peer.write_all(&[1]).unwrap();
        line.read().unwrap();
        assert!(line.into_stream().is_err(), "a byte would be lost");
    }

    #[test]
    fn what_is_no_message_ends_it() {
        for garbage in [&[17, 0, 0, 0][..], &[0xFF; 64], &[1, 0, 0, 0, 9], &[0, 0, 0, 0], &[2, 0, 0, 0, 0, 0]] {
            let (mut peer, ours) = UnixStream::pair().unwrap();
            let mut line = Line::new(ours, 16);
            peer.write_all(garbage).unwrap();
            let heard = line.read().and_then(|()| line.take::<Request>());
            assert!(heard.is_err(), "{garbage:?}");
        }
        let (peer, ours) = UnixStream::pair().unwrap();
        let mut line = Line::new(ours, 16);
        drop(peer);
        assert!(line.read().is_err());
    }

    #[test]
    fn an_answer_that_does_not_fit_goes_on_later() {
        let (mut peer, ours) = UnixStream::pair().unwrap();
        let mut line = Line::new(ours, 16);
        let answer = vec![7; 1 << 20];
        line.say_encoded(&answer).unwrap();
        assert_eq!(line.interest(), PollFlags::POLLOUT);
        let mut heard = Vec::new();
        while heard.len() < answer.len() {
            let mut bytes = vec![0; 1 << 16];
            let read = peer.read(&mut bytes).unwrap();
            heard.extend_from_slice(&bytes[..read]);
            line.write().unwrap();
        }
        assert!(line.has_said_all() && heard == answer);
    }
}
