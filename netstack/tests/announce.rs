//! An interface says unasked where its addresses are.

mod common;

use common::{A4, A6, B4, B6, MAC_A, MAC_B, MS, Net, SECOND, at, config};
use roam_netstack::{Config, Netstack};

const ALL: [u8; 6] = [0xff; 6];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const LINK_LOCAL_A: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 1];

fn sent(stack: &mut Netstack, now_ns: i64) -> Vec<Vec<u8>> {
    stack.poll(now_ns);
    let mut frames = Vec::new();
    let mut tx = stack.tx();
    while let Some(frame) = tx.front() {
        frames.push(frame.bytes.to_vec());
        tx.pop();
    }
    frames
}

fn announced(change: impl Fn(&mut Config)) -> Vec<Vec<u8>> {
    let mut config = config(0);
    change(&mut config);
    let mut stack = Netstack::new(&config).expect("a test's configuration");
    assert!(sent(&mut stack, 0).is_empty(), "nothing is said unless it is asked for");
    stack.announce();
    assert_eq!(stack.deadline(), Some(0), "the next poll is due at once");
    let frames = sent(&mut stack, 0);
    for round in 1..3 {
        assert_eq!(stack.deadline(), Some(round * SECOND));
        assert!(sent(&mut stack, round * SECOND - 1).is_empty());
        assert_eq!(sent(&mut stack, round * SECOND), frames, "it is repeated");
    }
    assert_eq!(stack.deadline(), None, "and then it is enough");
    assert_eq!(stack.stats().tx_frames, 3 * frames.len() as u64);
    frames
}

/// RFC 5227, section 3: a request, from and for the same address, the target's MAC left out.
fn arp_of_a() -> Vec<u8> {
    let ip = A4.octets();
    [&ALL[..], &MAC_A, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &MAC_A, &ip, &[0; 6], &ip].concat()
}

/// RFC 4861, section 7.2.6: to all nodes, not solicited, override, with the MAC.
fn assert_advertises(frame: &[u8], ip: [u8; 16]) {
    let ip_header = [&[0x60, 0, 0, 0, 0, 32, 58, 255][..], &ip, &ALL_NODES].concat();
    let (head, message) = frame.split_at(54);
    assert_eq!(head, [&ALL_NODES_MAC[..], &MAC_A, &[0x86, 0xdd], &ip_header].concat());
    assert_eq!(message[..2], [136, 0]);
    assert_eq!(message[4..], [&[0x20, 0, 0, 0][..], &ip, &[2, 1], &MAC_A].concat());
    let pseudo = [&ip[..], &ALL_NODES, &[0, 0, 0, 32, 0, 0, 0, 58], message].concat();
    let mut sum: u32 = pseudo.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    assert_eq!(sum, 0xffff, "the checksum is right");
}

#[test]
fn each_own_address_is_announced() {
    let both = announced(|_| {});
    assert_eq!((both.len(), &both[0]), (3, &arp_of_a()));
    assert_advertises(&both[1], A6.octets());
    assert_advertises(&both[2], LINK_LOCAL_A);
    assert_eq!(announced(|config| config.ipv6 = None), [arp_of_a()]);
    assert_eq!(announced(|config| config.ipv4 = None), both[1..]);
}

#[test]
fn announcements_wait_for_space() {
    let mut stack = Netstack::new(&config(0)).expect("a test's configuration");
    let mut tx = stack.tx();
    while tx.slot(60).is_some() {
        tx.push(60, 0);
    }
    stack.announce();
    assert!(stack.poll(0).again, "it is not done");
    // Each place that becomes free is used: none is lost, none is said twice.
    let mut announced = Vec::new();
    while let Some(frame) = stack.tx().front().map(|frame| frame.bytes.to_vec()) {
        announced.extend((frame[0] != 0).then_some(frame));
        stack.tx().pop();
        stack.poll(0);
    }
    assert_eq!((announced.len(), &announced[0]), (3, &arp_of_a()));
}

#[test]
fn neighbours_use_the_new_mac_at_once() {
    for (own, peer) in [(at(A4, 7), at(B4, 7)), (at(A6, 7), at(B6, 7))] {
        let mut net = Net::new(1);
        let sockets = [0, 1].map(|host| net.stacks[host].udp_open([own, peer][host], 4096, 4096).expect("a socket"));
        net.stacks[1].send_to(sockets[1], own, 1).expect("space")[0] = 1;
        net.run(10 * MS);
        assert!(net.stacks[0].recv_from(sockets[0]).is_ok(), "the peer knows the neighbour");

        // The same addresses at another MAC.
        let mac = [2, 0, 0, 0, 0, 9];
        net.stacks[0] = Netstack::new(&Config { mac, ..config(0) }).expect("a test's configuration");
        let socket = net.stacks[0].udp_open(own, 4096, 4096).expect("a socket");
        net.stacks[0].announce();
        net.run(10 * MS);
        net.stacks[1].send_to(sockets[1], own, 1).expect("space")[0] = 2;
        net.trace = Some(Vec::new());
        net.run(10 * MS);
        assert_eq!(net.stacks[0].recv_from(socket).map(|(bytes, _)| bytes.to_vec()), Ok(vec![2]), "{own}");
        let frames = net.trace.take().unwrap_or_default();
        assert_eq!(frames.first().map(|(host, frame)| (*host, frame[..6].to_vec())), Some((1, mac.to_vec())));
        assert_eq!(frames[0].1[6..12], MAC_B);
    }
}
