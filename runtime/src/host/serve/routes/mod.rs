//! The interface: one handler a route, each described where it stands.

mod description;
mod guests;
mod host;
mod modules;

use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::get;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::Refusal;
use super::{App, gate};
use crate::api::ErrorCode;

/// Whether the host can do its work.
pub(super) const HEALTH: &str = "/v1/health";
/// What the host is.
pub(super) const VERSION: &str = "/v1/version";
/// Prometheus text.
pub(super) const METRICS: &str = "/metrics";
const OPENAPI: &str = "/v1/openapi.json";

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
        .routes(routes!(modules::list))
        .routes(routes!(modules::read, modules::put, modules::delete))
        .routes(routes!(host::health))
        .routes(routes!(host::version))
        .routes(routes!(host::metrics))
}

/// All routes, behind the gate.
pub(super) fn router(app: App) -> Router {
    let (router, _) = described().split_for_parts();
    let description: Arc<str> = openapi().into();
    let described = move || std::future::ready(json(description.clone()));
    router
        .route(OPENAPI, get(described))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(app.clone(), gate::pass))
        .with_state(app)
}

/// The description, as it is served and committed.
pub(super) fn openapi() -> String {
    let (_, mut description) = described().split_for_parts();
    description::complete(&mut description);
    let mut text = description.to_pretty_json().expect("a description is JSON");
    text.push('\n');
    text
}

fn json(text: Arc<str>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], text.to_string())
}

async fn unknown(uri: Uri) -> Refusal {
    let path: String = uri.path().chars().take(200).collect();
    Refusal::new(ErrorCode::NotFound, format!("there is nothing at {path}; see {OPENAPI}"))
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    Refusal::new(ErrorCode::MethodNotAllowed, format!("{} knows no {method}; see {OPENAPI}", uri.path()))
}
