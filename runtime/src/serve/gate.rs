//! What every request passes: counted, limited, allowed, and told about.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::Method;
use tracing::Instrument;

use super::Reception;
use super::answer::Refusal;
use super::metrics::Rejected;
use super::peer::Peer;
use crate::api::ErrorCode;
use crate::cert::Role;

/// What a daemon says of its routes.
#[derive(Clone)]
pub(crate) struct Rules {
    /// Whether a role may ask this of a route.
    pub(crate) may: fn(Role, &Method, &str) -> bool,
    /// Routes that are asked again and again, and logged only for who looks closely.
    pub(crate) routine: &'static [&'static str],
}

/// What the gate knows.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) reception: Reception,
    pub(crate) rules: Rules,
}

/// Around every handler, the one of unknown paths included.
pub(crate) async fn pass(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = route.unwrap_or_else(|| "unknown".to_owned());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    // Set for each connection before anything is read from it.
    let Some(peer) = request.extensions().get::<Peer>().cloned() else {
        return Refusal::new(ErrorCode::Internal, "a request of nobody").into_response();
    };
    let span = tracing::info_span!("request", %method, path, %peer);
    let response = match gate.admit(&peer, &method, &route) {
        Ok(()) => next.run(request).instrument(span.clone()).await,
        Err(refusal) => refusal.into_response(),
    };
    let (status, took) = (response.status().as_u16(), began.elapsed());
    gate.reception.metrics.answered(&route, &method, status, took);
    let took_us = took.as_micros() as u64;
    span.in_scope(|| {
        if gate.rules.routine.contains(&route.as_str()) {
            tracing::debug!(route, status, took_us, "answered");
        } else {
            tracing::info!(route, status, took_us, "answered");
        }
    });
    response
}

impl Gate {
    fn admit(&self, peer: &Peer, method: &Method, route: &str) -> Result<(), Refusal> {
        let Reception { peers, metrics, .. } = &self.reception;
        if let Err(wait) = peers.request(peer, Instant::now()) {
            metrics.rejected(Rejected::Rate);
            return Err(Refusal::new(ErrorCode::TooManyRequests, "too many requests").retry_after(wait));
        }
        if !(self.rules.may)(peer.role(), method, route) {
            metrics.rejected(Rejected::Role);
            let message = format!("{peer} may not do this: it needs a certificate of role operator");
            return Err(Refusal::new(ErrorCode::Forbidden, message));
        }
        Ok(())
    }
}
