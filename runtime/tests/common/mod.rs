//! What the tests with the real thing share: a bridge with a client on it, and guests as `roam run` starts them.
#![allow(dead_code, clippy::unwrap_used)]

pub(crate) mod crooked;
pub(crate) mod frames;
pub(crate) mod host;
pub(crate) mod migration;
pub(crate) mod overlay;
pub(crate) mod peer;
pub(crate) mod rogue;
pub(crate) mod worker;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use roam_abi::pattern;
use roam_runtime::lab::{Finished, Lab, LabError, Namespace, Process, require};

/// How long anything may take before a test gives up on it. Far beyond what it takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const CLIENT: [&str; 2] = ["10.90.0.1/24", "fd90::1/64"];
/// The binary under test.
pub(crate) const ROAM: &str = env!("CARGO_BIN_EXE_roam");

static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// Says that the running test checked nothing, and why. Not by `eprintln`, which the test harness swallows.
pub(crate) fn skip(reason: impl std::fmt::Display) {
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    let name = thread::current().name().unwrap_or("test").to_owned();
    let _ = writeln!(std::io::stderr(), "skipped: {name}: {reason} ({count} skipped so far)");
}

/// Whether `tool` is there; else a word on standard error.
pub(crate) fn has(tool: &'static str, package: &'static str) -> bool {
    require(tool, package).map_err(skip).is_ok()
}

/// A lab, or `None` and a word on standard error when this machine cannot have one.
pub(crate) fn lab() -> Option<Lab> {
    match Lab::new() {
        Ok(lab) => Some(lab),
        Err(error @ LabError::Missing(_)) => {
            skip(error.line());
            None
        }
        Err(error) => panic!("no lab: {}", error.line()),
    }
}

/// A bridge and a client, for guests to serve.
pub(crate) struct Bed {
    pub(crate) client: Namespace,
    pub(crate) lab: Lab,
}

impl Bed {
    /// With the client on an ordinary cable.
    pub(crate) fn new() -> Option<Self> {
        let bed = Self::without_link()?;
        bed.lab.host().veth("br0", &bed.client, "eth0", &CLIENT).unwrap();
        Some(bed)
    }

    /// With the client not connected yet.
    pub(crate) fn without_link() -> Option<Self> {
        let lab = lab()?;
        lab.host().bridge("br0").unwrap();
        let client = lab.namespace("client").unwrap();
        Some(Self { client, lab })
    }

    /// Starts a guest of the workspace (`square`, `echo` …) at 10.90.0.`number` and fd90::`number`, and waits until it
    /// serves. `extra` is appended to `roam run` (split at spaces).
    pub(crate) fn guest(&self, module: &str, number: u8, extra: &str) -> Guest {
        self.serving(wasm(module), number, extra)
    }

    /// The same for any module file.
    pub(crate) fn serving(&self, module: PathBuf, number: u8, extra: &str) -> Guest {
        let mut guest = self.start(module, number, extra);
        guest.process.wait_for("ready", LIMIT).unwrap();
        self.lab.host().wait_for_link(&format!("tap{number}"), LIMIT).unwrap();
        guest
    }

    /// Starts any module file, plugged into the bridge, without waiting for anything.
    pub(crate) fn start(&self, module: PathBuf, number: u8, extra: &str) -> Guest {
        let tap = format!("tap{number}");
        self.lab.host().tap(&tap, "br0").unwrap();
        Guest {
            process: self.run(module, number, extra),
            ip: format!("10.90.0.{number}"),
            ip6: format!("fd90::{number}"),
        }
    }

    /// `roam run` alone: the TAP device, tap`number`, is its own business.
    pub(crate) fn run(&self, module: PathBuf, number: u8, extra: &str) -> Process {
        let mut command = self.lab.host().command(ROAM);
        command.env("ROAM_LOG", "info").arg("run").arg(module);
        command.args(["--tap", &format!("tap{number}"), "--ip", &format!("10.90.0.{number}/24")]);
        command.args(["--ip6", &format!("fd90::{number}/64")]).args(extra.split_ascii_whitespace());
        Process::spawn(command).unwrap()
    }

    /// A command line of the client (split at spaces), which must succeed.
    pub(crate) fn call(&self, line: &str, input: &[u8]) -> Finished {
        self.client.call(line, input, LIMIT).and_then(Finished::success).unwrap()
    }

    /// A connection from the client.
    pub(crate) fn connect(&self, ip: &str, port: u16) -> TcpStream {
        let stream = self.client.run(|| TcpStream::connect((ip, port))).unwrap();
        limited(stream.unwrap_or_else(|error| panic!("connecting to {ip} port {port}: {error}")))
    }

    /// A UDP socket of the client, connected to that service.
    pub(crate) fn udp(&self, ip: &str, port: u16) -> UdpSocket {
        let any = if ip.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = self.client.run(|| UdpSocket::bind(any)).unwrap().unwrap();
        socket.connect((ip, port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket
    }
}

/// A guest in the foreground of a process of its own. When the test fails, its log is shown.
pub(crate) struct Guest {
    pub(crate) process: Process,
    pub(crate) ip: String,
    pub(crate) ip6: String,
}

impl Drop for Guest {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- log of the guest at {}\n{}---", self.ip, self.process.stderr());
        }
    }
}

/// Where the build has put that module.
pub(crate) fn wasm(name: &str) -> PathBuf {
    PathBuf::from(env!("ROAM_WASM_DIR")).join(format!("{name}.wasm"))
}

/// The same for a module that is built only where its tools are; says so where they are not.
pub(crate) fn optional_wasm(name: &str) -> Option<PathBuf> {
    let path = wasm(name);
    if path.is_file() {
        return Some(path);
    }
    let skipped = std::fs::read_to_string(path.with_file_name("skipped")).unwrap_or_default();
    let reason = skipped.lines().find(|line| line.starts_with(name)).unwrap_or("not built");
    skip(reason);
    None
}

pub(crate) fn limited(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream
}

/// Asks until an answer comes: a datagram may get lost. The answer must be `expected`.
pub(crate) fn ask(socket: &UdpSocket, question: &[u8], expected: &[u8]) {
    let mut buffer = vec![0; 65_536];
    for _ in 0..LIMIT.as_millis() / 500 {
        socket.send(question).unwrap();
        if let Ok(length) = socket.recv(&mut buffer) {
            assert_eq!(buffer[..length].escape_ascii().to_string(), expected.escape_ascii().to_string());
            return;
        }
    }
    panic!("no answer to {}", question.escape_ascii());
}

/// Sends `bytes` of the pattern stream to an echo service and compares what comes back, both at once, then half-closes
/// and expects the end.
pub(crate) fn echo_both_ways(stream: &TcpStream, bytes: usize) {
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut sent = vec![0; bytes];
            pattern::fill(&mut sent, 0);
            (&*stream).write_all(&sent).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        (&*stream).read_to_end(&mut received).unwrap();
        assert_eq!(pattern::matching(&received, 0), received.len(), "the first wrong byte");
        assert_eq!(received.len(), bytes);
    });
}

/// Reads `bytes` of chargen's stream (from `offset` on) and compares them.
pub(crate) fn read_chargen(mut stream: &TcpStream, offset: usize, bytes: usize) {
    let mut received = vec![0; bytes];
    stream.read_exact(&mut received).unwrap();
    for (index, byte) in received.into_iter().enumerate() {
        let at = (offset + index) % pattern::CHARGEN_PERIOD_BYTES;
        assert_eq!(byte, pattern::pattern(at as u64), "byte {} of the stream", offset + index);
    }
}
