//! The daemon itself.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;

use crate::api::{Health, HostView};
use crate::host::serve::{App, metrics};
use crate::serve::metrics as requests;

/// Whether the host can do its work.
#[utoipa::path(
    get,
    path = "/v1/health",
    tag = "host",
    operation_id = "health",
    responses((status = 200, body = Health))
)]
pub(super) async fn health(State(app): State<App>) -> Json<Health> {
    Json(app.host.health().await)
}

/// What the host is.
#[utoipa::path(
    get,
    path = "/v1/version",
    tag = "host",
    operation_id = "version",
    responses((status = 200, body = HostView))
)]
pub(super) async fn version(State(app): State<App>) -> Json<HostView> {
    Json(app.host.about().await)
}

/// Metrics of the host and its guests, Prometheus text (OpenMetrics 1.0).
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "host",
    operation_id = "metrics",
    responses((status = 200, content_type = "application/openmetrics-text", body = String))
)]
pub(super) async fn metrics(State(app): State<App>) -> Response {
    match metrics::scrape(&app).await {
        Ok(text) => ([(CONTENT_TYPE, requests::CONTENT_TYPE)], text).into_response(),
        // Writing to memory does not fail; if it did, half a scrape would be worse than none.
        Err(std::fmt::Error) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
