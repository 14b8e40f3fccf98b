//! A guest that is put into another one goes on as if nothing had happened.

use std::net::SocketAddr;

use nix::unistd::Pid;
use roam_abi::pattern::pattern;
use roam_netstack::SocketId;
use roam_runtime::guest::{Guest, GuestConfig, InstallError, SavedGuest};
use roam_runtime::modules::{ECHO, KV, SQUARE, WEB};
use roam_snapshot::sys::remote::RemoteMemory;

use super::{CLIENT_IP, Client, GUEST_IP, config, engine, module, start};

/// How often each guest moves.
const MOVES: u8 = 20;

/// All memories, as a daemon reads them.
pub(super) fn memories(guest: &Guest) -> Vec<Vec<u8>> {
    let remote = RemoteMemory::new(Pid::this());
    let read = |memory: roam_runtime::guest::GuestMemory| {
        let mut bytes = vec![0; memory.bytes as usize];
        remote.read(memory.address, &mut bytes).expect("our own memory");
        bytes
    };
    guest.memories().into_iter().map(read).collect()
}

/// A guest that waits: other seed, other clock.
fn waiting(bytes: &[u8], seed: u8) -> Guest {
    let (engine, netstack) = engine();
    let module = engine.load(bytes).expect("a guest");
    let config = GuestConfig { seed: [seed; 32], epoch_ns: 5, ..config() };
    Guest::waiting(engine, &module, netstack, &config).expect("a guest")
}

/// The same guest once more, in memories of its own.
pub(super) fn moved(guest: &mut Guest, bytes: &[u8], seed: u8) -> Guest {
    let before = memories(guest);
    let saved = guest.save();
    assert_eq!(guest.save(), saved, "saving twice is saving once");
    assert!(memories(guest) == before, "saving changes nothing");
    let mut target = waiting(bytes, seed);
    target.grow_to(&before.iter().map(|memory| memory.len() as u64).collect::<Vec<_>>()).expect("room");
    let remote = RemoteMemory::new(Pid::this());
    for (memory, bytes) in target.memories().iter().zip(&before) {
        remote.write(memory.address, bytes).expect("our own memory");
    }
    let saved = SavedGuest::from_bytes(&saved.to_bytes()).expect("what was just written");
    target.install(&saved).expect("the same module");
    assert_eq!(target.save(), saved);
    target
}

/// What a client asks for all the time.
struct Traffic {
    socket: SocketId,
    is_udp: bool,
    /// For the server.
    pending: Vec<u8>,
    asked: u64,
    received: Vec<u8>,
}

impl Traffic {
    fn new(client: &mut Client, port: u16) -> Self {
        let is_udp = port == 7000;
        let socket = match is_udp {
            true => client.stack.udp_open(SocketAddr::from((CLIENT_IP, 5000)), 65_536, 65_536),
            false => client.stack.tcp_connect(SocketAddr::from((GUEST_IP, port)), 65_536, 65_536),
        };
        Self { socket: socket.expect("a socket"), is_udp, pending: Vec::new(), asked: 0, received: Vec::new() }
    }

    fn go_on(&mut self, client: &mut Client, request: impl Fn(u64) -> String) {
        // No more than a little ahead, so that there is always something under way.
        if self.pending.len() < 2000 {
            self.asked += 1;
            self.pending.extend(request(self.asked).into_bytes());
        }
        if self.is_udp {
            let to = SocketAddr::from((GUEST_IP, 7000));
            if let Ok(slot) = client.stack.send_to(self.socket, to, self.pending.len()) {
                slot.copy_from_slice(&self.pending);
            }
            self.pending.clear();
            while let Ok((bytes, _)) = client.stack.recv_from(self.socket) {
                self.received.extend_from_slice(bytes);
            }
            return;
        }
        if !self.pending.is_empty()
            && let Ok(slot) = client.stack.send(self.socket, self.pending.len())
        {
            let len = slot.len();
            slot.copy_from_slice(&self.pending[..len]);
            self.pending.drain(..len);
        }
        while let Ok(slice) = client.stack.recv(self.socket, usize::MAX) {
            assert!(!slice.is_empty(), "the connection stands");
            self.received.extend_from_slice(slice);
        }
    }
}

