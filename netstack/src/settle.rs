//! What follows from what smoltcp has done with a socket: events, timers, and the end of connections.

use roam_abi::{Errno, Event};
use smoltcp::{
    socket::{icmp, tcp, tcp::State, udp},
    time::Duration,
};

use crate::{
    Netstack,
    ingress::ACK_DELAY,
    socket::{Index, Kind, Owner, Single},
};

/// How long a connection that the guest has closed may go without any progress.
pub(crate) const ORPHAN_NS_MAX: i64 = 60_000_000_000;
/// Connections in TIME-WAIT; the oldest makes room.
const TIME_WAIT_MAX: usize = 256;
/// Between two questions for the peer's window.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// After smoltcp has sent all it has, yet asks to be polled at once.
const RETRY_NS: i64 = 1_000_000;

/// What smoltcp has just dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A packet from the peer.
    Received,
    /// Everything it had to send has left.
    Sent,
    /// A part of it has left, and the ring is full.
    Sending,
}

impl Netstack {
    /// Draws the conclusions after smoltcp has worked on a socket.
    pub(crate) fn settle(&mut self, index: Index, cause: Cause) {
        let Some(socket) = self.table.get_mut(index) else { return };
        match &mut socket.kind {
            Kind::Tcp(_) => self.settle_tcp(index, cause),
            Kind::Udp(datagram) | Kind::Icmp(datagram) => {
                let (wants_write, is_closed) = (datagram.wants_write, datagram.is_closed);
                datagram.wants_write = false;
                if is_closed && cause == Cause::Sent {
                    self.release(index);
                } else if wants_write {
                    self.note_event(index);
                }
            }
            Kind::Listener(_) => {}
        }
    }

    fn settle_tcp(&mut self, index: Index, cause: Cause) {
        let Some(Kind::Tcp(tcp)) = self.table.get_mut(index).map(|socket| &mut socket.kind) else { return };
        tcp.finish_when_sent();
        match tcp.owner {
            Owner::Backlog(listener) => self.settle_backlog(index, listener),
            Owner::Guest => self.settle_guests(index, cause),
            Owner::Nobody => self.settle_orphan(index),
        }
        match cause {
            Cause::Received => self.mark_dirty(index),
            Cause::Sent => self.arm(index),
            Cause::Sending => {}
        }
    }

    fn settle_backlog(&mut self, index: Index, listener: Index) {
        let Some(Kind::Tcp(tcp)) = self.table.get_mut(index).map(|socket| &mut socket.kind) else { return };
        let seen = tcp.look();
        let before = core::mem::replace(&mut tcp.seen, seen);
        match seen.state {
            State::Listen | State::Closed => self.drop_from_backlog(index, listener),
            State::SynReceived => {}
            _ if matches!(before.state, State::Listen | State::SynReceived) => {
                tcp.expires_ns = None;
                let timeout = tcp.timeout;
                tcp.socket_mut().set_timeout(timeout);
                self.move_to_ready(index, listener);
            }
            _ => {}
        }
    }

    fn settle_guests(&mut self, index: Index, cause: Cause) {
        let Some(Kind::Tcp(tcp)) = self.table.get_mut(index).map(|socket| &mut socket.kind) else { return };
        let seen = tcp.look();
        let before = core::mem::replace(&mut tcp.seen, seen);
        let mut event = seen.rx_bytes > before.rx_bytes || seen.state != before.state;
        if seen.state != before.state {
            if before.state == State::SynSent {
                let timeout = tcp.timeout;
                tcp.socket_mut().set_timeout(timeout);
            }
            if seen.state == State::Closed {
                // The peer may use its port anew while the guest still looks at this one.
                self.demux.remove_flow(tcp.flow, index);
                tcp.error = tcp.error.or(end(before.state, cause));
                match tcp.error {
                    Some(Errno::TIMEDOUT) => self.stats.tcp_timeouts += 1,
                    Some(_) => self.stats.tcp_resets += 1,
                    None => {}
                }
            } else if before.state == State::SynSent {
                self.stats.tcp_connected += 1;
            }
        }
        // A quarter of the buffer is worth waking the guest for; a few bytes are not.
        let capacity = tcp.socket().send_capacity();
        if tcp.wants_write && tcp.socket().can_send() && (capacity - seen.tx_bytes) * 4 >= capacity {
            tcp.wants_write = false;
            event = true;
        }
        if event {
            self.note_event(index);
        }
    }

