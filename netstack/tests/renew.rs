//! A copy of a stack becomes another host: a seed and addresses of its own.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use common::*;
use proptest::prelude::*;
use roam_abi::{Errno, Event, SocketOption};
use roam_netstack::{Cidr, Config, ConfigError, SocketId, SocketKind};

const C4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
const C6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3);
const MAC_C: [u8; 6] = [2, 0, 0, 0, 0, 3];

fn other() -> Config {
    Config {
        ipv4: Some(Cidr { address: C4, prefix: 24 }),
        ipv6: Some(Cidr { address: C6, prefix: 64 }),
        seed: 99,
        ..Config::new(MAC_C)
    }
}

fn link_local(config: &Config) -> IpAddr {
    config.link_local().unwrap().into()
}

/// Whether `bytes` stand somewhere in the frame.
fn has(frame: &[u8], bytes: &[u8]) -> bool {
    frame.windows(bytes.len()).any(|window| window == bytes)
}

/// What host 1 has sent since the trace began.
fn sent(net: &mut Net) -> Vec<Vec<u8>> {
    net.trace.replace(Vec::new()).unwrap().into_iter().filter(|(host, _)| *host == 1).map(|(_, frame)| frame).collect()
}

fn assert_nothing_old(frames: &[Vec<u8>]) {
    for frame in frames {
        assert_eq!(frame[6..12], MAC_C, "the sender's MAC");
        let old = [&MAC_B[..], &B4.octets(), &B6.octets()];
        assert!(!old.iter().any(|old| has(frame, old)), "{frame:02x?}");
    }
}

fn assert_reset(net: &mut Net, id: SocketId) {
    let stack = &mut net.stacks[1];
    assert_eq!(stack.send(id, 1).unwrap_err(), Errno::CONNRESET);
    assert_eq!(stack.recv(id, 1).unwrap_err(), Errno::CONNRESET);
    let event = net.events[1].iter().rev().find(|event| event.socket == id.0).expect("an event");
    assert_eq!(event.flags & !Event::CLOSED, Event::READABLE | Event::WRITABLE);
}

#[test]
fn connections_end_without_a_word() {
    for ip in [IpAddr::from(B4), B6.into()] {
        let mut net = Net::new(1);
        let (_, client, server) = net.connect(ip, 80);
        let (_, silent, unread) = net.connect(ip, 81);
        let (_, done, ended) = net.connect(ip, 82);
        // Queued and unacknowledged, received and unread, closed by both, closed and still sending, and under way.
        send_some(&mut net.stacks[0], silent, b"unread").unwrap();
        net.stacks[0].close(done).unwrap();
        net.run(SECOND);
        net.stacks[1].close(ended).unwrap();
        send_some(&mut net.stacks[1], server, &pattern(10_000)).unwrap();
        let nobody = net.stacks[1].tcp_connect(at([10, 0, 0, 77], 80), 0, 0).unwrap();
        let waiting: Vec<_> = (0..3).map(|_| net.stacks[0].tcp_connect(at(ip, 81), 0, 0).unwrap()).collect();
        net.conditions.delay_ns = 30 * MS;
        net.run(45 * MS);
        let half_open = net.stacks[0].tcp_connect(at(ip, 82), 0, 0).unwrap();
        net.run(45 * MS);

        net.events[1].clear();
        net.stacks[1].readdress(&other()).unwrap();
        net.trace = Some(Vec::new());
        net.run(20 * MS);
        assert_eq!(net.stacks[1].recv(unread, 100).unwrap(), b"unread", "what had come is still there");
        for id in [server, unread, nobody] {
            assert_reset(&mut net, id);
        }
        assert_eq!(net.stacks[1].stats().tcp_resets, 3);
        assert_eq!(net.stacks[1].stats().sockets, 6, "three listeners, and what the guest has not closed");
        // The peers go on asking, for the old host may be there still.
        net.run(5 * SECOND);
        let frames = sent(&mut net);
        assert_nothing_old(&frames);
        assert!(frames.iter().all(|frame| frame[..6] == [0xff; 6] || frame[0] == 0x33), "only announcements leave");
        for id in [client, silent, waiting[0], half_open] {
            assert!(!matches!(net.stacks[0].recv(id, 1), Err(Errno::CONNRESET)), "no reset has come");
        }
        for id in [server, unread, nobody] {
            net.stacks[1].close(id).unwrap();
        }
        net.run(20 * MS);
        assert_eq!(net.stacks[1].stats().sockets, 3);
        assert_nothing_old(&sent(&mut net));
    }
}

