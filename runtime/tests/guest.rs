//! A guest as a state machine: same inputs, same outputs; and whatever a hostile guest does, the host goes on.

#[path = "guest/renew.rs"]
mod renew;
#[path = "guest/saved.rs"]
mod saved;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::OnceLock;

use roam_netstack::{Cidr, Config, Netstack, SocketId};
use roam_runtime::api::SocketView;
use roam_runtime::engine::{Engine, GuestModule, LoadError, Refusal};
use roam_runtime::guest::{Frame, Guest, GuestConfig, Inputs, LOG_LINES_PER_POLL_MAX, Outputs, StartError, Stopped};
use roam_runtime::modules::ECHO;

const GUEST_IP: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 10);
const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(10, 90, 0, 1);

fn network(last_byte: u8, address: Ipv4Addr) -> Config {
    let mut config = Config::new([2, 0, 0, 0, 0, last_byte]);
    config.ipv4 = Some(Cidr { address, prefix: 24 });
    config
}

fn config() -> GuestConfig {
    GuestConfig {
        args: vec!["guest".into(), "--flag".into()],
        env: vec!["KEY=value".into()],
        network: network(10, GUEST_IP),
        memory_bytes_max: 64 << 20,
        seed: [7; 32],
        epoch_ns: 1_700_000_000_000_000_000,
    }
}

/// One engine and one compiled netstack for all tests.
fn engine() -> &'static (Engine, GuestModule) {
    static ENGINE: OnceLock<(Engine, GuestModule)> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let engine = Engine::new(None).expect("an engine");
        let netstack = engine.load_netstack().expect("our own module");
        (engine, netstack)
    })
}

fn start(bytes: &[u8], config: &GuestConfig) -> Result<Guest, StartError> {
    let (engine, netstack) = engine();
    let module = match engine.load(bytes) {
        Ok(module) => module,
        Err(LoadError::Refused(refusal)) => return Err(refusal.into()),
        Err(other) => panic!("{other}"),
    };
    Guest::start(engine, &module, netstack, config)
}

/// A guest from text: `body` is `roam_poll`'s, which has `$now` and returns a deadline.
fn guest_from(imports: &str, body: &str) -> Guest {
    start(&module(imports, body), &config()).expect("a guest")
}

