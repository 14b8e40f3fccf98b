//! A byte stream over HTTP/1.1 at a set pace, checked by offset: `GET /stream?bytes=N&rate=R` of roam's web guest,
//! whose body is the [pattern](roam_abi::pattern).
//!
//! The stream is looked at in chunks of one payload each. A chunk is due when, at that pace, its last byte should be
//! there; it is answered when it is there. Nothing is sent for it: the server was told the pace. When a connection
//! breaks, the rest of the stream is asked for anew, and chunks that fell due meanwhile are lost, as they are to a
//! listener of a live stream.
use std::io::Write;

use roam_abi::pattern;

use super::super::content::Check;
use super::super::plan::{Pace, Plan};
use super::body::{Body, Framing};
use super::dialogue::{Dialogue, Nonsense, Reply};

/// The longest head of a response that is taken in.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// One connection that receives a stream.
#[derive(Debug)]
pub(crate) struct HttpStream {
    host: String,
    payload_bytes: u64,
    /// What the server is asked to send, bytes per second; `None`: all it can.
    bytes_per_s: Option<u64>,
    state: State,
    /// Offset in the stream of the next byte.
    offset: u64,
    /// Whether the chunk that is coming has a wrong byte.
    damaged: bool,
    /// The sequence number of the next chunk to come.
    arrived: u64,
    /// The sequence number of the next chunk to fall due.
    asked: u64,
    /// Of the chunks that came before they were due, how many were damaged.
    early_damaged: u64,
}

#[derive(Debug)]
enum State {
    Head(Vec<u8>),
    Body(Body),
}

impl HttpStream {
    /// For connection number `connection` of a plan.
    pub(crate) fn new(plan: &Plan, _connection: usize) -> Self {
        let bytes_per_s = match plan.pace {
            Pace::PerSecond(rate) => {
                Some(((rate * plan.payload_bytes as f64 / plan.connections as f64).round() as u64).max(1))
            }
            Pace::Max { .. } => None,
        };
        Self {
            host: plan.target.to_string(),
            payload_bytes: plan.payload_bytes as u64,
            bytes_per_s,
            state: State::Head(Vec::new()),
            offset: 0,
            damaged: false,
            arrived: 0,
            asked: 0,
            early_damaged: 0,
        }
    }

    fn body(&mut self, mut bytes: &[u8], replies: &mut Vec<Reply>) {
        while !bytes.is_empty() {
            let left = self.payload_bytes - self.offset % self.payload_bytes;
            let (part, rest) = bytes.split_at(bytes.len().min(left as usize));
            self.damaged |= pattern::matching(part, self.offset) != part.len();
            self.offset += part.len() as u64;
            bytes = rest;
            if part.len() as u64 == left {
                let intact = !std::mem::take(&mut self.damaged);
                self.chunk(intact, replies);
            }
        }
    }

    fn chunk(&mut self, intact: bool, replies: &mut Vec<Reply>) {
        let sequence = self.arrived;
        self.arrived += 1;
        if self.bytes_per_s.is_none() {
            replies.push(Reply::Pulled(intact));
        } else if sequence < self.asked {
            replies.push(Reply::To(if intact { Check::Intact(sequence) } else { Check::Damaged(sequence) }));
        } else {
            self.early_damaged += u64::from(!intact);
        }
    }
}

impl Dialogue for HttpStream {
    const LIVE: bool = true;

    fn begin(&mut self, first: u64, planned: u64, out: &mut Vec<u8>) {
        self.state = State::Head(Vec::new());
        (self.offset, self.damaged, self.early_damaged) = (0, false, 0);
        (self.arrived, self.asked) = (first, first);
        let query = match self.bytes_per_s {
            Some(rate) => format!("?bytes={}&rate={rate}", planned.saturating_sub(first) * self.payload_bytes),
            None => String::new(),
        };
        write!(
            out,
            "GET /stream{query} HTTP/1.1\r\nHost: {}\r\nUser-Agent: roam-load\r\nAccept: */*\r\n\r\n",
            self.host
        )
        .expect("a Vec takes all");
    }

    fn request(&mut self, sequence: u64, _out: &mut Vec<u8>) -> Option<Check> {
        self.asked = sequence + 1;
        if sequence >= self.arrived {
            return None;
        }
        let damaged = self.early_damaged > 0;
        self.early_damaged -= u64::from(damaged);
        Some(if damaged { Check::Damaged(sequence) } else { Check::Intact(sequence) })
    }

