//! Connections to a host, and those kept for the next request.

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::{CONNECT_LIMIT, ClientError, Endpoint};

/// A request's body.
pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Connections kept at most.
const KEPT_MAX: usize = 8;

/// An open connection.
pub(super) struct Kept {
    sender: SendRequest<Body>,
    driver: JoinHandle<Result<(), hyper::Error>>,
    used: bool,
}

impl Kept {
    pub(super) async fn connect(endpoint: &Endpoint) -> Result<Self, ClientError> {
        match tokio::time::timeout(CONNECT_LIMIT, Self::open(endpoint)).await {
            Ok(opened) => opened,
            Err(_) => Err(endpoint.timed_out(CONNECT_LIMIT)),
        }
    }

    async fn open(endpoint: &Endpoint) -> Result<Self, ClientError> {
        match endpoint {
            Endpoint::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| endpoint.unreachable(error))?;
                Self::over(endpoint, stream).await
            }
            Endpoint::Tls { address: (name, port), server_name, config } => {
                let stream = TcpStream::connect((name.as_str(), *port)).await;
                let stream = stream.map_err(|error| endpoint.unreachable(error))?;
                // Requests and answers are small and wait for each other.
                stream.set_nodelay(true).map_err(|error| endpoint.unreachable(error))?;
                let connector = TlsConnector::from(config.clone());
                let stream = connector.connect(server_name.clone(), stream).await;
                Self::over(endpoint, stream.map_err(|error| endpoint.unreachable(error))?).await
            }
        }
    }

    async fn over(
        endpoint: &Endpoint,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<Self, ClientError> {
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| endpoint.lost_at_once(error))?;
        // Ends with the sender and the last answer.
        let driver = tokio::spawn(connection);
        Ok(Self { sender, driver, used: false })
    }

    /// Sends a request; the answer's body is still to be read.
    pub(super) async fn exchange(
        mut self,
        request: Request<Body>,
        endpoint: &Endpoint,
    ) -> Result<(Response<Incoming>, Self), ClientError> {
        match self.sender.send_request(request).await {
            Ok(answer) => {
                self.used = true;
                Ok((answer, self))
            }
            Err(error) => {
                let used = self.used;
                let error = self.reason(error).await;
                Err(if used { endpoint.lost(error) } else { endpoint.lost_at_once(error) })
            }
        }
    }

    /// Why a request failed. When the connection had ended before it took the request, its own error says more.
    async fn reason(self, error: hyper::Error) -> hyper::Error {
        drop(self.sender);
        if !error.is_canceled() {
            return error;
        }
        match tokio::time::timeout(CONNECT_LIMIT, self.driver).await {
            Ok(Ok(Err(ended))) => ended,
            _ => error,
        }
    }
}

/// Connections whose answers have been read to the end.
#[derive(Default)]
pub(super) struct Pool {
    kept: Mutex<Vec<Kept>>,
}

impl Pool {
    /// A connection that is still open, as far as is known.
    pub(super) async fn take(&self) -> Option<Kept> {
        loop {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if kept.sender.ready().await.is_ok() {
                return Some(kept);
            }
        }
    }

    pub(super) fn keep(&self, connection: Kept) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_MAX && !connection.sender.is_closed() {
            kept.push(connection);
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pool")
    }
}
