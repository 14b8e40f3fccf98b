//! Echo messages ("ping").

use std::net::{IpAddr, SocketAddr};

use super::socket::{Buffers, Socket, recv_from, send_to};
use crate::reactor::Half;
use crate::{Result, sys};

/// A socket for echo messages of one identifier, ICMP (RFC 792) or ICMPv6 (RFC 4443) by the address they go to.
///
/// Messages are whole: type, code, checksum (filled in on the way out), identifier, sequence number, data.
#[derive(Debug)]
pub struct IcmpSocket(Socket);

impl IcmpSocket {
    /// A socket for messages with that identifier.
    pub fn open(ident: u16) -> Result<Self> {
        Self::builder().open(ident)
    }

    /// To choose buffer sizes first.
    pub fn builder() -> IcmpBuilder {
        IcmpBuilder::default()
    }

    /// Waits for a message: the bytes copied and the sender. What does not fit in `bytes` is lost.
    pub async fn recv_from(&self, bytes: &mut [u8]) -> Result<(usize, IpAddr)> {
        let (len, from) = self.0.until_done(Half::Read, |handle| recv_from(handle, bytes)).await?;
        Ok((len, from.ip()))
    }

    /// Sends one message, once there is room for it.
    pub async fn send_to(&self, bytes: &[u8], to: IpAddr) -> Result<()> {
        self.0.until_done(Half::Write, |handle| send_to(handle, bytes, SocketAddr::new(to, 0))).await
    }
}

/// Makes an [`IcmpSocket`].
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct IcmpBuilder {
    buffers: Buffers,
}

impl IcmpBuilder {
    /// Bytes of messages that may queue each way; 0 for the default.
    pub fn buffers(mut self, rx_bytes: usize, tx_bytes: usize) -> Self {
        self.buffers = Buffers::new(rx_bytes, tx_bytes);
        self
    }

    /// See [`IcmpSocket::open`].
    pub fn open(self, ident: u16) -> Result<IcmpSocket> {
        let handle = sys::icmp_open(ident, self.buffers.rx_bytes, self.buffers.tx_bytes)?;
        Ok(IcmpSocket(Socket::own(handle)))
    }
}
