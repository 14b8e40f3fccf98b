//! The way out: from the sockets to the tx ring.

use smoltcp::{
    iface::PollResult,
    socket::{icmp, udp},
};

use crate::{
    Netstack,
    device::{Device, Output},
    settle::Cause,
    socket::{Index, Kind},
};

impl Netstack {
    /// Has the socket asked for packets by the next [`Netstack::egress`].
    pub(crate) fn mark_dirty(&mut self, index: Index) {
        if let Some(socket) = self.table.get_mut(index)
            && !core::mem::replace(&mut socket.is_dirty, true)
        {
            self.dirty.push_back(index);
        }
    }

    /// Sends what sockets have to send, until there is no more or the ring is full. Then the socket that found no
    /// space goes to the end of the queue, so that each gets its turn.
    pub(crate) fn egress(&mut self, out: &mut Output<'_>) {
        while !out.full
            && !out.fragmenting
            && let Some(index) = self.dirty.pop_front()
        {
            let Some(socket) = self.table.get_mut(index) else { continue };
            socket.is_dirty = false;
            let quiet = self.drain(index, out);
            self.settle(index, Cause::Timer);
            if !quiet {
                self.mark_dirty(index);
            }
        }
    }

    /// Sends what one socket has to send; whether that was all.
    fn drain(&mut self, index: Index, out: &mut Output<'_>) -> bool {
        let now = self.now();
        loop {
            let Self { iface, link, stats, capabilities, table, .. } = self;
            let Some(socket) = table.get_mut(index) else { return true };
            // Datagrams know when they are through; TCP must be asked once more than it answers.
            let through = match &socket.kind {
                Kind::Udp(datagram) => datagram.single.get::<udp::Socket<'_>>().send_queue() == 0,
                Kind::Icmp(datagram) => datagram.single.get::<icmp::Socket<'_>>().send_queue() == 0,
                Kind::Tcp(_) => false,
                Kind::Listener(_) => true,
            };
            let Some(set) = socket.set_mut().filter(|_| !through) else { return true };
            let mut device = Device { received: None, out, link, stats, capabilities };
            let result = iface.poll_egress(now, &mut device, set);
            if !self.finish_fragments(out) || out.full {
                return false;
            }
            if result == PollResult::None {
                return true;
            }
        }
    }

    /// Sends the rest of a packet that has begun to leave in fragments; whether nothing of it is left.
    pub(crate) fn finish_fragments(&mut self, out: &mut Output<'_>) -> bool {
        let now = self.now();
        while out.fragmenting {
            let Self { iface, link, stats, capabilities, nobody, .. } = self;
            let mut device = Device { received: None, out, link, stats, capabilities };
            iface.poll_egress(now, &mut device, nobody);
            // Without sockets, only fragments that are still to be sent make smoltcp ask for a poll.
            out.fragmenting = iface.poll_at(now, nobody).is_some();
            if out.full {
                return !out.fragmenting;
            }
        }
        true
    }
}
