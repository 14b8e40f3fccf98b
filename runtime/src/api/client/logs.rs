//! A guest's log as a stream of entries.

use std::pin::Pin;
use std::sync::Arc;

use bytes::BytesMut;
use futures_util::{Stream, stream};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::{ClientError, Endpoint};
use crate::api::LogEntry;

/// Log lines as they come; ends when the log does, or never when following.
pub type LogStream = Pin<Box<dyn Stream<Item = Result<LogEntry, ClientError>> + Send>>;

/// Longest line of a log answer, bytes: far above what a guest can log at once, JSON escapes included.
const LINE_BYTES_MAX: usize = 1 << 20;

struct Reader {
    endpoint: Arc<Endpoint>,
    body: Incoming,
    buffer: BytesMut,
}

/// Entries of an `application/x-ndjson` body.
pub(super) fn lines(endpoint: Arc<Endpoint>, body: Incoming) -> LogStream {
    let reader = Reader { endpoint, body, buffer: BytesMut::new() };
    Box::pin(stream::try_unfold(
        reader,
        |mut reader| async move { Ok(reader.entry().await?.map(|entry| (entry, reader))) },
    ))
}

impl Reader {
    async fn entry(&mut self) -> Result<Option<LogEntry>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                return serde_json::from_slice(&line).map(Some).map_err(|source| self.endpoint.protocol(source));
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(self.endpoint.protocol(format!("a log line of over {LINE_BYTES_MAX} bytes")));
            }
            match self.body.frame().await {
                Some(frame) => {
                    let frame = frame.map_err(|source| self.endpoint.lost(source))?;
                    if let Some(bytes) = frame.data_ref() {
                        self.buffer.extend_from_slice(bytes);
                    }
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(self.endpoint.protocol("the log ends within a line")),
            }
        }
    }
}
