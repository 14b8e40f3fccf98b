//! Images on their way to and from a host.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Incoming;
use tokio::fs::File;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::transfer::{BYTES_PER_S_MIN, body};
use super::wire::encoded;
use super::{ANSWER_LIMIT, Ask, COMPILE_LIMIT, Client, ClientError};
use crate::api::{
    CHECKPOINT_HEADER, CheckpointReport, CheckpointRequest, GuestName, GuestView, PREFIX, RestoreRequest,
};

/// How long a host may take until an image is whole there.
const IMAGE_LIMIT: Duration = Duration::from_secs(600);

/// An image that comes from a host. Dropped, the guest goes on if it was not to keep running and is not confirmed yet.
#[derive(Debug)]
pub struct ImageStream {
    /// What it came to.
    pub report: CheckpointReport,
    body: Incoming,
    endpoint: std::sync::Arc<super::Endpoint>,
}

impl Client {
    /// Has an image of a guest taken. Its bytes are still to be read; if the guest is not to keep running, keep the stream
    /// until [`Self::keep_checkpoint`] has answered.
    pub async fn checkpoint(&self, name: &GuestName, request: &CheckpointRequest) -> Result<ImageStream, ClientError> {
        let path = format!("{PREFIX}/guests/{name}/checkpoint");
        let (response, _) = self.wire.send(Ask::new(Method::POST, path).json(request).within(IMAGE_LIMIT)).await?;
        let report = response.headers().get(CHECKPOINT_HEADER).map(|value| serde_json::from_slice(value.as_bytes()));
        let report = report.ok_or_else(|| self.wire.endpoint.protocol("the answer does not say what image it is"))?;
        let report = report.map_err(|source| self.wire.endpoint.protocol(source))?;
        Ok(ImageStream { report, body: response.into_body(), endpoint: self.wire.endpoint.clone() })
    }

    /// Says that an image is safe; its guest ends.
    pub async fn keep_checkpoint(&self, name: &GuestName, digest: &str) -> Result<GuestView, ClientError> {
        let path = format!("{PREFIX}/guests/{name}/checkpoint/{}", encoded(digest));
        self.wire.call(Ask::new(Method::POST, path)).await
    }

    /// Makes a guest of an image; answers when it serves. `progress` is told the bytes sent so far.
    pub async fn restore(
        &self,
        request: &RestoreRequest,
        image: File,
        progress: impl FnMut(u64) + Send + 'static,
    ) -> Result<GuestView, ClientError> {
        let size_bytes = image.metadata().await.map_err(ClientError::File)?.len();
        let name = request.name.as_ref().map(|name| ("name", name.to_string()));
        let ip = request.ip.as_ref().map(|ip| ("ip", ip.clone()));
        let ip6 = request.ip6.as_ref().map(|ip6| ("ip6", ip6.clone()));
        let query: Vec<String> =
            [name, ip, ip6].into_iter().flatten().map(|(key, value)| format!("{key}={}", encoded(&value))).collect();
        let path = format!("{PREFIX}/restore?{}", query.join("&"));
        let limit = COMPILE_LIMIT + Duration::from_secs(size_bytes / BYTES_PER_S_MIN);
        self.wire.call(Ask::new(Method::POST, path).stream(body(image, progress), size_bytes).within(limit)).await
    }
}

impl ImageStream {
    /// Writes its bytes into `target`: as many as the report says. `progress` is told the bytes so far.
    pub async fn read(
        &mut self,
        mut target: impl AsyncWrite + Unpin,
        mut progress: impl FnMut(u64),
    ) -> Result<(), ClientError> {
        let mut received_bytes = 0;
        while received_bytes < self.report.bytes {
            let frame = tokio::time::timeout(ANSWER_LIMIT, self.body.frame()).await;
            let frame = frame
                .map_err(|_| ClientError::TimedOut { endpoint: self.endpoint.to_string(), limit: ANSWER_LIMIT })?;
            let Some(frame) = frame else {
                return Err(self.endpoint.protocol("the image ended before its end"));
            };
            let frame = frame.map_err(|source| self.endpoint.lost(source))?;
            let Ok(bytes) = frame.into_data() else { continue };
            received_bytes += bytes.len() as u64;
            if received_bytes > self.report.bytes {
                return Err(self.endpoint.protocol("the image is longer than it was said to be"));
            }
            target.write_all(&bytes).await.map_err(ClientError::File)?;
            progress(received_bytes);
        }
        target.flush().await.map_err(ClientError::File)
    }
}
