//! The way in: from the rx ring to a socket.

use core::net::SocketAddr;

use smoltcp::{
    socket::{icmp, tcp::State, udp},
    time::Duration,
};

use crate::{
    Netstack, Ring,
    address::Target,
    device::{Device, Output},
    heard::Empty,
    link::{self, Received},
    packet::{ETHERNET_BYTES, ICMP, ICMPV6, Packet, TCP, UDP},
    ring::BATCH_FRAMES,
    settle::Cause,
    socket::{Flow, FragmentKey, Index, Kind},
};

/// Frames one poll takes in.
const FRAMES_MAX: usize = 4 * BATCH_FRAMES;

/// How long an acknowledgement waits for data to travel with. Long enough for a guest that answers at once, and far
/// shorter than what senders that wait for it notice.
pub(crate) const ACK_DELAY: Duration = Duration::from_millis(1);

const UDP_HEADER_BYTES: usize = 8;

/// Who gets a packet.
enum Recipient {
    Socket(Index),
    /// smoltcp answers it as one that nobody wants.
    Nobody,
    /// It is dropped.
    None,
}

impl Netstack {
    /// Takes in frames while they last, while the answers to them have space, and up to [`FRAMES_MAX`].
    pub(crate) fn ingress(&mut self, rx: &mut Ring<'_>, out: &mut Output<'_>) {
        let answer_bytes = (ETHERNET_BYTES + self.capabilities.max_transmission_unit).max(link::OWN_FRAME_BYTES_MAX);
        for _ in 0..FRAMES_MAX {
            let Some(frame) = rx.front() else { return };
            if !out.ring.has_space(answer_bytes) {
                out.full = true;
                self.stats.tx_backpressure += 1;
                return;
            }
            self.receive(frame.bytes, out);
            rx.pop();
            if !self.finish_fragments(out) {
                return;
            }
        }
    }

    fn receive(&mut self, frame: &[u8], out: &mut Output<'_>) {
        self.stats.rx_frames += 1;
        self.stats.rx_bytes += frame.len() as u64;
        let (packet, target) = match self.link.receive(frame, self.now_ns, &mut out.ring, &mut self.stats) {
            Received::Ip(packet, target) => (packet, target),
            Received::Done => return,
        };
        let ip = &frame[ETHERNET_BYTES..];
        match self.recipient(&packet, target) {
            Recipient::Socket(index) => self.receive_for(index, ip, &packet, out),
            Recipient::Nobody => {
                let Self { iface, link, stats, capabilities, nobody, .. } = self;
                let mut device = Device { received: Some(ip), out, link, stats, capabilities, sequence: None };
                iface.poll_ingress_single(smoltcp::time::Instant::from_micros(self.now_ns / 1000), &mut device, nobody);
            }
            Recipient::None => self.stats.unclaimed += 1,
        }
    }

    fn receive_for(&mut self, index: Index, ip: &[u8], packet: &Packet<'_>, out: &mut Output<'_>) {
        let now = self.now();
        let Self { iface, link, stats, capabilities, table, .. } = self;
        let Some(socket) = table.get_mut(index) else { return };
        let mut empty = None;
        let queued_before = match &mut socket.kind {
            Kind::Udp(datagram) => datagram.single.get::<udp::Socket<'_>>().recv_queue(),
            Kind::Icmp(datagram) => datagram.single.get::<icmp::Socket<'_>>().recv_queue(),
            Kind::Tcp(tcp) => {
                // A frame of many segments (the host has joined them) is worth an acknowledgement at once.
                let joined = ip.len() > capabilities.max_transmission_unit;
                tcp.socket_mut().set_ack_delay(Some(if joined { Duration::ZERO } else { ACK_DELAY }));
                let fin_received = matches!(
                    tcp.socket().state(),
                    State::CloseWait | State::Closing | State::LastAck | State::TimeWait | State::Closed
                );
                if !fin_received && packet.fragment.is_none() {
                    let queued = tcp.socket().recv_queue();
                    empty = tcp.heard.correct(ip, packet.payload, queued);
                }
                0
            }
            Kind::Listener(_) => return,
        };
        let Some((set, sequence)) = socket.parts_mut() else { return };
        let received = empty.as_ref().map_or(ip, Empty::packet);
        let mut device = Device { received: Some(received), out, link, stats, capabilities, sequence };
        iface.poll_ingress_single(now, &mut device, set);
        match &socket.kind {
            Kind::Udp(datagram) => {
                let queued = datagram.single.get::<udp::Socket<'_>>().recv_queue() - queued_before;
                let expected = packet.payload.len().saturating_sub(UDP_HEADER_BYTES);
                if queued < expected && packet.fragment.is_none() {
                    self.stats.udp_rx_overflow += 1;
                }
                self.note_event(index);
            }
            Kind::Icmp(datagram) => {
                let queued = datagram.single.get::<icmp::Socket<'_>>().recv_queue() - queued_before;
                if queued < packet.payload.len() && packet.fragment.is_none() {
                    self.stats.icmp_rx_overflow += 1;
                }
                self.note_event(index);
            }
            Kind::Tcp(_) => self.settle(index, Cause::Received),
            Kind::Listener(_) => {}
        }
    }