#[test]
fn listeners_serve_at_the_new_addresses() {
    let mut net = Net::new(2);
    let (old, new) = (config(1), other());
    net.stacks[1].announce();
    net.run(SECOND);
    let bound: [(IpAddr, IpAddr); 5] = [
        (Ipv6Addr::UNSPECIFIED.into(), C4.into()),
        (Ipv4Addr::UNSPECIFIED.into(), C4.into()),
        (B4.into(), C4.into()),
        (B6.into(), C6.into()),
        (link_local(&old), link_local(&new)),
    ];
    let listeners = bound.map(|(local, _)| {
        let port = 80 + bound.iter().position(|(other, _)| *other == local).unwrap() as u16;
        net.stacks[1].tcp_listen(at(local, port), 8, 0, 0).unwrap()
    });
    net.stacks[1].set_option(listeners[2], SocketOption::NoDelay, 1).unwrap();
    net.stacks[1].readdress(&new).unwrap();
    net.run(SECOND);
    for (index, (local, reached)) in bound.into_iter().enumerate() {
        let port = 80 + index as u16;
        let expected = if local.is_unspecified() { local } else { reached };
        assert_eq!(net.stacks[1].local_addr(listeners[index]), Ok(at(expected, port)));
        let client = net.stacks[0].tcp_connect(at(reached, port), 0, 0).unwrap();
        let mut server = None;
        net.until(SECOND, |net| {
            server = server.or(net.stacks[1].accept(listeners[index]).ok());
            server.is_some()
        });
        let (server, _) = server.unwrap();
        send_some(&mut net.stacks[0], client, b"hello").unwrap();
        let mut words = Vec::new();
        net.until(SECOND, |net| recv_all(&mut net.stacks[1], server, &mut words).is_ok() && words == b"hello");
    }
    let gone = net.stacks[0].tcp_connect(at(B4, 80), 0, 0).unwrap();
    net.run(5 * SECOND);
    assert_eq!(net.stacks[0].send(gone, 1).unwrap_err(), Errno::AGAIN, "nobody is at the old address");
}

#[test]
fn datagram_sockets_follow_and_their_queues_do_not() {
    let mut net = Net::new(3);
    let client = net.stacks[0].udp_open(at(A4, 9), 0, 0).unwrap();
    let any = net.stacks[1].udp_open(at(Ipv6Addr::UNSPECIFIED, 53), 0, 0).unwrap();
    let one = net.stacks[1].udp_open(at(B4, 54), 256, 256).unwrap();
    let closed = net.stacks[1].udp_open(at(B4, 55), 0, 0).unwrap();
    let ping = net.stacks[1].icmp_open(7, 0, 0).unwrap();
    for port in [53, 54] {
        send_datagram(&mut net.stacks[0], client, at(B4, port), b"old question").unwrap();
    }
    net.run(SECOND);
    let mut full = 0;
    while send_datagram(&mut net.stacks[1], one, at(A4, 9), b"old answer").is_ok() {
        full += 1;
    }
    assert!(full > 0);
    for id in [any, closed] {
        send_datagram(&mut net.stacks[1], id, at(A4, 9), b"old answer").unwrap();
    }
    send_datagram(&mut net.stacks[1], ping, at(A4, 0), &[8, 0, 0, 0, 0, 7, 0, 1]).unwrap();
    net.stacks[1].close(closed).unwrap();
    net.events[1].clear();
    net.stacks[1].readdress(&other()).unwrap();
    net.trace = Some(Vec::new());
    net.run(SECOND);
    let frames = sent(&mut net);
    assert_nothing_old(&frames);
    assert!(!frames.iter().any(|frame| has(frame, b"old answer")));
    assert_eq!(net.stacks[1].stats().sockets, 3, "what was closed had nothing left to send");
    let writable = net.events[1].iter().find(|event| event.socket == one.0).expect("there is room again");
    assert_eq!(writable.flags, Event::WRITABLE);
    assert_eq!(net.stacks[1].local_addr(one), Ok(at(C4, 54)));
    for id in [any, one, ping] {
        assert_eq!(recv_datagram(&mut net.stacks[1], id).unwrap_err(), Errno::AGAIN, "old questions are not answered");
    }
    for (id, port) in [(any, 53), (one, 54)] {
        send_datagram(&mut net.stacks[0], client, at(C4, port), b"question").unwrap();
        net.run(SECOND);
        assert_eq!(recv_datagram(&mut net.stacks[1], id).unwrap(), (b"question".to_vec(), at(A4, 9)));
        send_datagram(&mut net.stacks[1], id, at(A4, 9), b"answer").unwrap();
        net.run(SECOND);
        assert_eq!(recv_datagram(&mut net.stacks[0], client).unwrap(), (b"answer".to_vec(), at(C4, port)));
    }
    send_datagram(&mut net.stacks[1], ping, at(A4, 0), &[8, 0, 0, 0, 0, 7, 0, 2]).unwrap();
    net.run(SECOND);
    assert_eq!(recv_datagram(&mut net.stacks[1], ping).unwrap().0[6..], [0, 2], "only the new one was sent");
}