/// Has a guest serve while it moves again and again, each time beside the one it comes from; what the client received.
fn served_while_moving(bytes: &[u8], port: u16, request: impl Fn(u64) -> String) -> (u64, Vec<u8>) {
    let config =
        GuestConfig { args: ["guest", "--memory", "8m"].map(String::from).to_vec(), env: Vec::new(), ..config() };
    let mut guest = start(bytes, &config).expect("a guest");
    let mut client = Client::new();
    let mut traffic = Traffic::new(&mut client, port);
    for number in 0..MOVES {
        for _ in 0..7 + number {
            client.exchange(&mut guest);
            traffic.go_on(&mut client, &request);
        }
        let mut target = moved(&mut guest, bytes, 100 + number);
        for _ in 0..10 {
            client.exchange(&mut guest);
            traffic.go_on(&mut client, &request);
            let (inputs, outputs) = (client.inputs.last().expect("one"), client.outputs.last().expect("one"));
            assert_eq!(&target.step(inputs).expect("the guest lives"), outputs, "move {number}");
        }
        assert!(memories(&target) == memories(&guest), "after the same inputs");
        assert_eq!(target.save(), guest.save());
        assert_eq!(target.sockets().expect("it lives"), guest.sockets().expect("it lives"));
        guest = target;
    }
    (traffic.asked, traffic.received)
}

#[test]
fn square_serves_while_it_moves() {
    let (asked, received) = served_while_moving(SQUARE, 7000, |number| format!("{number}\n"));
    let text = String::from_utf8(received).expect("numbers");
    let squares: Vec<u64> = text.lines().map(|line| line.parse().expect("a square")).collect();
    assert!(squares.iter().all(|square| square.isqrt().pow(2) == *square));
    assert!(squares.len() as u64 > asked - 10, "{} of {asked}", squares.len());
}

#[test]
fn kv_serves_while_it_moves() {
    let request = |number: u64| format!("set key{number} 0 0 5\r\nhello\r\nget key{number}\r\n");
    let (asked, received) = served_while_moving(KV, 11_211, request);
    let answers: Vec<String> =
        (1..=asked).map(|number| format!("STORED\r\nVALUE key{number} 0 5\r\nhello\r\nEND\r\n")).collect();
    let text = String::from_utf8(received).expect("text");
    assert!(answers.concat().starts_with(&text) && text.len() > 5000, "{}", text.len());
}

#[test]
fn web_serves_while_it_moves() {
    let request = |number: u64| match number % 7 {
        0 => "GET /stream?bytes=40000 HTTP/1.1\r\nHost: guest\r\n\r\n".to_owned(),
        _ => String::new(),
    };
    let (_, received) = served_while_moving(WEB, 80, request);
    let (mut rest, mut bodies) = (&received[..], 0);
    while let Some(end) = rest.windows(4).position(|window| window == b"\r\n\r\n") {
        assert!(rest.starts_with(b"HTTP/1.1 200 "), "{}", rest[..end].escape_ascii());
        let body = &rest[end + 4..rest.len().min(end + 4 + 40_000)];
        assert!(body.iter().zip(0..).all(|(byte, at)| *byte == pattern(at)));
        rest = &rest[end + 4 + body.len()..];
        bodies += 1;
    }
    assert!(bodies > 10, "{bodies} bodies");
}

#[test]
fn a_state_goes_into_its_own_module_only() {
    let mut square = start(SQUARE, &config()).expect("a guest");
    let saved = square.save();
    let mut echo = waiting(ECHO, 1);
    let refused = echo.install(&saved).expect_err("another module");
    assert!(matches!(refused, InstallError::Module { module: "the guest", .. }), "{refused}");
    // Its memories are not there yet.
    let refused = waiting(SQUARE, 1).install(&saved).expect_err("no memories");
    assert!(matches!(refused, InstallError::Memory), "{refused}");
}

#[test]
fn every_kind_of_global_moves() {
    let globals = r#"
        (import "roam" "random" (func $random (param i32 i32) (result i32)))
        (global $a (mut i32) (i32.const 1)) (global $b (mut i64) (i64.const 2))
        (global $c (mut f32) (f32.const 3)) (global $d (mut f64) (f64.const 4))
        (global $e (mut v128) (v128.const i64x2 5 6)) (global $fixed i32 (i32.const 7))
        (func $next (drop (call $random (i32.const 0) (i32.const 3)))
            (global.set $a (i32.add (global.get $a) (i32.load (i32.const 0))))
            (global.set $b (i64.add (global.get $b) (i64.extend_i32_u (global.get $a))))
            (global.set $c (f32.div (global.get $c) (f32.const 0)))
            (global.set $d (f64.mul (global.get $d) (f64.const 1.5)))
            (global.set $e (i64x2.add (global.get $e) (i64x2.splat (global.get $b)))))"#;
    let body = "(call $next) (i64.add (global.get $b) (i64x2.extract_lane 1 (global.get $e)))";
    let bytes = module(globals, body);
    let mut guest = start(&bytes, &config()).expect("a guest");
    for number in 0..MOVES {
        let now_ns = i64::from(number);
        guest.poll(now_ns).expect("it lives");
        let mut target = moved(&mut guest, &bytes, number);
        for guest in [&mut guest, &mut target] {
            guest.poll(now_ns + 1).expect("it lives");
        }
        assert_eq!(target.save(), guest.save());
        assert_eq!(target.deadline_ns().expect("it lives"), guest.deadline_ns().expect("it lives"));
        guest = target;
    }
}