fn module(imports: &str, body: &str) -> Vec<u8> {
    let text = format!(
        r#"(module {imports}
            (memory (export "memory") 1)
            (data (i32.const 0) "hello")
            (func (export "roam_abi_version") (result i32) i32.const {})
            (func (export "roam_poll") (param $now i64) (result i64) {body}))"#,
        roam_abi::VERSION
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn poll(guest: &mut Guest) -> Result<Outputs, Stopped> {
    guest.step(&Inputs::default())
}

/// A client with the same netstack, natively, on the other end of the wire.
struct Client {
    stack: Netstack,
    /// What [`echo_over_tcp`] has opened.
    connection: Option<SocketId>,
    now_ns: i64,
    inputs: Vec<Inputs>,
    outputs: Vec<Outputs>,
}

impl Client {
    fn new() -> Self {
        let mut config = network(1, CLIENT_IP);
        config.checksums = false;
        let stack = Netstack::new(&config).expect("a client");
        Self { stack, connection: None, now_ns: 0, inputs: Vec::new(), outputs: Vec::new() }
    }

    /// Carries frames both ways once, 50 µs later.
    fn exchange(&mut self, guest: &mut Guest) {
        let frames = self.frames();
        let inputs = Inputs { now_ns: self.now_ns, frames, announce: self.inputs.is_empty(), ..Inputs::default() };
        let outputs = guest.step(&inputs).expect("the guest lives");
        self.receive(&outputs);
        self.inputs.push(inputs);
        self.outputs.push(outputs);
    }

    /// What it sends, 50 µs later.
    fn frames(&mut self) -> Vec<Frame> {
        self.now_ns += 50_000;
        self.stack.poll(self.now_ns);
        let mut frames = Vec::new();
        let mut tx = self.stack.tx();
        while let Some(frame) = tx.front() {
            frames.push(Frame { bytes: frame.bytes.to_vec(), segment_bytes: frame.segment_bytes });
            tx.pop();
        }
        frames
    }

    fn receive(&mut self, outputs: &Outputs) {
        let mut rx = self.stack.rx();
        for frame in &outputs.frames {
            rx.slot(frame.bytes.len()).expect("room").copy_from_slice(&frame.bytes);
            rx.push(frame.bytes.len(), 0);
        }
        self.stack.poll(self.now_ns);
    }
}

/// Sends `bytes` to the echo guest over TCP and returns what came back.
fn echo_over_tcp(guest: &mut Guest, bytes: &[u8]) -> (Vec<u8>, Client) {
    let mut client = Client::new();
    let to = SocketAddr::from((GUEST_IP, 7));
    let socket = client.stack.tcp_connect(to, 65_536, 65_536).expect("a socket");
    client.connection = Some(socket);
    let (mut sent, mut received) = (0, Vec::new());
    for _ in 0..20_000 {
        client.exchange(guest);
        while let Ok(slot) = client.stack.send(socket, bytes.len() - sent) {
            let len = slot.len();
            slot.copy_from_slice(&bytes[sent..sent + len]);
            sent += len;
            if sent == bytes.len() {
                break;
            }
        }
        while let Ok(slice) = client.stack.recv(socket, usize::MAX) {
            if slice.is_empty() {
                break;
            }
            received.extend_from_slice(slice);
        }
        if received.len() == bytes.len() {
            break;
        }
    }
    (received, client)
}

#[test]
fn a_recorded_input_log_replays_to_identical_outputs() {
    let bytes: Vec<u8> = (0..300_000u64).map(roam_abi::pattern::pattern).collect();
    let mut recorded = start(ECHO, &config()).expect("a guest");
    let (received, client) = echo_over_tcp(&mut recorded, &bytes);
    assert!(received == bytes, "{} of {} bytes came back right", received.len(), bytes.len());

    let log = serde_json::to_string(&client.inputs).expect("plain data");
    let log: Vec<Inputs> = serde_json::from_str(&log).expect("what was just written");
    let mut replayed = start(ECHO, &config()).expect("a guest");
    for (index, (inputs, outputs)) in log.iter().zip(&client.outputs).enumerate() {
        assert_eq!(&replayed.step(inputs).expect("the guest lives"), outputs, "poll {index}");
        // Looking at it changes nothing of what it does.
        replayed.sockets().expect("the guest lives");
    }
    let sockets: Vec<SocketView> = replayed.sockets().expect("the guest lives").into_iter().map(Into::into).collect();
    let connection = sockets.iter().find(|socket| socket.state == "established").expect("the connection stands");
    assert_eq!((connection.protocol.as_str(), connection.local.as_str()), ("tcp", "10.90.0.10:7"));
    assert!(connection.peer.as_ref().is_some_and(|peer| peer.starts_with("10.90.0.1:")), "{connection:?}");
    assert!(sockets.iter().any(|socket| (socket.protocol.as_str(), socket.local.as_str()) == ("udp", "[::]:7")));

    // The seed is an input like any other: with another one the sequence numbers differ.
    let mut other = start(ECHO, &GuestConfig { seed: [8; 32], ..config() }).expect("a guest");
    let same = log
        .iter()
        .zip(&client.outputs)
        .all(|(inputs, outputs)| other.step(inputs).is_ok_and(|found| found == *outputs));
    assert!(!same);
}

#[test]
fn a_frame_that_does_not_fit_is_dropped_and_counted() {
    let mut guest = start(ECHO, &config()).expect("a guest");
    let frames = vec![Frame { bytes: vec![0; 70_000], segment_bytes: 0 }];
    let outputs = guest.step(&Inputs { now_ns: 1, frames, ..Inputs::default() }).expect("the guest lives");
    assert_eq!((outputs.frames_dropped, guest.rx().dropped()), (1, 1));
}

#[test]
fn a_guest_that_ends_says_how() {
    let exit = r#"(import "roam" "exit" (func $exit (param i32)))"#;
    let error = poll(&mut guest_from(exit, "i32.const 3 call $exit i64.const 0")).expect_err("it exits");
    assert!(matches!(error, Stopped::Exited { code: 3 }), "{error}");
    let error = poll(&mut guest_from("", "unreachable")).expect_err("it traps");
    let text = format!("{:#}", anyhow::Error::from(error));
    assert!(text.contains("trapped") && text.contains("unreachable"), "{text}");
    let overflow = r#"(func $f (result i64) call $f)"#;
    assert!(matches!(poll(&mut guest_from(overflow, "call $f")), Err(Stopped::Trapped(_))));
    let log_then_trap = r#"(import "roam" "log" (func $log (param i32 i32 i32) (result i32)))"#;
    let mut guest =
        guest_from(log_then_trap, "(drop (call $log (i32.const 1) (i32.const 0) (i32.const 5))) unreachable");
    assert!(poll(&mut guest).is_err());
    assert_eq!(guest.take_log()[0].text, "hello", "the last words are not lost");
}

#[test]
fn only_guests_of_this_abi_start() {
    let text = r#"(module (memory (export "memory") 1) (func (export "roam_abi_version") (result i32) i32.const 99)
        (func (export "roam_poll") (param i64) (result i64) i64.const 0))"#;
    let error = start(&wat::parse_str(text).expect("valid"), &config()).err().expect("refused");
    assert!(matches!(error, StartError::Refused(Refusal::AbiVersion { found: 99, .. })), "{error}");
    let import = r#"(import "roam" "send" (func (param i64)))"#;
    let error = start(&module(import, "i64.const 0"), &config()).err().expect("refused");
    assert!(matches!(error, StartError::Refused(Refusal::ImportType(_))), "{error}");
}

