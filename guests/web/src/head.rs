//! The head of a request: request line and header fields (RFC 9112, RFC 9110).
//!
//! Strict where leniency would let two parties disagree about where a request ends: white space before a colon, folded
//! lines, two lengths. A line may end in a bare LF.

use crate::status::Status;

/// Longest head, blank line included.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// What to do.
    pub method: Method,
    /// What with, up to the question mark; not decoded.
    pub path: String,
    /// After the question mark; not decoded.
    pub query: String,
    /// HTTP/1.0, which knows no chunks.
    pub old: bool,
    /// Whether the client wants to go on after this.
    pub keep_alive: bool,
    /// What follows the head.
    pub body: BodyLength,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
}

/// The methods this server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `POST`
    Post,
    /// `PUT`
    Put,
    /// Any other: no path allows it.
    Other,
}

/// How long a request's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// So many bytes; none where no header field speaks of a body.
    Known(u64),
    /// It says so itself.
    Chunked,
}

/// Why bytes are no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Over [`HEAD_BYTES_MAX`].
    #[error("the head is longer than {HEAD_BYTES_MAX} bytes")]
    TooLong,
    /// Not `METHOD target HTTP/x.y`.
    #[error("the first line is not \"METHOD target HTTP/x.y\"")]
    RequestLine,
    /// Neither a path nor an `http` address.
    #[error("the target is neither a path nor an http:// address")]
    Target,
    /// Not HTTP/1.
    #[error("this server speaks HTTP/1.0 and HTTP/1.1")]
    Version,
    /// A line that is no `name: value`.
    #[error("a header line is not \"name: value\"")]
    Field,
    /// Not exactly one `Host`, which HTTP/1.1 asks for.
    #[error("there must be exactly one Host header")]
    Host,
    /// `Content-Length` is not a number, or two.
    #[error("Content-Length is not one number")]
    ContentLength,
    /// Both lengths, or chunks in HTTP/1.0: somebody on the way may see it otherwise.
    #[error("Transfer-Encoding does not go with Content-Length or HTTP/1.0")]
    AmbiguousLength,
    /// Something else than chunks.
    #[error("the only Transfer-Encoding here is chunked")]
    TransferCoding,
}

impl HeadError {
    /// What to answer.
    pub fn status(self) -> Status {
        match self {
            Self::TooLong => Status::HeaderFieldsTooLarge,
            Self::Version => Status::VersionNotSupported,
            Self::TransferCoding => Status::NotImplemented,
            Self::RequestLine | Self::Target | Self::Field | Self::Host => Status::BadRequest,
            Self::ContentLength | Self::AmbiguousLength => Status::BadRequest,
        }
    }
}

/// Length of the head at the start of `input`, blank line included; `None` where its end has not come. There is none
/// in the first `searched` bytes.
pub fn find_end(input: &[u8], searched: usize) -> Result<Option<usize>, HeadError> {
    let from = searched.saturating_sub(3);
    let end = (from..input.len()).find_map(|at| match &input[at..] {
        [b'\n', b'\n', ..] => Some(at + 2),
        [b'\n', b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    });
    if end.unwrap_or(input.len()) > HEAD_BYTES_MAX { Err(HeadError::TooLong) } else { Ok(end) }
}

impl Head {
    /// Reads a whole head.
    pub fn parse(head: &[u8]) -> Result<Self, HeadError> {
        let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let first = lines.next().and_then(|line| std::str::from_utf8(line).ok()).ok_or(HeadError::RequestLine)?;
        let mut words = first.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(HeadError::RequestLine);
        };
        let old = is_old(version)?;
        let mut fields = Fields::default();
        for line in lines.take_while(|line| !line.is_empty()) {
            fields.add(line)?;
        }
        if fields.hosts > 1 || (fields.hosts == 0 && !old) {
            return Err(HeadError::Host);
        }
        let (path, query) = split_target(target)?;
        Ok(Self {
            method: match method {
                "GET" => Method::Get,
                "HEAD" => Method::Head,
                "POST" => Method::Post,
                "PUT" => Method::Put,
                _ if method.bytes().all(is_token) && !method.is_empty() => Method::Other,
                _ => return Err(HeadError::RequestLine),
            },
            path: path.to_owned(),
            query: query.to_owned(),
            old,
            keep_alive: !fields.close && (!old || fields.keep_alive),
            body: fields.body(old)?,
            expects_continue: fields.expects_continue && !old,
        })
    }
}

