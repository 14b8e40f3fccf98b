//! UDP and ICMP echo.

use alloc::vec;
use core::net::{IpAddr, SocketAddr};

use roam_abi::{
    Errno,
    limits::{DATAGRAM_BYTES_MAX, SOCKET_DATAGRAMS_MAX},
};
use smoltcp::{
    config::FRAGMENTATION_BUFFER_SIZE,
    phy::PacketMeta,
    socket::{
        icmp,
        udp::{self, UdpMetadata},
    },
    wire::IpEndpoint,
};

use super::buffer_bytes;
use crate::{
    Netstack, SocketId,
    socket::{Bind, Datagram, Index, Kind, Scope, Single, Socket},
};

/// A queue for datagrams has one place for this many bytes, within limits.
const BYTES_PER_DATAGRAM: usize = 256;
const DATAGRAMS_MIN: usize = 16;
const IPV4_HEADER_BYTES: usize = 20;
const IPV6_HEADER_BYTES: usize = 40;
const UDP_HEADER_BYTES: usize = 8;

impl Netstack {
    /// A UDP socket bound to `local`: `[::]` is any address, `0.0.0.0` any IPv4 address, port 0 any free port.
    /// [`Errno::ADDRNOTAVAIL`] for an address that is not the interface's, [`Errno::ADDRINUSE`] for a taken port,
    /// [`Errno::MFILE`] for a socket too many, [`Errno::INVAL`] for buffers too large, [`Errno::NOMEM`] for too many.
    pub fn udp_open(&mut self, local: SocketAddr, rx_bytes: usize, tx_bytes: usize) -> Result<SocketId, Errno> {
        let (rx_bytes, tx_bytes) = (buffer_bytes(rx_bytes)?, buffer_bytes(tx_bytes)?);
        let scope = self.check_local(local.ip())?;
        let bind = match local.port() {
            0 => {
                let mut ports = self.random.ports().map(|port| Bind { port, scope });
                ports.find(|bind| !self.demux.udp.is_taken(*bind)).ok_or(Errno::ADDRINUSE)?
            }
            port => Bind { port, scope },
        };
        if self.demux.udp.is_taken(bind) {
            return Err(Errno::ADDRINUSE);
        }
        if self.table.is_full() {
            return Err(Errno::MFILE);
        }
        self.pool.reserve(rx_bytes + tx_bytes)?;
        let queue = |bytes| udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; datagrams(bytes)], vec![0; bytes]);
        let mut socket = udp::Socket::new(queue(rx_bytes), queue(tx_bytes));
        // Which addresses it gets packets for is decided before smoltcp sees them.
        socket.bind(bind.port).expect("a new socket is not bound, and the port is not 0");
        let index = self.table.insert(Socket::new(Kind::Udp(Datagram::new(Single::new(socket), bind))))?;
        self.demux.udp.insert(bind, index);
        Ok(self.table.id(index))
    }

    /// A socket for ICMP echo messages with the identifier `ident`. Messages are sent and received whole, starting
    /// with their type; checksums are filled in. Errors as for [`Netstack::udp_open`].
    pub fn icmp_open(&mut self, ident: u16, rx_bytes: usize, tx_bytes: usize) -> Result<SocketId, Errno> {
        let (rx_bytes, tx_bytes) = (buffer_bytes(rx_bytes)?, buffer_bytes(tx_bytes)?);
        let bind = Bind { port: ident, scope: Scope::Any };
        if self.demux.echo.is_taken(bind) {
            return Err(Errno::ADDRINUSE);
        }
        if self.table.is_full() {
            return Err(Errno::MFILE);
        }
        self.pool.reserve(rx_bytes + tx_bytes)?;
        let single = icmp_socket(ident, rx_bytes, tx_bytes);
        let index = self.table.insert(Socket::new(Kind::Icmp(Datagram::new(single, bind))))?;
        self.demux.echo.insert(bind, index);
        Ok(self.table.id(index))
    }

    /// Queues a datagram of `len` bytes for `to`; the caller fills what is returned before the next poll.
    ///
    /// [`Errno::AGAIN`] while the queue is full, [`Errno::MSGSIZE`] for more than can ever be sent,
    /// [`Errno::ADDRNOTAVAIL`] where there is no way to `to`, [`Errno::AFNOSUPPORT`] for a family the socket is not
    /// bound to, [`Errno::INVAL`] for port 0.
    pub fn send_to(&mut self, id: SocketId, to: SocketAddr, len: usize) -> Result<&mut [u8], Errno> {
        let index = self.table.find(id)?;
        let source = match self.check_remote(to.ip()) {
            Err(Errno::ADDRNOTAVAIL) if to.ip().is_unspecified() => return Err(Errno::INVAL),
            checked => checked,
        };
        let len_max = self.datagram_bytes_max(to.ip());
        self.mark_dirty(index);
        let kind = &mut self.table.get_mut(index).ok_or(Errno::BADF)?.kind;
        match kind {
            Kind::Udp(Datagram { single, bind, unsent, wants_write, .. }) => {
                if to.port() == 0 {
                    return Err(Errno::INVAL);
                }
                if !bind.scope.speaks(to.ip()) {
                    return Err(Errno::AFNOSUPPORT);
                }
                let source = match bind.scope {
                    Scope::One(address) => source.map(|_| address)?,
                    Scope::Any | Scope::AnyIpv4 => source?,
                };
                let socket = single.get_mut::<udp::Socket<'_>>();
                if len > (len_max - UDP_HEADER_BYTES).min(socket.payload_send_capacity()) {
                    return Err(Errno::MSGSIZE);
                }
                let meta = UdpMetadata {
                    endpoint: IpEndpoint::from(to),
                    local_address: Some(source.into()),
                    meta: PacketMeta::default(),
                };
                *wants_write = true;
                let slot = socket.send(len, meta).map_err(|_| Errno::AGAIN)?;
                *wants_write = false;
                *unsent += 1;
                Ok(slot)
            }
            Kind::Icmp(Datagram { single, unsent, wants_write, .. }) => {
                source?;
                let socket = single.get_mut::<icmp::Socket<'_>>();
                if len > len_max.min(socket.payload_send_capacity()) {
                    return Err(Errno::MSGSIZE);
                }
                *wants_write = true;
                let slot = socket.send(len, to.ip().into()).map_err(|_| Errno::AGAIN)?;
                *wants_write = false;
                *unsent += 1;
                Ok(slot)
            }
            Kind::Tcp(_) | Kind::Listener(_) => Err(Errno::NOTSUP),
        }
    }

    /// The oldest datagram and where it came from; [`Errno::AGAIN`] while there is none.
    pub fn recv_from(&mut self, id: SocketId) -> Result<(&[u8], SocketAddr), Errno> {
        let index = self.table.find(id)?;
        match &mut self.table.get_mut(index).ok_or(Errno::BADF)?.kind {
            Kind::Udp(datagram) => {
                let (bytes, meta) = datagram.single.get_mut::<udp::Socket<'_>>().recv().map_err(|_| Errno::AGAIN)?;
                Ok((bytes, SocketAddr::new(meta.endpoint.addr.into(), meta.endpoint.port)))
            }
            Kind::Icmp(datagram) => {
                let (bytes, from) = datagram.single.get_mut::<icmp::Socket<'_>>().recv().map_err(|_| Errno::AGAIN)?;
                Ok((bytes, SocketAddr::new(from.into(), 0)))
            }
            Kind::Tcp(_) | Kind::Listener(_) => Err(Errno::NOTSUP),
        }
    }

    pub(super) fn close_datagram(&mut self, index: Index) {
        match self.table.get_mut(index).map(|socket| &mut socket.kind) {
            Some(Kind::Udp(datagram)) => {
                datagram.is_closed = true;
                self.demux.udp.remove(datagram.bind);
            }
            Some(Kind::Icmp(datagram)) => {
                datagram.is_closed = true;
                self.demux.echo.remove(datagram.bind);
            }
            _ => return,
        }
        self.table.revoke(index);
        self.mark_dirty(index);
    }

    /// The largest IP payload that can be sent to `to`: IPv4 packets are fragmented, IPv6 packets are not.
    fn datagram_bytes_max(&self, to: IpAddr) -> usize {
        let mtu = self.capabilities.max_transmission_unit;
        let payload =
            if to.is_ipv4() { mtu.max(FRAGMENTATION_BUFFER_SIZE) - IPV4_HEADER_BYTES } else { mtu - IPV6_HEADER_BYTES };
        payload.min(DATAGRAM_BYTES_MAX + UDP_HEADER_BYTES)
    }
}

