//! Workers whose guest is frozen, thawed, and taken up by another worker: jailed, on a TAP in a lab.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use common::worker::{Deploy, Home, Up, block, outer_uid, until, up};
use common::{Bed, LIMIT, ask};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use roam_abi::pattern::pattern;
use roam_runtime::api::EndKind;
use roam_runtime::lab::Process;
use roam_runtime::modules::{ECHO, KV, SQUARE, WEB};
use roam_runtime::net::Tap;
use roam_runtime::worker::{Control, Hold, HoldError, Task, WorkerLayout, WorkerProcess, become_subreaper};
use roam_snapshot::sys::remote::RemoteMemory;

/// How long it takes to be sure that something does not happen.
const WHILE: Duration = Duration::from_millis(300);

fn hold(home: &Home) -> (Hold, u32) {
    Hold::take(&home.path("control.sock"), LIMIT).unwrap()
}

fn memories(pid: u32, layout: &WorkerLayout) -> Vec<Vec<u8>> {
    let remote = RemoteMemory::new(Pid::from_raw(pid.cast_signed()));
    let read = |memory: &roam_runtime::worker::WorkerMemory| {
        let mut bytes = vec![0; memory.bytes as usize];
        remote.read(memory.address, &mut bytes).unwrap();
        bytes
    };
    layout.memories.iter().map(read).collect()
}

/// Some echo requests.
fn ping(bed: &Bed, count: u8) -> Process {
    let mut command = bed.client.command("ping");
    command.args(["-n", "-c", &count.to_string(), "-i", "0.05", "-w", "20", "10.90.0.10"]);
    Process::spawn(command).unwrap()
}

/// A memcached client with one connection.
struct Kv(BufReader<TcpStream>);

impl Kv {
    fn connect(bed: &Bed) -> Self {
        Self(BufReader::new(bed.connect("10.90.0.10", 11_211)))
    }

    fn say(&mut self, number: u32) {
        let command = format!("set key{number} 0 0 5\r\nhello\r\nget key{number}\r\n");
        self.0.get_mut().write_all(command.as_bytes()).unwrap();
    }

    fn hear(&mut self, number: u32) {
        let expected = format!("STORED\r\nVALUE key{number} 0 5\r\nhello\r\nEND\r\n");
        let mut answer = String::new();
        while answer.len() < expected.len() {
            assert!(self.0.read_line(&mut answer).unwrap() > 0, "the connection ended: {answer}");
        }
        assert_eq!(answer, expected);
    }
}

#[test]
fn a_frozen_guest_is_silent_and_then_goes_on() {
    let Some(up) = up(KV, |_| {}) else { return };
    if !common::has("ping", "iputils-ping") {
        return;
    }
    up.bed.lab.host().wait_for_link("tap10", LIMIT).unwrap();
    let mut kv = Kv::connect(&up.bed);
    kv.say(1);
    kv.hear(1);
    block(async { up.control().await.stats(LIMIT).await.unwrap() });
    let (mut hold, pid) = hold(&up.home);
    assert_eq!(pid, up.process.pid());
    let layout = hold.layout().unwrap();
    assert!(!layout.waits && !layout.frozen, "{layout:?}");

    let frozen = hold.freeze().unwrap();
    assert_eq!(frozen.memory_bytes, hold.layout().unwrap().memories.iter().map(|m| m.bytes).collect::<Vec<_>>());
    assert!(hold.layout().unwrap().frozen);
    let layout = hold.layout().unwrap();
    let before = memories(pid, &layout);
    let ping = ping(&up.bed, 5);
    kv.say(2);
    thread::sleep(WHILE);
    let heard = String::from_utf8_lossy(&ping.stdout()).into_owned();
    assert!(!heard.contains("bytes from"), "{heard}");
    assert_eq!(hold.freeze().unwrap(), frozen, "asked again, the same is told");
    // Whoever asks for what, the guest is not touched.
    block(async {
        let mut control = up.control().await;
        assert_eq!(control.hello(LIMIT).await.unwrap().1, "id-10");
        let stats = control.stats(LIMIT).await.unwrap();
        assert!(stats.sockets.iter().any(|socket| socket.state == "established"), "{stats:?}");
    });
    assert!(memories(pid, &layout) == before);

    hold.thaw().unwrap();
    kv.hear(2);
    let heard = ping.finish(b"", LIMIT).unwrap().text();
    assert!(heard.contains(", 0% packet loss"), "{heard}");
    assert!(!hold.layout().unwrap().frozen);
    hold.thaw().unwrap();
    kv.say(3);
    kv.hear(3);
}

