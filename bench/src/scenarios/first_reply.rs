//! Whether a guest answers yet.

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::Result;

use crate::engines::{GuestKind, Probe, START_LIMIT};
use crate::network::{Network, Seat};

/// How often the client tries.
const TRY_EVERY: Duration = Duration::from_micros(200);

/// A client that asks a guest's service for a sign of life.
pub(super) struct FirstReply<'a> {
    network: &'a Network,
    kind: GuestKind,
    socket: UdpSocket,
}

impl<'a> FirstReply<'a> {
    /// Asks that kind of guest at that seat, by IP `version`.
    pub(super) fn new(network: &'a Network, kind: GuestKind, seat: Seat, version: &str) -> Result<Self> {
        let target = seat.at(version, kind.port);
        let socket = network.client().run(|| {
            let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            UdpSocket::bind(any).and_then(|socket| socket.connect(target).map(|()| socket))
        })??;
        socket.set_read_timeout(Some(TRY_EVERY))?;
        Ok(Self { network, kind, socket })
    }

    /// Sends one request and waits one try's time for a reply.
    pub(super) fn is_there(&self) -> Result<bool> {
        match self.kind.probe {
            Probe::Udp(request) => {
                // While nobody is there the kernel may say so: that is no answer.
                Ok(self.socket.send(request).is_ok() && self.socket.recv(&mut [0; 2048]).is_ok())
            }
            Probe::Tcp(request) => {
                let target = self.socket.peer_addr()?;
                // A new connection each time: the kernel would send a lost SYN again only after a second.
                let exchange = || {
                    let mut stream = TcpStream::connect_timeout(&target, 5 * TRY_EVERY)?;
                    stream.set_read_timeout(Some(START_LIMIT))?;
                    stream.write_all(request)?;
                    stream.read(&mut [0; 2048])
                };
                Ok(self.network.client().run(exchange)?.is_ok_and(|count| count > 0))
            }
        }
    }
}
