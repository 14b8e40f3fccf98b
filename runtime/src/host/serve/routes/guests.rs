//! Guests.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, LOCATION};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::api::{ErrorBody, ErrorCode, GuestName, GuestSpec, GuestStats, GuestView, LogEntry, PREFIX};
use crate::host::serve::App;
use crate::host::{HostError, LogQuery};
use crate::serve::answer::{Checked, Input, Refusal};

pub(super) type Name = Checked<Path<GuestName>>;

/// Describes [`Name`].
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "only its description is used")]
pub(super) struct NamePath {
    /// The guest.
    #[param(pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", min_length = 1, max_length = 63, example = "kv")]
    name: String,
}

/// How long a guest that is stopped has, unless the request says.
const GRACE_MS: u64 = 2000;
/// How long it can be given.
const GRACE_MS_MAX: u64 = 60_000;
/// Log lines that are sent as one piece when they are there at once.
const LINES_AT_ONCE: usize = 256;

/// Deploy a guest.
///
/// The host must have its module. Answers when the guest serves; one that does not start leaves nothing behind.
#[utoipa::path(
    post,
    path = "/v1/guests",
    tag = "guests",
    operation_id = "create_guest",
    request_body = GuestSpec,
    responses(
        (
            status = 201,
            description = "It serves",
            body = GuestView,
            headers(("Location" = String, description = "Its path"))
        ),
        (status = 404, description = "The host does not have its module", body = ErrorBody),
        (status = 409, description = "Name or address taken", body = ErrorBody),
        (status = 422, description = "Not possible", body = ErrorBody),
        (status = 424, description = "It did not start", body = ErrorBody)
    )
)]
pub(super) async fn create(State(app): State<App>, Input(spec): Input<GuestSpec>) -> Result<Response, Refusal> {
    let guest = app.host.create(spec).await?;
    let location = format!("{PREFIX}/guests/{}", guest.spec.name);
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(guest)).into_response())
}

/// All guests, by name.
#[utoipa::path(
    get,
    path = "/v1/guests",
    tag = "guests",
    operation_id = "list_guests",
    responses((status = 200, body = Vec<GuestView>))
)]
pub(super) async fn list(State(app): State<App>) -> Json<Vec<GuestView>> {
    Json(app.host.list().await)
}

/// One guest.
#[utoipa::path(
    get,
    path = "/v1/guests/{name}",
    tag = "guests",
    operation_id = "inspect_guest",
    params(NamePath),
    responses((status = 200, body = GuestView), (status = 404, body = ErrorBody))
)]
pub(super) async fn inspect(State(app): State<App>, Checked(Path(name)): Name) -> Result<Json<GuestView>, Refusal> {
    Ok(Json(app.host.inspect(&name).await?))
}

/// Start a guest that is stopped, ended, waiting or parked.
#[utoipa::path(
    post,
    path = "/v1/guests/{name}/start",
    tag = "guests",
    operation_id = "start_guest",
    params(NamePath),
    responses(
        (status = 200, description = "It serves", body = GuestView),
        (status = 404, body = ErrorBody),
        (status = 409, description = "It runs", body = ErrorBody),
        (status = 424, description = "It did not start", body = ErrorBody)
    )
)]
pub(super) async fn start(State(app): State<App>, Checked(Path(name)): Name) -> Result<Json<GuestView>, Refusal> {
    Ok(Json(app.host.start(&name).await?))
}

/// How to stop.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Stop {
    /// How long it may take before it is killed, milliseconds.
    #[serde(default = "grace")]
    #[param(default = grace, maximum = 60000)]
    grace_ms: u64,
}

fn grace() -> u64 {
    GRACE_MS
}