#[test]
fn limits_hold() {
    let grow = "(if (result i64) (i32.eq (memory.grow (i32.const 100000)) (i32.const -1)) (then i64.const 5) (else i64.const 6))";
    let mut guest = guest_from("", grow);
    poll(&mut guest).expect("a refused growth is the guest's to handle");
    assert_eq!(guest.deadline_ns().expect("it lives"), Some(5));
    let small = GuestConfig { memory_bytes_max: 1000, ..config() };
    assert!(matches!(start(&module("", "i64.const 0"), &small), Err(StartError::Instantiate(_))));
    for args in [vec!["x".repeat(200_000)], vec![String::new(); 5000], vec!["a\0b".into()]] {
        assert!(matches!(start(ECHO, &GuestConfig { args, ..config() }), Err(StartError::Arguments)));
    }
    let log = r#"(import "roam" "log" (func $log (param i32 i32 i32) (result i32)))"#;
    let flood = "(local $i i32) (loop $again (drop (call $log (i32.const 3) (i32.const 0) (i32.const 65536)))
        (br_if $again (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 5000)))) i64.const 1";
    let lines = poll(&mut guest_from(log, flood)).expect("it lives").log;
    assert_eq!(lines.len(), LOG_LINES_PER_POLL_MAX + 1);
    assert!(lines[0].text.len() <= roam_abi::limits::LOG_LINE_BYTES_MAX);
}

/// Name, parameter types, and whether a result comes back.
const IMPORTS: [(&str, &str, &[&str], &str); 27] = [
    ("roam", "clock", &["i32"], "i64"),
    ("roam", "random", &["i32", "i32"], "i32"),
    ("roam", "log", &["i32", "i32", "i32"], "i32"),
    ("roam", "arg", &["i32", "i32", "i32"], "i32"),
    ("roam", "env", &["i32", "i32", "i32"], "i32"),
    ("roam", "udp_open", &["i32", "i32", "i32"], "i32"),
    ("roam", "icmp_open", &["i32", "i32", "i32"], "i32"),
    ("roam", "send_to", &["i32", "i32", "i32", "i32"], "i32"),
    ("roam", "recv_from", &["i32", "i32", "i32", "i32"], "i32"),
    ("roam", "tcp_listen", &["i32", "i32", "i32", "i32"], "i32"),
    ("roam", "accept", &["i32", "i32"], "i32"),
    ("roam", "tcp_connect", &["i32", "i32", "i32"], "i32"),
    ("roam", "send", &["i32", "i32", "i32"], "i32"),
    ("roam", "recv", &["i32", "i32", "i32"], "i32"),
    ("roam", "shutdown", &["i32"], "i32"),
    ("roam", "close", &["i32"], "i32"),
    ("roam", "abort", &["i32"], "i32"),
    ("roam", "set_option", &["i32", "i32", "i64"], "i32"),
    ("roam", "local_addr", &["i32", "i32"], "i32"),
    ("roam", "peer_addr", &["i32", "i32"], "i32"),
    ("roam", "ready", &["i32", "i32"], "i32"),
    ("wasi_snapshot_preview1", "random_get", &["i32", "i32"], "i32"),
    ("wasi_snapshot_preview1", "clock_time_get", &["i32", "i64", "i32"], "i32"),
    ("wasi_snapshot_preview1", "args_get", &["i32", "i32"], "i32"),
    ("wasi_snapshot_preview1", "environ_sizes_get", &["i32", "i32"], "i32"),
    ("wasi_snapshot_preview1", "fd_write", &["i32", "i32", "i32", "i32"], "i32"),
    ("wasi_snapshot_preview1", "fd_read", &["i32", "i32", "i32", "i32"], "i32"),
];

