//! Requests and their answers, whoever is asked.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode, Uri};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::connection::{Body, Kept, Pool};
use super::{ANSWER_BYTES_MAX, ANSWER_LIMIT, ClientError, Endpoint};
use crate::api::{ErrorBody, ErrorCode};

/// The way to a daemon. Clones share its connections.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    pub(super) endpoint: Arc<Endpoint>,
    pool: Arc<Pool>,
}

impl Wire {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint: Arc::new(endpoint), pool: Arc::default() }
    }

    /// A request whose answer is JSON.
    pub(super) async fn call<T: DeserializeOwned>(&self, ask: Ask) -> Result<T, ClientError> {
        let (response, kept) = self.send(ask).await?;
        let bytes = self.collect(response, kept).await?;
        serde_json::from_slice(&bytes).map_err(|source| self.endpoint.protocol(source))
    }

    /// A request whose answer has no body that matters. Its status.
    pub(super) async fn status(&self, ask: Ask) -> Result<StatusCode, ClientError> {
        let (response, kept) = self.send(ask).await?;
        let status = response.status();
        self.collect(response, kept).await?;
        Ok(status)
    }

    /// Sends a request; an answer that is no success is a [`ClientError::Refused`].
    pub(super) async fn send(&self, ask: Ask) -> Result<(Response<Incoming>, Kept), ClientError> {
        let limit = ask.limit;
        let (response, kept) = match tokio::time::timeout(limit, self.exchange(ask)).await {
            Ok(answer) => answer?,
            Err(_) => return Err(ClientError::TimedOut { endpoint: self.endpoint.to_string(), limit }),
        };
        if response.status().is_success() { Ok((response, kept)) } else { Err(self.refused(response, kept).await) }
    }

    /// A request without a body that changes nothing is sent again on a new connection when a kept one has died.
    async fn exchange(&self, mut ask: Ask) -> Result<(Response<Incoming>, Kept), ClientError> {
        let again = (ask.body.is_none() && ask.method.is_safe()).then(|| ask.bare());
        let (kept, reused) = match self.pool.take().await {
            Some(kept) => (kept, true),
            None => (Kept::connect(&self.endpoint).await?, false),
        };
        let request = ask.request(&self.endpoint)?;
        match (kept.exchange(request, &self.endpoint).await, again) {
            (Err(ClientError::Lost { .. }), Some(mut ask)) if reused => {
                let kept = Kept::connect(&self.endpoint).await?;
                let request = ask.request(&self.endpoint)?;
                kept.exchange(request, &self.endpoint).await
            }
            (answer, _) => answer,
        }
    }

    async fn refused(&self, response: Response<Incoming>, kept: Kept) -> ClientError {
        let status = response.status();
        let bytes = match self.collect(response, kept).await {
            Ok(bytes) => bytes,
            Err(error) => return error,
        };
        let body = serde_json::from_slice(&bytes).unwrap_or_else(|_| ErrorBody {
            // Not from roam's own handlers: what HTTP itself says, or a proxy in between.
            code: if status.is_client_error() { ErrorCode::BadRequest } else { ErrorCode::Internal },
            message: format!("{} answered {status}", self.endpoint),
        });
        ClientError::Refused { status: status.as_u16(), body }
    }

    pub(super) async fn collect(&self, response: Response<Incoming>, kept: Kept) -> Result<Bytes, ClientError> {
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let collected = tokio::time::timeout(ANSWER_LIMIT, body.collect()).await;
        let collected = collected
            .map_err(|_| ClientError::TimedOut { endpoint: self.endpoint.to_string(), limit: ANSWER_LIMIT })?;
        let bytes = collected.map_err(|error| self.endpoint.lost_body(error))?.to_bytes();
        self.pool.keep(kept);
        Ok(bytes)
    }
}

/// What to ask for.
pub(super) struct Ask {
    method: Method,
    path: String,
    body: Option<Body>,
    json: bool,
    length_bytes: Option<u64>,
    limit: Duration,
}

impl Ask {
    pub(super) fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), body: None, json: false, length_bytes: None, limit: ANSWER_LIMIT }
    }

    pub(super) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(super) fn json(mut self, value: &impl Serialize) -> Self {
        // Plain data with text as keys: there is nothing in it that JSON could not say.
        let bytes = serde_json::to_vec(value).expect("the interface's types are JSON");
        self.body = Some(Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync());
        self.json = true;
        self
    }

    pub(super) fn stream(mut self, body: Body, length_bytes: u64) -> Self {
        self.body = Some(body);
        self.length_bytes = Some(length_bytes);
        self
    }

    pub(super) fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The same without its body.
    fn bare(&self) -> Self {
        Self {
            method: self.method.clone(),
            path: self.path.clone(),
            body: None,
            json: false,
            length_bytes: None,
            limit: self.limit,
        }
    }

    fn request(&mut self, endpoint: &Endpoint) -> Result<Request<Body>, ClientError> {
        let empty = || Empty::new().map_err(|never| match never {}).boxed_unsync();
        let body = self.body.take().unwrap_or_else(empty);
        let uri: Uri = self.path.parse().map_err(|source| endpoint.protocol(source))?;
        let mut request = Request::builder().method(self.method.clone()).uri(uri).header(HOST, endpoint.authority());
        if self.json {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(length_bytes) = self.length_bytes {
            request = request.header(CONTENT_LENGTH, length_bytes);
        }
        request.body(body).map_err(|source| endpoint.protocol(source))
    }
}

/// As part of a path or a query (RFC 3986): what people call an address may be anything.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' => encoded.push(byte.into()),
            _ => write!(encoded, "%{byte:02X}").expect("writing to a text does not fail"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_people_write_is_one_part_of_a_path() {
        assert_eq!(encoded("02:00:00:00:00:0a"), "02:00:00:00:00:0a");
        assert_eq!(encoded("kv-1"), "kv-1");
        assert_eq!(encoded("[fd90::1]:80"), "%5Bfd90::1%5D:80");
        assert_eq!(encoded("../a?b#c d%ä"), "..%2Fa%3Fb%23c%20d%25%C3%A4");
    }
}
