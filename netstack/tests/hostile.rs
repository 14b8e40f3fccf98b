//! Bad frames, floods and bad links.
#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod common;

use common::*;
use proptest::prelude::*;
use roam_abi::Errno;

/// Frames like those a fuzzer would find: real ones, changed, cut and made up.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let header = prop_oneof![Just([8u8, 0]), Just([0x86, 0xdd]), Just([8, 6]), any::<[u8; 2]>()];
    let made_up = (header, prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(kind, rest)| {
        let mut frame = [&MAC_B[..], &MAC_A, &kind, &rest].concat();
        // Make most of it look like IP for us, so that it gets further.
        if kind == [8, 0] && frame.len() >= 34 {
            frame[14] = 0x45 + (frame[14] & 3);
            let bytes = (frame.len() - 14) as u16;
            frame[16..18].copy_from_slice(&bytes.to_be_bytes());
            frame[23] = [1, 6, 17, frame[23]][usize::from(frame[24] & 3)];
            frame[26..30].copy_from_slice(&A4.octets());
            frame[30..34].copy_from_slice(&B4.octets());
        }
        if kind == [0x86, 0xdd] && frame.len() >= 54 {
            frame[14] = 0x60;
            let bytes = (frame.len() - 54) as u16;
            frame[18..20].copy_from_slice(&bytes.to_be_bytes());
            frame[20] = [58, 6, 17, 0, 43, 44, 60, frame[20]][usize::from(frame[21] & 7)];
            frame[22..38].copy_from_slice(&A6.octets());
            frame[38..54].copy_from_slice(&B6.octets());
        }
        frame
    });
    let tcp = (any::<u32>(), any::<u32>(), any::<u8>(), 0..4u16, 0..60usize, any::<[u8; 8]>()).prop_map(
        |(sequence, acknowledged, flags, port, cut, noise)| {
            let from = at(A4, 5000 + port);
            let mut frame = tcp_frame(MAC_A, MAC_B, from, at(B4, 80), sequence, acknowledged, flags);
            frame.extend(noise);
            let bytes = (frame.len() - 14) as u16;
            frame[16..18].copy_from_slice(&bytes.to_be_bytes());
            frame[46] = 0x50 + (noise[0] & 0x20);
            if cut < 20 {
                frame.truncate(frame.len() - cut);
            }
            frame
        },
    );
    let fragment = (any::<u8>(), any::<u16>(), 0..1400usize).prop_map(|(ident, place, size)| {
        let mut frame = udp_frame(MAC_A, MAC_B, at(A4, 5000), at(B4, 7), &pattern(size));
        frame[19] = ident & 3;
        frame[20..22].copy_from_slice(&place.to_be_bytes());
        frame
    });
    prop_oneof![3 => made_up, 2 => tcp, 1 => fragment]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn garbage_harms_nobody(frames in prop::collection::vec((frame(), 0..5 * MS), 1..80), checksums: bool) {
        let mut net = Net::with(1, |config| config.checksums = checksums);
        let (listener, client, server) = net.connect(B4, 80);
        let udp = net.stacks[1].udp_open(at(std::net::Ipv6Addr::UNSPECIFIED, 7), 0, 0).unwrap();
        let echo = net.stacks[1].icmp_open(1, 0, 0).unwrap();
        for (frame, pause) in frames {
            net.inject(1, &frame);
            net.run(pause);
            while net.stacks[1].accept(listener).is_ok() {}
            while net.stacks[1].recv_from(udp).is_ok() {}
            while net.stacks[1].recv_from(echo).is_ok() {}
        }
        // Another connection than the one that was there (whose sequence numbers garbage may have met) still works.
        send_some(&mut net.stacks[0], client, b"still here").unwrap();
        let mut heard = Vec::new();
        net.until(30 * SECOND, |net| {
            recv_all(&mut net.stacks[1], server, &mut heard).unwrap();
            heard == b"still here"
        });
        let peer = net.stacks[0].udp_open(at(A4, 9999), 0, 0).unwrap();
        send_datagram(&mut net.stacks[0], peer, at(B4, 7), b"hello").unwrap();
        net.run(10 * MS);
        prop_assert_eq!(recv_datagram(&mut net.stacks[1], udp).unwrap().0, b"hello");
    }

    #[test]
    fn every_byte_arrives_over_a_bad_link(
        seed: u64,
        lost in 0..60u64,
        doubled in 0..60u64,
        jitter_ns in 1..2 * MS,
        ipv6: bool,
        segmentation: bool,
        rx_bytes in prop_oneof![Just(1024usize), Just(5000), Just(65536), Just(300_000)],
    ) {
        let mut net = Net::with(seed, |config| config.segmentation = segmentation);
        net.conditions = Conditions { delay_ns: MS, jitter_ns, lost, doubled };
        let ip: std::net::IpAddr = if ipv6 { B6.into() } else { B4.into() };
        let listener = net.stacks[1].tcp_listen(at(ip, 80), 4, rx_bytes, 0).unwrap();
        let client = net.stacks[0].tcp_connect(at(ip, 80), 0, 0).unwrap();
        let (data, echo) = (pattern(60_000), pattern(20_000));
        let (mut sent, mut echoed, mut got, mut back, mut server) = (0, 0, Vec::new(), Vec::new(), None);
        let (mut shut, mut server_shut) = (false, false);
        net.until(4000 * SECOND, |net| {
            server = server.or(net.stacks[1].accept(listener).ok().map(|(id, _)| id));
            if sent < data.len() {
                sent += send_some(&mut net.stacks[0], client, &data[sent..]).unwrap();
            } else if !shut {
                net.stacks[0].shutdown(client).unwrap();
                shut = true;
            }
            let finished = recv_all(&mut net.stacks[0], client, &mut back).unwrap();
            if let Some(server) = server.filter(|_| !server_shut) {
                let peer_finished = recv_all(&mut net.stacks[1], server, &mut got).unwrap();
                if echoed < echo.len() {
                    echoed += send_some(&mut net.stacks[1], server, &echo[echoed..]).unwrap();
                } else if peer_finished && !server_shut {
                    net.stacks[1].close(server).unwrap();
                    server_shut = true;
                }
            }
            finished
        });
        prop_assert!(got == data && back == echo);
        net.stacks[0].close(client).unwrap();
        net.run(300 * SECOND);
        prop_assert_eq!((net.stacks[0].stats().sockets, net.stacks[1].stats().sockets), (0, 1));
    }
}

