//! The way out: from the sockets to the tx ring.

use smoltcp::iface::PollResult;

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
            self.settle(index, if quiet { Cause::Sent } else { Cause::Sending });
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
            if let Kind::Udp(datagram) | Kind::Icmp(datagram) = &socket.kind
                && datagram.unsent == 0
            {
                return true;
            }
            let Some((set, sequence)) = socket.parts_mut() else { return true };
            let mut device = Device { received: None, out, link, stats, capabilities, sequence };
            let result = iface.poll_egress(now, &mut device, set);
            let full = !self.finish_fragments(out) || out.full;
            match self.table.get_mut(index).map(|socket| &mut socket.kind) {
                // smoltcp takes a datagram out of its queue even where it cannot send it, and does not say so.
                Some(Kind::Udp(datagram) | Kind::Icmp(datagram)) if result != PollResult::None || !full => {
                    datagram.unsent -= 1;
                }
                Some(Kind::Tcp(_)) if result == PollResult::None && !full => return true,
                _ => {}
            }
            if full {
                return false;
            }
        }
    }

    /// Sends the rest of a packet that has begun to leave in fragments; whether nothing of it is left.
    pub(crate) fn finish_fragments(&mut self, out: &mut Output<'_>) -> bool {
        let now = self.now();
        while out.fragmenting {
            let Self { iface, link, stats, capabilities, nobody, .. } = self;
            let mut device = Device { received: None, out, link, stats, capabilities, sequence: None };
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