/// Stop a guest. It stays on record; stopping a stopped one is no error.
#[utoipa::path(
    post,
    path = "/v1/guests/{name}/stop",
    tag = "guests",
    operation_id = "stop_guest",
    params(NamePath, Stop),
    responses(
        (status = 200, description = "It is stopped", body = GuestView),
        (status = 404, body = ErrorBody),
        (status = 422, description = "Too long a grace", body = ErrorBody)
    )
)]
pub(super) async fn stop(
    State(app): State<App>,
    Checked(Path(name)): Name,
    Checked(Query(stop)): Checked<Query<Stop>>,
) -> Result<Json<GuestView>, Refusal> {
    if stop.grace_ms > GRACE_MS_MAX {
        let message = format!("grace_ms is {}; it must be at most {GRACE_MS_MAX}", stop.grace_ms);
        return Err(Refusal::new(ErrorCode::Invalid, message));
    }
    Ok(Json(app.host.stop(&name, Duration::from_millis(stop.grace_ms)).await?))
}

/// How to delete.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Delete {
    /// Also when it runs.
    #[serde(default)]
    #[param(default = false)]
    force: bool,
}

/// Delete a guest, its record and its log.
#[utoipa::path(
    delete,
    path = "/v1/guests/{name}",
    tag = "guests",
    operation_id = "delete_guest",
    params(NamePath, Delete),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, body = ErrorBody),
        (status = 409, description = "It runs; stop it first, or force", body = ErrorBody)
    )
)]
pub(super) async fn delete(
    State(app): State<App>,
    Checked(Path(name)): Name,
    Checked(Query(delete)): Checked<Query<Delete>>,
) -> Result<StatusCode, Refusal> {
    app.host.delete(&name, delete.force).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A guest's counters.
#[utoipa::path(
    get,
    path = "/v1/guests/{name}/stats",
    tag = "guests",
    operation_id = "guest_stats",
    params(NamePath),
    responses(
        (status = 200, body = GuestStats),
        (status = 404, body = ErrorBody),
        (status = 409, description = "It does not run", body = ErrorBody),
        (status = 503, description = "It does not answer", body = ErrorBody)
    )
)]
pub(super) async fn stats(State(app): State<App>, Checked(Path(name)): Name) -> Result<Json<GuestStats>, Refusal> {
    Ok(Json(app.host.stats(&name).await?))
}

/// Which log lines.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Lines {
    /// Go on with new lines as they come.
    #[serde(default)]
    #[param(default = false)]
    follow: bool,
    /// Begin with the last so many lines; all that are kept when left out.
    tail: Option<u64>,
}

/// A guest's log: one JSON object a line.
///
/// A log that breaks off without the end of the chunked body is not whole.
#[utoipa::path(
    get,
    path = "/v1/guests/{name}/logs",
    tag = "guests",
    operation_id = "guest_logs",
    params(NamePath, Lines),
    responses(
        (status = 200, content_type = "application/x-ndjson", body = LogEntry),
        (status = 404, body = ErrorBody)
    )
)]
pub(super) async fn logs(
    State(app): State<App>,
    Checked(Path(name)): Name,
    Checked(Query(lines)): Checked<Query<Lines>>,
) -> Result<Response, Refusal> {
    let query = LogQuery { follow: lines.follow, tail: lines.tail };
    let entries = app.host.logs(&name, query).await?;
    // A follower must not keep the daemon from going down. The body ends whole: what was sent is what there was.
    let pieces = entries.take_until(Box::pin(app.reception.going_down())).ready_chunks(LINES_AT_ONCE).map(piece);
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(pieces)).into_response())
}

fn piece(entries: Vec<Result<LogEntry, HostError>>) -> Result<Bytes, std::io::Error> {
    let mut text = BytesMut::new().writer();
    for entry in entries {
        let entry = entry.map_err(|error| {
            tracing::warn!(%error, "a log broke off");
            std::io::Error::other(error)
        })?;
        serde_json::to_writer(&mut text, &entry)?;
        text.get_mut().put_u8(b'\n');
    }
    Ok(text.into_inner().freeze())
}
