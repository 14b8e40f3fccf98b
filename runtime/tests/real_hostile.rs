//! Floods, forged and broken frames, and guests that fail: the rest goes on.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::frames::{ICMP, SYN, TCP, UDP, arp_request, ethernet, ipv4, ipv6, tcp, udp};
use common::{Bed, Guest, LIMIT, ask, echo_both_ways, wasm};
use nix::sys::signal::Signal;

const GUEST: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 11);
const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd90, 0, 0, 0, 0, 0, 0, 0x11);
const ROGUE: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 66);

/// An echo guest at the address and MAC the frames of this file are for.
fn target(bed: &Bed) -> Guest {
    bed.guest("echo", 11, "--mac 02:00:00:00:00:10 --gateway 10.90.0.1")
}

/// The guest answers everything it did before.
fn well(bed: &Bed, guest: &mut Guest) {
    assert_eq!(guest.process.wait(Duration::ZERO).unwrap(), None, "the guest has ended");
    for ip in [&guest.ip, &guest.ip6] {
        ask(&bed.udp(ip, 7), b"still there?", b"still there?");
        echo_both_ways(&bed.connect(ip, 7), 100_000);
    }
}

#[test]
fn frames_of_every_broken_kind_change_nothing() {
    let Some(bed) = Bed::new() else { return };
    let mut guest = target(&bed);
    let port = bed.lab.host().port("rogue", "br0").unwrap();
    let good = [
        arp_request(ROGUE, GUEST),
        udp((ROGUE, 4000), (GUEST, 7), b"hello, hello"),
        tcp((ROGUE, 4000), (GUEST, 7), 1, SYN),
        ipv4(ROGUE, GUEST, ICMP, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]),
        ipv6("fd90::66".parse().unwrap(), GUEST6, 58, &[135, 0, 0, 0, 0, 0, 0, 0]),
        ipv6("fd90::66".parse().unwrap(), GUEST6, 0, &[58, 0, 1, 4, 0, 0, 0, 0, 128, 0, 0, 0, 0, 0, 0, 0]),
    ];
    let mut sent = 0;
    let mut send = |frame: &[u8]| {
        // The kernel refuses what is no frame at all, and drops when the guest is slow: both are fine.
        if frame.len() >= 14 && port.send(frame).is_ok() {
            sent += 1;
        }
    };
    for frame in &good {
        for length in 14..frame.len() {
            send(&frame[..length]);
        }
        // Each byte of each header, turned over in every bit.
        for at in 12..frame.len() {
            for bit in 0..8 {
                let mut frame = frame.clone();
                frame[at] ^= 1 << bit;
                send(&frame);
            }
        }
        send(&[&frame[..], &[0xaa; 1400]].concat());
    }
    for frame in hostile() {
        send(&frame);
    }
    // Noise of every length, from a linear congruence.
    let mut state = 1u32;
    for length in 14..1514 {
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let payload: Vec<u8> = (14..length).map(|_| noise()).collect();
        let ethertype = [0x0800, 0x0806, 0x86dd, 0x8100][length % 4];
        send(&ethernet(ethertype, &payload));
    }
    assert!(sent > 3000, "only {sent} frames were sent");
    well(&bed, &mut guest);
}

/// Packets whose fields lie.
fn hostile() -> Vec<Vec<u8>> {
    let rogue6: Ipv6Addr = "fd90::66".parse().unwrap();
    let land = tcp((GUEST, 7), (GUEST, 7), 1, SYN);
    let mut frames = vec![
        land,
        // Everybody, nobody and multicast as the sender.
        udp((Ipv4Addr::BROADCAST, 7), (GUEST, 7), b"x"),
        udp((Ipv4Addr::UNSPECIFIED, 7), (GUEST, 7), b"x"),
        udp((Ipv4Addr::new(224, 0, 0, 1), 7), (GUEST, 7), b"x"),
        udp((Ipv4Addr::LOCALHOST, 7), (GUEST, 7), b"x"),
        udp((GUEST, 7), (GUEST, 7), b"an echo that talks to itself"),
        udp((ROGUE, 0), (GUEST, 7), b"x"),
        ipv4(ROGUE, GUEST, UDP, &[]),
        ipv4(ROGUE, GUEST, TCP, &[0; 19]),
        // UDP that is shorter and longer than it says.
        ipv4(ROGUE, GUEST, UDP, &[0, 7, 0, 7, 0, 3, 0, 0, 1, 2, 3]),
        ipv4(ROGUE, GUEST, UDP, &[0, 7, 0, 7, 0xff, 0xff, 0, 0, 1, 2, 3]),
        // TCP whose header goes beyond the packet, and with options that do.
        ipv4(ROGUE, GUEST, TCP, &[0, 9, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0xf0, 2, 1, 1, 0, 0, 0, 0]),
        ipv4(ROGUE, GUEST, TCP, &[0, 9, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 2, 1, 1, 0, 0, 0, 0, 2, 0, 3, 200]),
        // All flags at once, and none.
        tcp((ROGUE, 9), (GUEST, 7), u32::MAX, 0xff),
        tcp((ROGUE, 9), (GUEST, 7), u32::MAX, 0),
        // IPv6 with extension headers that lead nowhere, and a jumbo that is none.
        ipv6(rogue6, GUEST6, 0, &[0, 255, 1, 4, 0, 0, 0, 0]),
        ipv6(rogue6, GUEST6, 43, &[59, 2, 0, 9, 0, 0, 0, 0]),
        ipv6(rogue6, GUEST6, 44, &[17, 0, 0xff, 0xf9, 0, 0, 0, 1, 1, 2, 3]),
        ipv6(rogue6, GUEST6, 60, &[60, 0, 0, 0, 0, 0, 0, 0]),
        ipv6(Ipv6Addr::UNSPECIFIED, GUEST6, 58, &[136, 0, 0, 0, 0xff, 0, 0, 0]),
        ethernet(0x8863, &[0; 46]),
        ethernet(0x0005, &[0xff; 100]),
    ];
    // Fragments that overlap, that end beyond 65 535, and first ones whose rest never comes.
    for (offset, more) in [(0u16, 1u16), (1, 1), (0, 0), (0x1fff, 0), (0x1fff, 1), (2, 1)] {
        for id in 0..8u8 {
            let mut frame = ipv4(ROGUE, GUEST, UDP, &[id; 64]);
            frame[14 + 5] = id;
            frame[14 + 6..14 + 8].copy_from_slice(&(offset | more << 13).to_be_bytes());
            frames.push(with_header_checksum(frame));
        }
    }
    frames
}

