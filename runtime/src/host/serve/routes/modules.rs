//! Modules.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use hyper::StatusCode;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use utoipa::{IntoParams, ToSchema};

use crate::api::{ErrorBody, ErrorCode, ModuleView};
use crate::engine::ModuleHash;
use crate::host::HostError;
use crate::host::serve::App;
use crate::serve::answer::{Checked, Refusal};
use crate::serve::body::Guarded;

type Digest = Checked<Path<ModuleHash>>;

/// Describes [`Digest`].
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "only its description is used")]
pub(super) struct DigestPath {
    /// blake3 of the module's bytes.
    #[param(pattern = "^[0-9a-fA-F]{64}$")]
    digest: String,
}

/// Describes a module's bytes.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[expect(dead_code, reason = "only its description is used")]
pub(super) struct Wasm(Vec<u8>);

/// Bytes read from a module's file at once.
const PIECE_BYTES: usize = 64 * 1024;

/// All modules.
#[utoipa::path(
    get,
    path = "/v1/modules",
    tag = "modules",
    operation_id = "list_modules",
    responses((status = 200, body = Vec<ModuleView>))
)]
pub(super) async fn list(State(app): State<App>) -> Result<Json<Vec<ModuleView>>, Refusal> {
    Ok(Json(app.host.modules().await?))
}

/// A module's bytes. `HEAD` tells whether the host has it.
#[utoipa::path(
    get,
    path = "/v1/modules/{digest}",
    tag = "modules",
    operation_id = "read_module",
    params(DigestPath),
    responses(
        (status = 200, content_type = "application/wasm", body = inline(Wasm)),
        (status = 404, body = ErrorBody)
    )
)]
pub(super) async fn read(State(app): State<App>, Checked(Path(digest)): Digest) -> Result<Response, Refusal> {
    let file = app.host.read_module(digest).await?;
    let metadata = file.metadata().await.map_err(|error| {
        tracing::error!(%digest, %error, "a module that cannot be read");
        Refusal::new(ErrorCode::Internal, format!("module {digest} cannot be read"))
    })?;
    let headers = [(CONTENT_TYPE, "application/wasm".to_owned()), (CONTENT_LENGTH, metadata.len().to_string())];
    Ok((headers, Body::from_stream(pieces(file))).into_response())
}

fn pieces(file: File) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    stream::try_unfold(file, |mut file| async move {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        let read = file.read_buf(&mut piece).await?;
        Ok((read > 0).then(|| (piece.freeze(), file)))
    })
}

/// Bring a module.
///
/// Its bytes are checked against the digest, and it is compiled before the answer. Half of one leaves nothing behind.
#[utoipa::path(
    put,
    path = "/v1/modules/{digest}",
    tag = "modules",
    operation_id = "put_module",
    params(DigestPath),
    request_body(content = inline(Wasm), content_type = "application/wasm"),
    responses(
        (status = 201, description = "It was new", body = ModuleView),
        (status = 200, description = "The host had it", body = ModuleView),
        (status = 422, description = "Not a module that this host runs, or of another digest", body = ErrorBody)
    )
)]
pub(super) async fn put(
    State(app): State<App>,
    Checked(Path(digest)): Digest,
    request: Request,
) -> Result<Response, Refusal> {
    let body = Guarded::new(request.into_body(), app.reception.limits.module_bytes_max, &app.reception.limits)?;
    let fate = body.fate();
    let taken = app.host.put_module(digest, Box::pin(body)).await;
    let new = taken.map_err(|error: HostError| match fate.error() {
        // To the host it was just a body that broke off.
        Some(error) => error.into(),
        None => Refusal::from(error),
    })?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(app.host.module(digest).await?)).into_response())
}

/// Delete a module that no guest uses.
#[utoipa::path(
    delete,
    path = "/v1/modules/{digest}",
    tag = "modules",
    operation_id = "delete_module",
    params(DigestPath),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, body = ErrorBody),
        (status = 409, description = "A guest uses it", body = ErrorBody)
    )
)]
pub(super) async fn delete(State(app): State<App>, Checked(Path(digest)): Digest) -> Result<StatusCode, Refusal> {
    app.host.delete_module(digest).await?;
    Ok(StatusCode::NO_CONTENT)
}
