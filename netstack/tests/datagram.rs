//! UDP, ICMP echo and fragmentation between two stacks.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use common::*;
use roam_abi::{Errno, Event, SocketOption};

/// An ICMP echo request with that much data, without its checksum.
fn echo_request(ip: std::net::IpAddr, ident: u16, data: usize) -> Vec<u8> {
    let kind = if ip.is_ipv4() { 8 } else { 128 };
    let [high, low] = ident.to_be_bytes();
    [&[kind, 0, 0, 0, high, low, 0, 1][..], &pattern(data)].concat()
}

fn internet_sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum + (sum >> 16)) as u16
}

#[test]
fn datagrams_arrive_whole_and_say_from_where() {
    for checksums in [false, true] {
        let mut net = Net::with(1, |config| config.checksums = checksums);
        for ip in [std::net::IpAddr::from(B4), B6.into()] {
            let (here, there) = (if ip.is_ipv4() { A4.into() } else { std::net::IpAddr::from(A6) }, at(ip, 7));
            let server = net.stacks[1].udp_open(at(std::net::Ipv6Addr::UNSPECIFIED, 7), 0, 0).unwrap();
            let client = net.stacks[0].udp_open(at(here, 0), 0, 0).unwrap();
            let from = net.stacks[0].local_addr(client).unwrap();
            for size in [0, 1, 64, 1200] {
                send_datagram(&mut net.stacks[0], client, there, &pattern(size)).unwrap();
                net.run(10 * MS);
                assert_eq!(recv_datagram(&mut net.stacks[1], server), Ok((pattern(size), from)));
                send_datagram(&mut net.stacks[1], server, from, &pattern(size)).unwrap();
                net.run(10 * MS);
                assert_eq!(recv_datagram(&mut net.stacks[0], client), Ok((pattern(size), there)));
            }
            assert_eq!(net.stacks[0].recv_from(client).unwrap_err(), Errno::AGAIN);
            assert!(net.events[1].iter().any(|event| event.socket == server.0 && event.flags & Event::READABLE != 0));
            net.stacks[1].close(server).unwrap();
        }
    }
}

#[test]
fn large_datagrams_are_fragmented_over_ipv4() {
    let mut net = Net::new(2);
    net.conditions.jitter_ns = 40_000;
    let server = net.stacks[1].udp_open(at(B4, 7), 0, 0).unwrap();
    let client = net.stacks[0].udp_open(at(A4, 9), 0, 0).unwrap();
    for size in [1473, 8192, 16_000] {
        // Two at once: the second must not mix with the first.
        send_datagram(&mut net.stacks[0], client, at(B4, 7), &pattern(size)).unwrap();
        send_datagram(&mut net.stacks[0], client, at(B4, 7), &pattern(size - 1)).unwrap();
        net.run(10 * MS);
        let mut sizes = [0; 2].map(|_| recv_datagram(&mut net.stacks[1], server).unwrap().0);
        sizes.sort_by_key(Vec::len);
        assert_eq!(sizes, [pattern(size - 1), pattern(size)]);
    }
    let to = at(B4, 7);
    assert_eq!(net.stacks[0].send_to(client, to, 16_384).unwrap_err(), Errno::MSGSIZE);
    assert_eq!(net.stacks[0].send_to(client, to, usize::MAX).unwrap_err(), Errno::MSGSIZE);
    let six = net.stacks[0].udp_open(at(A6, 9), 0, 0).unwrap();
    assert!(net.stacks[0].send_to(six, at(B6, 7), 1452).is_ok());
    assert_eq!(net.stacks[0].send_to(six, at(B6, 7), 1453).unwrap_err(), Errno::MSGSIZE);
}

