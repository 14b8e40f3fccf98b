//! Status codes (RFC 9110, 15) and the head of a response.

use std::io::Write;

use crate::date;

/// The codes this server sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
#[allow(missing_docs)]
pub enum Status {
    Ok = 200,
    BadRequest = 400,
    NotFound = 404,
    MethodNotAllowed = 405,
    RequestTimeout = 408,
    ContentTooLarge = 413,
    HeaderFieldsTooLarge = 431,
    NotImplemented = 501,
    ServiceUnavailable = 503,
    VersionNotSupported = 505,
}

impl Status {
    /// The phrase that goes with the code.
    pub fn phrase(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::BadRequest => "Bad Request",
            Self::NotFound => "Not Found",
            Self::MethodNotAllowed => "Method Not Allowed",
            Self::RequestTimeout => "Request Timeout",
            Self::ContentTooLarge => "Content Too Large",
            Self::HeaderFieldsTooLarge => "Request Header Fields Too Large",
            Self::NotImplemented => "Not Implemented",
            Self::ServiceUnavailable => "Service Unavailable",
            Self::VersionNotSupported => "HTTP Version Not Supported",
        }
    }
}

/// How a response's body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After so many bytes.
    Length(u64),
    /// With an empty chunk.
    Chunked,
    /// With the connection.
    Close,
}

/// The head of a response.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead {
    /// What became of the request.
    pub status: Status,
    /// The body's media type.
    pub content_type: &'static str,
    /// How the body ends.
    pub framing: Framing,
    /// For [`Status::MethodNotAllowed`]: what would be allowed.
    pub allow: Option<&'static str>,
    /// Whether the connection goes on after this.
    pub keep_alive: bool,
    /// Wall-clock time, seconds since 1970.
    pub unix_s: u64,
}

impl ResponseHead {
    /// Appends the head, blank line included.
    pub fn print(&self, out: &mut Vec<u8>) {
        let Self { status, content_type, framing, allow, keep_alive, unix_s } = self;
        let mut line = |text: std::fmt::Arguments<'_>| {
            out.write_fmt(text).expect("a Vec takes all bytes");
            out.extend_from_slice(b"\r\n");
        };
        line(format_args!("HTTP/1.1 {} {}", *status as u16, status.phrase()));
        line(format_args!("Server: roam"));
        line(format_args!("Date: {}", date::imf_fixdate(*unix_s)));
        line(format_args!("Content-Type: {content_type}"));
        match framing {
            Framing::Length(bytes) => line(format_args!("Content-Length: {bytes}")),
            Framing::Chunked => line(format_args!("Transfer-Encoding: chunked")),
            Framing::Close => {}
        }
        if let Some(methods) = allow {
            line(format_args!("Allow: {methods}"));
        }
        line(format_args!("Connection: {}", if *keep_alive { "keep-alive" } else { "close" }));
        line(format_args!(""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_as_the_standard_has_them() {
        let mut out = Vec::new();
        let (status, framing) = (Status::MethodNotAllowed, Framing::Length(3));
        let (content_type, allow) = ("text/plain", Some("GET, HEAD"));
        ResponseHead { status, content_type, framing, allow, keep_alive: false, unix_s: 784_111_777 }.print(&mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "HTTP/1.1 405 Method Not Allowed\r\nServer: roam\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             Content-Type: text/plain\r\nContent-Length: 3\r\nAllow: GET, HEAD\r\nConnection: close\r\n\r\n"
        );
    }
}
