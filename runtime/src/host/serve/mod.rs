//! What a host is asked over HTTP; by whom and how much is [`crate::serve`]'s business.

mod gate;
mod metrics;
mod routes;

use axum::Router;
use axum::extract::FromRef;

use super::{Host, HostError};
use crate::api::ErrorCode;
use crate::sentence::sentence;
use crate::serve::answer::Refusal;
use crate::serve::{Application, Reception};

/// What every handler has at hand.
#[derive(Clone)]
struct App {
    host: Host,
    reception: Reception,
}

impl Application for Host {
    fn router(self, reception: &Reception) -> Router {
        routes::router(App { host: self, reception: reception.clone() })
    }
}

impl FromRef<App> for Reception {
    fn from_ref(app: &App) -> Self {
        app.reception.clone()
    }
}

impl From<HostError> for Refusal {
    fn from(error: HostError) -> Self {
        if matches!(error.code(), ErrorCode::Internal | ErrorCode::DiskFull) {
            tracing::error!("{}", sentence(&error));
        }
        Self::new(error.code(), error.to_string())
    }
}

/// The interface's description, OpenAPI 3.1.
pub fn openapi() -> String {
    routes::openapi()
}
