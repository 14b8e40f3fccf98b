//! Checkpoints.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, LOCATION};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::guests::{Name, NamePath};
use crate::api::{CHECKPOINT_HEADER, CheckpointRequest, ErrorBody, GuestName, GuestView, PREFIX, RestoreRequest};
use crate::host::HostError;
use crate::host::serve::App;
use crate::serve::answer::{Checked, Input, Refusal};
use crate::serve::body::Guarded;

/// Which image.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct ImagePath {
    /// The guest.
    #[param(value_type = String, pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", min_length = 1, max_length = 63)]
    name: GuestName,
    /// The image.
    #[param(pattern = "^[0-9a-f]{64}$")]
    digest: String,
}

/// Describes an image's bytes.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "only its description is used")]
pub(super) struct Image(Vec<u8>);

/// Take an image of a guest that runs.
///
/// Most of it is read while the guest runs; then it is stopped for a moment. A guest that is not to keep running stays
/// frozen, and the answer's body does not end, until the image is confirmed or the connection is over: without the word
/// that the image is safe, within a minute of its last byte, the guest goes on.
#[utoipa::path(
    post,
    path = "/v1/guests/{name}/checkpoint",
    tag = "checkpoints",
    operation_id = "checkpoint_guest",
    params(NamePath),
    request_body = CheckpointRequest,
    responses(
        (
            status = 200,
            description = "Its bytes; the header `roam-checkpoint` has a CheckpointReport, which says how many",
            content_type = "application/octet-stream",
            body = inline(Image),
            headers(("roam-checkpoint" = String, description = "A CheckpointReport, JSON"))
        ),
        (status = 404, body = ErrorBody),
        (status = 409, description = "It does not run, or is being moved or checkpointed", body = ErrorBody),
        (status = 422, description = "Not possible", body = ErrorBody),
        (status = 507, description = "The host's disk is full", body = ErrorBody)
    )
)]
pub(super) async fn checkpoint(
    State(app): State<App>,
    Checked(Path(name)): Name,
    Input(request): Input<CheckpointRequest>,
) -> Result<Response, Refusal> {
    let checkpoint = app.host.checkpoint(&name, request).await?;
    let report = serde_json::to_string(&checkpoint.report).expect("a report is plain data");
    let headers = [(CONTENT_TYPE.as_str(), "application/octet-stream".to_owned()), (CHECKPOINT_HEADER, report)];
    Ok((headers, Body::from_stream(checkpoint.bytes)).into_response())
}

/// Say that an image is safe: its guest ends.
#[utoipa::path(
    post,
    path = "/v1/guests/{name}/checkpoint/{digest}",
    tag = "checkpoints",
    operation_id = "keep_checkpoint",
    params(ImagePath),
    responses(
        (status = 200, description = "It has ended, and is stopped", body = GuestView),
        (status = 404, description = "It does not wait for that: it goes on, or there is none", body = ErrorBody)
    )
)]
pub(super) async fn keep(
    State(app): State<App>,
    Checked(Path(image)): Checked<Path<ImagePath>>,
) -> Result<Json<GuestView>, Refusal> {
    Ok(Json(app.host.keep_checkpoint(&image.name, &image.digest).await?))
}

/// Make a guest of an image.
///
/// All of the image is checked first. Answers when the guest serves; one that does not leaves nothing behind. Its random
/// state is new. If it is to have another address, its connections are reset for it; what listens goes on listening.
#[utoipa::path(
    post,
    path = "/v1/restore",
    tag = "checkpoints",
    operation_id = "restore_guest",
    params(RestoreRequest),
    request_body(content = inline(Image), content_type = "application/octet-stream"),
    responses(
        (
            status = 201,
            description = "It serves",
            body = GuestView,
            headers(("Location" = String, description = "Its path"))
        ),
        (status = 404, description = "The host does not have its module", body = ErrorBody),
        (status = 409, description = "Name or address taken", body = ErrorBody),
        (status = 422, description = "No sound image, or not one for this host", body = ErrorBody),
        (status = 424, description = "It did not start", body = ErrorBody),
        (status = 507, description = "The host's disk is full", body = ErrorBody)
    )
)]
pub(super) async fn restore(
    State(app): State<App>,
    Checked(Query(wanted)): Checked<Query<RestoreRequest>>,
    request: Request,
) -> Result<Response, Refusal> {
    let limits = &app.reception.limits;
    let body = Guarded::new(request.into_body(), limits.image_bytes_max, limits)?;
    let fate = body.fate();
    let guest = app.host.restore(wanted, Box::pin(body)).await.map_err(|error: HostError| match fate.error() {
        // To the host it was just a body that broke off.
        Some(error) => error.into(),
        None => Refusal::from(error),
    })?;
    let location = format!("{PREFIX}/guests/{}", guest.spec.name);
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(guest)).into_response())
}
