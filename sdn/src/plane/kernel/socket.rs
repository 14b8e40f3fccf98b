//! Route netlink (rtnetlink(7)) over a socket that waits: a request, and its answer at once.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// What one datagram from the kernel may hold: it makes none larger.
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;
/// A dump during which something changed is read again so often; what it shows then is good enough.
const DUMPS_MAX: usize = 3;

/// A connection for requests.
pub(super) struct Link {
    socket: Socket,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
    request: Vec<u8>,
}

impl Link {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, port, sequence: 0, buffer: vec![0; DATAGRAM_BYTES_MAX], request: Vec::new() })
    }

    /// What notifications of our own changes carry as their sender.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Has one message done.
    pub(super) fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.receive(&mut |_| ()).map(drop)
    }

    /// Asks for one thing.
    pub(super) fn one(&mut self, message: RouteNetlinkMessage) -> io::Result<Option<RouteNetlinkMessage>> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK)?;
        let mut answer = None;
        self.receive(&mut |message| answer = Some(message))?;
        Ok(answer)
    }

    /// Asks for all of a kind.
    pub(super) fn dump(&mut self, message: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 1..DUMPS_MAX {
            if let (answers, false) = self.dump_once(message)? {
                return Ok(answers);
            }
        }
        Ok(self.dump_once(message)?.0)
    }

    fn dump_once(&mut self, message: &RouteNetlinkMessage) -> io::Result<(Vec<RouteNetlinkMessage>, bool)> {
        self.send(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut answers = Vec::new();
        let torn = self.receive(&mut |message| answers.push(message))?;
        Ok((answers, torn))
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        self.request.clear();
        self.request.resize(message.buffer_len(), 0);
        message.serialize(&mut self.request);
        self.socket.send(&self.request, 0).map(drop)
    }

    /// Until the answer to the last request is complete. Whether a dump was torn by a change.
    fn receive(&mut self, each: &mut dyn FnMut(RouteNetlinkMessage)) -> io::Result<bool> {
        let mut torn = false;
        loop {
            let length = receive(&self.socket, &mut self.buffer)?;
            let mut rest = &self.buffer[..length];
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
                rest = rest.get(padded(message.header.length)..).unwrap_or_default();
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                torn |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(torn),
                    NetlinkPayload::InnerMessage(message) => each(message),
                    _ => {}
                }
            }
        }
    }
}

/// A connection that is told of changes.
pub(super) struct News {
    socket: Socket,
    buffer: Vec<u8>,
}

impl News {
    pub(super) fn open(groups: &[u32]) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        for group in groups {
            socket.add_membership(*group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self { socket, buffer: vec![0; DATAGRAM_BYTES_MAX] })
    }

    /// Reads all that has come: each message's header and body. Whether there was more than could be kept.
    pub(super) fn drain(&mut self, each: &mut dyn FnMut(&NetlinkHeader, &[u8])) -> bool {
        loop {
            let length = match receive(&self.socket, &mut self.buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(_) => return true,
            };
            let mut rest = &self.buffer[..length];
            while let Ok(message) = NetlinkBuffer::new_checked(rest) {
                let mut header = NetlinkHeader::default();
                header.message_type = message.message_type();
                header.port_number = message.port_number();
                each(&header, message.payload());
                rest = rest.get(padded(message.length())..).unwrap_or_default();
            }
        }
    }
}

fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.recv(&mut &mut buffer[..], 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A longer datagram would be cut, and its length is told whole.
            Ok(length) => return Ok(length.min(buffer.len())),
            Err(error) => return Err(error),
        }
    }
}

/// Messages begin at multiples of four bytes.
fn padded(length: u32) -> usize {
    (length as usize).next_multiple_of(4)
}
