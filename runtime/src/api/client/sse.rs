//! Server-sent events, as the HTML standard has them (section 9.2): bytes as they come, events as they are whole.

use std::collections::VecDeque;

/// Longest event, all its lines together, bytes: a table of the most addresses there may be. A line is part of one.
const EVENT_BYTES_MAX: usize = 128 << 20;

/// One event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SseEvent {
    /// Its name; `message` if it has none.
    pub(super) name: String,
    /// Its data: lines, joined by newlines.
    pub(super) data: Vec<u8>,
}

/// Why what comes is no event.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SseError {
    #[error("an event of over {0} bytes")]
    TooLong(usize),
    #[error("an event's name that is no text")]
    Name(#[from] std::string::FromUtf8Error),
}

/// What has come of the event that is not whole yet.
pub(super) struct Parser {
    bytes_max: usize,
    line: Vec<u8>,
    /// The last byte was a carriage return: a newline after it belongs to it.
    after_return: bool,
    name: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    whole: VecDeque<SseEvent>,
}

impl Parser {
    pub(super) fn new() -> Self {
        Self::with_limit(EVENT_BYTES_MAX)
    }

    fn with_limit(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            line: Vec::new(),
            after_return: false,
            name: Vec::new(),
            data: Vec::new(),
            has_data: false,
            whole: VecDeque::new(),
        }
    }

    /// Takes what has come, wherever it was cut.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), SseError> {
        if std::mem::take(&mut self.after_return) && !bytes.is_empty() {
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.extend(&bytes[..end])?;
            self.end_line()?;
            let returned = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            match bytes.first() {
                Some(b'\n') if returned => bytes = &bytes[1..],
                None => self.after_return = returned,
                _ => {}
            }
        }
        self.extend(bytes)
    }

    /// The next whole event.
    pub(super) fn next(&mut self) -> Option<SseEvent> {
        self.whole.pop_front()
    }

    fn extend(&mut self, bytes: &[u8]) -> Result<(), SseError> {
        if self.name.len() + self.data.len() + self.line.len() + bytes.len() > self.bytes_max {
            return Err(SseError::TooLong(self.bytes_max));
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), SseError> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return self.end_event();
        }
        let colon = line.iter().position(|&byte| byte == b':');
        let (field, value) = colon.map_or((&line[..], &[][..]), |at| (&line[..at], &line[at + 1..]));
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => self.name = value.to_vec(),
            b"data" if self.has_data => {
                self.data.push(b'\n');
                self.data.extend_from_slice(value);
            }
            b"data" => (self.data, self.has_data) = (value.to_vec(), true),
            // Comments have an empty field; the id is part of the data with us.
            _ => {}
        }
        Ok(())
    }

    /// What has no data is no event, by the standard.
    fn end_event(&mut self) -> Result<(), SseError> {
        let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
        if std::mem::take(&mut self.has_data) {
            let name = if name.is_empty() { "message".to_owned() } else { String::from_utf8(name)? };
            self.whole.push_back(SseEvent { name, data });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pieces: &[&[u8]]) -> Vec<(String, String)> {
        let mut parser = Parser::new();
        for piece in pieces {
            parser.push(piece).unwrap();
        }
        let text = |event: SseEvent| (event.name, String::from_utf8(event.data).unwrap());
        std::iter::from_fn(|| parser.next()).map(text).collect()
    }

    const STREAM: &str = ": hello\n\nevent: table\nid: 7\ndata: {\"a\":1}\n\n:\r\nevent:update\r\ndata: x\r\ndata:y\r\n\r\n\
                          data\rdata: \r\revent: nothing\n\ndata: {}\nevent: goodbye\n\nevent: cut\ndata: off\n";

    #[test]
    fn events_are_the_same_wherever_they_are_cut() {
        let expected = [("table", "{\"a\":1}"), ("update", "x\ny"), ("message", "\n"), ("goodbye", "{}")];
        let expected: Vec<_> = expected.iter().map(|(name, data)| ((*name).to_owned(), (*data).to_owned())).collect();
        let bytes = STREAM.as_bytes();
        assert_eq!(parse(&[bytes]), expected);
        for first in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(first);
            assert_eq!(parse(&[head, tail]), expected, "cut at {first}");
            let (middle, tail) = tail.split_at(tail.len() / 2);
            assert_eq!(parse(&[head, middle, b"", tail]), expected, "cut at {first} and once more");
        }
        let single: Vec<_> = bytes.chunks(1).collect();
        assert_eq!(parse(&single), expected);
    }

    #[test]
    fn what_never_ends_is_refused() {
        let mut parser = Parser::with_limit(16);
        parser.push(b"data: 0123456789").unwrap();
        assert_eq!(parser.push(b"x"), Err(SseError::TooLong(16)));
        let mut parser = Parser::with_limit(16);
        let lines = std::iter::repeat_n(b"data: x\n", 100).map(|line| parser.push(line)).find(Result::is_err);
        assert_eq!(lines, Some(Err(SseError::TooLong(16))), "many lines are one event");
        let mut parser = Parser::with_limit(16);
        for _ in 0..100 {
            parser.push(b": alive\n\ndata: x\n\n").unwrap();
        }
    }

    #[test]
    fn a_name_is_text() {
        assert!(matches!(Parser::new().push(b"event: \xff\ndata: x\n\n"), Err(SseError::Name(_))));
    }
}
