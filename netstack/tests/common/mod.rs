//! Two stacks on one link, in virtual time, from one seed.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use roam_abi::{Errno, Event};
use roam_netstack::{Cidr, Config, Netstack, SocketId};

pub(crate) const MS: i64 = 1_000_000;
pub(crate) const SECOND: i64 = 1_000 * MS;

pub(crate) const A4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(crate) const B4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub(crate) const A6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
pub(crate) const B6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
pub(crate) const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// What the link does to frames, in thousandths of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Conditions {
    pub(crate) delay_ns: i64,
    /// Up to this much more, different for each frame: frames overtake each other.
    pub(crate) jitter_ns: i64,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
}

pub(crate) struct Net {
    pub(crate) stacks: [Netstack; 2],
    pub(crate) now_ns: i64,
    pub(crate) conditions: Conditions,
    pub(crate) events: [VecDeque<Event>; 2],
    /// Every frame that left, and by whom, while it is `Some`.
    pub(crate) trace: Option<Vec<(usize, Vec<u8>)>>,
    pub(crate) frames: [u64; 2],
    wire: BTreeMap<(i64, u64), (usize, Vec<u8>)>,
    serial: u64,
    random: u64,
}

pub(crate) fn config(host: usize) -> Config {
    let (v4, v6, mac) = [(A4, A6, MAC_A), (B4, B6, MAC_B)][host];
    Config {
        ipv4: Some(Cidr { address: v4, prefix: 24 }),
        ipv6: Some(Cidr { address: v6, prefix: 64 }),
        seed: 7 + host as u64,
        ..Config::new(mac)
    }
}

pub(crate) fn at(ip: impl Into<IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(ip.into(), port)
}

impl Net {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(seed, |_| {})
    }

    /// Two stacks whose configurations `change` has changed.
    pub(crate) fn with(seed: u64, change: impl Fn(&mut Config)) -> Self {
        let stacks = [0, 1].map(|host| {
            let mut config = config(host);
            change(&mut config);
            Netstack::new(&config).expect("a test's configuration")
        });
        Self {
            stacks,
            now_ns: 0,
            conditions: Conditions { delay_ns: 50_000, ..Conditions::default() },
            events: Default::default(),
            trace: None,
            frames: [0; 2],
            wire: BTreeMap::new(),
            serial: 0,
            random: seed,
        }
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 33
    }

    /// Puts a frame on the link for `host`.
    pub(crate) fn inject(&mut self, host: usize, frame: &[u8]) {
        self.serial += 1;
        self.wire.insert((self.now_ns, self.serial), (host, frame.to_vec()));
    }

    fn carry(&mut self, to: usize, frame: Vec<u8>) {
        let Conditions { delay_ns, jitter_ns, lost, doubled } = self.conditions;
        if self.random() % 1000 < lost {
            return;
        }
        let copies = if self.random() % 1000 < doubled { 2 } else { 1 };
        for _ in 0..copies {
            let jitter = if jitter_ns > 0 { self.random() as i64 % jitter_ns } else { 0 };
            self.serial += 1;
            self.wire.insert((self.now_ns + delay_ns + jitter, self.serial), (to, frame.clone()));
        }
    }

    /// Delivers what has arrived and polls both stacks until nothing happens any more at this instant.
    pub(crate) fn settle(&mut self) {
        loop {
            while let Some(entry) = self.wire.first_entry()
                && entry.key().0 <= self.now_ns
            {
                let (host, frame) = entry.remove();
                let mut rx = self.stacks[host].rx();
                match rx.slot(frame.len()) {
                    Some(slot) => {
                        slot.copy_from_slice(&frame);
                        rx.push(frame.len(), 0);
                    }
                    None => rx.count_dropped(1),
                }
            }
            let mut again = false;
            for host in 0..2 {
                let polled = self.stacks[host].poll(self.now_ns);
                let mut out = Vec::new();
                let mut tx = self.stacks[host].tx();
                while let Some(frame) = tx.front() {
                    out.extend(segments(frame.bytes, frame.segment_bytes));
                    tx.pop();
                }
                self.frames[host] += out.len() as u64;
                for frame in out {
                    if let Some(trace) = &mut self.trace {
                        trace.push((host, frame.clone()));
                    }
                    self.carry(1 - host, frame);
                }
                self.take_events(host);
                again |= polled.again;
            }
            if !again {
                break;
            }
        }
    }

    pub(crate) fn take_events(&mut self, host: usize) {
        let mut events = [Event { socket: 0, flags: 0 }; 16];
        loop {
            let count = self.stacks[host].ready(&mut events);
            self.events[host].extend(&events[..count]);
            if count < events.len() {
                break;
            }
        }
    }

    /// Moves to the next instant at which something is due, `limit_ns` at the latest; whether something is.
    pub(crate) fn advance(&mut self, limit_ns: i64) -> bool {
        let wire = self.wire.first_key_value().map(|(key, _)| key.0);
        let deadlines = [0, 1].map(|host| self.stacks[host].deadline());
        let next = deadlines.into_iter().flatten().chain(wire).min().unwrap_or(i64::MAX);
        let moved = next.min(limit_ns).max(self.now_ns);
        let is_due = next <= limit_ns;
        self.now_ns = moved;
        is_due
    }

    /// Lets `duration_ns` pass.
    pub(crate) fn run(&mut self, duration_ns: i64) {
        self.run_with(duration_ns, |_| false);
    }

    /// Lets time pass until `done`, which may use the sockets, is content; panics after `limit_ns`.
    pub(crate) fn until(&mut self, limit_ns: i64, mut done: impl FnMut(&mut Self) -> bool) {
        let mut finished = false;
        self.run_with(limit_ns, |net| {
            finished = done(net);
            finished
        });
        assert!(finished, "not done after {limit_ns} ns");
    }

    fn run_with(&mut self, limit_ns: i64, mut done: impl FnMut(&mut Self) -> bool) {
        let end_ns = self.now_ns + limit_ns;
        let mut instants = 0u64;
        loop {
            self.settle();
            if done(self) {
                return;
            }
            self.settle();
            let due = self.advance(end_ns);
            instants += 1;
            assert!(instants < 3_000_000, "time does not pass");
            if !due {
                return;
            }
        }
    }

    /// A connection from host 0 to a new listener of host 1 at `port`: listener, client, server.
    pub(crate) fn connect(&mut self, ip: impl Into<IpAddr>, port: u16) -> (SocketId, SocketId, SocketId) {
        let ip = ip.into();
        let listener = self.stacks[1].tcp_listen(at(ip, port), 8, 0, 0).expect("a free port");
        let client = self.stacks[0].tcp_connect(at(ip, port), 0, 0).expect("a way there");
        let mut server = None;
        self.until(30 * SECOND, |net| {
            server = server.or(net.stacks[1].accept(listener).ok().map(|(id, _)| id));
            server.is_some()
        });
        (listener, client, server.expect("it is there"))
    }
}

