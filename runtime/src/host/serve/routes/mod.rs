//! The interface: one handler a route, each described where it stands.

mod checkpoints;
mod guests;
mod host;
mod migrations;
mod modules;

use axum::Router;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{App, gate};
use crate::serve::{HEALTH, METRICS, Rules, behind_gate, description};

/// What the host is.
pub(super) const VERSION: &str = "/v1/version";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "roam host",
        description = "Runs servers as sandboxed WebAssembly guests. Served on a unix socket and, with certificates on \
                       both sides (TLS 1.3), on TCP. Times are milliseconds since 1970 unless their name says otherwise. \
                       Every error carries an ErrorBody. This text is at /v1/openapi.json.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    tags(
        (name = "guests", description = "Servers, by name"),
        (name = "migrations", description = "Guests on their way from host to host"),
        (name = "checkpoints", description = "Images of guests, in files of whoever asks for them"),
        (name = "modules", description = "WebAssembly modules, by the blake3 digest of their bytes"),
        (name = "host", description = "The daemon itself")
    )
)]
struct Description;

fn described() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(guests::create, guests::list))
        .routes(routes!(guests::inspect, guests::delete))
        .routes(routes!(guests::start))
        .routes(routes!(guests::stop))
        .routes(routes!(guests::logs))
        .routes(routes!(guests::stats))
        .routes(routes!(checkpoints::checkpoint))
        .routes(routes!(checkpoints::keep))
        .routes(routes!(checkpoints::restore))
        .routes(routes!(migrations::migrate))
        .routes(routes!(migrations::list))
        .routes(routes!(migrations::show, migrations::cancel))
        .routes(routes!(migrations::watch))
        .routes(routes!(modules::list))
        .routes(routes!(modules::read, modules::put, modules::delete))
        .routes(routes!(host::health))
        .routes(routes!(host::version))
        .routes(routes!(host::metrics))
}

/// All routes, behind the gate.
pub(super) fn router(app: App) -> Router {
    let (router, _) = described().split_for_parts();
    let reception = app.reception.clone();
    behind_gate(router.with_state(app), openapi(), reception, Rules { may: gate::may, routine: &[HEALTH, METRICS] })
}

/// The description, as it is served and committed.
pub(super) fn openapi() -> String {
    let (_, description) = described().split_for_parts();
    description::complete(description, "host", "read health and version")
}