    fn receive(&mut self, bytes: &[u8], replies: &mut Vec<Reply>) -> Result<(), Nonsense> {
        let head_rest;
        let mut bytes = bytes;
        if let State::Head(head) = &mut self.state {
            head.extend_from_slice(bytes);
            let Some(end) = head.windows(HEAD_END.len()).position(|window| window == HEAD_END) else {
                return if head.len() > HEAD_BYTES_MAX {
                    Err(Nonsense::TooLong { what: "head", limit: HEAD_BYTES_MAX })
                } else {
                    Ok(())
                };
            };
            let framing = framing(&head[..end])?;
            head_rest = head.split_off(end + HEAD_END.len());
            bytes = &head_rest;
            self.state = State::Body(Body::new(framing));
        }
        loop {
            let State::Body(body) = &mut self.state else { return Ok(()) };
            let Some((part, rest)) = body.next(bytes)? else { return Ok(()) };
            bytes = rest;
            self.body(part, replies);
        }
    }

    fn is_finished(&self) -> bool {
        matches!(&self.state, State::Body(body) if body.is_finished())
    }
}

const HEAD_END: &[u8] = b"\r\n\r\n";

/// How long the body of a response is, by its head (RFC 9112, 6.3). Only 200 is a stream.
fn framing(head: &[u8]) -> Result<Framing, Nonsense> {
    let text = std::str::from_utf8(head).map_err(|_| Nonsense::not_understood(head))?;
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200") && !status.starts_with("HTTP/1.0 200") {
        return Err(Nonsense::not_understood(status.as_bytes()));
    }
    let mut framing = Framing::UntilClose;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { return Err(Nonsense::not_understood(line.as_bytes())) };
        if name.eq_ignore_ascii_case("transfer-encoding") && value.trim().eq_ignore_ascii_case("chunked") {
            return Ok(Framing::Chunked);
        }
        if name.eq_ignore_ascii_case("content-length") {
            let length = value.trim().parse().map_err(|_| Nonsense::not_understood(line.as_bytes()))?;
            framing = Framing::Length(length);
        }
    }
    Ok(framing)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::super::plan::Kind;
    use super::*;

    fn stream() -> HttpStream {
        let mut plan = Plan::new(Kind::HttpStream, SocketAddr::from(([127, 0, 0, 1], 80)));
        (plan.payload_bytes, plan.pace) = (100, Pace::PerSecond(50.0));
        HttpStream::new(&plan, 0)
    }

    fn body(bytes: usize) -> Vec<u8> {
        let mut body = vec![0; bytes];
        pattern::fill(&mut body, 0);
        body
    }

    #[test]
    fn chunks_are_told_early_late_and_damaged() {
        let (mut stream, mut out, mut replies) = (stream(), Vec::new(), Vec::new());
        stream.begin(3, 7, &mut out);
        assert!(out.starts_with(b"GET /stream?bytes=400&rate=5000 HTTP/1.1\r\n"));
        assert_eq!(stream.request(3, &mut out), None);

        let mut response = b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n".to_vec();
        response.extend(body(400));
        let damaged = response.len() - 50;
        response[damaged] ^= 0x80;
        for piece in response.chunks(33) {
            stream.receive(piece, &mut replies).unwrap();
        }
        assert_eq!(replies, [Reply::To(Check::Intact(3))]);
        let early: Vec<_> = (4..7).map(|sequence| stream.request(sequence, &mut out).unwrap()).collect();
        assert_eq!(early.iter().filter(|check| matches!(check, Check::Damaged(_))).count(), 1);
        assert!(stream.is_finished());
    }

    #[test]
    fn chunked_and_endless_streams_are_read() {
        for head in ["Transfer-Encoding: chunked", "Connection: close"] {
            let (mut stream, mut replies) = (stream(), Vec::new());
            stream.begin(0, 2, &mut Vec::new());
            stream.request(0, &mut Vec::new());
            stream.request(1, &mut Vec::new());
            let mut response = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n").into_bytes();
            let body = body(200);
            if head.ends_with("chunked") {
                for part in body.chunks(64) {
                    write!(response, "{:x}\r\n", part.len()).unwrap();
                    response.extend_from_slice(part);
                    response.extend_from_slice(b"\r\n");
                }
                response.extend_from_slice(b"0\r\n\r\n");
            } else {
                response.extend_from_slice(&body);
            }
            for piece in response.chunks(7) {
                stream.receive(piece, &mut replies).unwrap();
            }
            assert_eq!(replies, [Check::Intact(0), Check::Intact(1)].map(Reply::To), "{head}");
        }
    }

    #[test]
    fn other_answers_are_nonsense() {
        for head in
            ["HTTP/1.1 404 Not Found\r\n\r\n", "SSH-2.0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"]
        {
            let mut stream = stream();
            stream.begin(0, 2, &mut Vec::new());
            assert!(stream.receive(head.as_bytes(), &mut Vec::new()).is_err(), "{head}");
        }
        let mut stream = stream();
        stream.begin(0, 2, &mut Vec::new());
        let endless = vec![b'a'; HEAD_BYTES_MAX + 1];
        assert!(matches!(stream.receive(&endless, &mut Vec::new()), Err(Nonsense::TooLong { .. })));
    }
}
