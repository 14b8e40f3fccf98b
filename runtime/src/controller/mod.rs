//! The controller over HTTP: what `roam sdn` serves. What it decides is [`roam_sdn::Controller`]'s business; who may
//! ask at all, and how much, is [`crate::serve`]'s.
//!
//! ```text
//!  serve/ ──> gate   which roles ──> routes/   whose name ──> Controller
//!                                      ├ watch, figures   server-sent events
//!                                      └ metrics          Prometheus
//! ```
//!
//! A host speaks for itself alone: what it changes it changes in the name that its certificate has.

mod figures;
mod gate;
mod metrics;
mod refusal;
mod routes;
mod watch;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::FromRef;
use roam_sdn::Controller;

use crate::serve::{Application, Reception};
use figures::Figures;
use metrics::Switches;
use watch::Tables;

/// What every handler has at hand.
#[derive(Clone)]
struct App {
    controller: Controller,
    reception: Reception,
    switches: Arc<Switches>,
    tables: Arc<Tables>,
    figures: Figures,
    began: Instant,
}

/// Must be called in a tokio runtime.
impl Application for Controller {
    fn router(self, reception: &Reception) -> Router {
        let figures = Figures::begin(self.clone(), reception.going_down());
        routes::router(App {
            controller: self,
            reception: reception.clone(),
            switches: Arc::default(),
            tables: Arc::default(),
            figures,
            began: Instant::now(),
        })
    }
}

impl FromRef<App> for Reception {
    fn from_ref(app: &App) -> Self {
        app.reception.clone()
    }
}

/// The interface's description, OpenAPI 3.1.
pub fn openapi() -> String {
    routes::openapi()
}