#[test]
fn a_paused_guest_goes_on_when_its_hold_ends() {
    let Some(up) = up(ECHO, |_| {}) else { return };
    up.answers();
    let again = || hold(&up.home).0;
    let mut hold = again();
    let paused = hold.pause().unwrap();
    assert_eq!(hold.pause().unwrap(), paused, "asked again, the same is told");
    assert!(hold.layout().unwrap().frozen);
    drop(hold);
    up.answers();
    let mut hold = again();
    hold.pause().unwrap();
    // Who takes hold of it has it as it runs.
    let mut hold = again();
    assert!(!hold.layout().unwrap().frozen);
    // One that is frozen stays so, whoever had it paused before or has it paused then.
    hold.pause().unwrap();
    hold.freeze().unwrap();
    let mut hold = again();
    assert!(hold.layout().unwrap().frozen);
    hold.pause().unwrap();
    let mut hold = again();
    assert!(hold.layout().unwrap().frozen);
    hold.thaw().unwrap();
    drop(hold);
    up.answers();
}

/// A guest whose TAP is kept, so that another worker can have it.
struct Source {
    up: Up,
    tap: Option<Tap>,
}

impl Source {
    fn new(module: &[u8]) -> Option<Self> {
        let bed = Bed::new()?;
        become_subreaper().unwrap();
        let mut home = Home::new();
        let deploy = Deploy::new(&bed, &home, module, 10);
        let tap = Tap::from_fd(deploy.tap.as_fd().try_clone_to_owned().unwrap(), deploy.tap.segments_udp());
        let process = block(deploy.spawn()).unwrap();
        home.pid = Some(process.pid());
        bed.lab.host().wait_for_link("tap10", LIMIT).unwrap();
        Some(Self { up: Up { bed, home, process, ip: "10.90.0.10".into() }, tap: Some(tap) })
    }

    fn waiting(&mut self, module: &[u8]) -> (Home, WorkerProcess) {
        waiting(self.tap.take().unwrap(), module)
    }
}

/// A worker that waits for the guest of tap10.
fn waiting(tap: Tap, module: &[u8]) -> (Home, WorkerProcess) {
    let mut home = Home::new();
    let mut deploy = Deploy::with_tap(tap, &home, module, 10);
    deploy.launch.uid = outer_uid(11);
    if let Task::Serve { waits, seed, epoch_ns, .. } = &mut deploy.launch.task {
        (*waits, *seed, *epoch_ns) = (true, [99; 32], 0);
    }
    let process = block(deploy.spawn()).unwrap();
    home.pid = Some(process.pid());
    (home, process)
}

/// Moves a guest into a worker that waits, as a daemon does but all at once.
fn moved(source: &Home, target: &Home) -> Duration {
    let ((mut from, from_pid), (mut to, to_pid)) = (hold(source), hold(target));
    let layout = to.layout().unwrap();
    assert!(layout.waits && !layout.frozen, "{layout:?}");
    let began = Instant::now();
    let frozen = from.freeze().unwrap();
    let bytes = memories(from_pid, &from.layout().unwrap());
    to.grow(frozen.memory_bytes.clone()).unwrap();
    let layout = to.layout().unwrap();
    let remote = RemoteMemory::new(Pid::from_raw(to_pid.cast_signed()));
    for (memory, bytes) in layout.memories.iter().zip(&bytes) {
        assert_eq!(memory.bytes, bytes.len() as u64);
        remote.write(memory.address, bytes).unwrap();
    }
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
    let (began_ns, ended_ns) = to.resume(frozen.state, now.as_nanos() as u64 - frozen.at_ns, None).unwrap();
    assert!(began_ns >= frozen.at_ns && ended_ns >= began_ns);
    eprintln!("first poll: {} us", (ended_ns - began_ns) / 1000);
    assert!(!to.layout().unwrap().waits);
    began.elapsed()
}

