//! Connections, from the door to their end.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

use super::listen::{Socket, Tcp};
use super::metrics::Rejected;
use super::peer::{Crowd, Denied, Peer, Ticket};
use super::stream::Patient;
use super::{Limits, Reception};
use crate::api::{ErrorBody, ErrorCode};
use crate::cert::Identity;

/// Pause after a failed accept: out of descriptors, most likely, which takes a while to get better.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// When an idle TCP peer is asked whether it is still there, and how often and how many times before it is given up.
const KEEPALIVE_S: u32 = 30;
const KEEPALIVE_PROBES: u32 = 4;

/// Connections turned away that are closed gently at the same time.
const FAREWELLS_MAX: usize = 64;

/// Where peers come in.
pub(crate) struct Doors<'a> {
    pub(crate) socket: &'a Socket,
    pub(crate) tcp: Option<&'a Tcp>,
}

/// What a connection is served with.
#[derive(Clone)]
pub(crate) struct Connections {
    reception: Reception,
    router: Router,
    http: Arc<http1::Builder>,
    handshakes: Arc<Crowd<IpAddr>>,
    /// Of those turned away: each is a descriptor that no other limit counts.
    farewells: Arc<Semaphore>,
}

impl Connections {
    pub(crate) fn new(reception: Reception, router: Router) -> Self {
        let http = Arc::new(http(&reception.limits));
        let handshakes = Arc::new(Crowd::new(reception.limits.handshakes_max, reception.limits.handshakes_address_max));
        Self { farewells: Arc::new(Semaphore::new(FAREWELLS_MAX)), reception, router, http, handshakes }
    }

    /// Until the daemon goes down; then lets what is under way finish within its limit.
    pub(crate) async fn serve(self, doors: Doors<'_>) {
        let mut tasks = JoinSet::new();
        let mut down = pin!(self.reception.going_down());
        loop {
            tokio::select! {
                () = &mut down => break,
                Some(_) = tasks.join_next() => {}
                accepted = doors.socket.accept() => match accepted {
                    Ok(stream) => drop(tasks.spawn(self.clone().user(stream))),
                    Err(error) => refused_by_system(&error).await,
                },
                accepted = accept_tcp(doors.tcp) => match accepted {
                    Ok((stream, from, acceptor)) => self.stranger(&mut tasks, stream, from, acceptor),
                    Err(error) => refused_by_system(&error).await,
                },
            }
        }
        let finish = async { while tasks.join_next().await.is_some() {} };
        if timeout(self.reception.limits.shutdown, finish).await.is_err() {
            tracing::warn!(connections = tasks.len(), "connections cut off: their requests did not end in time");
        }
    }

    async fn user(self, stream: UnixStream) {
        match stream.peer_cred() {
            Ok(credentials) => self.known(stream, Peer::User(credentials.uid())).await,
            Err(error) => tracing::warn!(%error, "a peer of the socket without credentials"),
        }
    }

    /// Begins a handshake, if there is room for one.
    fn stranger(&self, tasks: &mut JoinSet<()>, stream: TcpStream, from: SocketAddr, acceptor: TlsAcceptor) {
        match self.handshakes.enter(from.ip().to_canonical()) {
            Some(ticket) => drop(tasks.spawn(self.clone().handshake(stream, from, acceptor, ticket))),
            None => self.reception.metrics.rejected(Rejected::Handshakes),
        }
    }