/// Sends as much of `data` as has space; returns how much that was.
pub(crate) fn send_some(stack: &mut Netstack, id: SocketId, data: &[u8]) -> Result<usize, Errno> {
    let mut sent = 0;
    while sent < data.len() {
        match stack.send(id, data.len() - sent) {
            Ok(slot) => {
                slot.copy_from_slice(&data[sent..sent + slot.len()]);
                sent += slot.len();
            }
            Err(Errno::AGAIN) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

/// Receives all there is; `true` once the peer has sent everything.
pub(crate) fn recv_all(stack: &mut Netstack, id: SocketId, into: &mut Vec<u8>) -> Result<bool, Errno> {
    loop {
        match stack.recv(id, usize::MAX) {
            Ok([]) => return Ok(true),
            Ok(bytes) => into.extend_from_slice(bytes),
            Err(Errno::AGAIN) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

pub(crate) fn send_datagram(stack: &mut Netstack, id: SocketId, to: SocketAddr, data: &[u8]) -> Result<(), Errno> {
    stack.send_to(id, to, data.len()).map(|slot| slot.copy_from_slice(data))
}

pub(crate) fn recv_datagram(stack: &mut Netstack, id: SocketId) -> Result<(Vec<u8>, SocketAddr), Errno> {
    stack.recv_from(id).map(|(bytes, from)| (bytes.to_vec(), from))
}

/// Bytes that tell where in a stream they are.
pub(crate) fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect()
}

/// Cuts a frame as an offloading NIC does: the headers before each piece, the sequence number advanced.
fn segments(frame: &[u8], segment_bytes: u16) -> Vec<Vec<u8>> {
    if segment_bytes == 0 {
        return vec![frame.to_vec()];
    }
    assert_eq!((frame[12..14].to_vec(), frame[23]), (vec![8, 0], 6), "only TCP over IPv4 is segmented");
    let headers = 34 + usize::from(frame[46] >> 4) * 4;
    let (head, payload) = frame.split_at(headers);
    let last = payload.len().div_ceil(usize::from(segment_bytes)) - 1;
    let pieces = payload.chunks(usize::from(segment_bytes)).enumerate().map(|(index, piece)| {
        let mut segment = [head, piece].concat();
        let bytes = (segment.len() - 14) as u16;
        segment[16..18].copy_from_slice(&bytes.to_be_bytes());
        let sequence = u32::from_be_bytes(frame[38..42].try_into().expect("four bytes"));
        let sequence = sequence.wrapping_add(index as u32 * u32::from(segment_bytes));
        segment[38..42].copy_from_slice(&sequence.to_be_bytes());
        if index < last {
            segment[47] &= !9; // FIN and PSH belong to the last one.
        }
        segment
    });
    pieces.collect()
}

/// A TCP segment without payload or checksums, over IPv4.
pub(crate) fn tcp_frame(
    from_mac: [u8; 6],
    to_mac: [u8; 6],
    from: SocketAddr,
    to: SocketAddr,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(target)) = (from.ip(), to.ip()) else { panic!("IPv4 only") };
    let mut frame = [&to_mac[..], &from_mac, &[8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]].concat();
    frame.extend(source.octets());
    frame.extend(target.octets());
    frame.extend(from.port().to_be_bytes());
    frame.extend(to.port().to_be_bytes());
    frame.extend(sequence.to_be_bytes());
    frame.extend(acknowledged.to_be_bytes());
    frame.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    frame
}

/// A UDP datagram without checksums, over IPv4.
pub(crate) fn udp_frame(
    from_mac: [u8; 6],
    to_mac: [u8; 6],
    from: SocketAddr,
    to: SocketAddr,
    payload: &[u8],
) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(target)) = (from.ip(), to.ip()) else { panic!("IPv4 only") };
    let [high, low] = (28 + payload.len() as u16).to_be_bytes();
    let mut frame = [&to_mac[..], &from_mac, &[8, 0, 0x45, 0, high, low, 0, 0, 0, 0, 64, 17, 0, 0]].concat();
    frame.extend(source.octets());
    frame.extend(target.octets());
    frame.extend(from.port().to_be_bytes());
    frame.extend(to.port().to_be_bytes());
    frame.extend((8 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}