#[test]
fn a_family_that_is_gone_is_silent() {
    let mut net = Net::new(4);
    let udp = net.stacks[1].udp_open(at(B4, 53), 0, 0).unwrap();
    let listener = net.stacks[1].tcp_listen(at(B4, 80), 8, 0, 0).unwrap();
    let ipv6 = Config { ipv4: None, ..other() };
    net.stacks[1].readdress(&ipv6).unwrap();
    net.trace = Some(Vec::new());
    assert_eq!(send_datagram(&mut net.stacks[1], udp, at(A4, 9), b"x"), Err(Errno::ADDRNOTAVAIL));
    let client = net.stacks[0].tcp_connect(at(B4, 80), 0, 0).unwrap();
    net.run(5 * SECOND);
    assert_eq!(net.stacks[0].send(client, 1).unwrap_err(), Errno::AGAIN);
    assert_nothing_old(&sent(&mut net));
    // It comes back with the family.
    net.stacks[1].readdress(&other()).unwrap();
    assert_eq!(net.stacks[1].local_addr(udp), Ok(at(C4, 53)));
    assert_eq!(net.stacks[1].local_addr(listener), Ok(at(C4, 80)));
}

#[test]
fn an_impossible_configuration_changes_nothing() {
    let mut net = Net::new(5);
    let (_, client, server) = net.connect(B4, 80);
    send_some(&mut net.stacks[0], client, b"hello").unwrap();
    assert_eq!(net.stacks[1].readdress(&Config { mtu: 1, ..other() }), Err(ConfigError::Mtu(1)));
    let mut words = Vec::new();
    net.until(SECOND, |net| recv_all(&mut net.stacks[1], server, &mut words).is_ok() && words == b"hello");
}

#[test]
fn pieces_and_full_rings_are_forgotten() {
    let mut net = Net::new(6);
    let udp = net.stacks[1].udp_open(at(B4, 53), 65_536, 65_536).unwrap();
    net.stacks[1].announce();
    net.run(SECOND);
    // No frame is taken: the ring fills up in the middle of a packet's fragments.
    let mut polls = 0;
    while net.stacks[1].stats().tx_backpressure == 0 {
        let _ = send_datagram(&mut net.stacks[1], udp, at([10, 0, 0, 255], 9), &[7; 15_000]);
        net.stacks[1].poll(net.now_ns);
        polls += 1;
        assert!(polls < 1000, "the ring is endless");
    }
    let dropped = net.stacks[1].rx().dropped();
    net.inject(1, &udp_frame(MAC_A, MAC_B, at(A4, 9), at(B4, 53), b"old"));
    net.stacks[1].readdress(&Config { mtu: 9000, ..other() }).unwrap();
    assert!(net.stacks[1].tx().is_empty() && net.stacks[1].rx().is_empty());
    assert_eq!(net.stacks[1].rx().dropped(), dropped);
    net.trace = Some(Vec::new());
    net.run(SECOND);
    let frames = sent(&mut net);
    assert_nothing_old(&frames);
    assert!(!frames.is_empty() && frames.iter().all(|frame| frame.len() < 100), "announcements");
    send_datagram(&mut net.stacks[1], udp, at(A4, 9), &[8; 8_900]).unwrap();
    net.run(SECOND);
    assert!(sent(&mut net).iter().any(|frame| frame.len() == 14 + 28 + 8_900), "the MTU is the new one");
}

/// Port and sequence number of the first SYN that host 1 sends.
fn first_syn(net: &mut Net) -> (SocketAddr, u32) {
    net.trace = Some(Vec::new());
    let id = net.stacks[1].tcp_connect(at(A4, 5000), 0, 0).unwrap();
    net.run(SECOND);
    let frames = sent(net);
    let syn = frames.iter().find(|frame| frame[12..14] == [8, 0] && frame[23] == 6).unwrap();
    (net.stacks[1].local_addr(id).unwrap(), u32::from_be_bytes(syn[38..42].try_into().unwrap()))
}