/// Moves it, and ends the worker it comes from.
fn move_over(source: &mut Source, module: &[u8]) -> Home {
    let (target, process) = source.waiting(module);
    let layout = hold(&target).0.layout().unwrap();
    let fresh = memories(process.pid(), &layout);
    for (memory, bytes) in layout.memories.iter().zip(&fresh) {
        assert!(bytes[memory.initial_bytes as usize..].iter().all(|byte| *byte == 0), "{memory:?}");
    }
    let took = moved(&source.up.home, &target);
    eprintln!("moved in {took:?}");
    source.up.process.kill().unwrap();
    block(source.up.process.ended());
    target
}

#[test]
fn kv_goes_on_in_another_worker() {
    let Some(mut source) = Source::new(KV) else { return };
    let mut clients: Vec<Kv> = (0..20).map(|_| Kv::connect(&source.up.bed)).collect();
    for round in 1..50 {
        clients.iter_mut().for_each(|kv| kv.say(round));
        clients.iter_mut().for_each(|kv| kv.hear(round));
    }
    // Under way while it moves.
    clients.iter_mut().for_each(|kv| kv.say(50));
    let target = move_over(&mut source, KV);
    clients.iter_mut().for_each(|kv| kv.hear(50));
    for round in 51..100 {
        clients.iter_mut().for_each(|kv| kv.say(round));
        clients.iter_mut().for_each(|kv| kv.hear(round));
    }
    let stats = block(async {
        let mut control = Control::connect(&target.path("control.sock"), LIMIT).await.unwrap();
        control.stats(LIMIT).await.unwrap()
    });
    assert_eq!(stats.sockets.iter().filter(|socket| socket.state == "established").count(), 20, "{stats:?}");
    let mut new = Kv::connect(&source.up.bed);
    new.say(1);
    new.hear(1);
}

#[test]
fn web_goes_on_in_another_worker() {
    let Some(mut source) = Source::new(WEB) else { return };
    let mut stream = source.up.bed.connect("10.90.0.10", 80);
    let bytes = 4_000_000;
    let request = format!("GET /stream?bytes={bytes}&rate=2000000 HTTP/1.1\r\nHost: guest\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        assert!(reader.read_line(&mut line).unwrap() > 0);
    }
    let mut offset = 0u64;
    let mut read_until = |end: u64| {
        while offset < end {
            let mut piece = vec![0; (end - offset).min(65_536) as usize];
            let read = reader.read(&mut piece).unwrap();
            assert!(read > 0, "the stream ended at {offset}");
            for (byte, at) in piece[..read].iter().zip(offset..) {
                assert_eq!(*byte, pattern(at), "byte {at}");
            }
            offset += read as u64;
        }
    };
    read_until(500_000);
    let _target = move_over(&mut source, WEB);
    read_until(bytes);
}

#[test]
fn udp_goes_on_in_another_worker() {
    let Some(mut source) = Source::new(SQUARE) else { return };
    let socket = source.up.bed.udp("10.90.0.10", 7000);
    ask(&socket, b"12", b"144");
    let (target, _process) = source.waiting(SQUARE);
    let (mut from, _) = hold(&source.up.home);
    from.freeze().unwrap();
    // They wait in the TAP.
    for number in 1..=100u32 {
        socket.send(number.to_string().as_bytes()).unwrap();
    }
    drop(from);
    moved(&source.up.home, &target);
    for number in 1..=100u32 {
        let mut answer = [0; 16];
        let length = socket.recv(&mut answer).unwrap();
        assert_eq!(String::from_utf8_lossy(&answer[..length]), (number * number).to_string());
    }
}

