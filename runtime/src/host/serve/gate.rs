//! What every request passes: counted, limited, allowed, and told about.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::Method;
use tracing::Instrument;

use super::App;
use super::answer::Refusal;
use super::metrics::Rejected;
use super::peer::Peer;
use super::routes;
use crate::api::ErrorCode;
use crate::cert::Role;

/// Around every handler, the one of unknown paths included.
pub(super) async fn pass(State(app): State<App>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_else(|| "unknown".to_owned());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    // Set for each connection before anything is read from it.
    let Some(peer) = request.extensions().get::<Peer>().cloned() else {
        return Refusal::new(ErrorCode::Internal, "a request of nobody").into_response();
    };
    let span = tracing::info_span!("request", %method, path, %peer);
    let response = match admit(&app, &peer, &method, &route) {
        Ok(()) => next.run(request).instrument(span.clone()).await,
        Err(refusal) => refusal.into_response(),
    };
    let (status, took) = (response.status().as_u16(), began.elapsed());
    app.metrics.answered(&route, &method, status, took);
    let took_us = took.as_micros() as u64;
    span.in_scope(|| {
        if method == Method::GET && [routes::HEALTH, routes::METRICS].contains(&route.as_str()) {
            tracing::debug!(route, status, took_us, "answered");
        } else {
            tracing::info!(route, status, took_us, "answered");
        }
    });
    response
}

fn admit(app: &App, peer: &Peer, method: &Method, route: &str) -> Result<(), Refusal> {
    if let Err(wait) = app.peers.request(peer, Instant::now()) {
        app.metrics.rejected(Rejected::Rate);
        return Err(Refusal::new(ErrorCode::TooManyRequests, "too many requests").retry_after(wait));
    }
    if !may(peer.role(), method, route) {
        app.metrics.rejected(Rejected::Role);
        let message = format!("{peer} may not do this: it needs a certificate of role operator");
        return Err(Refusal::new(ErrorCode::Forbidden, message));
    }
    Ok(())
}

/// Operators may do everything. A host may only look whether another one is there and what it is.
fn may(role: Role, method: &Method, route: &str) -> bool {
    match role {
        Role::Operator => true,
        Role::Host => method.is_safe() && [routes::HEALTH, routes::VERSION].contains(&route),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_may_do_little() {
        assert!(may(Role::Host, &Method::GET, routes::HEALTH) && may(Role::Host, &Method::GET, routes::VERSION));
        assert!(!may(Role::Host, &Method::POST, routes::HEALTH));
        for route in ["/v1/guests", "/v1/modules", routes::METRICS, "unknown"] {
            assert!(!may(Role::Host, &Method::GET, route), "{route}");
            assert!(may(Role::Operator, &Method::DELETE, route), "{route}");
        }
    }
}
