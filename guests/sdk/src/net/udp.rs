//! Datagrams.

use std::net::SocketAddr;

use roam_abi::{Address, SocketOption};

use super::socket::{Buffers, Socket, recv_from, send_to};
use crate::reactor::Half;
use crate::{Result, sys};

/// A UDP socket.
#[derive(Debug)]
pub struct UdpSocket(Socket);

impl UdpSocket {
    /// A socket that receives what is sent to `address`; `[::]` is any address of either family, port 0 any free port.
    pub fn bind(address: impl Into<SocketAddr>) -> Result<Self> {
        Self::builder().bind(address)
    }

    /// To choose buffer sizes first.
    pub fn builder() -> UdpBuilder {
        UdpBuilder::default()
    }

    /// Waits for a datagram: the bytes copied and the sender. What does not fit in `bytes` is lost.
    pub async fn recv_from(&self, bytes: &mut [u8]) -> Result<(usize, SocketAddr)> {
        self.0.until_done(Half::Read, |handle| recv_from(handle, bytes)).await
    }

    /// The next datagram, if one is there; `WouldBlock` if not.
    pub fn try_recv_from(&self, bytes: &mut [u8]) -> Result<(usize, SocketAddr)> {
        Ok(recv_from(self.0.handle(), bytes)?)
    }

    /// Sends one datagram, once there is room for it.
    pub async fn send_to(&self, bytes: &[u8], to: SocketAddr) -> Result<()> {
        self.0.until_done(Half::Write, |handle| send_to(handle, bytes, to)).await
    }

    /// Sends one datagram, if there is room for it; `WouldBlock` if not.
    pub fn try_send_to(&self, bytes: &[u8], to: SocketAddr) -> Result<()> {
        Ok(send_to(self.0.handle(), bytes, to)?)
    }

    /// Where it is bound, with the port it was given.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Sets the time to live or hop limit, 1 to 255 (64 unless set).
    pub fn set_hop_limit(&self, hops: u8) -> Result<()> {
        self.0.set_option(SocketOption::HopLimit, i64::from(hops))
    }
}

/// Makes a [`UdpSocket`].
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct UdpBuilder {
    buffers: Buffers,
}

impl UdpBuilder {
    /// Bytes of payload that may queue each way; 0 for the default.
    pub fn buffers(mut self, rx_bytes: usize, tx_bytes: usize) -> Self {
        self.buffers = Buffers::new(rx_bytes, tx_bytes);
        self
    }

    /// See [`UdpSocket::bind`].
    pub fn bind(self, address: impl Into<SocketAddr>) -> Result<UdpSocket> {
        let Buffers { rx_bytes, tx_bytes } = self.buffers;
        let handle = sys::udp_open(&Address(address.into()).to_bytes(), rx_bytes, tx_bytes)?;
        Ok(UdpSocket(Socket::own(handle)))
    }
}
