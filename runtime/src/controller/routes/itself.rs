//! The controller itself, and what changes.

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::api::Health;
use crate::api::sdn::{ControllerStatus, ControllerView, Revision};
use crate::controller::{App, metrics, watch};
use crate::serve::answer::{Checked, Refusal};
use crate::serve::metrics as requests;

/// Where a client that lost its connection says how far it got.
const LAST_EVENT_ID: &str = "last-event-id";

/// What to watch.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Watching {
    /// Begin with what was changed after this revision. A header `Last-Event-ID` says the same.
    after: Option<Revision>,
    /// Also send the addresses with their counters, each second.
    #[serde(default)]
    #[param(default = false)]
    figures: bool,
}

/// Follow what changes: server-sent events.
///
/// An event is called `table`, `update`, `figures` or `goodbye`; its data is what a WatchEvent of that name has; its id
/// is the revision to go on after. A table comes first when no revision is given, and whenever updates are no longer
/// kept: what came before it is void. A comment comes when there is nothing else to say.
#[utoipa::path(
    get,
    path = "/v1/watch",
    tag = "routes",
    operation_id = "watch",
    params(Watching),
    responses((status = 200, content_type = "text/event-stream", body = String))
)]
pub(super) async fn watch(
    State(app): State<App>,
    Checked(Query(watching)): Checked<Query<Watching>>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let resumed = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok()?.parse().ok().map(Revision));
    let events = watch::events(app, watching.after.or(resumed), watching.figures);
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(events)).into_response())
}

/// How the controller is.
#[utoipa::path(
    get,
    path = "/v1/status",
    tag = "controller",
    operation_id = "status",
    responses((status = 200, body = ControllerStatus))
)]
pub(super) async fn status(State(app): State<App>) -> Json<ControllerStatus> {
    Json(app.controller.status())
}

/// Whether the controller can do its work.
#[utoipa::path(
    get,
    path = "/v1/health",
    tag = "controller",
    operation_id = "health",
    responses((status = 200, body = Health))
)]
pub(super) async fn health(State(app): State<App>) -> Json<Health> {
    let status = app.controller.status();
    let plane = status.plane.and_then(|plane| plane.trouble);
    let problems = [
        plane.map(|trouble| format!("the data plane is not as it should be: {trouble}")),
        status.fronts_trouble.map(|trouble| format!("the fronts are not as they should be: {trouble}")),
        status.store_trouble.map(|trouble| format!("the last change could not be kept on disk: {trouble}")),
    ];
    let problems: Vec<String> = problems.into_iter().flatten().collect();
    Json(Health { healthy: problems.is_empty(), problems })
}

/// What the controller is.
#[utoipa::path(
    get,
    path = "/v1/version",
    tag = "controller",
    operation_id = "version",
    responses((status = 200, body = ControllerView))
)]
pub(super) async fn version(State(app): State<App>) -> Json<ControllerView> {
    let uptime_ms = u64::try_from(app.began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let status = app.controller.status();
    Json(ControllerView { node: status.node, incarnation: status.incarnation, version, uptime_ms })
}

/// Metrics of the controller and its addresses, Prometheus text (OpenMetrics 1.0).
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "controller",
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
