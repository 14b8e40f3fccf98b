//! The HTTP side of a host: who may ask, how much, and how it is answered.
//!
//! ```text
//!  listen   unix socket, TCP ──> accept   handshake, limits of connections, lingering close
//!                                  │ Peer, known before any handler runs
//!                                  └─> gate   span, rate, role, count ──> routes/ ──> Host
//!                                                                           └ metrics/ (Prometheus)
//! ```
//!
//! Invariants: an unauthenticated peer reaches no handler; every length, count and wait has a limit ([`Limits`]);
//! every error a handler or the router gives is an [`ErrorBody`](crate::api::ErrorBody). Only what is no HTTP at all
//! is answered by the HTTP library alone, with a bare 400 or 431.

mod accept;
mod answer;
mod body;
mod gate;
mod limits;
mod listen;
mod metrics;
mod peer;
mod routes;
mod stream;

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::sync::watch;

use super::Host;
use accept::{Connections, Doors};
pub use limits::Limits;
pub use listen::ListenError;
use listen::{Socket, Tcp};
use metrics::Metrics;
use peer::Peers;

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

/// What every handler has at hand.
#[derive(Clone)]
struct App {
    host: Host,
    limits: Arc<Limits>,
    metrics: Arc<Metrics>,
    peers: Arc<Peers>,
    /// Turns true when the daemon goes down.
    down: watch::Receiver<bool>,
}

impl App {
    /// Ready once the daemon goes down, or its server was dropped.
    fn going_down(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
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

    /// Serves until `shutdown` is ready; then lets requests finish for a while and takes the socket away. The host
    /// stays open.
    pub async fn run(self, host: Host, shutdown: impl Future<Output = ()>) {
        let (go_down, down) = watch::channel(false);
        let metrics = Arc::new(Metrics::new());
        let peers = Arc::new(Peers::new(&self.limits));
        let app = App { host, limits: self.limits.clone(), metrics: metrics.clone(), peers: peers.clone(), down };
        let connections = Connections::new(app.clone(), routes::router(app));
        let doors = Doors { socket: &self.socket, tcp: self.tcp.as_ref() };
        let going_down = async {
            shutdown.await;
            go_down.send_replace(true);
        };
        let ((), ()) = tokio::join!(connections.serve(doors), going_down);
    }
}

/// The interface's description, OpenAPI 3.1.
pub fn openapi() -> String {
    routes::openapi()
}
