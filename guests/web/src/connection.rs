//! A connection: input that has arrived but was not used, output, and the patience for both.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::rc::Rc;
use std::time::Duration;

use roam_sdk::Error;
use roam_sdk::abi::Errno;
use roam_sdk::net::TcpStream;
use roam_sdk::time::{Instant, system_time, timeout};

use crate::body::{Body, BodyError};
use crate::head::{Head, HeadError, find_end};
use crate::status::{Framing, ResponseHead, Status};
use crate::stream::StreamQueryError;

/// How long a client may take for a request's head, for the next bytes of a body, and to take the next bytes of ours.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long, and for how many bytes, a connection is listened to after the last response: a client that still sends
/// then reads the response instead of a reset.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// What all connections read into; none holds it while it waits.
pub(crate) type Scratch = Rc<RefCell<Vec<u8>>>;

/// Why a connection does not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error(transparent)]
    StreamQuery(#[from] StreamQueryError),
    #[error("the request took longer than {} seconds", PATIENCE.as_secs())]
    Slow,
    #[error("a body here may have {0} bytes")]
    BodyTooLarge(u64),
    #[error(transparent)]
    Network(#[from] Error),
}

impl Failure {
    /// What to tell the client, where it can be told.
    pub(crate) fn status(&self) -> Option<Status> {
        match self {
            Self::Head(error) => Some(error.status()),
            Self::Body(_) | Self::StreamQuery(_) => Some(Status::BadRequest),
            Self::Slow => Some(Status::RequestTimeout),
            Self::BodyTooLarge(_) => Some(Status::ContentTooLarge),
            Self::Network(_) => None,
        }
    }
}

/// Whether a connection goes on after a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Request,
    Close,
}

pub(crate) struct Connection {
    stream: TcpStream,
    scratch: Scratch,
    input: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(stream: TcpStream, scratch: Scratch) -> Self {
        Self { stream, scratch, input: Vec::new() }
    }

    /// Waits for the head of the next request; `None` where the client is done.
    pub(crate) async fn head(&mut self) -> Result<Option<Head>, Failure> {
        let deadline = Instant::now() + PATIENCE;
        let mut searched = 0;
        loop {
            // Clients may send blank lines between requests (RFC 9112, 2.2).
            if searched == 0 {
                let blank = self.input.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
                self.input.drain(..blank);
            }
            if let Some(end) = find_end(&self.input, searched)? {
                let head = Head::parse(&self.input[..end])?;
                self.input.drain(..end);
                return Ok(Some(head));
            }
            searched = self.input.len();
            match self.fill(deadline - Instant::now()).await {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(Failure::Slow) if self.input.is_empty() => return Ok(None),
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Waits for more input; false at its end.
    async fn fill(&mut self, patience: Duration) -> Result<bool, Failure> {
        if self.input.is_empty() {
            // An idle connection holds no buffer.
            self.input = Vec::new();
        }
        loop {
            let read = self.stream.try_read(&mut self.scratch.borrow_mut());
            match read {
                Ok(0) => return Ok(false),
                Ok(count) => {
                    self.input.extend_from_slice(&self.scratch.borrow()[..count]);
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if timeout(patience, self.stream.readable()).await.is_err() {
                        return Err(Failure::Slow);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads a body to its end, at most `bytes_max` of it, and gives each piece to `sink`; returns its length.
    pub(crate) async fn body(
        &mut self,
        head: &Head,
        bytes_max: u64,
        mut sink: impl FnMut(&[u8]),
    ) -> Result<u64, Failure> {
        let mut body = Body::new(head.body);
        if head.expects_continue && !body.is_done() && self.input.is_empty() {
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let mut bytes = 0;
        let mut used = 0;
        while !body.is_done() {
            if used == self.input.len() {
                self.input.clear();
                used = 0;
                if !self.fill(PATIENCE).await? {
                    return Err(Error::UnexpectedEof.into());
                }
            }
            let step = body.step(&self.input[used..])?;
            sink(step.data);
            used += step.used;
            bytes += step.data.len() as u64;
            if bytes > bytes_max {
                return Err(Failure::BodyTooLarge(bytes_max));
            }
        }
        self.input.drain(..used);
        Ok(bytes)
    }

    /// Sends all of `bytes`, as fast as the client takes them.
    pub(crate) async fn send(&self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            // Not `Slow`, which would be answered: there is no telling a client that takes nothing.
            let Ok(written) = timeout(PATIENCE, self.stream.write(bytes)).await else {
                return Err(Error::from(Errno::TIMEDOUT).into());
            };
            bytes = &bytes[written?..];
        }
        Ok(())
    }

    /// Sends a whole response; `head_only` leaves the body out, as `HEAD` asks for.
    pub(crate) async fn respond(&self, mut head: ResponseHead, body: &[u8], head_only: bool) -> Result<Next, Failure> {
        head.framing = Framing::Length(body.len() as u64);
        let mut response = Vec::with_capacity(512 + body.len());
        head.print(&mut response);
        response.extend_from_slice(if head_only { b"" } else { body });
        self.send(&response).await?;
        Ok(if head.keep_alive { Next::Request } else { Next::Close })
    }

    /// Tells the client why it ends, where that can be told.
    pub(crate) async fn fail(&self, failure: &Failure) -> Result<(), Failure> {
        if let Some(status) = failure.status() {
            self.respond(plain(status, false), message(status, failure).as_bytes(), false).await?;
        }
        Ok(())
    }

    /// Ends the connection so that the client gets all that was sent.
    pub(crate) async fn close(mut self) -> Result<(), Failure> {
        self.stream.shutdown()?;
        let deadline = Instant::now() + LINGER;
        let mut bytes = 0;
        while bytes < LINGER_BYTES_MAX && Instant::now() < deadline {
            self.input.clear();
            if !self.fill(deadline - Instant::now()).await? {
                break;
            }
            bytes += self.input.len();
        }
        Ok(())
    }
}

/// The head of a response in plain words.
pub(crate) fn plain(status: Status, keep_alive: bool) -> ResponseHead {
    ResponseHead {
        status,
        content_type: "text/plain; charset=utf-8",
        framing: Framing::Length(0),
        allow: None,
        keep_alive,
        unix_s: system_time().as_secs(),
    }
}

/// The body of a response that says no.
pub(crate) fn message(status: Status, why: impl std::fmt::Display) -> String {
    format!("{} {}: {why}\n", status as u16, status.phrase())
}
