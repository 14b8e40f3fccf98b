//! Modules on their way to and from a host.

use std::io;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::Method;
use hyper::body::Frame;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::connection::Body;
use super::{ANSWER_LIMIT, Ask, COMPILE_LIMIT, Client, ClientError};
use crate::api::PREFIX;
use crate::engine::ModuleHash;

/// Bytes read from a file at once.
const PIECE_BYTES: usize = 64 * 1024;
/// Slowest transfer that is waited for, bytes a second.
pub(super) const BYTES_PER_S_MIN: u64 = 16 * 1024;

impl Client {
    /// Ships a module from a file; `true` if the host did not have it. `progress` is told the bytes sent so far.
    pub async fn put_module(
        &self,
        digest: ModuleHash,
        file: File,
        progress: impl FnMut(u64) + Send + 'static,
    ) -> Result<bool, ClientError> {
        let size_bytes = file.metadata().await.map_err(ClientError::File)?.len();
        let limit = COMPILE_LIMIT + std::time::Duration::from_secs(size_bytes / BYTES_PER_S_MIN);
        let path = format!("{PREFIX}/modules/{digest}");
        let ask = Ask::new(Method::PUT, path).stream(body(file, progress), size_bytes).within(limit);
        self.wire.status(ask).await.map(Self::was_new)
    }

    /// Fetches a module into `target`; the bytes are checked against the digest. `progress` is told the bytes so far.
    pub async fn read_module(
        &self,
        digest: ModuleHash,
        mut target: impl AsyncWrite + Unpin,
        mut progress: impl FnMut(u64),
    ) -> Result<(), ClientError> {
        let (response, _) = self.wire.send(Ask::get(format!("{PREFIX}/modules/{digest}"))).await?;
        let mut body = response.into_body();
        let (mut hasher, mut received_bytes) = (blake3::Hasher::new(), 0);
        loop {
            let frame = tokio::time::timeout(ANSWER_LIMIT, body.frame()).await;
            let frame = frame
                .map_err(|_| ClientError::TimedOut { endpoint: self.wire.endpoint.to_string(), limit: ANSWER_LIMIT })?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|source| self.wire.endpoint.lost(source))?;
            let Ok(bytes) = frame.into_data() else { continue };
            hasher.update(&bytes);
            received_bytes += bytes.len() as u64;
            if received_bytes > crate::engine::MODULE_BYTES_MAX as u64 {
                return Err(self.wire.endpoint.protocol("the module is larger than any may be"));
            }
            target.write_all(&bytes).await.map_err(ClientError::File)?;
            progress(received_bytes);
        }
        target.flush().await.map_err(ClientError::File)?;
        let got = ModuleHash(*hasher.finalize().as_bytes());
        if got != digest {
            return Err(self.wire.endpoint.protocol(format!("asked for module {digest}, got the bytes of {got}")));
        }
        Ok(())
    }
}

/// A file as a request's body.
pub(super) fn body(file: File, progress: impl FnMut(u64) + Send + 'static) -> Body {
    let pieces = stream::try_unfold((file, progress, 0), |(mut file, mut progress, sent_bytes)| async move {
        let mut piece = bytes::BytesMut::with_capacity(PIECE_BYTES);
        let read = file.read_buf(&mut piece).await?;
        if read == 0 {
            return Ok::<_, io::Error>(None);
        }
        let sent_bytes = sent_bytes + read as u64;
        progress(sent_bytes);
        Ok(Some((Frame::data(Bytes::from(piece)), (file, progress, sent_bytes))))
    });
    StreamBody::new(pieces).boxed_unsync()
}
