//! Connections.

use std::net::SocketAddr;
use std::time::Duration;

use roam_abi::{ADDRESS_BYTES, Address, Errno, SocketOption};

use super::socket::{Buffers, Socket};
use crate::reactor::{self, Half};
use crate::{Error, Result, sys, task, time};

/// A socket that accepts connections.
#[derive(Debug)]
pub struct TcpListener(Socket);

impl TcpListener {
    /// Listens on `address`; `[::]` is any address of either family.
    pub fn bind(address: impl Into<SocketAddr>) -> Result<Self> {
        Self::builder().bind(address)
    }

    /// To choose the backlog and the connections' buffer sizes first.
    pub fn builder() -> TcpListenerBuilder {
        TcpListenerBuilder::default()
    }

    /// Accepts for ever and runs `handler` for each connection as a task. Errors other than a disconnect are logged.
    pub async fn serve<H, F>(&self, handler: H) -> !
    where
        H: Fn(TcpStream, SocketAddr) -> F,
        F: Future<Output = Result<()>> + 'static,
    {
        loop {
            match self.accept().await {
                Ok((stream, peer)) => {
                    let connection = handler(stream, peer);
                    task::spawn(async move {
                        if let Err(error) = connection.await
                            && !error.is_disconnect()
                        {
                            crate::warn!("connection of {peer}: {error}");
                        }
                    });
                }
                Err(error) => {
                    crate::warn!("accept: {error}");
                    time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Waits for a connection.
    pub async fn accept(&self) -> Result<(TcpStream, SocketAddr)> {
        let mut peer = [0; ADDRESS_BYTES];
        let handle = self.0.until_done(Half::Read, |listener| sys::accept(listener, &mut peer)).await?;
        let stream = TcpStream(Socket::own(handle));
        Ok((stream, Address::from_bytes(&peer)?.0))
    }

    /// Where it listens.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// Makes a [`TcpListener`].
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct TcpListenerBuilder {
    backlog: u32,
    buffers: Buffers,
}

/// How long [`serve`](TcpListener::serve) waits after a failed accept, usually for want of sockets.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that may wait for `accept` unless the guest chooses.
const BACKLOG_DEFAULT: u32 = 128;

impl Default for TcpListenerBuilder {
    fn default() -> Self {
        Self { backlog: BACKLOG_DEFAULT, buffers: Buffers::default() }
    }
}

impl TcpListenerBuilder {
    /// Connections that may be half-open or wait for [`accept`](TcpListener::accept), at most
    /// [`roam_abi::limits::BACKLOG_MAX`] (128 unless set).
    pub fn backlog(mut self, connections: u32) -> Self {
        self.backlog = connections;
        self
    }

    /// Bytes each accepted connection may queue each way; 0 for the default.
    pub fn buffers(mut self, rx_bytes: usize, tx_bytes: usize) -> Self {
        self.buffers = Buffers::new(rx_bytes, tx_bytes);
        self
    }

    /// See [`TcpListener::bind`].
    pub fn bind(self, address: impl Into<SocketAddr>) -> Result<TcpListener> {
        let Buffers { rx_bytes, tx_bytes } = self.buffers;
        let handle = sys::tcp_listen(&Address(address.into()).to_bytes(), self.backlog, rx_bytes, tx_bytes)?;
        Ok(TcpListener(Socket::own(handle)))
    }
}

/// A connection. Dropping it closes it: what is queued still leaves, then the FIN.
#[derive(Debug)]
pub struct TcpStream(Socket);

impl TcpStream {
    /// Connects to `address`.
    pub async fn connect(address: impl Into<SocketAddr>) -> Result<Self> {
        Self::builder().connect(address).await
    }

    /// To choose buffer sizes first.
    pub fn builder() -> TcpBuilder {
        TcpBuilder::default()
    }

    /// Waits for bytes and takes what is there, up to `bytes.len()`; 0 when the peer has sent everything.
    pub async fn read(&self, bytes: &mut [u8]) -> Result<usize> {
        Ok(self.0.until_done(Half::Read, |handle| sys::recv(handle, bytes)).await? as usize)
    }

    /// The bytes that are there, if any; `WouldBlock` if there are none: then [`readable`](Self::readable) waits.
    pub fn try_read(&self, bytes: &mut [u8]) -> Result<usize> {
        Ok(sys::recv(self.0.handle(), bytes)? as usize)
    }

    /// Waits for news after [`try_read`](Self::try_read) has said `WouldBlock`; without that, it may wait for ever.
    ///
    /// It lets many connections read into one buffer, which none holds while it waits.
    pub async fn readable(&self) {
        self.0.event(Half::Read).await;
    }

    /// Fills `bytes`; [`Error::UnexpectedEof`] where the peer finishes before that.
    pub async fn read_exact(&self, mut bytes: &mut [u8]) -> Result<()> {
        while !bytes.is_empty() {
            match self.read(bytes).await? {
                0 => return Err(Error::UnexpectedEof),
                count => bytes = &mut bytes[count..],
            }
        }
        Ok(())
    }

    /// Waits for room and queues what fits: at least one byte, unless `bytes` is empty.
    pub async fn write(&self, bytes: &[u8]) -> Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        Ok(self.0.until_done(Half::Write, |handle| sys::send(handle, bytes)).await? as usize)
    }

    /// Queues what fits now; `WouldBlock` where nothing does.
    pub fn try_write(&self, bytes: &[u8]) -> Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        Ok(sys::send(self.0.handle(), bytes)? as usize)
    }

    /// Queues all of `bytes`.
    pub async fn write_all(&self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            bytes = &bytes[self.write(bytes).await?..];
        }
        Ok(())
    }

    /// Says that no more will be written: FIN, once the queue is empty. Reading goes on.
    pub fn shutdown(&self) -> Result<()> {
        sys::shutdown(self.0.handle())?;
        Ok(())
    }

    /// Resets the connection and drops what is queued.
    pub fn abort(self) {
        self.0.abort();
    }

    /// Sends small segments at once (true), or gathers them as RFC 896 says (false, unless set).
    pub fn set_nodelay(&self, nodelay: bool) -> Result<()> {
        self.0.set_option(SocketOption::NoDelay, i64::from(nodelay))
    }

    /// Asks a silent peer whether it is still there, that often; `None` (unless set) for never.
    pub fn set_keepalive(&self, interval: Option<Duration>) -> Result<()> {
        self.0.set_option(SocketOption::KeepAlive, optional_ns(interval))
    }

    /// Aborts the connection where the peer has owed an answer for that long; `None` (unless set) for never.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> Result<()> {
        self.0.set_option(SocketOption::Timeout, optional_ns(timeout))
    }

    /// Sets the time to live or hop limit, 1 to 255 (64 unless set).
    pub fn set_hop_limit(&self, hops: u8) -> Result<()> {
        self.0.set_option(SocketOption::HopLimit, i64::from(hops))
    }

    /// This end's address.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        self.0.local_addr()
    }