    async fn handshake(self, stream: TcpStream, from: SocketAddr, acceptor: TlsAcceptor, ticket: Ticket<IpAddr>) {
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%from, %error, "a connection that cannot be set up");
            return;
        }
        let accepted = match timeout(self.reception.limits.handshake, acceptor.accept(stream).into_fallible()).await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err((error, stream))) => {
                self.reception.metrics.rejected(Rejected::Tls);
                tracing::debug!(%from, %error, "no handshake");
                // The peer shall see why; what it has sent already would reset the connection.
                return linger(stream, &self.reception.limits).await;
            }
            Err(_) => {
                self.reception.metrics.rejected(Rejected::Tls);
                tracing::debug!(%from, "a handshake that took too long");
                return;
            }
        };
        drop(ticket);
        let certificate = accepted.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let identity = certificate.and_then(|certificate| Identity::from_der(certificate).ok());
        // The handshake has made sure of both; without them the connection ends here.
        let Some(Identity { name, role: Some(role), .. }) = identity else { return };
        self.known(accepted, Peer::Holder { name, role }).await;
    }

    /// Serves a peer whose name is proven.
    async fn known(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Peer) {
        let mut stream = Patient::new(stream, self.reception.limits.write_stall);
        let _place = match self.reception.peers.enter(&peer, Instant::now()) {
            Ok(place) => place,
            Err(denied) => {
                self.reception.metrics.rejected(Rejected::Connections);
                // Whether the peer hears it or not, it has no place.
                let _ = turn_away(&mut stream, &peer, denied).await;
                if let Ok(_farewell) = self.farewells.try_acquire() {
                    linger(stream, &self.reception.limits).await;
                }
                return;
            }
        };
        let _counted = self.reception.metrics.connection();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            Box::pin(self.router.clone().oneshot(request.map(Body::new)))
        });
        let connection = self.http.serve_connection(TokioIo::new(stream), service);
        let stream = converse(connection, self.reception.going_down()).await;
        linger(stream, &self.reception.limits).await;
    }
}

/// Runs a connection to its end, which comes early when the daemon goes down. Gives back the stream, not shut down.
async fn converse<S, I>(mut connection: http1::Connection<TokioIo<I>, S>, down: impl Future<Output = ()>) -> I
where
    S: HttpService<Incoming, ResBody = Body> + Unpin,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    S::Future: Unpin,
    I: AsyncRead + AsyncWrite + Unpin,
{
    let mut down = pin!(down);
    let mut told = false;
    let ended = std::future::poll_fn(|cx| {
        if !told && down.as_mut().poll(cx).is_ready() {
            told = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        connection.poll_without_shutdown(cx)
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "a connection broke");
    }
    connection.into_parts().io.into_inner()
}

fn http(limits: &Limits) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_headers(limits.headers_max)
        .max_header_size(limits.header_bytes_max)
        .max_buf_size(limits.header_bytes_max.max(64 * 1024));
    http
}

async fn accept_tcp(tcp: Option<&Tcp>) -> io::Result<(TcpStream, SocketAddr, TlsAcceptor)> {
    match tcp {
        Some(tcp) => tcp.accept().await.map(|(stream, from)| (stream, from, tcp.acceptor.clone())),
        None => std::future::pending().await,
    }
}

async fn refused_by_system(error: &io::Error) {
    tracing::warn!(%error, "a connection could not be accepted");
    sleep(ACCEPT_PAUSE).await;
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    // A peer that vanished while it followed a log is never written to.
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_S)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_S)?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?;
    Ok(())
}

/// 503, before a request is read.
async fn turn_away(stream: &mut (impl AsyncWrite + Unpin), peer: &Peer, denied: Denied) -> io::Result<()> {
    let message = match denied {
        Denied::Full => "this daemon has as many connections as it takes; come back later".to_owned(),
        Denied::PeerFull => format!("{peer} has as many connections as one may have; close some"),
    };
    let body = serde_json::to_string(&ErrorBody { code: ErrorCode::Unavailable, message })?;
    let head =
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\nretry-after: 1";
    let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await?;
    stream.flush().await
}

/// Ends a connection so that its peer sees the last answer: closing while something unread has come would reset it.
async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin, limits: &Limits) {
    let unheard = async {
        if stream.shutdown().await.is_ok() {
            let mut waste = [0; 4096];
            while matches!(stream.read(&mut waste).await, Ok(1..)) {}
        }
    };
    // In time or not, what follows is the same.
    let _ = timeout(limits.linger, unheard).await;
}