#[test]
fn echo_requests_are_answered_with_right_checksums() {
    for checksums in [false, true] {
        let mut net = Net::with(3, |config| config.checksums = checksums);
        net.trace = Some(Vec::new());
        let pinger = net.stacks[0].icmp_open(77, 0, 0).unwrap();
        let link_local: std::net::IpAddr = "fe80::ff:fe00:2".parse().unwrap();
        for (ip, size) in [(B4.into(), 56), (B6.into(), 56), (link_local, 56), (B4.into(), 4000)] {
            let request = echo_request(ip, 77, size);
            send_datagram(&mut net.stacks[0], pinger, at(ip, 0), &request).unwrap();
            net.run(10 * MS);
            let (reply, from) = recv_datagram(&mut net.stacks[0], pinger).expect("an answer");
            assert_eq!((from, reply.len()), (at(ip, 0), request.len()));
            assert_eq!(reply[0], if ip.is_ipv4() { 0 } else { 129 });
            assert_eq!(reply[4..], request[4..]);
        }
        let icmp = |frame: &&(usize, Vec<u8>)| frame.1[12..14] == [8, 0] && frame.1[23] == 1 && frame.1[20] & 0x3f == 0;
        for (host, frame) in net.trace.as_ref().unwrap().iter().filter(icmp) {
            let bytes = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
            if bytes < 1000 {
                assert_eq!(internet_sum(&frame[34..14 + bytes]), 0xffff, "from {host}");
            }
        }
    }
}

#[test]
fn any_bytes_may_be_sent_as_echo_messages() {
    let mut net = Net::new(4);
    let pinger = net.stacks[0].icmp_open(77, 0, 0).unwrap();
    for kind in 0..=255u8 {
        for size in [0, 1, 3, 4, 7, 8, 20, 30, 60] {
            let mut message = pattern(size);
            if let Some(first) = message.first_mut() {
                *first = kind;
            }
            for ip in [std::net::IpAddr::from(B4), B6.into()] {
                let _ = send_datagram(&mut net.stacks[0], pinger, at(ip, 0), &message);
            }
        }
        net.run(MS);
    }
    let request = echo_request(B4.into(), 77, 10);
    send_datagram(&mut net.stacks[0], pinger, at(B4, 0), &request).unwrap();
    net.run(MS);
    while let Ok((reply, _)) = recv_datagram(&mut net.stacks[0], pinger) {
        if reply[4..] == request[4..] {
            return;
        }
    }
    panic!("no answer");
}

#[test]
fn what_does_not_fit_is_counted() {
    let mut net = Net::new(5);
    let server = net.stacks[1].udp_open(at(B4, 7), 16_384, 0).unwrap();
    let client = net.stacks[0].udp_open(at(A4, 9), 0, 0).unwrap();
    for _ in 0..100 {
        send_datagram(&mut net.stacks[0], client, at(B4, 7), &[1; 1000]).unwrap();
        net.run(MS);
    }
    let received = std::iter::from_fn(|| net.stacks[1].recv_from(server).ok().map(|_| ())).count() as u64;
    assert!(received >= 15);
    assert_eq!(received + net.stacks[1].stats().udp_rx_overflow, 100);
}

#[test]
fn a_full_queue_says_when_there_is_space() {
    let mut net = Net::new(6);
    let client = net.stacks[0].udp_open(at(A4, 9), 0, 2048).unwrap();
    let mut queued = 0;
    while net.stacks[0].send_to(client, at(B4, 7), 500).is_ok() {
        queued += 1;
    }
    assert_eq!(queued, 4);
    net.events[0].clear();
    net.run(10 * MS);
    assert!(net.events[0].iter().any(|event| event.socket == client.0 && event.flags & Event::WRITABLE != 0));
    assert!(net.stacks[0].send_to(client, at(B4, 7), 500).is_ok());
}

#[test]
fn queued_datagrams_leave_after_close() {
    let mut net = Net::new(7);
    let server = net.stacks[1].udp_open(at(B4, 7), 0, 0).unwrap();
    let client = net.stacks[0].udp_open(at(A4, 9), 0, 0).unwrap();
    send_datagram(&mut net.stacks[0], client, at(B4, 7), b"bye").unwrap();
    net.stacks[0].close(client).unwrap();
    assert!(net.stacks[0].udp_open(at(A4, 9), 0, 0).is_ok(), "the port is free at once");
    net.run(10 * MS);
    assert_eq!(recv_datagram(&mut net.stacks[1], server).unwrap().0, b"bye");
    assert_eq!(net.stacks[0].stats().sockets, 1);
}