/// Whether it is HTTP/1.0; every later HTTP/1 is understood as 1.1.
fn is_old(version: &str) -> Result<bool, HeadError> {
    match version.strip_prefix("HTTP/").map(str::as_bytes) {
        Some([b'1', b'.', minor]) if minor.is_ascii_digit() => Ok(*minor == b'0'),
        Some([major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit() => Err(HeadError::Version),
        _ => Err(HeadError::RequestLine),
    }
}

/// Path and query of a target, in origin or absolute form.
fn split_target(target: &str) -> Result<(&str, &str), HeadError> {
    let scheme_bytes = "http://".len();
    let path = match target.get(..scheme_bytes) {
        Some(scheme) if scheme.eq_ignore_ascii_case("http://") => {
            let rest = &target[scheme_bytes..];
            match rest.find(['/', '?']).map(|at| &rest[at..]) {
                Some(path) if path.starts_with('/') => path,
                Some(query) => return Ok(("/", &query[1..])),
                None => "/",
            }
        }
        _ if target.starts_with('/') => target,
        _ => return Err(HeadError::Target),
    };
    Ok(path.split_once('?').unwrap_or((path, "")))
}

/// What the header fields that matter here have said so far.
#[derive(Debug, Default)]
struct Fields {
    hosts: usize,
    close: bool,
    keep_alive: bool,
    length: Option<u64>,
    chunked: bool,
    expects_continue: bool,
}

impl Fields {
    fn add(&mut self, line: &[u8]) -> Result<(), HeadError> {
        let colon = line.iter().position(|byte| *byte == b':').ok_or(HeadError::Field)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return Err(HeadError::Field);
        }
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        if is("host") {
            self.hosts += 1;
        } else if is("connection") {
            self.close |= lists(value, "close");
            self.keep_alive |= lists(value, "keep-alive");
        } else if is("content-length") {
            let length = number(value).ok_or(HeadError::ContentLength)?;
            if self.length.replace(length).is_some_and(|before| before != length) {
                return Err(HeadError::ContentLength);
            }
        } else if is("transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") || self.chunked {
                return Err(HeadError::TransferCoding);
            }
            self.chunked = true;
        } else if is("expect") {
            self.expects_continue |= lists(value, "100-continue");
        }
        Ok(())
    }

    fn body(&self, old: bool) -> Result<BodyLength, HeadError> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(HeadError::AmbiguousLength),
            (true, None) if old => Err(HeadError::AmbiguousLength),
            (true, None) => Ok(BodyLength::Chunked),
            (false, length) => Ok(BodyLength::Known(length.unwrap_or(0))),
        }
    }
}

/// Whether a comma-separated list has that word, whatever its case.
fn lists(value: &[u8], word: &str) -> bool {
    value.split(|byte| *byte == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

/// A number of digits only.
pub(crate) fn number(digits: &[u8]) -> Option<u64> {
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// A character of a method or field name (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Head, HeadError> {
        Head::parse(text.as_bytes())
    }

    fn with(fields: &str) -> Result<Head, HeadError> {
        parse(&format!("POST /upload HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"))
    }

    #[test]
    fn a_plain_request() {
        let head = parse("GET /stream?bytes=5&rate=1 HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n");
        let expected = Head {
            method: Method::Get,
            path: "/stream".into(),
            query: "bytes=5&rate=1".into(),
            old: false,
            keep_alive: true,
            body: BodyLength::Known(0),
            expects_continue: false,
        };
        assert_eq!(head, Ok(expected.clone()));
        assert_eq!(parse("GET http://a:80/stream?bytes=5&rate=1 HTTP/1.1\nhost:a\n\n"), Ok(expected));
        assert_eq!(
            parse("GET HTTP://a?x HTTP/1.1\nhost:a\n\n").map(|head| (head.path, head.query)),
            Ok(("/".into(), "x".into()))
        );
    }

    #[test]
    fn connections_are_kept_as_the_version_says() {
        assert!(with("Connection: keep-alive").expect("right").keep_alive);
        assert!(!with("Connection: foo, Close").expect("right").keep_alive);
        assert!(!parse("GET / HTTP/1.0\r\n\r\n").expect("right").keep_alive);
        assert!(parse("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").expect("right").keep_alive);
    }

    #[test]
    fn lengths_must_be_clear() {
        assert_eq!(with("Content-Length: 5").map(|head| head.body), Ok(BodyLength::Known(5)));
        assert_eq!(with("Content-Length: 5\r\ncontent-length:5").map(|head| head.body), Ok(BodyLength::Known(5)));
        assert_eq!(with("Transfer-Encoding: Chunked").map(|head| head.body), Ok(BodyLength::Chunked));
        for wrong in ["5, 5", "-1", "+5", "", "0x5", "99999999999999999999"] {
            assert_eq!(with(&format!("Content-Length: {wrong}")), Err(HeadError::ContentLength), "{wrong}");
        }
        assert_eq!(with("Content-Length: 5\r\nContent-Length: 6"), Err(HeadError::ContentLength));
        assert_eq!(with("Content-Length: 5\r\nTransfer-Encoding: chunked"), Err(HeadError::AmbiguousLength));
        assert_eq!(with("Transfer-Encoding: gzip, chunked"), Err(HeadError::TransferCoding));
        assert!(with("Expect: 100-Continue").expect("right").expects_continue);
    }

    #[test]
    fn malformed_heads_are_named() {
        for (text, error) in [
            ("GET /\r\n\r\n", HeadError::RequestLine),
            ("GET  / HTTP/1.1\r\n\r\n", HeadError::RequestLine),
            ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::RequestLine),
            ("GET / HTTPS/1.1\r\n\r\n", HeadError::RequestLine),
            ("PRI * HTTP/2.0\r\n\r\n", HeadError::Version),
            ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::Target),
            ("GET / HTTP/1.1\r\n\r\n", HeadError::Host),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", HeadError::Host),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", HeadError::Field),
            ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", HeadError::Field),
            ("GET / HTTP/1.1\r\nHost\r\n\r\n", HeadError::Field),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn the_end_is_found_in_any_piece() {
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET";
        let end = text.len() - 3;
        for len in 0..=end {
            assert_eq!(find_end(&text[..len], len.saturating_sub(1)), Ok((len == end).then_some(end)));
        }
        assert_eq!(find_end(text, 0), Ok(Some(end)));
        assert_eq!(find_end(&[b'x'; HEAD_BYTES_MAX], 0), Ok(None));
        assert_eq!(find_end(&[b'x'; HEAD_BYTES_MAX + 1], 0), Err(HeadError::TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(head: Vec<u8>) {
            let _ = Head::parse(&head);
        }
    }
}
