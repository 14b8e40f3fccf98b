//! The interface: one handler a route, each described where it stands.

mod addresses;
mod fronts;
mod hosts;
mod itself;

use axum::Router;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{App, gate};
use crate::api::sdn::WatchEvent;
use crate::serve::{HEALTH, METRICS, Rules, behind_gate, description};

/// Asked again and again by each host.
const HEARTBEAT: &str = "/v1/hosts/{name}/heartbeat";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "roam sdn",
        description = "Which host owns which address: the controller of a roam overlay. Served on a unix socket and, \
                       with certificates on both sides (TLS 1.3), on TCP. What is answered with success is on disk, unless the answer says otherwise. \
                       Times are milliseconds since 1970 unless their name says otherwise. Every error carries an \
                       ErrorBody. This text is at /v1/openapi.json.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(WatchEvent)),
    tags(
        (name = "routes", description = "Addresses and their owners, by MAC, IP or name"),
        (name = "hosts", description = "Nodes of the overlay, by name"),
        (name = "fronts", description = "Doors for clients outside the overlay"),
        (name = "controller", description = "The controller itself")
    )
)]
struct Description;

fn described() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(addresses::list, addresses::claim))
        .routes(routes!(addresses::show, addresses::release))
        .routes(routes!(addresses::move_to))
        .routes(routes!(addresses::settle))
        .routes(routes!(hosts::list))
        .routes(routes!(hosts::join, hosts::leave))
        .routes(routes!(hosts::heartbeat))
        .routes(routes!(fronts::list, fronts::open, fronts::close))
        .routes(routes!(itself::watch))
        .routes(routes!(itself::status))
        .routes(routes!(itself::health))
        .routes(routes!(itself::version))
        .routes(routes!(itself::metrics))
}

/// All routes, behind the gate.
pub(super) fn router(app: App) -> Router {
    let (router, _) = described().split_for_parts();
    let reception = app.reception.clone();
    let rules = Rules { may: gate::may, routine: &[HEALTH, METRICS, HEARTBEAT] };
    behind_gate(router.with_state(app), openapi(), reception, rules)
}

/// The description, as it is served and committed.
pub(super) fn openapi() -> String {
    let (_, description) = described().split_for_parts();
    let hosts_may = "read everything, and change what is its own: what has its certificate's name as host";
    description::complete(description, "controller", hosts_may)
}