#[test]
fn a_syn_flood_keeps_nobody_out() {
    let mut net = Net::new(2);
    let listener = net.stacks[1].tcp_listen(at(B4, 80), 64, 1024, 1024).unwrap();
    // The flood's sources are on-link, and nobody answers there.
    let flood = |net: &mut Net, round: u32| {
        for index in 0..300u32 {
            let port = (1024 + round * 300 + index) as u16;
            let from = at([10, 0, 0, 50 + (index % 200) as u8], port);
            let syn = tcp_frame([2, 0, 0, 0, 9, 9], MAC_B, from, at(B4, 80), index, 0, 2);
            net.inject(1, &syn);
        }
    };
    flood(&mut net, 0);
    net.run(10 * MS);
    let stats = *net.stacks[1].stats();
    assert_eq!(stats.half_open_evicted, 300 - 64);
    let client = net.stacks[0].tcp_connect(at(B4, 80), 0, 0).unwrap();
    for round in 1..20 {
        flood(&mut net, round);
        net.run(100 * MS);
    }
    net.until(20 * SECOND, |net| net.stacks[1].accept(listener).is_ok());
    assert!(net.stacks[0].send(client, 1).is_ok());
    net.run(10 * SECOND);
    assert!(net.stacks[1].stats().half_open_expired > 0);
    assert_eq!(net.stacks[1].stats().sockets, 2, "the half-open ones are gone");
}

