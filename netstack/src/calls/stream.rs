//! TCP connections.

use alloc::boxed::Box;
use core::net::{IpAddr, SocketAddr};

use roam_abi::{Errno, SocketOption};
use smoltcp::{
    socket::tcp::{self, State},
    time::Duration,
    wire::{IpEndpoint, IpListenEndpoint},
};

use super::buffer_bytes;
use crate::{
    Netstack, SocketId,
    heard::Heard,
    sequence::Sequence,
    settle::ORPHAN_NS_MAX,
    socket::{Flow, Index, Kind, Options, Owner, Seen, Tcp},
};

/// How long a connection attempt lasts that nobody answers.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

impl Netstack {
    /// Begins to connect to `to`; the socket becomes writable once it is established, or over where it fails.
    /// [`Errno::ADDRNOTAVAIL`] where there is no way to `to`, [`Errno::INVAL`] for port 0, a group address or buffers
    /// too large, [`Errno::MFILE`] for a socket too many, [`Errno::NOMEM`] for buffers too many.
    pub fn tcp_connect(&mut self, to: SocketAddr, rx_bytes: usize, tx_bytes: usize) -> Result<SocketId, Errno> {
        let (rx_bytes, tx_bytes) = (buffer_bytes(rx_bytes)?, buffer_bytes(tx_bytes)?);
        let group = to.ip().is_multicast() || matches!(to.ip(), IpAddr::V4(v4) if self.link.addresses.is_broadcast(v4));
        if to.port() == 0 || to.ip().is_unspecified() || group {
            return Err(Errno::INVAL);
        }
        // A scope or flow label is no part of what packets carry.
        let to = SocketAddr::new(to.ip(), to.port());
        let source = self.check_remote(to.ip())?;
        let mut flows = self.random.ports().map(|port| Flow { local: SocketAddr::new(source, port), peer: to });
        let demux = &self.demux;
        let flow = flows.find(|flow| demux.flows.get(flow).is_none()).ok_or(Errno::ADDRINUSE)?;
        if !self.make_room_in_table() {
            return Err(Errno::MFILE);
        }
        let mut single = self.tcp_socket(rx_bytes, tx_bytes)?;
        let socket: &mut tcp::Socket<'static> = single.get_mut();
        let local = IpListenEndpoint::from(IpEndpoint::from(flow.local));
        if socket.connect(self.iface.context(), IpEndpoint::from(to), local).is_err() {
            self.pool.put(single);
            return Err(Errno::ADDRNOTAVAIL);
        }
        socket.set_timeout(Some(CONNECT_TIMEOUT));
        let tcp = Tcp {
            single,
            flow,
            local: flow.local,
            peer: to,
            owner: Owner::Guest,
            seen: Seen { state: State::SynSent, rx_bytes: 0, tx_bytes: 0 },
            sequence: Sequence::default(),
            heard: Heard::default(),
            error: None,
            wants_write: true,
            expires_ns: None,
            keep_alive: None,
            is_probing: false,
            fin_waits: false,
            timeout: None,
        };
        let index = self.insert(Kind::Tcp(Box::new(tcp)))?;
        self.demux.flows.insert(flow, index);
        self.mark_dirty(index);
        Ok(self.table.id(index))
    }

    /// Queues 1 to `len_max` bytes, as many as have contiguous space; the caller fills what is returned before the
    /// next poll. [`Errno::AGAIN`] while there is no space or no connection yet, [`Errno::PIPE`] after
    /// [`Netstack::shutdown`] or once the connection is over, before that why it ended.
    pub fn send(&mut self, id: SocketId, len_max: usize) -> Result<&mut [u8], Errno> {
        let index = self.table.find(id)?;
        if len_max == 0 {
            return Err(Errno::INVAL);
        }
        self.mark_dirty(index);
        let tcp = self.stream(index)?;
        let error = tcp.error;
        match tcp.socket().state() {
            _ if tcp.fin_waits => return Err(Errno::PIPE),
            State::Established | State::CloseWait => {}
            State::SynSent | State::SynReceived => {
                tcp.wants_write = true;
                return Err(Errno::AGAIN);
            }
            _ => return Err(error.unwrap_or(Errno::PIPE)),
        }
        let free = tcp.socket().send_capacity() - tcp.socket().send_queue();
        tcp.wants_write = free < len_max;
        let slot = tcp
            .socket_mut()
            .send(|space| {
                let len = space.len().min(len_max);
                (len, &mut space[..len])
            })
            .map_err(|_| Errno::PIPE)?;
        if slot.is_empty() { Err(Errno::AGAIN) } else { Ok(slot) }
    }

