//! Frames from anybody: whatever arrives, the stack does not panic, and still answers afterwards.
//!
//! Input: frames, each behind two bytes of length (little-endian). The first bytes of a frame are replaced by the
//! stack's own MAC and a known EtherType where the top bits of the length ask for it, so that the fuzzer gets past
//! the first checks at once.
#![no_main]

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use roam_abi::Event;
use roam_netstack::{Cidr, Config, Netstack, SocketId};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 10];
const IP: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 10);
const IP6: Ipv6Addr = Ipv6Addr::new(0xfd90, 0, 0, 0, 0, 0, 0, 10);
const STEP_NS: i64 = 3_000_000;

fuzz_target!(|data: &[u8]| {
    let mut config = Config::new(MAC);
    config.ipv4 = Some(Cidr { address: IP, prefix: 24 });
    config.ipv6 = Some(Cidr { address: IP6, prefix: 64 });
    config.seed = 1;
    let mut stack = Netstack::new(&config).expect("a valid configuration");
    let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let udp = stack.udp_open(any(7), 0, 0).expect("a socket");
    let listener = stack.tcp_listen(any(80), 4, 0, 0).expect("a socket");
    stack.icmp_open(7, 0, 0).expect("a socket");
    let _ = stack.tcp_connect(SocketAddr::from(([10, 90, 0, 1], 80)), 0, 0);
    let mut now_ns = 0;
    let mut rest = data;
    while let [low, high, tail @ ..] = rest {
        let len = usize::from(u16::from_le_bytes([*low, high & 0x07])).min(tail.len());
        let (frame, tail) = tail.split_at(len);
        rest = tail;
        receive(&mut stack, frame, high >> 6);
        now_ns += STEP_NS;
        turn(&mut stack, udp, listener, now_ns);
    }
    assert!(answers(&mut stack, udp, listener, now_ns), "the stack no longer answers ARP");
});

fn receive(stack: &mut Netstack, frame: &[u8], kind: u8) {
    let mut rx = stack.rx();
    let Some(slot) = rx.slot(frame.len()) else { return };
    slot.copy_from_slice(frame);
    if kind != 0 && slot.len() >= 14 {
        slot[..6].copy_from_slice(&MAC);
        slot[12..14].copy_from_slice(&[[8, 0], [0x86, 0xdd], [8, 6]][usize::from(kind - 1)]);
    }
    rx.push(frame.len(), 0);
}

/// What a busy guest does: takes what is there, sends some back, and lets the host take the frames.
fn turn(stack: &mut Netstack, udp: SocketId, listener: SocketId, now_ns: i64) {
    stack.poll(now_ns);
    let mut events = [Event { socket: 0, flags: 0 }; 16];
    stack.ready(&mut events);
    while let Ok((bytes, from)) = stack.recv_from(udp) {
        let len = bytes.len();
        let _ = stack.send_to(udp, from, len);
    }
    while let Ok((socket, _)) = stack.accept(listener) {
        let _ = stack.recv(socket, 100);
        let _ = stack.send(socket, 100);
        let _ = stack.close(socket);
    }
    stack.poll(now_ns);
    stack.deadline();
    let mut tx = stack.tx();
    while !tx.is_empty() {
        tx.pop();
    }
}

fn answers(stack: &mut Netstack, udp: SocketId, listener: SocketId, now_ns: i64) -> bool {
    turn(stack, udp, listener, now_ns + STEP_NS);
    let asker = [2, 0, 0, 0, 0, 1];
    let mut request =
        [&[0xff; 6][..], &asker, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &asker, &[10, 90, 0, 1], &[0; 6]].concat();
    request.extend_from_slice(&IP.octets());
    receive(stack, &request, 0);
    stack.poll(now_ns + 2 * STEP_NS);
    let mut tx = stack.tx();
    while let Some(frame) = tx.front() {
        if frame.bytes.get(12..14) == Some(&[8, 6]) && frame.bytes.get(20..22) == Some(&[0, 2]) {
            return true;
        }
        tx.pop();
    }
    false
}
