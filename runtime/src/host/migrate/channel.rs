//! The connection of a migration: TLS 1.3 with certificates of hosts on both sides, and messages on it.
//!
//! The socket does not block. Whoever drives a migration waits for all there is to wait for at once, and reads what has
//! come with [`Channel::receive`]; what is sent is sent when [`Channel::flush`] returns.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use roam_snapshot::protocol::Message;
use roam_snapshot::protocol::wire::{self, Kind, PREFIX_BYTES, PagesHeader, Prefix, WireError};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use crate::cert::{CertError, Identity, Role};

/// How long connecting and the handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
/// How long the other side may take nothing at all of what is sent before it counts as gone.
const STALL_LIMIT: Duration = Duration::from_secs(10);
/// How often an idle peer is asked for a sign of life, seconds, and how many may stay out.
const KEEP_ALIVE_S: u32 = 2;
const KEEP_ALIVES_MAX: u32 = 4;
/// What is read of the socket before a message that is whole is looked at.
const READ_BYTES: usize = 256 * 1024;

/// One end of a connection.
pub(super) struct Channel {
    tls: Connection,
    stream: TcpStream,
    /// What has come and is not taken yet, from `taken` on.
    come: Vec<u8>,
    taken: usize,
    sent_bytes: u64,
    peer: Identity,
}

/// What has come.
pub(super) enum Come {
    Message(Message),
    /// Which pages, and their bytes.
    Pages(PagesHeader, Vec<u8>),
}