fn with_header_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    frame[24..26].copy_from_slice(&[0, 0]);
    let words = frame[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = !(((sum >> 16) + sum) as u16);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

#[test]
fn clients_connect_during_a_syn_flood() {
    let Some(bed) = Bed::new() else { return };
    let mut guest = target(&bed);
    let port = bed.lab.host().port("rogue", "br0").unwrap();
    let (over, sent) = (AtomicBool::new(false), AtomicU32::new(0));
    let flood = || {
        while !over.load(Ordering::Relaxed) {
            let count = sent.fetch_add(1, Ordering::Relaxed);
            // Half of the senders seem to be neighbours, who never answer; half come through the gateway.
            let source = match count % 2 {
                0 => Ipv4Addr::new(10, 90, 0, 100 + (count / 2 % 150) as u8),
                _ => Ipv4Addr::from(0xc633_6400 + count % 65_536),
            };
            // What the device does not take is lost, as on any wire.
            let _ = port.send(&tcp((source, (1024 + count % 60_000) as u16), (GUEST, 7), count, SYN));
            // 20 a millisecond is a flood for a backlog of hundreds, and leaves the CPU to the others.
            if count.is_multiple_of(20) {
                thread::sleep(Duration::from_millis(1));
            }
        }
    };
    thread::scope(|scope| {
        let _stop = Stop(&over);
        scope.spawn(flood);
        let deadline = Instant::now() + LIMIT;
        for round in 1..=5 {
            // Each round is more than the backlog holds.
            while sent.load(Ordering::Relaxed) < round * 2000 {
                assert!(Instant::now() < deadline, "the flood has dried up");
                thread::sleep(Duration::from_millis(1));
            }
            for ip in [&guest.ip, &guest.ip6] {
                let through = (0..CONNECT_TRIES_MAX).any(|_| echoes(&bed, ip));
                assert!(through, "nobody gets through to {ip}");
            }
        }
    });
    well(&bed, &mut guest);
}

/// How often a client may try during a flood: its own handshake may be given up for a newer one, as in any backlog
/// without SYN cookies, and on a machine with much else to do it takes long.
const CONNECT_TRIES_MAX: usize = 10;

/// Whether one connection from the client to its echo goes well.
fn echoes(bed: &Bed, ip: &str) -> bool {
    let data = [b'x'; 1000];
    let try_it = || -> std::io::Result<bool> {
        let mut stream = bed.client.run(|| TcpStream::connect((ip, 7))).unwrap()?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(&data)?;
        stream.shutdown(Shutdown::Write)?;
        let mut received = Vec::new();
        stream.read_to_end(&mut received)?;
        Ok(received == data)
    };
    try_it().unwrap_or(false)
}

/// Says that it is over when dropped: also when the test fails in between.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_flood_of_datagrams_is_survived_and_counted() {
    let Some(bed) = Bed::new() else { return };
    let mut guest = target(&bed);
    let until = Instant::now() + Duration::from_secs(1);
    let sent: u64 = thread::scope(|scope| {
        let floods: Vec<_> = [(&guest.ip, 60), (&guest.ip6, 1400)]
            .map(|(ip, bytes)| {
                let socket = bed.udp(ip, 7);
                scope.spawn(move || {
                    let datagram = vec![b'x'; bytes];
                    let mut sent = 0;
                    while Instant::now() < until {
                        // What the device does not take is dropped here, and not sent.
                        sent += u64::from(socket.send(&datagram).is_ok());
                    }
                    sent
                })
            })
            .into();
        floods.into_iter().map(|flood| flood.join().unwrap()).sum()
    });
    assert!(sent > 10_000, "only {sent} datagrams");
    well(&bed, &mut guest);
    guest.process.signal(Signal::SIGTERM).unwrap();
    assert!(guest.process.wait(LIMIT).unwrap().unwrap().success());
    let log = guest.process.stderr();
    assert!(log.contains("rx_frames") && log.contains("dropped"), "no counters at the end: {log}");
}

