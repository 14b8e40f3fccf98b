//! Guests' TCP against the kernel's, over links that lose, reorder, duplicate and squeeze: byte for byte, both ways.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use common::{Bed, CLIENT, Guest, LIMIT, ROAM, echo_both_ways, has, limited, read_chargen, skip};
use nix::sys::socket::sockopt::{RcvBuf, SndBuf};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, setsockopt, socket};
use roam_runtime::lab::{Impairment, Wire};

const MS: Duration = Duration::from_millis(1);

/// A client on a wire with those faults, and an echo guest behind it.
fn wired(faults: Impairment) -> Option<(Guest, Wire, Bed)> {
    let bed = Bed::without_link()?;
    let wire = bed.lab.host().wire("br0", &bed.client, "eth0", &CLIENT, faults).unwrap();
    Some((bed.guest("echo", 11, ""), wire, bed))
}

/// Everything TCP does with the echo guest: there and back at once, and a bulk download.
fn exercise(bed: &Bed, guest: &Guest, bytes: usize) {
    for ip in [&guest.ip, &guest.ip6] {
        echo_both_ways(&bed.connect(ip, 7), bytes);
        read_chargen(&bed.connect(ip, 19), 0, bytes);
    }
}

#[test]
fn frames_overtake_each_other() {
    let faults = Impairment { reorder_permille: 50, reorder_by: MS * 3, seed: 1, ..Impairment::default() };
    let Some((guest, wire, bed)) = wired(faults) else { return };
    exercise(&bed, &guest, 2 << 20);
    assert!(wire.reordered() > 50, "{wire:?}");
}

#[test]
fn frames_come_twice() {
    let faults = Impairment { duplicate_permille: 100, seed: 2, ..Impairment::default() };
    let Some((guest, wire, bed)) = wired(faults) else { return };
    exercise(&bed, &guest, 2 << 20);
    assert!(wire.duplicated() > 100, "{wire:?}");
}

#[test]
fn frames_get_lost() {
    let faults = Impairment { loss_permille: 10, seed: 3, ..Impairment::default() };
    let Some((guest, wire, bed)) = wired(faults) else { return };
    exercise(&bed, &guest, 1 << 20);
    assert!(wire.lost() > 10, "{wire:?}");
}

#[test]
fn all_of_it_on_a_long_wire() {
    let faults = Impairment {
        loss_permille: 5,
        duplicate_permille: 10,
        reorder_permille: 10,
        reorder_by: MS * 4,
        delay: MS * 5,
        seed: 4,
    };
    let Some((guest, wire, bed)) = wired(faults) else { return };
    exercise(&bed, &guest, 1 << 20);
    assert!(wire.lost() > 5, "{wire:?}");
}

#[test]
fn a_bridge_drops_frames() {
    let Some(bed) = Bed::new() else { return };
    if !has("nft", "nftables") {
        return;
    }
    let rules = b"add table bridge faults\n\
        add chain bridge faults forward { type filter hook forward priority 0; }\n\
        add rule bridge faults forward meta l4proto tcp numgen random mod 100 < 3 counter drop\n";
    let loaded = bed.lab.host().call("nft -f -", rules, LIMIT).unwrap();
    if !loaded.status.success() {
        return skip(format!("this kernel's nftables cannot drop at random on a bridge: {}", loaded.stderr));
    }
    let guest = bed.guest("echo", 11, "");
    // Large frames are few, so that one round may lose none.
    for _ in 0..20 {
        exercise(&bed, &guest, 128 << 10);
        let rules = bed.lab.host().call("nft list ruleset", b"", LIMIT).unwrap().success().unwrap().text();
        if !rules.contains("packets 0 ") {
            return;
        }
    }
    panic!("nothing was dropped");
}

#[test]
fn segments_and_windows_are_tiny() {
    let Some(bed) = Bed::new() else { return };
    let guest = bed.guest("echo", 11, "");
    bed.client.ip("route replace 10.90.0.0/24 dev eth0 advmss 100 window 2000").unwrap();
    bed.client.ip("-6 route change fd90::/64 dev eth0 proto kernel metric 256 advmss 100 window 2000").unwrap();
    exercise(&bed, &guest, 512 << 10);
    bed.client.ip("route replace 10.90.0.0/24 dev eth0 advmss 1460").unwrap();
    let stream = small_buffers(&bed, &guest, 7);
    echo_both_ways(&stream, 256 << 10);
    read_chargen(&small_buffers(&bed, &guest, 19), 0, 256 << 10);
}

/// A connection whose kernel buffers are as small as the kernel lets them be.
fn small_buffers(bed: &Bed, guest: &Guest, port: u16) -> TcpStream {
    let address: SockaddrStorage = std::net::SocketAddr::new(guest.ip.parse().unwrap(), port).into();
    let open = || {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)?;
        setsockopt(&socket, RcvBuf, &1)?;
        setsockopt(&socket, SndBuf, &1)?;
        connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &address)?;
        nix::Result::Ok(socket)
    };
    limited(bed.client.run(open).unwrap().unwrap().into())
}

#[test]
fn a_client_that_stops_reading_loses_nothing() {
    let Some(bed) = Bed::new() else { return };
    let guest = bed.guest("echo", 11, "");
    for ip in [&guest.ip, &guest.ip6] {
        let stream = bed.connect(ip, 19);
        read_chargen(&stream, 0, 100_000);
        // The window closes: the guest asks now and then whether it has opened again.
        std::thread::sleep(Duration::from_secs(3));
        read_chargen(&stream, 100_000, 8 << 20);
    }
    // The other way round: the guest's window closes since its answers are not taken.
    let mut stream = bed.connect(&guest.ip, 7);
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let data = vec![b'x'; 1 << 16];
    let mut sent = 0;
    while let Ok(length) = stream.write(&data) {
        sent += length;
        assert!(sent < 256 << 20, "the guest takes without end what nobody takes from it");
    }
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    assert_eq!(received.len(), sent);
    assert!(received.iter().all(|byte| *byte == b'x'));
}

#[test]
fn a_link_that_goes_and_comes_back_breaks_no_connection() {
    let Some(bed) = Bed::new() else { return };
    let guest = bed.guest("echo", 11, "");
    let stream = bed.connect(&guest.ip, 19);
    read_chargen(&stream, 0, 1 << 20);
    bed.lab.host().ip("link set tap11 nomaster").unwrap();
    std::thread::sleep(Duration::from_secs(2));
    bed.lab.host().ip("link set tap11 master br0").unwrap();
    read_chargen(&stream, 1 << 20, 8 << 20);
}

#[test]
fn load_finds_nothing_wrong_on_a_good_link() {
    let Some(bed) = Bed::new() else { return };
    let guest = bed.guest("echo", 11, "");
    for kind in ["udp-echo", "tcp-echo"] {
        let line = format!("{ROAM} load {kind} [{}]:7 --rate 2000 --duration 1s --json", guest.ip6);
        let said = bed.call(&line, b"").text();
        let report: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        assert!(report["received"].as_u64() > Some(1000) && report["lost"] == 0, "{report}");
    }
}