#[test]
fn who_holds_last_holds() {
    let Some(up) = up(ECHO, |_| {}) else { return };
    let (mut first, _) = hold(&up.home);
    first.layout().unwrap();
    let (mut second, _) = hold(&up.home);
    let gone = first.freeze().unwrap_err();
    assert!(matches!(gone, HoldError::Gone | HoldError::Unheard), "{gone}");
    second.freeze().unwrap();
    // A daemon that has gone, and one that comes: in between the guest stays frozen.
    drop(second);
    up.bed.lab.host().wait_for_link("tap10", LIMIT).unwrap();
    let socket = up.bed.udp(&up.ip, 7);
    socket.set_read_timeout(Some(WHILE)).unwrap();
    socket.send(b"early").unwrap();
    assert!(socket.recv(&mut [0; 16]).is_err(), "it is frozen");
    let (mut third, _) = hold(&up.home);
    assert!(third.layout().unwrap().frozen);
    third.thaw().unwrap();
    up.answers();
    for refused in [third.grow(vec![1 << 20, 1 << 20]), third.resume(vec![1], 0, None).map(drop)] {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, HoldError::Refused(_)), "{refused}");
    }
    up.answers();
}

#[test]
fn a_throttled_guest_serves_slowly() {
    let Some(up) = up(ECHO, |_| {}) else { return };
    let (mut hold, _) = hold(&up.home);
    up.answers();
    for percent in [50, 99] {
        hold.throttle(percent).unwrap();
        up.answers();
        hold.layout().unwrap();
    }
    assert!(matches!(hold.throttle(100), Err(HoldError::Refused(_))));
    hold.freeze().unwrap();
    hold.thaw().unwrap();
    drop(hold);
    up.answers();
}

#[test]
fn a_guest_that_does_not_run_stops_as_asked() {
    let Some(up) = up(ECHO, |_| {}) else { return };
    hold(&up.home).0.freeze().unwrap();
    block(async { up.control().await.stop(LIMIT).await }).unwrap();
    assert_eq!(up.ended(), Some(0));
    assert_eq!(up.home.end().kind, EndKind::Asked);
    drop(up);

    let Some(mut source) = Source::new(ECHO) else { return };
    let (target, process) = source.waiting(ECHO);
    block(async {
        let mut control = Control::connect(&target.path("control.sock"), LIMIT).await.unwrap();
        control.stop(LIMIT).await.unwrap();
        assert_eq!(process.ended().await.and_then(|status| status.code()), Some(0));
    });
    assert_eq!(target.end().kind, EndKind::Asked);
    source.up.answers();
}

#[test]
fn a_worker_that_waits_does_nothing() {
    let Some(mut source) = Source::new(KV) else { return };
    let (target, process) = source.waiting(KV);
    let (mut hold, pid) = hold(&target);
    assert_eq!(pid, process.pid());
    let layout = hold.layout().unwrap();
    let before = memories(pid, &layout);
    for refused in [hold.freeze().map(drop), hold.thaw(), hold.throttle(1)] {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, HoldError::Refused(_)), "{refused}");
    }
    for garbage in [vec![], vec![1], vec![0xFF; 100], vec![0; 1 << 20]] {
        assert!(matches!(hold.resume(garbage, 0, None), Err(HoldError::Refused(_))));
    }
    let sizes: Vec<u64> = layout.memories.iter().map(|memory| memory.bytes).collect();
    for sizes in [vec![], sizes.iter().map(|bytes| bytes - 65_536).collect(), vec![u64::MAX; 2], vec![1 << 32; 2]] {
        assert!(matches!(hold.grow(sizes), Err(HoldError::Refused(_))));
    }
    // The other one's state, without its memories.
    let (mut from, _) = self::hold(&source.up.home);
    let frozen = from.freeze().unwrap();
    let refused = hold.resume(frozen.state, 0, None).unwrap_err();
    assert!(matches!(&refused, HoldError::Refused(why) if why.contains("rings")), "{refused}");
    from.thaw().unwrap();
    block(async {
        let mut control = Control::connect(&target.path("control.sock"), LIMIT).await.unwrap();
        let stats = control.stats(LIMIT).await.unwrap();
        assert_eq!((stats.polls, stats.tx_frames, stats.sockets.len()), (0, 0, 0), "{stats:?}");
        assert!(stats.memory_bytes > 0);
    });
    // It leaves the frames to the other.
    let mut kv = Kv::connect(&source.up.bed);
    for round in 1..100 {
        kv.say(round);
        kv.hear(round);
    }
    let now = hold.layout().unwrap();
    let after = memories(pid, &now);
    assert!(before.iter().zip(&after).all(|(before, after)| after.starts_with(before)));
    let logged = roam_runtime::worker::LogReader::open(&target.directory, None).unwrap().read().unwrap();
    assert!(logged.is_empty(), "{logged:?}");
    process.kill().unwrap();
    block(process.ended());
}