/// A module of its own for a test, in the system's folder for such files; removed with the value.
struct TextModule(PathBuf);

impl TextModule {
    fn new(name: &str, poll: &str) -> Self {
        let text = format!(
            "(module (memory (export \"memory\") 1)
               (func (export \"roam_abi_version\") (result i32) i32.const {})
               (func (export \"roam_poll\") (param i64) (result i64) {poll}))",
            roam_abi::VERSION
        );
        Self::raw(name, &wat::parse_str(text).unwrap())
    }

    fn raw(name: &str, bytes: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("roam-test-{}-{name}.wasm", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for TextModule {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_guest_that_fails_ends_alone_and_says_why() {
    let Some(bed) = Bed::new() else { return };
    let mut neighbour = target(&bed);
    let stream = bed.connect(&neighbour.ip, 7);
    let cases = [
        ("traps", "unreachable", 101, "unreachable"),
        ("overruns", "(loop (br 0)) i64.const 0", 124, "budget"),
        ("strays", "(i64.load (i32.const 0x7fffffff))", 101, "out of bounds"),
        ("recurses", "(call 1 (local.get 0))", 101, "stack"),
    ];
    for (number, (name, poll, code, reason)) in (30..).zip(cases) {
        let module = TextModule::new(name, poll);
        let mut guest = bed.start(module.0.clone(), number, "--poll-budget 200ms");
        let status = guest.process.wait(LIMIT).unwrap().unwrap_or_else(|| panic!("{name} runs on"));
        let log = guest.process.stderr();
        assert_eq!(status.code(), Some(code), "{name}: {log}");
        assert!(log.contains(reason), "{name}: {log}");
    }
    echo_both_ways(&stream, 1 << 20);
    well(&bed, &mut neighbour);
}

#[test]
fn what_is_no_guest_is_refused_with_a_reason() {
    let Some(bed) = Bed::new() else { return };
    let poll = "(func (export \"roam_poll\") (param i64) (result i64) i64.const 0)";
    let text = |text: String| wat::parse_str(text).unwrap();
    let cases = [
        ("text", b"#!/bin/sh\n".to_vec(), "wasm"),
        ("empty", Vec::new(), "wasm"),
        ("cut", std::fs::read(wasm("echo")).unwrap()[..5000].to_vec(), ""),
        ("bare", text("(module)".into()), "export"),
        (
            "other",
            text(format!(
                "(module (memory (export \"memory\") 1) {poll}
                   (func (export \"roam_abi_version\") (result i32) i32.const 999))"
            )),
            "999",
        ),
    ];
    for (number, (name, bytes, reason)) in (40..).zip(cases) {
        let module = TextModule::raw(name, &bytes);
        let mut guest = bed.start(module.0.clone(), number, "");
        let status = guest.process.wait(LIMIT).unwrap().unwrap_or_else(|| panic!("{name} runs"));
        let log = guest.process.stderr();
        assert_eq!(status.code(), Some(1), "{name}: {log}");
        assert!(log.contains(reason) && !log.contains("panicked"), "{name}: {log}");
    }
    let missing = bed.start("/no/such/module.wasm".into(), 50, "").process.wait(LIMIT).unwrap().unwrap();
    assert_eq!(missing.code(), Some(1));
}

#[test]
fn a_killed_process_leaves_no_device() {
    let Some(bed) = Bed::new() else { return };
    let devices = || {
        let list = bed.lab.host().call("ip -brief link", b"", LIMIT).unwrap().success().unwrap().text();
        list.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect::<Vec<_>>()
    };
    let before = devices();
    for signal in [Signal::SIGKILL, Signal::SIGINT, Signal::SIGTERM] {
        // It makes the device itself.
        let mut process = bed.run(wasm("echo"), 11, "");
        process.wait_for("ready", LIMIT).unwrap();
        bed.lab.host().plug("tap11", "br0").unwrap();
        bed.lab.host().wait_for_link("tap11", LIMIT).unwrap();
        assert!(devices().contains(&"tap11".to_owned()));
        echo_both_ways(&bed.connect("10.90.0.11", 7), 10_000);
        process.signal(signal).unwrap();
        let status = process.wait(LIMIT).unwrap().unwrap();
        assert_eq!(status.success(), signal != Signal::SIGKILL, "{status}: {}", process.stderr());
        assert_eq!(devices(), before, "after {signal}");
    }
}

#[test]
fn a_client_that_resets_costs_nothing_but_its_connection() {
    let Some(bed) = Bed::new() else { return };
    let mut guest = target(&bed);
    for _ in 0..200 {
        let mut stream = bed.connect(&guest.ip, 19);
        // Closed with data unread: the kernel resets.
        let _ = stream.read(&mut [0; 10]).unwrap();
        let _ = stream.write(b"x");
    }
    well(&bed, &mut guest);
}