    /// Up to `cap` received bytes, as many as are contiguous; empty once the peer has sent everything.
    /// [`Errno::AGAIN`] while there are none, or why the connection ended.
    pub fn recv(&mut self, id: SocketId, cap: usize) -> Result<&[u8], Errno> {
        let index = self.table.find(id)?;
        if cap == 0 {
            return Err(Errno::INVAL);
        }
        // Reading makes room, which the peer may be waiting to hear of.
        self.mark_dirty(index);
        let tcp = self.stream(index)?;
        let error = tcp.error;
        if matches!(tcp.socket().state(), State::SynSent | State::SynReceived) {
            return Err(Errno::AGAIN);
        }
        // Whatever arrives from now on is news.
        tcp.seen.rx_bytes = 0;
        let Tcp { single, heard, .. } = tcp;
        let received = single.get_mut::<tcp::Socket<'static>>().recv(|bytes| {
            let len = bytes.len().min(cap);
            (len, &bytes[..len])
        });
        match received {
            Ok([]) => Err(Errno::AGAIN),
            Ok(bytes) => {
                heard.read(bytes.len());
                Ok(bytes)
            }
            Err(_) if error.is_some() => Err(error.unwrap_or(Errno::CONNRESET)),
            Err(tcp::RecvError::Finished) => Ok(&[]),
            Err(tcp::RecvError::InvalidState) => Err(Errno::NOTCONN),
        }
    }

    /// Ends the sending direction: a FIN follows what is queued. [`Errno::NOTCONN`] without a connection.
    pub fn shutdown(&mut self, id: SocketId) -> Result<(), Errno> {
        let index = self.table.find(id)?;
        let tcp = self.stream(index)?;
        match tcp.socket().state() {
            State::SynSent | State::SynReceived | State::Closed | State::Listen => Err(Errno::NOTCONN),
            _ => {
                tcp.finish();
                tcp.seen.state = tcp.socket().state();
                self.mark_dirty(index);
                Ok(())
            }
        }
    }

    pub(super) fn close_stream(&mut self, index: Index) {
        let now_ns = self.now_ns;
        let Ok(tcp) = self.stream(index) else { return };
        // A connection that has not come to be has nothing to finish.
        if matches!(tcp.socket().state(), State::SynSent | State::SynReceived) {
            tcp.socket_mut().abort();
        }
        tcp.finish();
        self.orphan(index, now_ns);
    }

    pub(super) fn abort_stream(&mut self, index: Index) {
        let now_ns = self.now_ns;
        let Ok(tcp) = self.stream(index) else { return };
        tcp.socket_mut().abort();
        self.orphan(index, now_ns);
    }

    /// The guest has let go of a connection.
    fn orphan(&mut self, index: Index, now_ns: i64) {
        let Ok(tcp) = self.stream(index) else { return };
        tcp.owner = Owner::Nobody;
        tcp.seen = tcp.look();
        tcp.expires_ns = Some(now_ns + ORPHAN_NS_MAX);
        let state = tcp.seen.state;
        let silent = tcp.socket().remote_endpoint().is_none();
        self.table.revoke(index);
        if state == State::Closed && silent {
            self.release(index);
            return;
        }
        if state == State::TimeWait {
            self.enter_time_wait(index);
        }
        self.mark_dirty(index);
    }

    fn stream(&mut self, index: Index) -> Result<&mut Tcp, Errno> {
        match self.kind(index) {
            Some(Kind::Tcp(tcp)) => Ok(tcp),
            Some(_) => Err(Errno::NOTSUP),
            None => Err(Errno::BADF),
        }
    }
}

impl Tcp {
    /// Sends no more once what is queued has been acknowledged.
    fn finish(&mut self) {
        // In LAST-ACK smoltcp takes every acknowledgement that acknowledges nothing new for one that asks for the FIN
        // again, and overlooks the window in it: a peer whose window had closed would never be heard to open it.
        self.fin_waits = self.socket().state() == State::CloseWait && self.socket().send_queue() > 0;
        if !self.fin_waits {
            self.socket_mut().close();
        }
    }

    /// Catches up on [`Tcp::finish`] once the queue is empty.
    pub(crate) fn finish_when_sent(&mut self) {
        if self.fin_waits && self.socket().send_queue() == 0 {
            self.fin_waits = false;
            self.socket_mut().close();
        }
    }

    /// Puts one option into effect.
    pub(super) fn apply(&mut self, option: SocketOption, options: &Options) {
        match option {
            SocketOption::NoDelay => self.socket_mut().set_nagle_enabled(!options.no_delay),
            SocketOption::KeepAlive => {
                self.keep_alive = options.keep_alive;
                self.is_probing = false;
                self.socket_mut().set_keep_alive(options.keep_alive);
            }
            SocketOption::HopLimit => self.socket_mut().set_hop_limit(options.hop_limit),
            SocketOption::Timeout => {
                self.timeout = options.timeout;
                let connecting = self.socket().state() == State::SynSent;
                let timeout = options.timeout.unwrap_or(CONNECT_TIMEOUT).min(CONNECT_TIMEOUT);
                self.socket_mut().set_timeout(if connecting { Some(timeout) } else { options.timeout });
            }
        }
    }

    /// Puts all options of a listener into effect.
    pub(super) fn apply_all(&mut self, options: &Options) {
        (self.timeout, self.keep_alive) = (options.timeout, options.keep_alive);
        self.socket_mut().set_nagle_enabled(!options.no_delay);
        self.socket_mut().set_keep_alive(options.keep_alive);
        self.socket_mut().set_hop_limit(options.hop_limit);
    }
}
