//! Guests behind tunnels that carry less than an Ethernet: nothing they send is too large, and nobody sends them more.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use common::host::spec;
use common::overlay::{IP, Node, Rig, name};
use common::{LIMIT, limited};
use nix::sys::signal::Signal;
use nix::sys::socket::{getsockopt, sockopt::TcpMaxSeg};
use roam_abi::pattern;
use roam_runtime::api::client::ClientError;
use roam_runtime::api::{ErrorCode, GuestSpec, GuestView, MigrateRequest, MigrationState};

const IP6: &str = "fd90::7:7";
/// What a tunnel carries over an Ethernet of 1500 bytes.
const CARRIED: u16 = 1450;
const IPV4_AND_TCP_BYTES: u32 = 40;
const IPV6_AND_TCP_BYTES: u32 = 60;
const IPV4_AND_ICMP_BYTES: u16 = 28;

async fn deploy(host: &Node, mtu: Option<u16>) -> Result<GuestView, ClientError> {
    let (ip, ip6) = (format!("{IP}/16").parse().unwrap(), format!("{IP6}/64").parse().unwrap());
    let echo = host.put_echo().await;
    host.client().create(&GuestSpec { ip: Some(ip), ip6: Some(ip6), mtu, ..spec("guest", echo) }).await
}

/// Sends that much and compares what comes back; returns the largest segment that the client may send, bytes.
fn echoes_a_stream(rig: &Rig, ip: &str, bytes: usize) -> u32 {
    let stream = limited(rig.client.run(|| TcpStream::connect((ip, 7))).unwrap().unwrap());
    let segment_bytes = getsockopt(&stream, TcpMaxSeg).unwrap();
    let mut sent = vec![0; bytes];
    pattern::fill(&mut sent, 0);
    let (mut out, mut back) = (stream.try_clone().unwrap(), Vec::new());
    thread::scope(|scope| {
        scope.spawn(|| out.write_all(&sent).unwrap());
        stream.take(bytes as u64).read_to_end(&mut back).unwrap();
    });
    assert!(back == sent, "{} of {bytes} bytes, the first wrong one is {}", back.len(), pattern::matching(&back, 0));
    segment_bytes
}

/// Whether a datagram of that many bytes comes back, asked a few times.
fn echoes_a_datagram(rig: &Rig, ip: &str, bytes: usize) -> bool {
    let any = if ip.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = rig.client.run(|| UdpSocket::bind(any)).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    socket.connect((ip, 7)).unwrap();
    let mut back = vec![0; bytes + 1];
    (0..5).any(|_| socket.send(&vec![7; bytes]).is_ok() && socket.recv(&mut back).is_ok_and(|got| got == bytes))
}

/// Whether an echo request is answered whose packet is that large and may not be cut.
fn answers_whole(rig: &Rig, packet_bytes: u16) -> bool {
    let line = format!("ping -M do -c 3 -i 0.2 -W 1 -s {} {IP}", packet_bytes - IPV4_AND_ICMP_BYTES);
    rig.client.call(&line, b"", LIMIT).unwrap().success().is_ok()
}

#[test]
fn what_guests_send_and_are_sent_fits_the_tunnels() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        // A client that does not know of the tunnels.
        rig.client.ip("link set eth0 mtu 1500").unwrap();
        let guest = deploy(&rig.hosts[0], None).await.unwrap();
        assert_eq!((guest.spec.mtu, guest.network.mtu), (None, CARRIED));
        let link = rig.hosts[0].namespace.call(&format!("ip -o link show {}", guest.network.tap), b"", LIMIT).unwrap();
        assert!(link.success().unwrap().text().contains(&format!(" mtu {CARRIED} ")));
        rig.answers();
        assert_eq!(echoes_a_stream(rig, IP, 4 << 20), u32::from(CARRIED) - IPV4_AND_TCP_BYTES);
        assert_eq!(echoes_a_stream(rig, IP6, 4 << 20), u32::from(CARRIED) - IPV6_AND_TCP_BYTES);
        let largest = usize::from(CARRIED - IPV4_AND_ICMP_BYTES);
        assert!(echoes_a_datagram(rig, IP, largest) && answers_whole(rig, CARRIED));
        // A bridge tells nobody: that much never comes.
        assert!(!echoes_a_datagram(rig, IP, largest + 1) && !answers_whole(rig, CARRIED + 1));
        // A client that knows cuts what is larger, and so does the guest.
        rig.client.ip(&format!("link set eth0 mtu {CARRIED}")).unwrap();
        for bytes in [largest + 1, 1472, 8000] {
            assert!(echoes_a_datagram(rig, IP, bytes), "{bytes} bytes");
        }
        assert!(echoes_a_datagram(rig, IP6, usize::from(CARRIED) - 48));
    });
}

#[test]
fn a_guest_has_no_larger_mtu_than_its_network() {
    let Some(rig) = Rig::new() else { return };
    rig.run(async |rig| {
        let refused = deploy(&rig.hosts[0], Some(1500)).await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::Invalid), "{refused}");
        assert!(refused.to_string().contains("carries 1450"), "{refused}");
        let guest = deploy(&rig.hosts[0], Some(1300)).await.unwrap();
        assert_eq!((guest.spec.mtu, guest.network.mtu), (Some(1300), 1300));
        rig.answers();
        assert_eq!(echoes_a_stream(rig, IP, 1 << 20), 1300 - IPV4_AND_TCP_BYTES);
        // It keeps it where it goes, and goes nowhere where that is too much.
        let moved = move_to_other(rig).await;
        assert_eq!(moved, Ok(()));
        assert_eq!(rig.hosts[1].look("guest").await.network.mtu, 1300);
        assert_eq!(echoes_a_stream(rig, IP, 1 << 20), 1300 - IPV4_AND_TCP_BYTES);
        rig.hosts[1].client().delete(&name("guest"), true).await.unwrap();
        deploy(&rig.hosts[0], None).await.unwrap();
        rig.hosts[1].end(Signal::SIGTERM);
        rig.hosts[1].namespace.ip("link set vx0 mtu 1400").unwrap();
        rig.hosts[1].start();
        for host in &rig.hosts {
            host.until_followed(true).await;
        }
        let why = move_to_other(rig).await.unwrap_err();
        assert!(why.contains("1450") && why.contains("carries 1400"), "{why}");
        rig.answers();
    });
}

/// Why it did not get there.
async fn move_to_other(rig: &Rig) -> Result<(), String> {
    let [source, target] = &rig.hosts;
    let to = MigrateRequest { downtime_us: 2_000_000, ..MigrateRequest::new(name(target.name)) };
    let begun = source.client().migrate(&name("guest"), &to).await.unwrap();
    let deadline = Instant::now() + LIMIT;
    loop {
        let view = source.client().migration(&begun.id).await.unwrap();
        match view.state {
            MigrationState::Done => return Ok(()),
            MigrationState::Failed => return Err(view.reason.unwrap().message),
            _ => assert!(Instant::now() < deadline, "{view:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
