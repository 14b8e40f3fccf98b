//! How a daemon is asked over HTTP: by whom, how much, and how it is answered. What it is asked is the daemon's own
//! ([`Application`]): the host's in [`crate::host::serve`], the controller's in [`crate::controller`].
//!
//! ```text
//!  listen   unix socket, TCP ──> accept   handshake, limits of connections, lingering close
//!                                  │ Peer, known before any handler runs
//!                                  └─> gate   span, rate, role, count ──> the application's routes
//! ```
//!
//! Invariants: an unauthenticated peer reaches no handler; every length, count and wait has a limit ([`Limits`]);
//! every error a handler or the router gives is an [`ErrorBody`](crate::api::ErrorBody). Only what is no HTTP at all
//! is answered by the HTTP library alone, with a bare 400 or 431.

mod accept;
pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod description;
mod gate;
mod limits;
mod listen;
pub(crate) mod metrics;
pub(crate) mod peer;
mod stream;

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::http::{Method, Uri, header};
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::get;
use rustls::ServerConfig;
use tokio::sync::watch;

use crate::api::ErrorCode;
use accept::{Connections, Doors};
use answer::Refusal;
use gate::Gate;
pub(crate) use gate::Rules;
pub use limits::Limits;
pub use listen::ListenError;
use listen::{Socket, Tcp};
use metrics::Metrics;
use peer::Peers;

/// Where each daemon says whether it can do its work.
pub(crate) const HEALTH: &str = "/v1/health";
/// Where its Prometheus text is.
pub(crate) const METRICS: &str = "/metrics";
const OPENAPI: &str = "/v1/openapi.json";

/// What a daemon serves.
pub trait Application {
    /// Its routes, behind the gate.
    fn router(self, reception: &Reception) -> Router;
}

/// Where a daemon listens.
#[derive(Clone, Debug)]
pub struct Listen {
    /// The unix socket.
    pub socket: PathBuf,
    /// The group that may use it besides its owner.
    pub socket_group: Option<nix::unistd::Gid>,
    /// TCP, with certificates on both sides.
    pub tcp: Option<(SocketAddr, Arc<ServerConfig>)>,
}

/// A daemon's open doors.
pub struct Server {
    socket: Socket,
    tcp: Option<Tcp>,
    limits: Arc<Limits>,
}

/// Who is here, what they may take, and when it is time to go.
#[derive(Clone)]
pub struct Reception {
    pub(crate) limits: Arc<Limits>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) peers: Arc<Peers>,
    /// Turns true when the daemon goes down.
    down: watch::Receiver<bool>,
}

impl Reception {
    /// Ready once the daemon goes down, or its server was dropped.
    pub(crate) fn going_down(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        let mut down = self.down.clone();
        async move { drop(down.wait_for(|&down| down).await) }
    }
}

impl Server {
    /// Opens the doors; peers wait before them until [`Server::run`].
    pub async fn bind(listen: Listen, limits: Limits) -> Result<Self, ListenError> {
        let socket = Socket::bind(listen.socket, listen.socket_group).await?;
        let tcp = match listen.tcp {
            Some((address, config)) => Some(Tcp::bind(address, config).await?),
            None => None,
        };
        Ok(Self { socket, tcp, limits: Arc::new(limits) })
    }

    /// The unix socket's path.
    pub fn socket(&self) -> &Path {
        self.socket.path()
    }

    /// The TCP address, with the port the system chose when none was asked for.
    pub fn tcp(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().map(Tcp::address)
    }

    /// Serves until `shutdown` is ready; then lets requests finish for a while and takes the socket away. What it
    /// served stays open.
    pub async fn run(self, application: impl Application, shutdown: impl Future<Output = ()>) {
        let (go_down, down) = watch::channel(false);
        let metrics = Arc::new(Metrics::new());
        let peers = Arc::new(Peers::new(&self.limits));
        let reception = Reception { limits: self.limits.clone(), metrics, peers, down };
        let router = application.router(&reception);
        let connections = Connections::new(reception, router);
        let doors = Doors { socket: &self.socket, tcp: self.tcp.as_ref() };
        let going_down = async {
            shutdown.await;
            go_down.send_replace(true);
        };
        let ((), ()) = tokio::join!(connections.serve(doors), going_down);
    }
}

/// Routes with their description beside them, an answer to whoever asks for something else, and the gate before all.
pub(crate) fn behind_gate(routes: Router, description: String, reception: Reception, rules: Rules) -> Router {
    let description: Arc<str> = description.into();
    let described = move || std::future::ready(json(&description));
    routes
        .route(OPENAPI, get(described))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Gate { reception, rules }, gate::pass))
}

fn json(text: &str) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, "application/json")], text.to_owned())
}

async fn unknown(uri: Uri) -> Refusal {
    let path: String = uri.path().chars().take(200).collect();
    Refusal::new(ErrorCode::NotFound, format!("there is nothing at {path}; see {OPENAPI}"))
}

async fn wrong_method(method: Method, uri: Uri) -> Refusal {
    Refusal::new(ErrorCode::MethodNotAllowed, format!("{} knows no {method}; see {OPENAPI}", uri.path()))
}