#[test]
fn whatever_is_asked_the_guest_serves() {
    let Some(up) = up(ECHO, |_| {}) else { return };
    let path = up.home.path("control.sock");
    let frame = |body: &[u8]| [&(body.len() as u32).to_le_bytes(), body].concat();
    let held = || {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(&frame(&[3])).unwrap();
        let mut reply = [0; 5];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(reply.to_vec(), frame(&[3]));
        stream
    };
    let too_long = ((1u32 << 20) + 4096).to_le_bytes().to_vec();
    for garbage in [vec![0xFF; 4096], frame(&[9]), frame(&[0, 0]), frame(&[]), too_long, frame(&[5, 0xFF, 0xFF])] {
        let mut stream = held();
        let _ = stream.write_all(&garbage);
        assert!(matches!(stream.read(&mut [0; 16]), Ok(0) | Err(_)), "{garbage:?}");
    }
    up.answers();
    // Half a question, and thousands whose answers nobody takes.
    let mut half = held();
    half.write_all(&frame(&[0])[..3]).unwrap();
    up.answers();
    let mut flood = held();
    flood.set_nonblocking(true).unwrap();
    let _ = flood.write(&frame(&[0]).repeat(10_000));
    up.answers();
    // A question before the hold is had.
    let mut early = UnixStream::connect(&path).unwrap();
    early.write_all(&[frame(&[3]), frame(&[2])].concat()).unwrap();
    early.set_read_timeout(Some(LIMIT)).unwrap();
    let mut rest = Vec::new();
    let _ = early.read_to_end(&mut rest);
    assert!(rest.len() <= 5, "{rest:?}");
    up.answers();
    // Connections by the hundred.
    for _ in 0..300 {
        drop(held());
    }
    let (mut hold, _) = hold(&up.home);
    until(|| !hold.layout().unwrap().frozen);
    up.answers();
    block(async { up.control().await.stop(LIMIT).await }).unwrap();
    assert_eq!(up.ended(), Some(0));
}

#[test]
fn a_freeze_takes_this_long() {
    let Some(up) = up(ECHO, |_| {}) else { return };
    let (mut hold, _) = hold(&up.home);
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..500 {
        let mut took = |index: usize, ask: &mut dyn FnMut(&mut Hold)| {
            let began = Instant::now();
            ask(&mut hold);
            times[index].push(began.elapsed());
        };
        took(0, &mut |hold| drop(hold.layout().unwrap()));
        took(1, &mut |hold| drop(hold.freeze().unwrap()));
        took(2, &mut |hold| hold.thaw().unwrap());
    }
    for (what, mut times) in ["layout", "freeze", "thaw"].into_iter().zip(times) {
        times.sort_unstable();
        // Told, not judged.
        eprintln!("{what}: p50 {:?}, p99 {:?}, max {:?} of {}", times[250], times[495], times[499], times.len());
    }
    up.answers();
}