#[test]
fn another_seed_gives_other_numbers_and_keeps_connections() {
    let run = |seed: Option<u64>| {
        let mut net = Net::new(7);
        let listener = net.stacks[1].tcp_listen(at(B4, 80), 256, 0, 0).unwrap();
        let clients: Vec<_> = (0..100).map(|_| net.stacks[0].tcp_connect(at(B4, 80), 0, 0).unwrap()).collect();
        let mut servers = Vec::new();
        net.until(SECOND, |net| {
            while let Ok((id, _)) = net.stacks[1].accept(listener) {
                servers.push(id);
            }
            servers.len() == clients.len()
        });
        if let Some(seed) = seed {
            net.stacks[1].reseed(seed);
        }
        for client in &clients {
            send_some(&mut net.stacks[0], *client, b"still there?").unwrap();
        }
        net.run(SECOND);
        for server in servers {
            assert_eq!(net.stacks[1].recv(server, 100).unwrap(), b"still there?");
            send_some(&mut net.stacks[1], server, b"yes").unwrap();
        }
        net.run(SECOND);
        for client in clients {
            assert_eq!(net.stacks[0].recv(client, 100).unwrap(), b"yes");
        }
        first_syn(&mut net)
    };
    assert_eq!(run(None), run(None));
    assert_eq!(run(Some(1)), run(Some(1)));
    let (before, one, two) = (run(None), run(Some(1)), run(Some(2)));
    assert!(before.0 != one.0 && one.0 != two.0 && before.0 != two.0, "{before:?} {one:?} {two:?}");
    assert!(before.1 != one.1 && one.1 != two.1 && before.1 != two.1, "{before:?} {one:?} {two:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// At any moment of any traffic over a bad link.
    #[test]
    fn nothing_old_leaves_ever(seed: u64, lost in 0..300u64, steps in prop::collection::vec((0..9u8, 0..200i64), 1..60)) {
        let mut net = Net::new(seed);
        net.conditions = Conditions { delay_ns: 5 * MS, jitter_ns: 20 * MS, lost, doubled: 50 };
        let listener = net.stacks[1].tcp_listen(at(Ipv6Addr::UNSPECIFIED, 80), 4, 4096, 4096).unwrap();
        net.stacks[0].tcp_listen(at(Ipv6Addr::UNSPECIFIED, 80), 4, 4096, 4096).unwrap();
        let udp = net.stacks[1].udp_open(at(Ipv6Addr::UNSPECIFIED, 53), 4096, 65_536).unwrap();
        let mut ids = [vec![], vec![]];
        for (step, ms) in steps {
            let host = usize::from(step % 2);
            match step {
                0 => ids[0].extend(net.stacks[0].tcp_connect(at(B4, 80), 4096, 4096)),
                1 => ids[1].extend(net.stacks[1].tcp_connect(at(A6, 80), 4096, 4096)),
                2 => ids[1].extend(net.stacks[1].accept(listener).map(|(id, _)| id)),
                3 => drop(send_datagram(&mut net.stacks[1], udp, at(A4, 9), &[1; 5000])),
                4 | 5 => for id in ids[host].clone() {
                    let _ = send_some(&mut net.stacks[host], id, &[7; 3000]);
                },
                6 | 7 => drop(ids[host].pop().map(|id| net.stacks[host].close(id))),
                _ => drop(ids[1].last().map(|id| net.stacks[1].shutdown(*id))),
            }
            net.run(ms * MS);
        }
        net.stacks[1].readdress(&other()).unwrap();
        net.trace = Some(Vec::new());
        net.run(20 * SECOND);
        assert_nothing_old(&sent(&mut net));
        let kinds = |net: &Net| {
            let (mut kinds, mut next) = (Vec::new(), 0);
            while let Some((index, info)) = net.stacks[1].inspect(next) {
                kinds.push(info.kind);
                next = index + 1;
            }
            kinds
        };
        prop_assert!(kinds(&net).iter().all(|k| matches!(k, SocketKind::Listen | SocketKind::Udp | SocketKind::Closed)));
        for id in ids[1].clone() {
            prop_assert!(net.stacks[1].send(id, 1).is_err_and(|errno| errno != Errno::AGAIN));
            net.stacks[1].close(id).unwrap();
        }
        net.run(SECOND);
        prop_assert_eq!(kinds(&net).len(), 2);
        assert_nothing_old(&sent(&mut net));
    }
}