    fn settle_orphan(&mut self, index: Index) {
        let Some(Kind::Tcp(tcp)) = self.table.get_mut(index).map(|socket| &mut socket.kind) else { return };
        let now_ns = self.now_ns;
        // Nobody will read it: make room, so that the peer can finish.
        for _ in 0..2 {
            let read = tcp.socket_mut().recv(|bytes| (bytes.len(), bytes.len()));
            tcp.heard.read(read.unwrap_or(0));
        }
        let seen = tcp.look();
        let before = core::mem::replace(&mut tcp.seen, seen);
        if seen.tx_bytes < before.tx_bytes || seen.state != before.state {
            tcp.expires_ns = Some(now_ns + ORPHAN_NS_MAX);
        }
        if seen.state == State::Closed && tcp.socket().remote_endpoint().is_none() {
            self.release(index);
        } else if seen.state == State::TimeWait && before.state != State::TimeWait {
            self.enter_time_wait(index);
        }
    }

    /// Queues a connection of nobody's that is in TIME-WAIT to be forgotten in time.
    pub(crate) fn enter_time_wait(&mut self, index: Index) {
        self.time_wait.push_back(index);
        // They end in the order in which they began, so those that have ended are in front.
        while self.time_wait.front().is_some_and(|oldest| !self.is_nobodys_time_wait(*oldest)) {
            self.time_wait.pop_front();
        }
        if self.time_wait.len() > TIME_WAIT_MAX {
            self.reap_time_wait();
        }
    }

    /// Forgets the connection that has been longest in TIME-WAIT; whether there was one.
    pub(crate) fn reap_time_wait(&mut self) -> bool {
        while let Some(oldest) = self.time_wait.pop_front() {
            if self.is_nobodys_time_wait(oldest) {
                self.stats.time_wait_reaped += 1;
                self.release(oldest);
                return true;
            }
        }
        false
    }

    fn is_nobodys_time_wait(&self, index: Index) -> bool {
        match self.table.get(index).map(|socket| &socket.kind) {
            Some(Kind::Tcp(tcp)) => tcp.owner == Owner::Nobody && tcp.seen.state == State::TimeWait,
            _ => false,
        }
    }

    /// Lets go of a connection in TIME-WAIT, because its peer uses its port anew; whether it was one.
    pub(crate) fn recycle_time_wait(&mut self, index: Index) -> bool {
        let Some(Kind::Tcp(tcp)) = self.table.get(index).map(|socket| &socket.kind) else { return false };
        if tcp.socket().state() != State::TimeWait {
            return false;
        }
        if tcp.owner == Owner::Nobody {
            self.release(index);
        } else {
            self.demux.remove_flow(tcp.flow, index);
        }
        true
    }

    /// Takes a socket out of the stack.
    pub(crate) fn release(&mut self, index: Index) {
        let Some(socket) = self.table.remove(index) else { return };
        self.timers.clear(index);
        match socket.kind {
            Kind::Tcp(tcp) => {
                self.demux.remove_flow(tcp.flow, index);
                self.pool.put(tcp.single);
            }
            Kind::Udp(datagram) => {
                let socket: &udp::Socket<'_> = datagram.single.get();
                self.pool.free(socket.payload_recv_capacity() + socket.payload_send_capacity());
            }
            Kind::Icmp(datagram) => {
                let socket: &icmp::Socket<'_> = datagram.single.get();
                self.pool.free(socket.payload_recv_capacity() + socket.payload_send_capacity());
            }
            Kind::Listener(_) => {}
        }
    }

    /// A closed TCP socket with buffers of these sizes, as good as new; [`Errno::NOMEM`] if there are too many.
    pub(crate) fn tcp_socket(&mut self, rx_bytes: usize, tx_bytes: usize) -> Result<Single, Errno> {
        let mut single = self.pool.take(rx_bytes, tx_bytes)?;
        let socket: &mut tcp::Socket<'static> = single.get_mut();
        socket.abort();
        socket.set_nagle_enabled(true);
        socket.set_keep_alive(None);
        socket.set_timeout(None);
        socket.set_hop_limit(None);
        socket.set_ack_delay(Some(ACK_DELAY));
        socket.set_congestion_control(tcp::CongestionControl::Reno);
        Ok(single)
    }

    /// Queues an event for the guest.
    pub(crate) fn note_event(&mut self, index: Index) {
        if let Some(socket) = self.table.get_mut(index)
            && socket.is_guests()
            && !core::mem::replace(&mut socket.has_event, true)
        {
            self.events.push_back(index);
        }
    }