/// Pointers, lengths, sockets and options that no sane guest passes, and some that point at sockets it has.
const WILD: [i64; 9] = [0, 1, 7, 65_535, 65_536, 0x7fff_ffff, 0xffff_ffff, 0xffff_fff0, 0x8000_0000];

/// Calls per import.
const CALLS_MAX: usize = 1000;

/// Each import gets every combination of wild values; it answers with a number or an error, and the guest goes on.
#[test]
fn wild_pointers_and_lengths_are_answered_with_errors() {
    for (module_name, name, params, result) in IMPORTS {
        let import = format!(
            r#"(import "{module_name}" "{name}" (func $f (param {}) (result {result})))
               (import "roam" "udp_open" (func $udp (param i32 i32 i32) (result i32)))
               (import "roam" "tcp_listen" (func $tcp (param i32 i32 i32 i32) (result i32)))"#,
            params.join(" ")
        );
        let mut body = String::from(
            "(i32.store (i32.const 64) (i32.const 0x00070004)) (i64.store (i32.const 68) (i64.const 0x0a005a0a))
             (drop (call $udp (i32.const 64) (i32.const 0) (i32.const 0)))
             (drop (call $tcp (i32.const 64) (i32.const 4) (i32.const 0) (i32.const 0)))",
        );
        let combinations = WILD.len().pow(params.len() as u32);
        // An odd step visits every value of every parameter also where there are too many combinations for all.
        let step = combinations.div_ceil(CALLS_MAX) | 1;
        let calls: Vec<_> = (0..combinations).step_by(step).map(|combination| wild_call(combination, params)).collect();
        // Many small functions: compiling one large one takes far longer.
        let mut functions = import;
        for (index, calls) in calls.chunks(100).enumerate() {
            functions.push_str(&format!("(func $calls{index} {})\n", calls.concat()));
            body.push_str(&format!("(call $calls{index})\n"));
        }
        body.push_str("i64.const 1");
        let mut guest = guest_from(&functions, &body);
        poll(&mut guest).unwrap_or_else(|error| panic!("{name}: {:#}", anyhow::Error::from(error)));
        poll(&mut guest).unwrap_or_else(|error| panic!("{name}, second poll: {error}"));
    }
}

/// A call with the wild values that `combination` stands for.
fn wild_call(mut combination: usize, params: &[&str]) -> String {
    let mut arguments = String::new();
    for ty in params {
        let value = WILD[combination % WILD.len()];
        combination /= WILD.len();
        arguments.push_str(&format!("({ty}.const {})", if *ty == "i32" { i64::from(value as i32) } else { value }));
    }
    format!("(drop (call $f {arguments}))\n")
}

#[test]
fn pointers_just_inside_and_just_outside() {
    let import = r#"(import "roam" "random" (func $f (param i32 i32) (result i32)))"#;
    let call = |ptr: u32, len: u32| {
        let body = format!("(i64.extend_i32_s (call $f (i32.const {}) (i32.const {})))", ptr as i32, len as i32);
        // The result is the deadline, so that the test can see it; -21 is FAULT.
        let mut guest = guest_from(import, &format!("(i64.add (i64.const 100) {body})"));
        poll(&mut guest).expect("it lives");
        guest.deadline_ns().expect("it lives").expect("set") - 100
    };
    assert_eq!(call(65_535, 1), 0);
    assert_eq!(call(65_536, 0), 0);
    assert_eq!(call(65_535, 2), -21);
    assert_eq!(call(65_537, 0), -21);
    assert_eq!(call(u32::MAX, u32::MAX), -28, "longer than one call may fill");
    assert_eq!(call(u32::MAX, 1), -21);
}