/// Why a connection is of no further use.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChannelError {
    /// It could not be made, or failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// TLS failed.
    #[error("the connection's TLS failed")]
    Tls(#[from] rustls::Error),
    /// The other side's certificate says the wrong thing.
    #[error("the other side is {found}, not {expected}")]
    Peer {
        /// Who it is.
        found: String,
        /// Who it should be.
        expected: String,
    },
    /// Its certificate cannot be read.
    #[error("the other side's certificate cannot be read")]
    Certificate(#[from] CertError),
    /// It closed the connection.
    #[error("the other side closed the connection")]
    Closed,
    /// It takes nothing any more.
    #[error("the other side took nothing for {STALL_LIMIT:?}")]
    Stalled,
    /// It says what cannot be understood.
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl Channel {
    /// Connects to the host of that name.
    pub(super) fn connect(at: SocketAddr, name: &str, config: Arc<ClientConfig>) -> Result<Self, ChannelError> {
        let stream = TcpStream::connect_timeout(&at, HANDSHAKE_LIMIT)?;
        let tls = ClientConnection::new(config, ServerName::from(at.ip()))?;
        let channel = Self::open(tls.into(), stream)?;
        if channel.peer.name == name {
            return Ok(channel);
        }
        Err(ChannelError::Peer { found: format!("`{}`", channel.peer.name), expected: format!("`{name}`") })
    }

    /// Takes a connection of another host.
    pub(super) fn accept(stream: TcpStream, config: Arc<ServerConfig>) -> Result<Self, ChannelError> {
        Self::open(ServerConnection::new(config)?.into(), stream)
    }

    fn open(mut tls: Connection, mut stream: TcpStream) -> Result<Self, ChannelError> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(HANDSHAKE_LIMIT))?;
        shake_hands(&mut tls, &mut stream)?;
        stream.set_nonblocking(true)?;
        set_limits(&stream)?;
        let certificate = tls.peer_certificates().and_then(|chain| chain.first()).ok_or(ChannelError::Closed)?;
        let peer = Identity::from_der(certificate)?;
        if peer.role != Some(Role::Host) {
            let found = format!("`{}`, whose certificate is no host's", peer.name);
            return Err(ChannelError::Peer { found, expected: "a host".into() });
        }
        // What waits to be sent is limited by who sends: it flushes.
        tls.set_buffer_limit(None);
        let mut channel = Self { tls, stream, come: Vec::new(), taken: 0, sent_bytes: 0, peer };
        // What was said first may have come with the end of the handshake.
        channel.decrypt()?;
        Ok(channel)
    }

    /// Who is at the other end, by its certificate.
    pub(super) fn peer(&self) -> &str {
        &self.peer.name
    }

    /// All bytes sent, TLS not counted.
    pub(super) fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    /// Puts a message with what will be sent.
    pub(super) fn put(&mut self, message: &Message) -> Result<(), ChannelError> {
        self.put_bytes(&wire::encode(message))
    }

    /// Puts bytes that are encoded already with what will be sent.
    pub(super) fn put_bytes(&mut self, bytes: &[u8]) -> Result<(), ChannelError> {
        self.tls.writer().write_all(bytes)?;
        self.sent_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Says something.
    pub(super) fn say(&mut self, message: &Message) -> Result<(), ChannelError> {
        self.put(message)?;
        self.flush()
    }

    /// Sends what was put. Waits as long as the other side takes some of it now and then.
    pub(super) fn flush(&mut self) -> Result<(), ChannelError> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLOUT)];
                    match poll(&mut fds, PollTimeout::try_from(STALL_LIMIT).unwrap_or(PollTimeout::MAX)) {
                        Ok(0) => return Err(ChannelError::Stalled),
                        Ok(_) | Err(Errno::EINTR) => {}
                        Err(errno) => return Err(ChannelError::Io(errno.into())),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What has come next; `None` if that is not all there yet. Does not wait.
    pub(super) fn receive(&mut self) -> Result<Option<Come>, ChannelError> {
        loop {
            if let Some(come) = self.take()? {
                return Ok(Some(come));
            }
            match self.tls.read_tls(&mut self.stream) {
                Ok(0) => return Err(ChannelError::Closed),
                Ok(_) => self.decrypt()?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether something is there to be received without the socket being readable.
    pub(super) fn has_come(&self) -> bool {
        self.come.len() > self.taken
    }

    fn decrypt(&mut self) -> Result<(), ChannelError> {
        let state = self.tls.process_new_packets()?;
        let plain = state.plaintext_bytes_to_read();
        if plain > 0 {
            let start = self.come.len();
            self.come.resize(start + plain, 0);
            self.tls.reader().read_exact(&mut self.come[start..])?;
        }
        if state.peer_has_closed() && !self.has_come() {
            return Err(ChannelError::Closed);
        }
        // A key update, say, is answered.
        if self.tls.wants_write() { self.flush() } else { Ok(()) }
    }

    fn take(&mut self) -> Result<Option<Come>, ChannelError> {
        let rest = &self.come[self.taken..];
        let Some((prefix, rest)) = rest.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let prefix = Prefix::parse(*prefix)?;
        let Some(body) = rest.get(..prefix.body_bytes) else { return Ok(None) };
        let come = match prefix.kind {
            Kind::Message => Come::Message(wire::decode(body)?),
            Kind::Pages => {
                let (header, data) = wire::decode_pages(body)?;
                let bytes = wire::unpack(&header, data)?.into_owned();
                Come::Pages(header, bytes)
            }
        };
        self.taken += PREFIX_BYTES + prefix.body_bytes;
        if self.taken == self.come.len() {
            self.come.clear();
            self.taken = 0;
        } else if self.taken > READ_BYTES {
            self.come.drain(..self.taken);
            self.taken = 0;
        }
        Ok(Some(come))
    }
}

/// Within [`HANDSHAKE_LIMIT`] in all: nobody is known yet, and who sends a byte now and then must not hold up others.
fn shake_hands(tls: &mut Connection, stream: &mut TcpStream) -> Result<(), ChannelError> {
    let deadline = Instant::now() + HANDSHAKE_LIMIT;
    loop {
        while tls.wants_write() {
            tls.write_tls(stream)?;
        }
        if !tls.is_handshaking() {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ChannelError::Io(io::ErrorKind::TimedOut.into()));
        }
        stream.set_read_timeout(Some(left))?;
        match tls.read_tls(stream) {
            Ok(0) => return Err(ChannelError::Closed),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => continue,
            Err(error) => return Err(error.into()),
        }
        if let Err(error) = tls.process_new_packets() {
            // The other side is told why, if it still listens.
            let _ = tls.write_tls(stream);
            return Err(error.into());
        }
    }
}

/// A peer that is gone without a word is noticed, whether something is to be sent or not (tcp(7)).
fn set_limits(stream: &TcpStream) -> io::Result<()> {
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEP_ALIVE_S)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEP_ALIVE_S)?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEP_ALIVES_MAX)?;
    Ok(setsockopt(stream, sockopt::TcpUserTimeout, &(STALL_LIMIT.as_millis() as u32))?)
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.tls.send_close_notify();
        // The other side hears of it by the socket's end, too.
        let _ = self.tls.write_tls(&mut self.stream);
    }
}
