//! A guest says where its addresses are as it begins to serve, so that nobody sends to the one before.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{Bed, LIMIT, ask, wasm};
use nix::sys::signal::Signal;

const FIRST: [u8; 6] = [2, 0, 0, 0, 0, 0x21];
const SECOND: [u8; 6] = [2, 0, 0, 0, 0, 0x22];

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Whether a frame announces 10.90.0.10 (ARP) or fd90::10 (neighbour advertisement, override) at `mac`.
fn announced(frame: &[u8], mac: [u8; 6]) -> (bool, bool) {
    let ip = [10, 90, 0, 10];
    let ip6 = "fd90::10".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let arp = [&[0xff; 6][..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac, &ip, &[0; 6], &ip].concat();
    let ndp = [&[0x20, 0, 0, 0][..], &ip6, &[2, 1], &mac].concat();
    let is_ndp = frame.starts_with(&[0x33, 0x33, 0, 0, 0, 1]) && frame.ends_with(&ndp);
    (frame.starts_with(&arp), is_ndp)
}

#[test]
fn a_guest_announces_its_addresses() {
    let Some(bed) = Bed::new() else { return };
    let port = bed.lab.host().port("ear", "br0").unwrap();
    let _guest = bed.guest("echo", 10, &format!("--mac {}", text(FIRST)));
    let (mut arp, mut ndp) = (false, false);
    let deadline = Instant::now() + LIMIT;
    while !(arp && ndp) {
        assert!(Instant::now() < deadline, "announced: ARP {arp}, neighbour discovery {ndp}");
        let Some(frame) = port.receive(Duration::from_millis(100)).unwrap() else { continue };
        let (is_arp, is_ndp) = announced(&frame, FIRST);
        (arp, ndp) = (arp | is_arp, ndp | is_ndp);
    }
}

#[test]
fn who_knew_the_guest_before_follows_at_once() {
    let Some(bed) = Bed::new() else { return };
    let mut guest = bed.guest("echo", 10, &format!("--mac {}", text(FIRST)));
    for ip in [&guest.ip, &guest.ip6] {
        ask(&bed.udp(ip, 7), b"who", b"who");
        assert!(neighbour(&bed, ip).contains(&text(FIRST)));
    }
    guest.process.signal(Signal::SIGTERM).unwrap();
    guest.process.wait(LIMIT).unwrap();

    // Nobody asks for the addresses meanwhile: what the client knows is what it has been told.
    let mut other = bed.run(wasm("echo"), 10, &format!("--mac {}", text(SECOND)));
    other.wait_for("ready", LIMIT).unwrap();
    for ip in [&guest.ip, &guest.ip6] {
        let deadline = Instant::now() + LIMIT;
        while !neighbour(&bed, ip).contains(&text(SECOND)) {
            assert!(Instant::now() < deadline, "{}", neighbour(&bed, ip));
        }
    }
    for ip in [&guest.ip, &guest.ip6] {
        ask(&bed.udp(ip, 7), b"and now", b"and now");
    }
}

/// What the client knows of that neighbour.
fn neighbour(bed: &Bed, ip: &str) -> String {
    bed.call(&format!("ip neighbour show {ip} dev eth0"), b"").text()
}