    /// What to tell the guest about a socket whose event is due.
    pub(crate) fn take_event(&mut self, index: Index) -> Option<u32> {
        let socket = self.table.get_mut(index)?;
        if !core::mem::take(&mut socket.has_event) || !socket.is_guests() {
            return None;
        }
        let flag = |is: bool, flag: u32| if is { flag } else { 0 };
        let flags = match &socket.kind {
            Kind::Udp(datagram) => {
                let socket: &udp::Socket<'_> = datagram.single.get();
                flag(socket.can_recv(), Event::READABLE) | flag(socket.can_send(), Event::WRITABLE)
            }
            Kind::Icmp(datagram) => {
                let socket: &icmp::Socket<'_> = datagram.single.get();
                flag(socket.can_recv(), Event::READABLE) | flag(socket.can_send(), Event::WRITABLE)
            }
            Kind::Listener(listener) => flag(!listener.ready.is_empty(), Event::READABLE),
            Kind::Tcp(tcp) => {
                let (socket, is_over) = (tcp.socket(), tcp.is_over());
                let connecting = matches!(socket.state(), State::SynSent | State::SynReceived);
                let readable = socket.can_recv() || !(socket.may_recv() || connecting);
                // What has come can still be read; who waits to send hears at once that nothing will be.
                let writable = socket.can_send() || is_over || socket.state() == State::Closed;
                flag(readable, Event::READABLE) | flag(writable, Event::WRITABLE) | flag(is_over, Event::CLOSED)
            }
        };
        (flags != 0).then_some(flags)
    }

    /// Lets all timers that are due expire.
    pub(crate) fn expire(&mut self) {
        while let Some((at_ns, index)) = self.timers.first()
            && at_ns <= self.now_ns
        {
            self.timers.clear(index);
            let Some(socket) = self.table.get(index) else { continue };
            if let Kind::Tcp(tcp) = &socket.kind
                && tcp.expires_ns.is_some_and(|expires_ns| expires_ns <= self.now_ns)
            {
                match tcp.owner {
                    Owner::Backlog(listener) => {
                        self.stats.half_open_expired += 1;
                        self.drop_from_backlog(index, listener);
                    }
                    Owner::Guest | Owner::Nobody => {
                        self.stats.orphans_reaped += 1;
                        self.release(index);
                    }
                }
            } else {
                self.mark_dirty(index);
            }
        }
    }

    /// Sets the timer of a connection that has nothing to send now.
    ///
    /// smoltcp forgets its timers where a retransmission is due while the peer's window is closed, or seems so (it
    /// takes the window from any segment, an overtaken one too), and then waits for ever. Keep-alives make the peer
    /// say its window again.
    fn arm(&mut self, index: Index) {
        let (now, now_ns) = (self.now(), self.now_ns);
        let Self { iface, table, .. } = self;
        let Some(socket) = table.get_mut(index) else { return };
        let Kind::Tcp(tcp) = &mut socket.kind else { return };
        let waits = tcp.seen.tx_bytes > 0 && tcp.socket().is_active();
        if tcp.is_probing && !waits {
            tcp.is_probing = false;
            let keep_alive = tcp.keep_alive;
            tcp.socket_mut().set_keep_alive(keep_alive);
        } else if waits && !tcp.is_probing && iface.poll_at(now, &tcp.single.set).is_none() {
            tcp.is_probing = true;
            tcp.socket_mut().set_keep_alive(Some(PROBE_INTERVAL));
        }
        let poll_ns = iface.poll_at(now, &tcp.single.set).map(|at| match at.total_micros().saturating_mul(1000) {
            at_ns if at_ns <= now_ns => now_ns + RETRY_NS,
            at_ns => at_ns,
        });
        let Some(at_ns) = poll_ns.into_iter().chain(tcp.expires_ns).min() else { return };
        // A timer that is set too early costs one look at the socket; moving it with every packet would cost more.
        if self.timers.due_ns(index).is_none_or(|due_ns| due_ns > at_ns) {
            self.timers.set(index, at_ns);
        }
    }
}

/// Why a connection of the guest's that was in `state` has ended; nothing where that is in order.
fn end(state: State, cause: Cause) -> Option<Errno> {
    match (state, cause) {
        (State::LastAck | State::Closing | State::TimeWait | State::Closed, _) => None,
        (_, Cause::Sent | Cause::Sending) => Some(Errno::TIMEDOUT),
        (State::SynSent | State::SynReceived, Cause::Received) => Some(Errno::CONNREFUSED),
        (_, Cause::Received) => Some(Errno::CONNRESET),
    }
}

/// The longest time an option can name: 24 days, well within smoltcp's arithmetic.
pub(crate) const OPTION_NS_MAX: i64 = 24 * 24 * 3_600 * 1_000_000_000;

/// An option's nanoseconds as smoltcp's microseconds, rounded up; 0 is "off".
pub(crate) fn duration(ns: i64) -> Result<Option<Duration>, Errno> {
    match ns {
        0 => Ok(None),
        1..=OPTION_NS_MAX => Ok(Some(Duration::from_micros((ns as u64).div_ceil(1000)))),
        _ => Err(Errno::INVAL),
    }
}