    /// The other end's address.
    pub fn peer_addr(&self) -> Result<SocketAddr> {
        self.0.peer_addr()
    }
}

/// Makes a [`TcpStream`].
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct TcpBuilder {
    buffers: Buffers,
}

impl TcpBuilder {
    /// Bytes that may queue each way; 0 for the default.
    pub fn buffers(mut self, rx_bytes: usize, tx_bytes: usize) -> Self {
        self.buffers = Buffers::new(rx_bytes, tx_bytes);
        self
    }

    /// See [`TcpStream::connect`].
    pub async fn connect(self, address: impl Into<SocketAddr>) -> Result<TcpStream> {
        let Buffers { rx_bytes, tx_bytes } = self.buffers;
        let socket = Socket::own(sys::tcp_connect(&Address(address.into()).to_bytes(), rx_bytes, tx_bytes)?);
        loop {
            socket.event(Half::Write).await;
            if reactor::is_closed(socket.handle()) {
                break;
            }
            // Events may be spurious: it is established once it has a peer.
            match socket.peer_addr() {
                Err(Error::Host(Errno::NOTCONN)) => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(TcpStream(socket)),
            }
        }
        // It never will be established, and whoever reads is told why; or it was and is over already, and then the byte
        // just taken is among what the peer threw away.
        if sys::recv(socket.handle(), &mut [0])? > 0 {
            return Err(Errno::CONNRESET.into());
        }
        Ok(TcpStream(socket))
    }
}

fn optional_ns(duration: Option<Duration>) -> i64 {
    duration.map_or(0, |duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
}
