//! Migrations.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use serde::Deserialize;
use utoipa::IntoParams;

use super::guests::{Name, NamePath};
use crate::api::{ErrorBody, GuestName, MigrateRequest, MigrationEvent, MigrationView, PREFIX};
use crate::host::MigrationViews;
use crate::host::serve::App;
use crate::serve::answer::{Checked, Input, Refusal};

type Id = Checked<Path<String>>;

/// Describes [`Id`].
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "only its description is used")]
pub(super) struct IdPath {
    /// The migration.
    #[param(pattern = "^[0-9a-f]{32}$")]
    id: String,
}

/// How long nothing may be said: a comment keeps the connection, and shows a follower that it has one.
const SILENCE: Duration = Duration::from_secs(3);

/// Move a guest to another host, sockets and all.
///
/// Answers when it is under way; to watch it is to hear how it goes and ends. Until the guest is at the target, it serves
/// where it is, whatever fails.
#[utoipa::path(
    post,
    path = "/v1/guests/{name}/migrate",
    tag = "migrations",
    operation_id = "migrate_guest",
    params(NamePath),
    request_body = MigrateRequest,
    responses(
        (
            status = 202,
            description = "It is under way",
            body = MigrationView,
            headers(("Location" = String, description = "Its path"))
        ),
        (status = 404, description = "There is no such guest, or no such host", body = ErrorBody),
        (status = 409, description = "It does not run, is being moved already, or is there already", body = ErrorBody),
        (status = 422, description = "Not possible", body = ErrorBody)
    )
)]
pub(super) async fn migrate(
    State(app): State<App>,
    Checked(Path(name)): Name,
    Input(request): Input<MigrateRequest>,
) -> Result<Response, Refusal> {
    let migration = app.host.migrate(&name, request).await?;
    let location = format!("{PREFIX}/migrations/{}", migration.id);
    Ok((StatusCode::ACCEPTED, [(LOCATION, location)], Json(migration)).into_response())
}

/// Which migrations.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Which {
    /// Those of this guest; all when left out.
    #[param(value_type = Option<String>)]
    guest: Option<GuestName>,
}

/// Migrations under way and the last thousand that are over, from and to this host, the newest first.
#[utoipa::path(
    get,
    path = "/v1/migrations",
    tag = "migrations",
    operation_id = "list_migrations",
    params(Which),
    responses((status = 200, body = Vec<MigrationView>))
)]
pub(super) async fn list(
    State(app): State<App>,
    Checked(Query(which)): Checked<Query<Which>>,
) -> Json<Vec<MigrationView>> {
    let mut all = app.host.migrations();
    all.retain(|view| which.guest.as_ref().is_none_or(|guest| view.guest == *guest));
    Json(all)
}

/// One migration.
#[utoipa::path(
    get,
    path = "/v1/migrations/{id}",
    tag = "migrations",
    operation_id = "show_migration",
    params(IdPath),
    responses((status = 200, body = MigrationView), (status = 404, body = ErrorBody))
)]
pub(super) async fn show(State(app): State<App>, Checked(Path(id)): Id) -> Result<Json<MigrationView>, Refusal> {
    Ok(Json(app.host.migration(&id)?))
}

/// Cancel a migration.
///
/// Answers when that is asked for. The guest stays where it is, unless it is too late: how it ended is seen when it is
/// over.
#[utoipa::path(
    delete,
    path = "/v1/migrations/{id}",
    tag = "migrations",
    operation_id = "cancel_migration",
    params(IdPath),
    responses(
        (status = 202, description = "It is asked for", body = MigrationView),
        (status = 404, body = ErrorBody),
        (status = 409, description = "It is over, or the target may have the guest already", body = ErrorBody)
    )
)]
pub(super) async fn cancel(
    State(app): State<App>,
    Checked(Path(id)): Id,
) -> Result<(StatusCode, Json<MigrationView>), Refusal> {
    Ok((StatusCode::ACCEPTED, Json(app.host.cancel_migration(&id)?)))
}

/// Follow a migration: server-sent events.
///
/// An event is called `migration`; its data is a MigrationView: how it is, first of all, then whenever that changes, at
/// most ten times a second. It ends after one that is over; without, the daemon goes down. A comment comes when there is
/// nothing else to say.
#[utoipa::path(
    get,
    path = "/v1/migrations/{id}/watch",
    tag = "migrations",
    operation_id = "watch_migration",
    params(IdPath),
    responses(
        (status = 200, content_type = "text/event-stream", body = MigrationEvent),
        (status = 404, body = ErrorBody)
    )
)]
pub(super) async fn watch(State(app): State<App>, Checked(Path(id)): Id) -> Result<Response, Refusal> {
    let views = app.host.watch_migration(&id)?;
    let headers = [(CONTENT_TYPE, "text/event-stream"), (CACHE_CONTROL, "no-store")];
    let body = Body::from_stream(events(views, Box::pin(app.reception.going_down())));
    Ok((headers, body).into_response())
}

/// As they are sent. Nothing is gathered for a follower that does not read: the next view is taken when the last is sent.
fn events(
    views: MigrationViews,
    down: Pin<Box<dyn Future<Output = ()> + Send>>,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let pieces = stream::unfold(views, |mut views| async move {
        let piece = match tokio::time::timeout(SILENCE, views.next()).await {
            Ok(view) => event(&view?),
            Err(_elapsed) => Bytes::from_static(b":\n\n"),
        };
        Some((Ok(piece), views))
    });
    pieces.take_until(down)
}

fn event(view: &MigrationView) -> Bytes {
    let data = serde_json::to_string(view).expect("a view is plain data with text as keys");
    format!("event: migration\ndata: {data}\n\n").into()
}
