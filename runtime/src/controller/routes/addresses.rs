//! Addresses and their owners.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::LOCATION;
use roam_sdn::table::Refused;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::api::sdn::{Accepted, Claim, Generation, Move, Route, RouteView};
use crate::api::{ErrorBody, PREFIX};
use crate::cert::Role;
use crate::controller::App;
use crate::serve::answer::{Checked, Input, Refusal};
use crate::serve::peer::Peer;

type Called = Checked<Path<String>>;

/// Describes [`Called`].
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "only its description is used")]
pub(super) struct CalledPath {
    /// A MAC, an IP address, or the name where only one address is called so.
    #[param(example = "10.90.1.2")]
    address: String,
}

/// How to list.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Listed {
    /// With what passed, which takes as long as reading the data plane does.
    #[serde(default)]
    #[param(default = false)]
    counters: bool,
}

/// Of which generation.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Of {
    /// The address's generation, as the asker knows it; another one is refused.
    generation: Generation,
}

/// All addresses, by MAC.
#[utoipa::path(
    get,
    path = "/v1/routes",
    tag = "routes",
    operation_id = "list_routes",
    params(Listed),
    responses((status = 200, body = Vec<RouteView>))
)]
pub(super) async fn list(
    State(app): State<App>,
    Checked(Query(listed)): Checked<Query<Listed>>,
) -> Result<Json<Vec<RouteView>>, Refusal> {
    // A plane that cannot be read is in trouble, which the status tells; whose an address is can be seen all the same.
    let counters = if listed.counters { app.controller.counters().await.unwrap_or_default() } else { BTreeMap::new() };
    Ok(Json(app.controller.routes(&counters)))
}

/// One address, with what passed.
#[utoipa::path(
    get,
    path = "/v1/routes/{address}",
    tag = "routes",
    operation_id = "show_route",
    params(CalledPath),
    responses(
        (status = 200, body = RouteView),
        (status = 404, body = ErrorBody),
        (status = 409, description = "Several are called so", body = ErrorBody)
    )
)]
pub(super) async fn show(State(app): State<App>, Checked(Path(called)): Called) -> Result<Json<RouteView>, Refusal> {
    let mac = app.controller.find(&called)?.address.mac;
    // Whose it is does not hang on a plane that cannot be read.
    let counters = app.controller.counters().await.unwrap_or_default();
    let mut views = app.controller.routes(&counters).into_iter();
    let view = views.find(|view| view.address.mac == mac);
    // Released since it was found.
    Ok(Json(view.ok_or(Refused::NoRoute(mac))?))
}

/// Claim an address for a host. To claim again what one has is no error.
#[utoipa::path(
    post,
    path = "/v1/routes",
    tag = "routes",
    operation_id = "claim_route",
    request_body = Claim,
    responses(
        (
            status = 201,
            description = "It is the host's",
            body = Accepted,
            headers(("Location" = String, description = "The address's path"))
        ),
        (status = 404, description = "There is no such host", body = ErrorBody),
        (status = 409, description = "It is another's, or of another generation", body = ErrorBody),
        (status = 422, description = "Not possible", body = ErrorBody)
    )
)]
pub(super) async fn claim(State(app): State<App>, peer: Peer, Input(claim): Input<Claim>) -> Result<Response, Refusal> {
    app.in_name_of(&peer, &claim.host, "claim an address for")?;
    let location = format!("{PREFIX}/routes/{}", claim.address.mac);
    let accepted = app.controller.claim(claim.address, claim.host, claim.held).await?;
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(accepted)).into_response())
}

/// Move an address to another host, or have its owner begin a new generation.
///
/// Answered when frames go the new way and it is on disk; with `early` before that, when it may still be forgotten. A
/// controller that may have forgotten such a move is of another incarnation, and refuses who says one.
#[utoipa::path(
    post,
    path = "/v1/routes/{address}/move",
    tag = "routes",
    operation_id = "move_route",
    params(CalledPath),
    request_body = Move,
    responses(
        (status = 200, body = Accepted),
        (status = 404, description = "There is no such address or host", body = ErrorBody),
        (status = 409, description = "It is of another generation, or the controller of another incarnation", body = ErrorBody),
        (status = 422, description = "Not to that host", body = ErrorBody)
    )
)]
pub(super) async fn move_to(
    State(app): State<App>,
    peer: Peer,
    Checked(Path(called)): Called,
    Input(to): Input<Move>,
) -> Result<Json<Accepted>, Refusal> {
    // A guest may be stopped until this is answered: by its MAC nothing is looked up that others look at meanwhile.
    let mac = match called.parse() {
        Ok(mac) => mac,
        Err(_) => app.controller.find(&called)?.address.mac,
    };
    if let Err(refusal) = app.in_name_of(&peer, &to.to, "move an address to")
        && !app.gives(&peer, mac, &to)?
    {
        return Err(refusal);
    }
    let accepted = app.controller.move_to(mac, to).await?;
    app.switches.observe(&accepted);
    Ok(Json(accepted))
}

/// Settle a move: the owner before need pass nothing on any more.
#[utoipa::path(
    post,
    path = "/v1/routes/{address}/settle",
    tag = "routes",
    operation_id = "settle_route",
    params(CalledPath, Of),
    responses(
        (status = 200, body = Accepted),
        (status = 404, body = ErrorBody),
        (status = 409, description = "It is of another generation", body = ErrorBody)
    )
)]
pub(super) async fn settle(
    State(app): State<App>,
    peer: Peer,
    Checked(Path(called)): Called,
    Checked(Query(of)): Checked<Query<Of>>,
) -> Result<Json<Accepted>, Refusal> {
    let route = owned(&app, &peer, &called, of.generation, "settle an address of")?;
    Ok(Json(app.controller.settle(route.address.mac, of.generation).await?))
}

/// Release an address: it is nobody's.
#[utoipa::path(
    delete,
    path = "/v1/routes/{address}",
    tag = "routes",
    operation_id = "release_route",
    params(CalledPath, Of),
    responses(
        (status = 200, body = Accepted),
        (status = 404, body = ErrorBody),
        (status = 409, description = "It is of another generation", body = ErrorBody)
    )
)]
pub(super) async fn release(
    State(app): State<App>,
    peer: Peer,
    Checked(Path(called)): Called,
    Checked(Query(of)): Checked<Query<Of>>,
) -> Result<Json<Accepted>, Refusal> {
    let route = owned(&app, &peer, &called, of.generation, "release an address of")?;
    Ok(Json(app.controller.release(route.address.mac, of.generation).await?))
}

/// An address that its owner asks for. The generation that is found is the one that is changed: one that moves
/// meanwhile is refused, so that nobody changes what has just become another's.
fn owned(app: &App, peer: &Peer, called: &str, generation: Generation, what: &str) -> Result<Route, Refusal> {
    let route = app.controller.find(called)?;
    let owner = &route.placement.host;
    let fenced = peer.role() == Role::Host && generation != route.placement.generation;
    if fenced {
        let (address, placement) = (route.address, route.placement);
        return Err(Refusal::from(Refused::Fenced {
            mac: address.mac,
            held: Some(generation),
            generation: placement.generation,
            owner: placement.host,
            name: address.name,
        }));
    }
    app.in_name_of(peer, owner, what)?;
    Ok(route)
}
