//! Answers that say no, and what the router would say in its own words.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRef, FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::http::request::Parts;
use serde::de::DeserializeOwned;

use super::Reception;
use super::body::Guarded;
use crate::api::{ErrorBody, ErrorCode};

/// A request that is not granted.
#[derive(Debug)]
pub(crate) struct Refusal {
    body: ErrorBody,
    retry_after: Option<Duration>,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { body: ErrorBody { code, message: message.into() }, retry_after: None }
    }

    pub(crate) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.body.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self.body)).into_response();
        if let Some(wait) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, (wait.as_secs() + 1).into());
        }
        response
    }
}

impl From<PathRejection> for Refusal {
    fn from(rejection: PathRejection) -> Self {
        Self::new(ErrorCode::BadRequest, rejection.body_text())
    }
}

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(ErrorCode::BadRequest, rejection.body_text())
    }
}

impl From<JsonRejection> for Refusal {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(ErrorCode::BadRequest, rejection.body_text())
    }
}

/// An extractor of axum's whose rejection is a [`Refusal`].
pub(crate) struct Checked<E>(pub(crate) E);

impl<S, E> FromRequestParts<S> for Checked<E>
where
    S: Send + Sync,
    E: FromRequestParts<S>,
    E::Rejection: Into<Refusal>,
{
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        E::from_request_parts(parts, state).await.map(Self).map_err(Into::into)
    }
}

/// A body of JSON, read within the limits.
pub(crate) struct Input<T>(pub(crate) T);

impl<S, T> FromRequest<S> for Input<T>
where
    S: Send + Sync,
    T: DeserializeOwned,
    Reception: FromRef<S>,
{
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let limits = Reception::from_ref(state).limits;
        let named = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = named.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
        // Also a guard: a browser with an operator's certificate sends this type only where it may.
        if !media_type.eq_ignore_ascii_case("application/json") {
            return Err(Refusal::new(ErrorCode::BadRequest, "the body must be JSON: Content-Type: application/json"));
        }
        let bytes = Guarded::new(request.into_body(), limits.body_bytes_max, &limits)?.collect().await?;
        let Json(value) = Json::from_bytes(&bytes)?;
        Ok(Self(value))
    }
}
