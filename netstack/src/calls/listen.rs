//! Listeners, and the connections that wait in their backlogs.
//!
//! A connection gets a smoltcp socket when its SYN comes, so a burst of them needs no sockets in advance. Those whose
//! handshake is not done yet make room for newer ones when the backlog is full: a flood of SYNs that nobody completes
//! can delay others, not keep them out.

use alloc::{boxed::Box, collections::VecDeque};
use core::net::SocketAddr;

use roam_abi::{Errno, limits::BACKLOG_MAX};
use smoltcp::{
    socket::tcp,
    wire::{IpEndpoint, IpListenEndpoint},
};

use super::buffer_bytes;
use crate::{
    Netstack, SocketId,
    heard::Heard,
    sequence::Sequence,
    socket::{Bind, Flow, Index, Kind, Listener, Options, Owner, Scope, Seen, Socket, Tcp},
};

/// How long a peer has to complete the handshake.
const HALF_OPEN_NS_MAX: i64 = 5_000_000_000;

impl Netstack {
    /// A listening socket. `backlog` connections may be half-open or wait for [`Netstack::accept`] (at least 1, at
    /// most [`BACKLOG_MAX`]); each has buffers of these sizes. Addresses and errors as for [`Netstack::udp_open`].
    pub fn tcp_listen(
        &mut self,
        local: SocketAddr,
        backlog: usize,
        rx_bytes: usize,
        tx_bytes: usize,
    ) -> Result<SocketId, Errno> {
        let (rx_bytes, tx_bytes) = (buffer_bytes(rx_bytes)?, buffer_bytes(tx_bytes)?);
        let scope = self.check_local(local.ip())?;
        let bind = match local.port() {
            0 => {
                let mut ports = self.random.ports().map(|port| Bind { port, scope });
                ports.find(|bind| !self.demux.listeners.is_taken(*bind)).ok_or(Errno::ADDRINUSE)?
            }
            port => Bind { port, scope },
        };
        if self.demux.listeners.is_taken(bind) {
            return Err(Errno::ADDRINUSE);
        }
        let listener = Listener {
            bind,
            backlog: backlog.clamp(1, BACKLOG_MAX),
            rx_bytes,
            tx_bytes,
            half_open: VecDeque::new(),
            ready: VecDeque::new(),
            options: Options::default(),
        };
        let index = self.insert(Kind::Listener(listener))?;
        self.demux.listeners.insert(bind, index);
        Ok(self.table.id(index))
    }

    /// The connection that has waited longest, and its peer; [`Errno::AGAIN`] while there is none.
    pub fn accept(&mut self, id: SocketId) -> Result<(SocketId, SocketAddr), Errno> {
        let listener = self.table.find(id)?;
        let Kind::Listener(waiting) = &mut self.table.get_mut(listener).ok_or(Errno::BADF)?.kind else {
            return Err(Errno::NOTSUP);
        };
        let index = waiting.ready.pop_front().ok_or(Errno::AGAIN)?;
        let Some(Kind::Tcp(tcp)) = self.table.get_mut(index).map(|socket| &mut socket.kind) else {
            return Err(Errno::AGAIN);
        };
        tcp.owner = Owner::Guest;
        let peer = tcp.peer;
        self.stats.tcp_accepted += 1;
        // What came before the guest had the handle is news to it.
        self.note_event(index);
        Ok((self.table.id(index), peer))
    }