#[test]
fn a_full_tx_ring_loses_nothing() {
    let mut stack = roam_netstack::Netstack::new(&config(1)).unwrap();
    let listener = stack.tcp_listen(at(B4, 80), 1024, 1024, 1024).unwrap();
    let udp = stack.udp_open(at(B4, 7), 0, 1 << 20).unwrap();
    // A neighbour, so that frames leave at once.
    let mut arp = [&[0xff; 6][..], &MAC_A, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &MAC_A, &A4.octets(), &[0; 6]].concat();
    arp.extend(B4.octets());
    put(&mut stack, &arp);
    assert!(!stack.poll(0).again);
    for round in 0..10 {
        for _ in 0..256 {
            match stack.send_to(udp, at(A4, 9), 1400) {
                Ok(slot) => slot.fill(round),
                Err(error) => assert_eq!(error, Errno::AGAIN),
            }
        }
        stack.poll(i64::from(round) * MS);
    }
    assert!(stack.stats().tx_backpressure > 0);
    let polled = stack.poll(20 * MS);
    assert!(polled.again);
    let syn = tcp_frame(MAC_A, MAC_B, at(A4, 5000), at(B4, 80), 1, 0, 2);
    put(&mut stack, &syn);
    assert!(stack.poll(21 * MS).again, "nothing is taken in while answers have no space");
    assert_eq!(stack.rx().len(), 1);
    let (mut datagrams, mut syn_acks) = (0, 0);
    loop {
        while let Some(frame) = stack.tx().front().map(|frame| frame.bytes.to_vec()) {
            datagrams += usize::from(frame.len() == 42 + 1400);
            syn_acks += usize::from(frame.len() < 80 && frame[23] == 6);
            stack.tx().pop();
        }
        if !stack.poll(22 * MS).again && stack.tx().is_empty() {
            break;
        }
    }
    assert_eq!((syn_acks, stack.rx().len()), (1, 0));
    assert!(datagrams > 256);
    assert_eq!(stack.accept(listener).unwrap_err(), Errno::AGAIN);
}

#[test]
fn joined_frames_are_acknowledged_at_once() {
    let mut net = Net::new(3);
    let (_, client, server) = net.connect(B4, 80);
    net.run(SECOND);
    // A frame as a host makes it from many segments.
    let (from, to) = (net.stacks[0].local_addr(client).unwrap(), at(B4, 80));
    net.trace = Some(Vec::new());
    send_some(&mut net.stacks[0], client, &[7; 1]).unwrap();
    net.run(5 * MS);
    let last = net.trace.take().unwrap();
    let frame = &last.iter().find(|(host, _)| *host == 0).unwrap().1;
    let sequence = u32::from_be_bytes(frame[38..42].try_into().unwrap()) + 1;
    let acknowledged = u32::from_be_bytes(frame[42..46].try_into().unwrap());
    let mut joined = tcp_frame(MAC_A, MAC_B, from, to, sequence, acknowledged, 0x10);
    joined.extend(pattern(30_000));
    let bytes = (joined.len() - 14) as u16;
    joined[16..18].copy_from_slice(&bytes.to_be_bytes());
    net.trace = Some(Vec::new());
    net.inject(1, &joined);
    net.settle();
    let acknowledged = net.trace.as_ref().unwrap().iter().any(|(host, frame)| *host == 1 && frame.len() == 54);
    assert!(acknowledged);
    let mut got = Vec::new();
    recv_all(&mut net.stacks[1], server, &mut got).unwrap();
    assert_eq!(got[1..], pattern(30_000));
}

fn put(stack: &mut roam_netstack::Netstack, frame: &[u8]) {
    let mut rx = stack.rx();
    rx.slot(frame.len()).unwrap().copy_from_slice(frame);
    rx.push(frame.len(), 0);
}
