//! What is said on one TCP connection, apart from the socket: bytes in, bytes and verdicts out.
use super::super::content::Check;

/// A verdict about what came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The reply to a request.
    To(Check),
    /// A piece of a stream that was not asked for one by one; whether it was intact.
    Pulled(bool),
}

/// The peer does not keep to the protocol. The connection is of no more use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Nonsense {
    /// Bytes nobody asked for.
    #[error("the server sent {0} bytes more than it was asked for")]
    Unasked(usize),
    /// Not a reply of the protocol.
    #[error("the server answered `{0}`")]
    NotUnderstood(String),
    /// A line, head or value beyond its limit.
    #[error("the server sent a {what} of more than {limit} bytes")]
    TooLong {
        /// Of what.
        what: &'static str,
        /// How long it may be.
        limit: usize,
    },
}

impl Nonsense {
    /// A reply that was not understood, as much of it as can be shown.
    pub(crate) fn not_understood(reply: &[u8]) -> Self {
        const SHOWN_BYTES_MAX: usize = 60;
        let shown = &reply[..reply.len().min(SHOWN_BYTES_MAX)];
        Self::NotUnderstood(shown.trim_ascii().escape_ascii().to_string())
    }
}

/// One connection's side of a protocol in which replies come in the order of requests.
///
/// The same value serves all connections that follow one another after resets.
pub(crate) trait Dialogue {
    /// Whether requests that fall due without a connection are lost (a live stream), rather than sent late.
    const LIVE: bool;

    /// A connection is up. The next request is number `first`, of `planned` in all (0: not known).
    fn begin(&mut self, first: u64, planned: u64, out: &mut Vec<u8>);

    /// Appends request `sequence` to `out`; returns its reply if that came before the request was due.
    fn request(&mut self, sequence: u64, out: &mut Vec<u8>) -> Option<Check>;

    /// Takes what came, appends what it meant.
    fn receive(&mut self, bytes: &[u8], replies: &mut Vec<Reply>) -> Result<(), Nonsense>;

    /// Whether the server has said all it will: it may close.
    fn is_finished(&self) -> bool;
}
