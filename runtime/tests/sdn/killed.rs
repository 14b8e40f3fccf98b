//! The daemon itself: killed at any moment, asked to end, without room on its disk, and twice at once.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use roam_abi::pattern::pattern;
use serde_json::{Value, json};

use crate::common::ROAM;
use crate::common::peer::{Directory, LIMIT, eventually};
use crate::stand::{claim, connect, mac, placed, request};

/// A running `roam sdn`. Killed when dropped.
struct Daemon {
    process: Child,
    socket: PathBuf,
}

fn command(directory: &Directory) -> Command {
    let mut command = Command::new(ROAM);
    command.args(["sdn", "--node", "gateway", "--plane", "none", "--lost-after", "60s"]);
    command.arg("--state-dir").arg(directory.path().join("state"));
    command.arg("--run-dir").arg(directory.path().join("run"));
    command.env_clear().env("HOME", directory.path()).stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

impl Daemon {
    fn start(directory: &Directory) -> Self {
        Self::started(command(directory).stderr(Stdio::null()), directory)
    }

    /// And waits until it answers.
    fn started(command: &mut Command, directory: &Directory) -> Self {
        let socket = directory.path().join("run/sdn.sock");
        let mut process = command.spawn().unwrap();
        eventually("it answers", || {
            assert_eq!(process.try_wait().unwrap(), None, "it has ended");
            UnixStream::connect(&socket).is_ok()
        });
        Self { process, socket }
    }

    /// Status and body.
    fn ask(&self, line: &str, body: &Value) -> (u16, Value) {
        let answer = connect(&self.socket).say(request(line, body)).hear();
        (answer.status, serde_json::from_str(&answer.body).unwrap())
    }

    fn kill(&mut self) {
        // It may have ended by itself, which the test then notices elsewhere.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One answer, or `None` if the daemon is gone before it was whole.
fn try_ask(stream: &mut UnixStream, request: &str) -> Option<(u16, String)> {
    stream.write_all(request.as_bytes()).ok()?;
    let mut heard = Vec::new();
    loop {
        let mut piece = [0; 4096];
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(read) => heard.extend_from_slice(&piece[..read]),
        }
        let text = std::str::from_utf8(&heard).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if body.len() == length.parse::<usize>().unwrap() {
            return Some((head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned()));
        }
    }
}

/// Claims an address, then moves it to and fro, until the daemon is gone. Gives back what was acknowledged last.
fn change(socket: &PathBuf, number: u32, known: Option<(String, u64)>) -> Option<(String, u64)> {
    let Ok(mut stream) = UnixStream::connect(socket) else { return known };
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut acknowledged = known;
    loop {
        let asked = match &acknowledged {
            None => request("POST /v1/routes", &claim("host-a", number)),
            Some((host, generation)) => {
                let to = if host == "host-a" { "host-b" } else { "host-a" };
                let line = format!("POST /v1/routes/{}/move", mac(number));
                request(&line, &json!({"to": to, "from": generation}))
            }
        };
        let Some((status, body)) = try_ask(&mut stream, &asked) else { return acknowledged };
        assert!(status < 300, "{status} {body}");
        acknowledged = Some(placed(&body));
    }
}

#[test]
fn what_was_acknowledged_outlives_any_kill() {
    const KILLS: u64 = 30;
    const WRITERS: u32 = 4;
    let directory = Directory::new();
    let mut daemon = Daemon::start(&directory);
    for (number, host) in ["host-a", "host-b"].iter().enumerate() {
        let join = json!({"kind": "host", "vtep": format!("172.30.0.{}", number + 1)});
        assert_eq!(daemon.ask(&format!("PUT /v1/hosts/{host}"), &join).0, 200);
    }
    let mut known: Vec<Option<(String, u64)>> = vec![None; WRITERS as usize];
    let mut changes = 0;
    for round in 0..KILLS {
        let told = Mutex::new(vec![None; WRITERS as usize]);
        thread::scope(|scope| {
            for (number, known) in (0..).zip(&known) {
                let (socket, told) = (&daemon.socket, &told);
                scope.spawn(move || {
                    let last = change(socket, number, known.clone());
                    told.lock().unwrap()[number as usize] = last;
                });
            }
            // Anywhere from the first request on; the same in each run of the test.
            thread::sleep(Duration::from_micros(u64::from(pattern(round)) * 250));
            kill(Pid::from_raw(daemon.process.id() as i32), Signal::SIGKILL).unwrap();
        });
        daemon.kill();
        daemon = Daemon::start(&directory);
        for (number, told) in (0..).zip(told.into_inner().unwrap()) {
            let (status, found) = daemon.ask(&format!("GET /v1/routes/{}", mac(number)), &Value::Null);
            let Some((host, generation)) = told else {
                // Claimed perhaps, but not heard so.
                known[number as usize] = (status == 200).then(|| placed(&found.to_string()));
                continue;
            };
            assert_eq!(status, 200, "address {number} was {host}'s: {found}");
            let (owner, now) = placed(&found.to_string());
            // One change may have been made and not answered any more.
            assert!(now == generation || now == generation + 1, "{number}: {now} after {generation}");
            assert!(now != generation || owner == host, "{number}: {owner}'s at {now}, told {host}");
            let before = known[number as usize].as_ref().map_or(0, |(_, generation)| *generation);
            changes += now - before;
            known[number as usize] = Some((owner, now));
        }
    }
    assert!(changes > KILLS, "only {changes} changes were made: too few to prove anything");
    assert_eq!(daemon.ask("GET /v1/hosts", &Value::Null).1.as_array().map(Vec::len), Some(2));
}

#[test]
fn asked_to_end_it_says_goodbye_and_leaves_nothing_but_its_table() {
    let directory = Directory::new();
    let mut daemon = Daemon::start(&directory);
    let mut watch = connect(&daemon.socket);
    watch.say("GET /v1/watch HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut heard = String::new();
    while !heard.contains("event: table") {
        let mut piece = [0; 4096];
        let read = watch.0.read(&mut piece).unwrap();
        heard += std::str::from_utf8(&piece[..read]).unwrap();
    }
    let began = Instant::now();
    kill(Pid::from_raw(daemon.process.id() as i32), Signal::SIGTERM).unwrap();
    watch.0.read_to_string(&mut heard).unwrap();
    assert!(heard.contains("event: goodbye") && heard.ends_with("0\r\n\r\n"), "{heard}");
    assert!(daemon.process.wait().unwrap().success() && began.elapsed() < LIMIT);
    assert!(!daemon.socket.exists() && directory.path().join("state/table.redb").exists());
}

#[test]
fn two_on_one_table_or_socket_are_one_too_many() {
    let directory = Directory::new();
    let daemon = Daemon::start(&directory);
    let failed = |command: &mut Command| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let error = failed(&mut command(&directory));
    assert!(error.contains("another controller uses this table"), "{error}");
    let error = failed(command(&directory).env("ROAM_SDN_STATE_DIR", "/x").args(["--log", "warn"]));
    assert!(error.contains("another controller"), "a flag goes before the environment: {error}");
    let other = Directory::new();
    let error = failed(command(&other).env("X", "").arg("--log=warn").arg("--config=/nowhere"));
    assert!(error.contains("/nowhere"), "{error}");
    std::fs::create_dir(other.path().join("state")).unwrap();
    std::fs::write(other.path().join("state/table.redb"), "no table").unwrap();
    let error = failed(&mut command(&other));
    assert!(error.contains("damaged") && error.contains("move the file away"), "{error}");
    assert_eq!(daemon.ask("GET /v1/health", &Value::Null).0, 200);
}

#[test]
fn without_room_on_the_disk_nothing_happens_and_it_is_said() {
    let directory = Directory::new();
    // A file that may not grow is a disk that is full; in units of 512 bytes (POSIX sh).
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 6144; exec \"$@\"", "sh"]).arg(ROAM);
    let plain = command(&directory);
    limited.args(plain.get_args()).env_clear().stdin(Stdio::null()).stderr(Stdio::null());
    let daemon = Daemon::started(&mut limited, &directory);
    let join = json!({"kind": "host", "vtep": "172.30.0.1"});
    assert_eq!(daemon.ask("PUT /v1/hosts/host-a", &join).0, 200);
    let mut claimed = 0;
    let mut peer = connect(&daemon.socket);
    let refused = loop {
        let answer = peer.say(request("POST /v1/routes", &claim("host-a", claimed))).hear();
        if answer.status != 201 {
            break answer;
        }
        claimed += 1;
        assert!(claimed < 50_000, "the file has no limit");
    };
    refused.expect_error(507, "disk_full");
    let routes = |daemon: &Daemon| daemon.ask("GET /v1/routes", &Value::Null).1.as_array().unwrap().len();
    assert_eq!(routes(&daemon), claimed as usize);
    let (_, health) = daemon.ask("GET /v1/health", &Value::Null);
    let problem = health["problems"][0].as_str().unwrap_or_else(|| panic!("{health}"));
    assert!(health["healthy"] == false && problem.contains("disk"), "{health}");
    drop(daemon);
    // With room all that was said is there, and more can be.
    let daemon = Daemon::start(&directory);
    assert_eq!(routes(&daemon), claimed as usize);
    assert_eq!(daemon.ask("POST /v1/routes", &claim("host-a", claimed)).0, 201);
}