impl Datagram {
    fn new(single: Single, bind: Bind) -> Self {
        Self { single, bind, unsent: 0, wants_write: false, is_closed: false }
    }
}

impl Kind {
    /// Drops what a datagram socket has received and what it was to send.
    pub(crate) fn forget_datagrams(&mut self) {
        let datagram = match self {
            Self::Udp(datagram) => {
                let socket = datagram.single.get_mut::<udp::Socket<'_>>();
                socket.close();
                socket.bind(datagram.bind.port).expect("it has just been closed, and the port is not 0");
                datagram
            }
            Self::Icmp(datagram) => {
                let old = datagram.single.get::<icmp::Socket<'_>>();
                let (rx_bytes, tx_bytes) = (old.payload_recv_capacity(), old.payload_send_capacity());
                let (hops, mut single) = (old.hop_limit(), icmp_socket(datagram.bind.port, rx_bytes, tx_bytes));
                single.get_mut::<icmp::Socket<'_>>().set_hop_limit(hops);
                datagram.single = single;
                datagram
            }
            Self::Tcp(_) | Self::Listener(_) => return,
        };
        (datagram.unsent, datagram.wants_write) = (0, false);
    }
}

/// smoltcp's part of a socket for ICMP echo messages.
fn icmp_socket(ident: u16, rx_bytes: usize, tx_bytes: usize) -> Single {
    let queue = |bytes| icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; datagrams(bytes)], vec![0; bytes]);
    let mut socket = icmp::Socket::new(queue(rx_bytes), queue(tx_bytes));
    socket.bind(icmp::Endpoint::Ident(ident)).expect("a new socket is not bound");
    Single::new(socket)
}

fn datagrams(bytes: usize) -> usize {
    (bytes / BYTES_PER_DATAGRAM).clamp(DATAGRAMS_MIN, SOCKET_DATAGRAMS_MAX)
}
