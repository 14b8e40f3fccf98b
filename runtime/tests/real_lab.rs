//! The lab itself, with kernel servers: addresses work at once, processes and devices go with their owners.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use common::{LIMIT, lab};
use roam_runtime::lab::{Impairment, Lab, LabError, Namespace, Process};

const HOST: [&str; 2] = ["10.90.0.2/24", "fd90::2/64"];
const CLIENT: [&str; 2] = ["10.90.0.1/24", "fd90::1/64"];

/// A bridge on which the host namespace has an address itself.
fn bridged() -> Option<(Lab, Namespace)> {
    let lab = lab()?;
    lab.host().bridge("br0").unwrap();
    lab.host().addresses("br0", &HOST).unwrap();
    let client = lab.namespace("client").unwrap();
    Some((lab, client))
}

#[test]
fn addresses_work_from_the_first_packet() {
    let Some((lab, client)) = bridged() else { return };
    lab.host().veth("br0", &client, "eth0", &CLIENT).unwrap();
    for (from, to) in [("10.90.0.1:0", "10.90.0.2:5000"), ("[fd90::1]:0", "[fd90::2]:5000")] {
        let server = lab.host().run(|| UdpSocket::bind(to)).unwrap().unwrap();
        let socket = client.run(|| UdpSocket::bind(from)).unwrap().unwrap();
        server.set_read_timeout(Some(LIMIT)).unwrap();
        socket.send_to(b"hello", to).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(server.recv_from(&mut buffer).unwrap(), (5, socket.local_addr().unwrap()));
    }
}

#[test]
fn a_faulty_wire_still_carries_tcp() {
    let Some((lab, client)) = bridged() else { return };
    let faults = Impairment {
        loss_permille: 20,
        duplicate_permille: 20,
        reorder_permille: 20,
        reorder_by: Duration::from_millis(3),
        delay: Duration::from_millis(1),
        seed: 1,
    };
    let wire = lab.host().wire("br0", &client, "eth0", &CLIENT, faults).unwrap();
    let sent: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
    let listener = lab.host().run(|| TcpListener::bind("10.90.0.2:5000")).unwrap().unwrap();
    let mut stream = client.run(|| TcpStream::connect("10.90.0.2:5000")).unwrap().unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let received = std::thread::scope(|scope| {
        scope.spawn(|| {
            stream.write_all(&sent).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        server.read_to_end(&mut received).unwrap();
        received
    });
    assert!(received == sent);
    assert!(wire.lost() > 0 && wire.duplicated() > 0 && wire.reordered() > 0, "{wire:?}");
}

#[test]
fn a_port_sends_and_receives_frames() {
    let Some((lab, client)) = bridged() else { return };
    lab.host().veth("br0", &client, "eth0", &CLIENT).unwrap();
    let port = lab.host().port("rogue", "br0").unwrap();
    // Someone asks who has an address that nobody has: the question reaches every port of the bridge.
    client.run(|| UdpSocket::bind("10.90.0.1:0").and_then(|s| s.send_to(b"x", "10.90.0.77:9"))).unwrap().unwrap();
    let question = std::iter::from_fn(|| port.receive(LIMIT).unwrap()).find(|frame| frame[12..14] == [0x08, 0x06]);
    assert_eq!(question.unwrap()[..6], [0xff; 6]);
}

#[test]
fn commands_run_inside_and_say_why_they_fail() {
    let Some((lab, _)) = bridged() else { return };
    let shown = lab.host().call("ip -brief address show dev br0", b"", LIMIT).unwrap().success().unwrap().text();
    assert!(shown.contains("10.90.0.2/24") && shown.contains("fd90::2/64"), "{shown}");
    let error = lab.host().ip("link set nowhere up").unwrap_err();
    assert!(matches!(&error, LabError::Command { output, .. } if output.contains("nowhere")), "{error}");
    let error = lab.host().call("no-such-program", b"", LIMIT).unwrap_err();
    assert!(matches!(&error, LabError::Io { what, .. } if what.contains("no-such-program")), "{error}");
}

#[test]
fn children_end_with_their_thread() {
    let Some((lab, _)) = bridged() else { return };
    let spawn = || {
        let mut command = lab.host().command("sleep");
        command.arg("1000");
        Process::spawn(command)
    };
    let child = lab.host().run(spawn).unwrap();
    // The thread that spawned it has ended: the kernel has killed the child, and we did not.
    let status = child.unwrap().wait(LIMIT).unwrap().expect("the child was killed");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
}
