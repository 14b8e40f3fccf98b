//! What is kept of each socket beside smoltcp's part of it.

use alloc::{boxed::Box, collections::VecDeque, vec::Vec};
use core::net::SocketAddr;

use roam_abi::Errno;
use smoltcp::{
    iface::{SocketHandle, SocketSet},
    socket::{AnySocket, tcp},
    time::Duration,
};

use super::{Bind, Flow, Index};
use crate::heard::Heard;
use crate::sequence::Sequence;

/// A socket and where it stands in the stack's queues.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) kind: Kind,
    /// It is in the queue of events.
    pub(crate) has_event: bool,
    /// It is in the queue of sockets that may have something to send.
    pub(crate) is_dirty: bool,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Udp(Datagram),
    Icmp(Datagram),
    Listener(Listener),
    Tcp(Box<Tcp>),
}

/// A UDP socket, or one for ICMP echo messages.
#[derive(Debug)]
pub(crate) struct Datagram {
    pub(crate) single: Single,
    /// For ICMP, the port is the identifier.
    pub(crate) bind: Bind,
    /// Datagrams in its queue.
    pub(crate) unsent: usize,
    /// A send found no space.
    pub(crate) wants_write: bool,
    /// The guest has closed it; what is queued still leaves.
    pub(crate) is_closed: bool,
}

/// A place connections arrive at. smoltcp has no such socket: each connection gets one when its SYN comes.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) bind: Bind,
    pub(crate) backlog: usize,
    pub(crate) rx_bytes: usize,
    pub(crate) tx_bytes: usize,
    /// Connections that wait for their handshake's last segment, oldest first.
    pub(crate) half_open: VecDeque<Index>,
    /// Connections that wait for the guest, oldest first.
    pub(crate) ready: VecDeque<Index>,
    /// What connections start with.
    pub(crate) options: Options,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Tcp {
    pub(crate) single: Single,
    pub(crate) flow: Flow,
    pub(crate) local: SocketAddr,
    pub(crate) peer: SocketAddr,
    pub(crate) owner: Owner,
    pub(crate) seen: Seen,
    pub(crate) sequence: Sequence,
    pub(crate) heard: Heard,
    /// Why it ended, if not in good order.
    pub(crate) error: Option<Errno>,
    /// A send found no space, or less than it asked for.
    pub(crate) wants_write: bool,
    /// When it is given up, whatever it waits for.
    pub(crate) expires_ns: Option<i64>,
    /// [`roam_abi::SocketOption::KeepAlive`].
    pub(crate) keep_alive: Option<Duration>,
    /// Keep-alives ask the peer for its window, though the guest asks for none.
    pub(crate) is_probing: bool,
    /// The guest has ended sending, but the FIN waits for what is queued to be acknowledged.
    pub(crate) fin_waits: bool,
    /// [`roam_abi::SocketOption::Timeout`], which holds once the connection is established.
    pub(crate) timeout: Option<Duration>,
}

/// Who a connection belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The backlog of a listener.
    Backlog(Index),
    /// The guest.
    Guest,
    /// Nobody: the guest has closed it, and what it has queued still leaves.
    Nobody,
}

/// What was last seen of smoltcp's socket, to tell what has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) state: tcp::State,
    pub(crate) rx_bytes: usize,
    pub(crate) tx_bytes: usize,
}

/// TCP options as the guest set them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    pub(crate) no_delay: bool,
    pub(crate) keep_alive: Option<Duration>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) hop_limit: Option<u8>,
}

/// A socket set of one.
#[derive(Debug)]
pub(crate) struct Single {
    pub(crate) set: SocketSet<'static>,
    handle: SocketHandle,
}

impl Single {
    pub(crate) fn new(socket: impl AnySocket<'static>) -> Self {
        let mut set = SocketSet::new(Vec::with_capacity(1));
        let handle = set.add(socket);
        Self { set, handle }
    }

    /// The socket, of the type it was made with.
    pub(crate) fn get<T: AnySocket<'static>>(&self) -> &T {
        self.set.get(self.handle)
    }

    /// The socket, of the type it was made with.
    pub(crate) fn get_mut<T: AnySocket<'static>>(&mut self) -> &mut T {
        self.set.get_mut(self.handle)
    }
}

impl Socket {
    pub(crate) fn new(kind: Kind) -> Self {
        Self { kind, has_event: false, is_dirty: false }
    }

    /// Whether the guest holds a handle of it.
    pub(crate) fn is_guests(&self) -> bool {
        match &self.kind {
            Kind::Udp(datagram) | Kind::Icmp(datagram) => !datagram.is_closed,
            Kind::Listener(_) => true,
            Kind::Tcp(tcp) => tcp.owner == Owner::Guest,
        }
    }

    /// smoltcp's part of it, and how far a connection has sent.
    pub(crate) fn parts_mut(&mut self) -> Option<(&mut SocketSet<'static>, Option<&mut Sequence>)> {
        match &mut self.kind {
            Kind::Udp(datagram) | Kind::Icmp(datagram) => Some((&mut datagram.single.set, None)),
            Kind::Tcp(tcp) => Some((&mut tcp.single.set, Some(&mut tcp.sequence))),
            Kind::Listener(_) => None,
        }
    }
}

impl Tcp {
    pub(crate) fn socket(&self) -> &tcp::Socket<'static> {
        self.single.get()
    }

    pub(crate) fn socket_mut(&mut self) -> &mut tcp::Socket<'static> {
        self.single.get_mut()
    }

    /// What is to be seen of the socket now.
    pub(crate) fn look(&self) -> Seen {
        let socket = self.socket();
        Seen { state: socket.state(), rx_bytes: socket.recv_queue(), tx_bytes: socket.send_queue() }
    }

    /// Whether nothing will be sent or received any more.
    pub(crate) fn is_over(&self) -> bool {
        let socket = self.socket();
        let connecting = matches!(socket.state(), tcp::State::SynSent | tcp::State::SynReceived | tcp::State::Listen);
        !connecting && !socket.may_send() && !socket.may_recv()
    }
}