    /// Makes a connection for a SYN of `flow`; `None` where there is no room and none can be made.
    pub(crate) fn open_half(&mut self, listener: Index, flow: Flow) -> Option<Index> {
        if !self.make_room_in_backlog(listener) || !(self.make_room_in_table() || self.evict_half_open(listener)) {
            return None;
        }
        let Some(Kind::Listener(Listener { rx_bytes, tx_bytes, options, .. })) = self.kind(listener) else {
            return None;
        };
        let (rx_bytes, tx_bytes, options) = (*rx_bytes, *tx_bytes, *options);
        let mut single = match self.tcp_socket(rx_bytes, tx_bytes) {
            Ok(single) => single,
            Err(_) if self.evict_half_open(listener) => self.tcp_socket(rx_bytes, tx_bytes).ok()?,
            Err(_) => return None,
        };
        let socket: &mut tcp::Socket<'static> = single.get_mut();
        if socket.listen(IpListenEndpoint::from(IpEndpoint::from(flow.local))).is_err() {
            self.pool.put(single);
            return None;
        }
        let mut tcp = Tcp {
            single,
            flow,
            local: flow.local,
            peer: flow.peer,
            owner: Owner::Backlog(listener),
            seen: Seen { state: tcp::State::Listen, rx_bytes: 0, tx_bytes: 0 },
            sequence: Sequence::default(),
            heard: Heard::default(),
            error: None,
            wants_write: false,
            expires_ns: Some(self.now_ns + HALF_OPEN_NS_MAX),
            keep_alive: None,
            is_probing: false,
            fin_waits: false,
            timeout: None,
        };
        tcp.apply_all(&options);
        let index = self.table.insert(Socket::new(Kind::Tcp(Box::new(tcp)))).ok()?;
        self.demux.flows.insert(flow, index);
        if let Some(Kind::Listener(listener)) = self.kind(listener) {
            listener.half_open.push_back(index);
        }
        Some(index)
    }

    /// A connection in the backlog has come to be.
    pub(crate) fn move_to_ready(&mut self, index: Index, listener: Index) {
        if let Some(Kind::Listener(waiting)) = self.kind(listener) {
            waiting.half_open.retain(|half_open| *half_open != index);
            waiting.ready.push_back(index);
            self.note_event(listener);
        }
    }

    /// Takes a connection out of the backlog and forgets it.
    pub(crate) fn drop_from_backlog(&mut self, index: Index, listener: Index) {
        if let Some(Kind::Listener(waiting)) = self.kind(listener) {
            waiting.half_open.retain(|half_open| *half_open != index);
            waiting.ready.retain(|ready| *ready != index);
        }
        self.release(index);
    }

    pub(super) fn close_listener(&mut self, index: Index) {
        let Some(Kind::Listener(listener)) = self.kind(index) else { return };
        let (bind, half_open) = (listener.bind, core::mem::take(&mut listener.half_open));
        let ready = core::mem::take(&mut listener.ready);
        self.demux.listeners.remove(bind);
        for index in half_open {
            self.release(index);
        }
        for index in ready {
            self.abort_stream(index);
        }
        self.release(index);
    }

    /// Puts a socket into the table, where a connection in TIME-WAIT may make room for it.
    pub(super) fn insert(&mut self, kind: Kind) -> Result<Index, Errno> {
        if !self.make_room_in_table() {
            return Err(Errno::MFILE);
        }
        self.table.insert(Socket::new(kind))
    }

    pub(super) fn make_room_in_table(&mut self) -> bool {
        !self.table.is_full() || self.reap_time_wait()
    }

    fn make_room_in_backlog(&mut self, listener: Index) -> bool {
        match self.kind(listener) {
            Some(Kind::Listener(listener)) if listener.half_open.len() + listener.ready.len() < listener.backlog => {
                true
            }
            _ => self.evict_half_open(listener),
        }
    }

    /// Gives up the oldest half-open connection; whether there was one.
    fn evict_half_open(&mut self, listener: Index) -> bool {
        let Some(Kind::Listener(waiting)) = self.kind(listener) else { return false };
        let Some(oldest) = waiting.half_open.pop_front() else { return false };
        self.stats.half_open_evicted += 1;
        self.release(oldest);
        true
    }

    pub(super) fn kind(&mut self, index: Index) -> Option<&mut Kind> {
        self.table.get_mut(index).map(|socket| &mut socket.kind)
    }
}

impl Bind {
    /// The address that asks for it.
    pub(super) fn address(self) -> SocketAddr {
        SocketAddr::new(Scope::address(self.scope), self.port)
    }
}
