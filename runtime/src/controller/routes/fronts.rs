//! Doors for clients outside the overlay.

use std::net::SocketAddr;

use axum::Json;
use axum::extract::{Query, State};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::api::ErrorBody;
use crate::api::sdn::{Accepted, Front, FrontKey, Protocol};
use crate::controller::App;
use crate::serve::answer::{Checked, Input, Refusal};

/// Which front.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Key {
    /// TCP or UDP.
    protocol: Protocol,
    /// Where clients come to.
    #[param(value_type = String, example = "192.0.2.1:80")]
    listen: SocketAddr,
}

/// All fronts.
#[utoipa::path(
    get,
    path = "/v1/fronts",
    tag = "fronts",
    operation_id = "list_fronts",
    responses((status = 200, body = Vec<Front>))
)]
pub(super) async fn list(State(app): State<App>) -> Json<Vec<Front>> {
    Json(app.controller.table().fronts)
}

/// Open a front, or lead it elsewhere. Flows that are under way go on as they were.
#[utoipa::path(
    put,
    path = "/v1/fronts",
    tag = "fronts",
    operation_id = "open_front",
    request_body = Front,
    responses((status = 200, body = Accepted), (status = 422, description = "Not possible", body = ErrorBody))
)]
pub(super) async fn open(State(app): State<App>, Input(front): Input<Front>) -> Result<Json<Accepted>, Refusal> {
    Ok(Json(app.controller.open_front(front).await?))
}

/// Close a front. Flows that are under way go on.
#[utoipa::path(
    delete,
    path = "/v1/fronts",
    tag = "fronts",
    operation_id = "close_front",
    params(Key),
    responses((status = 200, body = Accepted), (status = 404, body = ErrorBody))
)]
pub(super) async fn close(
    State(app): State<App>,
    Checked(Query(Key { protocol, listen })): Checked<Query<Key>>,
) -> Result<Json<Accepted>, Refusal> {
    Ok(Json(app.controller.close_front(FrontKey { protocol, listen }).await?))
}