    fn recipient(&mut self, packet: &Packet<'_>, target: Target) -> Recipient {
        let key = packet.fragment.map(|fragment| FragmentKey {
            from: packet.from,
            to: packet.to,
            protocol: packet.protocol,
            ident: fragment.ident,
        });
        // Only the first fragment says for whom the packet is; smoltcp delivers the packet with the last to come.
        if let (Some(key), Some(false)) = (key, packet.fragment.map(|fragment| fragment.first)) {
            let socket = self.demux.recall(key).and_then(|id| self.table.find(id).ok());
            return socket.map_or(Recipient::Nobody, Recipient::Socket);
        }
        let recipient = match packet.protocol {
            TCP => self.recipient_tcp(packet, target),
            UDP => self.recipient_udp(packet, target),
            ICMP | ICMPV6 => match packet.echo_ident().and_then(|ident| self.demux.echo.find(packet.to, ident, true)) {
                Some(index) => Recipient::Socket(index),
                None => Recipient::Nobody,
            },
            _ if target == Target::Group => Recipient::None,
            _ => Recipient::Nobody,
        };
        if let (Some(key), Recipient::Socket(index)) = (key, &recipient) {
            self.demux.remember(key, self.table.id(*index));
        }
        recipient
    }

    fn recipient_udp(&mut self, packet: &Packet<'_>, target: Target) -> Recipient {
        let Some((_, port)) = packet.ports() else { return Recipient::None };
        let to_group = target == Target::Group;
        match self.demux.udp.find(packet.to, port, to_group) {
            Some(index) => Recipient::Socket(index),
            // RFC 1122, section 3.2.2: no errors about what was sent to many.
            None if to_group => Recipient::None,
            None => {
                self.stats.unclaimed += 1;
                Recipient::Nobody
            }
        }
    }

    fn recipient_tcp(&mut self, packet: &Packet<'_>, target: Target) -> Recipient {
        let Some(segment) = packet.segment().filter(|_| target == Target::Own) else { return Recipient::None };
        let flow = Flow {
            local: SocketAddr::new(packet.to, segment.to_port),
            peer: SocketAddr::new(packet.from, segment.from_port),
        };
        // The peer may use its port anew before we have forgotten the old connection.
        if let Some(index) = self.demux.flow(flow)
            && !(segment.opens && self.recycle_time_wait(index))
        {
            return Recipient::Socket(index);
        }
        let listener = if segment.opens { self.demux.listeners.find(packet.to, segment.to_port, false) } else { None };
        match listener {
            Some(listener) if packet.fragment.is_none() => match self.open_half(listener, flow) {
                Some(index) => Recipient::Socket(index),
                None => {
                    self.stats.syn_dropped += 1;
                    Recipient::None
                }
            },
            _ => {
                self.stats.unclaimed += 1;
                Recipient::Nobody
            }
        }
    }
}