#[test]
fn a_neighbor_that_does_not_answer_holds_up_nobody_else() {
    let mut net = Net::new(8);
    let server = net.stacks[1].udp_open(at(B4, 7), 0, 0).unwrap();
    let client = net.stacks[0].udp_open(at(A4, 9), 0, 0).unwrap();
    for index in 0..10 {
        send_datagram(&mut net.stacks[0], client, at([10, 0, 0, 100 + index], 7), b"lost").unwrap();
        send_datagram(&mut net.stacks[0], client, at(B4, 7), &[index]).unwrap();
    }
    net.run(10 * MS);
    for index in 0..10 {
        assert_eq!(recv_datagram(&mut net.stacks[1], server).unwrap().0, [index]);
    }
    net.run(10 * SECOND);
    assert_eq!(net.stacks[0].stats().neighbor_unreachable, 10);
    assert_eq!(net.stacks[0].deadline(), None);
}

#[test]
fn nobodys_datagrams_get_an_error_back() {
    let mut net = Net::new(9);
    net.trace = Some(Vec::new());
    let client = net.stacks[0].udp_open(at(A4, 9), 0, 0).unwrap();
    send_datagram(&mut net.stacks[0], client, at(B4, 7), b"hello").unwrap();
    net.run(10 * MS);
    let unreachable = |(host, frame): &(usize, Vec<u8>)| *host == 1 && frame[23] == 1 && frame[34..36] == [3, 3];
    assert!(net.trace.as_ref().unwrap().iter().any(unreachable));
    assert_eq!(net.stacks[1].stats().unclaimed, 1);
    // But not what was sent to all.
    net.trace = Some(Vec::new());
    send_datagram(&mut net.stacks[0], client, at([10, 0, 0, 255], 7), b"hello").unwrap();
    net.run(10 * MS);
    assert!(!net.trace.as_ref().unwrap().iter().any(|(host, _)| *host == 1));
}

#[test]
fn binds_and_destinations_are_checked() {
    let stack = &mut Net::new(10).stacks[0];
    assert_eq!(stack.udp_open(at(B4, 7), 0, 0).unwrap_err(), Errno::ADDRNOTAVAIL);
    let any = stack.udp_open(at(std::net::Ipv6Addr::UNSPECIFIED, 7), 0, 0).unwrap();
    assert_eq!(stack.udp_open(at(A4, 7), 0, 0).unwrap_err(), Errno::ADDRINUSE);
    assert_eq!(stack.udp_open(at(A4, 8), 0, usize::MAX).unwrap_err(), Errno::INVAL);
    let four = stack.udp_open(at([0, 0, 0, 0], 9), 0, 0).unwrap();
    for (text, error) in [
        ("0.0.0.0:7", Errno::INVAL),
        ("[::]:7", Errno::INVAL),
        ("10.0.0.2:0", Errno::INVAL),
        ("9.9.9.9:7", Errno::ADDRNOTAVAIL),
        ("[2001::1]:7", Errno::ADDRNOTAVAIL),
        ("10.0.0.1:7", Errno::ADDRNOTAVAIL),
    ] {
        assert_eq!(stack.send_to(any, text.parse().unwrap(), 1).unwrap_err(), error, "{text}");
    }
    assert_eq!(stack.send_to(four, at(B6, 7), 1).unwrap_err(), Errno::AFNOSUPPORT);
    assert_eq!(stack.set_option(any, SocketOption::HopLimit, 0), Err(Errno::INVAL));
    assert_eq!(stack.set_option(any, SocketOption::HopLimit, 3), Ok(()));
    assert_eq!(stack.peer_addr(any), Err(Errno::NOTCONN));
    let ping = stack.icmp_open(1, 0, 0).unwrap();
    assert_eq!(stack.icmp_open(1, 0, 0).unwrap_err(), Errno::ADDRINUSE);
    assert_eq!(stack.send(ping, 1).unwrap_err(), Errno::NOTSUP);
}
