//! The guest's calls.

mod datagram;
mod inspect;
mod listen;
mod stream;

pub use inspect::{SocketInfo, SocketKind};

use core::net::{IpAddr, SocketAddr};

use roam_abi::{
    Errno, SocketOption,
    limits::{SOCKET_BUFFER_BYTES_DEFAULT, SOCKET_BUFFER_BYTES_MAX, SOCKET_BUFFER_BYTES_MIN},
};
use smoltcp::socket::tcp::State;
use smoltcp::socket::{icmp, udp};

use crate::{
    Netstack, SocketId,
    settle::duration,
    socket::{Kind, Options, Scope},
};

impl Netstack {
    /// Closes the socket: its handle is gone. A connection's queued bytes and its FIN, and a socket's queued
    /// datagrams, still leave.
    pub fn close(&mut self, id: SocketId) -> Result<(), Errno> {
        let index = self.table.find(id)?;
        match self.table.get(index).map(|socket| &socket.kind) {
            Some(Kind::Tcp(_)) => self.close_stream(index),
            Some(Kind::Listener(_)) => self.close_listener(index),
            _ => self.close_datagram(index),
        }
        Ok(())
    }

    /// As [`Netstack::close`], but what is queued is lost and a connection's peer gets a reset.
    pub fn abort(&mut self, id: SocketId) -> Result<(), Errno> {
        let index = self.table.find(id)?;
        match self.table.get(index).map(|socket| &socket.kind) {
            Some(Kind::Tcp(_)) => self.abort_stream(index),
            Some(Kind::Listener(_)) => self.close_listener(index),
            _ => {
                self.close_datagram(index);
                self.release(index);
            }
        }
        Ok(())
    }

    /// Sets an option; of a listener, for all connections to come. [`Errno::NOTSUP`] where the socket has no such
    /// option, [`Errno::INVAL`] for a value outside its range.
    pub fn set_option(&mut self, id: SocketId, option: SocketOption, value: i64) -> Result<(), Errno> {
        let index = self.table.find(id)?;
        match self.table.get_mut(index).map(|socket| &mut socket.kind) {
            Some(Kind::Tcp(tcp)) => {
                let mut options = Options { timeout: tcp.timeout, ..Options::default() };
                options.set(option, value)?;
                tcp.apply(option, &options);
                self.mark_dirty(index);
            }
            Some(Kind::Listener(listener)) => listener.options.set(option, value)?,
            Some(Kind::Udp(datagram)) if option == SocketOption::HopLimit => {
                datagram.single.get_mut::<udp::Socket<'_>>().set_hop_limit(Some(hop_limit(value)?));
            }
            Some(Kind::Icmp(datagram)) if option == SocketOption::HopLimit => {
                datagram.single.get_mut::<icmp::Socket<'_>>().set_hop_limit(Some(hop_limit(value)?));
            }
            _ => return Err(Errno::NOTSUP),
        }
        Ok(())
    }

    /// The address the socket is bound to; of an ICMP socket, the port is the identifier.
    pub fn local_addr(&self, id: SocketId) -> Result<SocketAddr, Errno> {
        let index = self.table.find(id)?;
        match self.table.get(index).map(|socket| &socket.kind) {
            Some(Kind::Tcp(tcp)) => Ok(tcp.local),
            Some(Kind::Listener(listener)) => Ok(listener.bind.address()),
            Some(Kind::Udp(datagram) | Kind::Icmp(datagram)) => Ok(datagram.bind.address()),
            None => Err(Errno::BADF),
        }
    }

    /// The address of the connection's other end; [`Errno::NOTCONN`] for a socket without one and before it is
    /// established, which is how a guest tells a connect that was answered from a spurious event.
    pub fn peer_addr(&self, id: SocketId) -> Result<SocketAddr, Errno> {
        let index = self.table.find(id)?;
        match self.table.get(index).map(|socket| &socket.kind) {
            Some(Kind::Tcp(tcp)) if tcp.socket().state() != State::SynSent => Ok(tcp.peer),
            _ => Err(Errno::NOTCONN),
        }
    }

    /// Whether a socket may be bound to `local`.
    fn check_local(&self, local: IpAddr) -> Result<Scope, Errno> {
        match Scope::of(local) {
            Scope::One(address) if !self.link.addresses.owns(address) => Err(Errno::ADDRNOTAVAIL),
            scope => Ok(scope),
        }
    }

    /// Whether packets can be sent to `to`, and from which address.
    fn check_remote(&self, to: IpAddr) -> Result<IpAddr, Errno> {
        let addresses = &self.link.addresses;
        let routed = match to {
            IpAddr::V4(v4) if addresses.is_broadcast(v4) || v4.is_multicast() => true,
            IpAddr::V6(v6) if v6.is_multicast() => true,
            _ => addresses.is_peer(to) && addresses.next_hop(to).is_some(),
        };
        addresses.source(to).filter(|_| routed).ok_or(Errno::ADDRNOTAVAIL)
    }
}

impl Options {
    fn set(&mut self, option: SocketOption, value: i64) -> Result<(), Errno> {
        match option {
            SocketOption::NoDelay => {
                self.no_delay = match value {
                    0 => false,
                    1 => true,
                    _ => return Err(Errno::INVAL),
                };
            }
            SocketOption::KeepAlive => self.keep_alive = duration(value)?,
            SocketOption::Timeout => self.timeout = duration(value)?,
            SocketOption::HopLimit => self.hop_limit = Some(hop_limit(value)?),
        }
        Ok(())
    }
}

fn hop_limit(value: i64) -> Result<u8, Errno> {
    match u8::try_from(value) {
        Ok(hops @ 1..) => Ok(hops),
        _ => Err(Errno::INVAL),
    }
}

/// The size of a buffer the guest asks for: 0 is the default, too little is rounded up, too much refused.
fn buffer_bytes(asked: usize) -> Result<usize, Errno> {
    match asked {
        0 => Ok(SOCKET_BUFFER_BYTES_DEFAULT),
        asked if asked > SOCKET_BUFFER_BYTES_MAX => Err(Errno::INVAL),
        asked => Ok(asked.max(SOCKET_BUFFER_BYTES_MIN)),
    }
}
