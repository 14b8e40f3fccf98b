//! A copy of a guest becomes another host, and the original's connections do not notice.

use std::net::{Ipv4Addr, SocketAddr};

use roam_netstack::{Config, SocketId};
use roam_runtime::guest::{Guest, Inputs, Outputs, ReaddressError};
use roam_runtime::modules::ECHO;

use super::saved::{memories, moved};
use super::{Client, GUEST_IP, config, echo_over_tcp, guest_from, network, start};

const CLONE_IP: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 11);

fn clone_network() -> Config {
    network(11, CLONE_IP)
}

/// What turns a copy into another host, and then one poll after the other.
fn renewal(now_ns: i64) -> Inputs {
    Inputs { now_ns, reseed: Some([9; 32]), readdress: Some(clone_network()), ..Inputs::default() }
}

/// One link: the client, the original and its clone. Each hears everything.
struct Link {
    client: Client,
    guests: [Guest; 2],
    /// The clone's.
    inputs: Vec<Inputs>,
    outputs: Vec<Outputs>,
}

impl Link {
    fn exchange(&mut self, inputs: Inputs) {
        let frames = self.client.frames();
        let inputs = Inputs { now_ns: self.client.now_ns, frames, ..inputs };
        let original = Inputs { now_ns: inputs.now_ns, frames: inputs.frames.clone(), ..Inputs::default() };
        let outputs = self.guests[0].step(&original).expect("the original lives");
        self.client.receive(&outputs);
        let outputs = self.guests[1].step(&inputs).expect("the clone lives");
        self.client.receive(&outputs);
        self.inputs.push(inputs);
        self.outputs.push(outputs);
    }

    /// Whether a guest sends these bytes back.
    fn echoes(&mut self, socket: SocketId, bytes: &[u8]) -> bool {
        let (mut is_sent, mut received) = (false, Vec::new());
        for _ in 0..1000 {
            self.exchange(Inputs::default());
            let stack = &mut self.client.stack;
            if !is_sent && let Ok(slot) = stack.send(socket, bytes.len()) {
                slot.copy_from_slice(bytes);
                is_sent = true;
            }
            while let Ok(slice @ [_, ..]) = stack.recv(socket, usize::MAX) {
                received.extend_from_slice(slice);
            }
            if received == bytes {
                return true;
            }
        }
        false
    }
}

fn connections(guest: &mut Guest) -> usize {
    guest.sockets().expect("it lives").iter().filter(|socket| socket.peer.port() != 0).count()
}

#[test]
fn a_clone_serves_beside_its_original() {
    let mut original = start(ECHO, &config()).expect("a guest");
    let (_, client) = echo_over_tcp(&mut original, b"before");
    let socket = client.connection.expect("it echoed");
    let clone = moved(&mut original, ECHO, 5);
    let mut replayed = moved(&mut original, ECHO, 6);
    let mut link = Link { client, guests: [original, clone], inputs: Vec::new(), outputs: Vec::new() };
    link.exchange(renewal(0));
    for _ in 0..100 {
        link.exchange(Inputs::default());
    }
    let sent: Vec<_> = link.outputs.iter().flat_map(|outputs| &outputs.frames).collect();
    assert!(!sent.is_empty(), "it is announced");
    for frame in sent {
        assert_eq!(frame.bytes[6..12], clone_network().mac);
        assert!(!frame.bytes.windows(4).any(|bytes| bytes == GUEST_IP.octets()), "{frame:02x?}");
    }
    assert!(link.echoes(socket, b"the original's connection stands"));
    let to = SocketAddr::from((CLONE_IP, 7));
    let new = link.client.stack.tcp_connect(to, 65_536, 65_536).expect("a socket");
    assert!(link.echoes(new, b"the clone answers at its own address"));
    assert!(link.echoes(socket, b"and so does the original"));

    // It is an input like any other.
    for (index, (inputs, outputs)) in link.inputs.iter().zip(&link.outputs).enumerate() {
        assert_eq!(&replayed.step(inputs).expect("the guest lives"), outputs, "poll {index}");
    }
    assert!(memories(&replayed) == memories(&link.guests[1]));
    assert_eq!(replayed.save(), link.guests[1].save());
    assert_eq!(link.guests.each_mut().map(connections), [1, 1], "the clone has let go of what was dropped");
}

#[test]
fn clones_draw_other_numbers() {
    let random = r#"(import "roam" "random" (func $random (param i32 i32) (result i32)))"#;
    let body = "(drop (call $random (i32.const 8) (i32.const 7))) (i64.load (i32.const 8))";
    let drawn = |seed: Option<u8>| {
        let mut guest = guest_from(random, body);
        guest.poll(1).expect("it lives");
        if let Some(seed) = seed {
            guest.reseed([seed; 32]).expect("it lives");
        }
        guest.poll(i64::MAX / 8).expect("it lives");
        guest.deadline_ns().expect("it lives")
    };
    let found = [None, Some(1), Some(2)].map(drawn);
    assert!(found[0] != found[1] && found[1] != found[2] && found[0] != found[2], "{found:?}");
    assert_eq!(found, [None, Some(1), Some(2)].map(drawn));
}

#[test]
fn an_impossible_network_changes_nothing() {
    let mut guest = start(ECHO, &config()).expect("a guest");
    let (received, client) = echo_over_tcp(&mut guest, b"before");
    assert_eq!(received, b"before");
    let before = (memories(&guest), guest.save());
    let none = Config { ipv4: None, ..clone_network() };
    let refused = guest.readdress(&none).expect_err("no address");
    assert!(matches!(refused, ReaddressError::Network(_)), "{refused}");
    assert!((memories(&guest), guest.save()) == before);
    let inputs = Inputs { readdress: Some(none), now_ns: client.now_ns, ..Inputs::default() };
    guest.step(&inputs).expect("it lives");
    assert_eq!(connections(&mut guest), 1);
}
