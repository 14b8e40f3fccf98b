//! Nodes of the overlay.

use axum::Json;
use axum::extract::{Path, State};
use utoipa::IntoParams;

use crate::api::sdn::{Accepted, Heard, Heartbeat, Join, Kind, NodeView};
use crate::api::{ErrorBody, GuestName};
use crate::cert::Role;
use crate::controller::App;
use crate::serve::answer::{Checked, Input, Refusal};
use crate::serve::peer::Peer;

type Name = Checked<Path<GuestName>>;

/// Describes [`Name`].
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "only its description is used")]
pub(super) struct NamePath {
    /// The host.
    #[param(pattern = "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", min_length = 1, max_length = 63, example = "host-a")]
    name: String,
}

/// All nodes, by name.
#[utoipa::path(
    get,
    path = "/v1/hosts",
    tag = "hosts",
    operation_id = "list_hosts",
    responses((status = 200, body = Vec<NodeView>))
)]
pub(super) async fn list(State(app): State<App>) -> Json<Vec<NodeView>> {
    Json(app.controller.nodes())
}

/// Join the overlay, or tell other addresses. To join again is no error.
#[utoipa::path(
    put,
    path = "/v1/hosts/{name}",
    tag = "hosts",
    operation_id = "join_host",
    params(NamePath),
    request_body = Join,
    responses(
        (status = 200, body = Accepted),
        (status = 409, description = "Another has that end of the tunnels", body = ErrorBody),
        (status = 422, description = "Not possible", body = ErrorBody)
    )
)]
pub(super) async fn join(
    State(app): State<App>,
    peer: Peer,
    Checked(Path(name)): Name,
    Input(join): Input<Join>,
) -> Result<Json<Accepted>, Refusal> {
    app.in_name_of(&peer, &name, "join as")?;
    // All that is addressed to nobody known goes to gateways: no host makes itself one.
    if join.kind == Kind::Gateway && peer.role() == Role::Host {
        let message = format!("{peer} may not join as a gateway: that needs a certificate of role operator");
        return Err(app.forbidden(message));
    }
    Ok(Json(app.controller.join(name, join.kind, join.vtep, join.migrate).await?))
}

/// Say that a host is there, and how its data plane is. An unknown one joins first.
#[utoipa::path(
    post,
    path = "/v1/hosts/{name}/heartbeat",
    tag = "hosts",
    operation_id = "heartbeat",
    params(NamePath),
    request_body = Heartbeat,
    responses((status = 200, body = Heard), (status = 404, body = ErrorBody))
)]
pub(super) async fn heartbeat(
    State(app): State<App>,
    peer: Peer,
    Checked(Path(name)): Name,
    Input(heartbeat): Input<Heartbeat>,
) -> Result<Json<Heard>, Refusal> {
    app.in_name_of(&peer, &name, "speak for")?;
    Ok(Json(app.controller.heartbeat(&name, heartbeat).await?))
}

/// Leave the overlay.
#[utoipa::path(
    delete,
    path = "/v1/hosts/{name}",
    tag = "hosts",
    operation_id = "leave_host",
    params(NamePath),
    responses(
        (status = 200, body = Accepted),
        (status = 404, body = ErrorBody),
        (status = 409, description = "It owns addresses", body = ErrorBody)
    )
)]
pub(super) async fn leave(
    State(app): State<App>,
    peer: Peer,
    Checked(Path(name)): Name,
) -> Result<Json<Accepted>, Refusal> {
    app.in_name_of(&peer, &name, "leave as")?;
    Ok(Json(app.controller.leave(name).await?))
}
