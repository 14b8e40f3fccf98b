//! Workers as a host daemon starts them: jailed, on a TAP in a lab.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use common::worker::{Deploy, Home, Up, block, compile, compile_within, outer_uid, until, up};
use common::{Bed, LIMIT, ROAM};
use nix::sys::signal::Signal;
use roam_runtime::api::EndKind;
use roam_runtime::jail::{Cgroup, CgroupLimits};
use roam_runtime::lab::Process;
use roam_runtime::net::{Tap, TapOptions};
use roam_runtime::worker::{Control, LaunchError, LogReader, SpawnError, Task, WorkerProcess, read_end};
use roam_runtime::{modules, worker};

/// A guest from text: `body` is `roam_poll`'s, which has `$now` and returns a deadline.
fn guest(start: &str, body: &str) -> Vec<u8> {
    let text = format!(
        r#"(module
            (import "roam" "exit" (func $exit (param i32)))
            (import "roam" "log" (func $log (param i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "a line")
            (func (export "roam_abi_version") (result i32) i32.const {})
            (func (export "_initialize") {start})
            (func (export "roam_poll") (param $now i64) (result i64) {body}))"#,
        roam_abi::VERSION
    );
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

#[test]
fn a_jailed_guest_serves_tells_and_stops() {
    let Some(up) = up(modules::ECHO, |_| {}) else { return };
    up.answers();
    block(async {
        let mut control = up.control().await;
        assert_eq!(control.pid(), up.process.pid());
        let (name, id) = control.hello(LIMIT).await.unwrap();
        assert_eq!((name.as_str(), id.as_str()), ("echo", "id-10"));
        let stats = control.stats(LIMIT).await.unwrap();
        assert!(stats.polls > 0 && stats.rx_frames > 0 && stats.tx_bytes > 1 << 20, "{stats:?}");
        let states: Vec<_> = stats.sockets.iter().map(|socket| (&*socket.protocol, &*socket.state)).collect();
        assert!(states.contains(&("tcp", "listen")) && states.contains(&("udp", "open")), "{states:?}");
        assert_eq!(stats.poll_times.counts.iter().sum::<u64>(), stats.polls);
        let usage = up.process.usage().unwrap();
        eprintln!("resident: {} KiB, CPU {} us", usage.rss_bytes / 1024, usage.cpu_us);
        assert!(usage.cpu_us > 0 && usage.rss_bytes > 0);
        control.stop(LIMIT).await.unwrap();
    });
    assert_eq!(up.ended(), Some(0));
    assert_eq!(up.home.end().kind, EndKind::Asked);
    let gone = block(Control::connect(&up.home.path("control.sock"), LIMIT)).unwrap_err();
    assert!(matches!(gone, worker::ControlError::NotThere { .. }), "{gone}");
    assert_eq!(fs::read_dir(up.home.path("root")).unwrap().count(), 0);
}

#[test]
fn a_guest_may_take_all_the_memory_it_has() {
    // Until a page is refused, which is no reason to end; then with how many it got.
    let growing = guest(
        "",
        "(local $pages i32)
         (loop $l (if (i32.ne (memory.grow (i32.const 1)) (i32.const -1))
            (then (i32.store (i32.mul (i32.sub (memory.size) (i32.const 1)) (i32.const 65536)) (i32.const 7)) (br $l))))
         (call $exit (i32.shr_u (memory.size) (i32.const 4))) unreachable",
    );
    let Some(up) = up(&growing, |_| {}) else { return };
    assert_eq!(up.ended(), Some((64 << 20) / 65_536 / 16));
}

#[test]
fn an_end_is_told_and_recorded() {
    let log_and =
        |what: &str| guest("", &format!("(drop (call $log (i32.const 2) (i32.const 0) (i32.const 6))) {what}"));
    let ends = [
        (log_and("(call $exit (i32.const 7)) unreachable"), 7, EndKind::Exited, "the guest exited with code 7"),
        (log_and("unreachable"), 101, EndKind::Trapped, "unreachable"),
        (log_and("(i64.load offset=0xFFFFFFF0 (i32.const 0))"), 101, EndKind::Trapped, "out of bounds"),
        (log_and("(loop $l br $l) unreachable"), 124, EndKind::Overran, "budget of 20ms"),
    ];
    for (module, code, kind, reason) in ends {
        let Some(up) = up(&module, short_budget) else { return };
        assert_eq!(up.ended(), Some(code));
        let end = up.home.end();
        assert_eq!(end.kind, kind);
        assert!(end.reason.contains(reason), "{}", end.reason);
        assert_eq!(end.exit_code, (kind == EndKind::Exited).then_some(code));
        // Lines of a poll that does not return stay with it.
        let logged: &[&str] = if kind == EndKind::Overran { &[] } else { &["a line"] };
        assert_eq!(up.log(), logged);
    }
}

#[test]
fn a_guest_that_does_not_start_says_why() {
    let cases = [
        (guest("unreachable", "i64.const 0"), EndKind::Trapped, "unreachable"),
        (guest("(call $exit (i32.const 3))", "i64.const 0"), EndKind::Exited, "exited with code 3"),
        (guest("(loop $l br $l)", "i64.const 0"), EndKind::Overran, "budget of 20ms"),
    ];
    let Some(bed) = Bed::new() else { return };
    for (module, kind, reason) in cases {
        let home = Home::new();
        let mut deploy = Deploy::new(&bed, &home, &module, 10);
        short_budget(&mut deploy.launch.task);
        let error = block(deploy.spawn()).unwrap_err();
        assert!(matches!(&error, SpawnError::Launch(LaunchError::Start(said)) if said.contains(reason)), "{error}");
        assert_eq!(home.end().kind, kind);
        assert_nothing_left(&home);
    }
}

#[test]
fn what_cannot_be_run_is_refused() {
    let Some(bed) = Bed::new() else { return };
    let home = Home::new();
    let mut deploy = Deploy::new(&bed, &home, modules::ECHO, 10);
    fs::write(home.path("garbage"), [0x7F; 5000]).unwrap();
    deploy.artifact = File::open(home.path("garbage")).unwrap();
    let error = block(deploy.spawn()).unwrap_err();
    assert!(matches!(error, SpawnError::Launch(LaunchError::Module(_))), "{error}");
    assert_nothing_left(&home);

    let mut deploy = Deploy::new(&bed, &home, modules::ECHO, 11);
    fs::remove_file(home.path("control.sock")).unwrap();
    if let Task::Serve { memory_bytes_max, .. } = &mut deploy.launch.task {
        *memory_bytes_max = 65_536;
    }
    let error = block(deploy.spawn()).unwrap_err();
    assert!(matches!(error, SpawnError::Launch(LaunchError::Start(_))), "{error}");
    assert_nothing_left(&home);
}

#[test]
fn the_compiler_refuses_in_the_words_of_roam_run() {
    let cases = [
        b"not a module".to_vec(),
        wat::parse_str("(module)").unwrap(),
        wat::parse_str(r#"(module (import "env" "read_disk" (func)))"#).unwrap(),
        b"\0asm\x01\0\0\0\xFF\xFF".to_vec(),
    ];
    for module in cases {
        let home = Home::new();
        let error = block(compile(&home, &module, true)).unwrap_err();
        let SpawnError::Launch(LaunchError::Refused(said)) = error else { panic!("{error}") };
        fs::write(home.path("bad.wasm"), &module).unwrap();
        let run = std::process::Command::new(ROAM)
            .args(["run", "--tap", "none", "--ip", "10.0.0.2/24", "--cache-dir"])
            .arg(home.path("cache"))
            .arg(home.path("bad.wasm"))
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(words.trim_end().ends_with(&said), "{said}\n{words}");
        assert_nothing_left(&home);
    }
}

#[test]
fn a_module_too_large_for_the_compiler_is_an_error() {
    // A memory limit that any compilation is over.
    let limits = CgroupLimits { memory_bytes_max: Some(1 << 20), cpus_max: None, tasks_max: None };
    let host = format!("test-compile-{}", std::process::id());
    let cgroup = Cgroup::new(&host, "a", &limits).unwrap();
    if !roam_runtime::jail::lacks_cgroups().is_empty() {
        return common::skip("no control groups");
    }
    worker::become_subreaper().unwrap();
    let home = Home::new();
    let error = block(compile_within(&home, modules::KV, true, Some(&cgroup))).unwrap_err();
    assert!(matches!(error, SpawnError::Died { .. }), "{error}");
    assert!(cgroup.memory_kills() > 0);
    block(cgroup.remove()).unwrap();
    roam_runtime::jail::sweep(&host, &[]);
    assert_nothing_left(&home);
}

#[test]
fn a_module_that_keeps_the_compiler_busy_is_refused() {
    if !common::has("prlimit", "util-linux") {
        return;
    }
    // Several seconds' work; the minute it may take is shortened to one second from outside.
    let step = "(local.set 0 (i64.mul (i64.add (local.get 0) (local.get 1)) (i64.xor (local.get 0) (i64.const 77))))";
    let function = format!("(func (param i64 i64) {})", step.repeat(20_000));
    let module = wat::parse_str(format!("(module {})", function.repeat(40))).unwrap();
    let home = Home::new();
    let error = thread::scope(|scope| {
        let compiling = scope.spawn(|| block(compile(&home, &module, true)));
        let mut worker = None;
        until(|| {
            worker = process_of(&home, is_locked);
            worker.is_some() || compiling.is_finished()
        });
        let worker = worker.expect("it takes a while").to_string();
        let limited = std::process::Command::new("prlimit").args(["--pid", &worker, "--cpu=1:20"]).status().unwrap();
        assert!(limited.success());
        compiling.join().unwrap().unwrap_err()
    });
    assert!(
        matches!(&error, SpawnError::Launch(LaunchError::Refused(said)) if said.contains("60 s of CPU time")),
        "{error}"
    );
    assert_nothing_left(&home);
}

#[test]
fn whatever_the_control_socket_is_sent_the_guest_serves() {
    let Some(up) = up(modules::ECHO, |_| {}) else { return };
    let path = up.home.path("control.sock");
    let connect = || UnixStream::connect(&path).unwrap();
    let frame = |body: &[u8]| [&(body.len() as u32).to_le_bytes(), body].concat();
    let stats = frame(&[1]);
    // Garbage closes the connection and nothing else.
    for garbage in [vec![0xFF; 4096], frame(&[9]), frame(&[0, 0]), frame(&[]), frame(&[0; 17])] {
        let mut stream = connect();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let _ = stream.write_all(&garbage);
        assert!(matches!(stream.read(&mut [0; 16]), Ok(0) | Err(_)), "{garbage:?}");
    }
    // Requests by the thousand whose answers nobody takes.
    let mut flood = connect();
    flood.set_nonblocking(true).unwrap();
    let requests = stats.repeat(10_000);
    let _ = flood.write(&requests);
    up.answers();
    // Half a request, and then a daemon that knows what it wants.
    let mut half = connect();
    half.write_all(&stats[..3]).unwrap();
    up.answers();
    block(async {
        let mut control = up.control().await;
        assert!(control.stats(LIMIT).await.unwrap().polls > 0);
    });
    // Connections by the thousand, asked for stats and dropped.
    thread::scope(|scope| {
        scope.spawn(|| up.answers());
        for _ in 0..3000 {
            // Refused while the line is full.
            if let Ok(mut stream) = UnixStream::connect(&path) {
                let _ = stream.write_all(&stats);
            }
        }
    });
    up.answers();
    block(async {
        let mut control = up.control().await;
        assert_eq!(control.hello(LIMIT).await.unwrap().1, "id-10");
        for _ in 0..100 {
            control.stats(LIMIT).await.unwrap();
        }
        control.stop(LIMIT).await.unwrap();
    });
    assert_eq!(up.ended(), Some(0));
}

#[test]
fn from_outside_a_worker_is_seen_to_have_nothing() {
    let Some(up) = up(modules::ECHO, |_| {}) else { return };
    let proc = PathBuf::from(format!("/proc/{}", up.process.pid()));
    let read = |name: &str| fs::read_to_string(proc.join(name)).unwrap();
    let status = read("status");
    let field = |name: &str| {
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}\n{status}"));
        line.trim_start_matches(':').trim().to_owned()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("NoNewPrivs"), field("Seccomp"), field("Threads")), ("1".into(), "2".into(), "3".into()));
    assert!(field("NSpid").ends_with("\t1"), "{}", field("NSpid"));
    if let Some(uid) = outer_uid(10) {
        assert_eq!(field("Uid"), format!("{uid}\t{uid}\t{uid}\t{uid}"));
        assert_eq!(field("Groups"), "");
    }
    // Each thread is held to its own filters, on top of the first.
    for task in fs::read_dir(proc.join("task")).unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert!(status.contains("Seccomp_filters:\t3\n"), "{status}");
    }
    for namespace in ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"] {
        let of = |who: &str| fs::read_link(format!("/proc/{who}/ns/{namespace}")).unwrap();
        assert_ne!(of("self"), of(&up.process.pid().to_string()), "{namespace}");
    }
    assert_eq!(read("environ"), "");
    assert_eq!(fs::read_dir(proc.join("root")).unwrap().count(), 0);
    let mounts = read("mountinfo");
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert!(mounts.contains(" / / ro,nosuid,nodev,noexec,noatime") && mounts.contains(" tmpfs "), "{mounts}");
    let limits = read("limits");
    for limit in ["Max core file size         0 ", "Max open files             32 ", "Max locked memory         0 "] {
        assert!(limits.split_whitespace().collect::<Vec<_>>().join(" ").contains(&words(limit)), "{limit}\n{limits}");
    }
    // Devices of its network namespace: a loopback that is down.
    let devices = read("net/dev");
    assert_eq!(devices.lines().count(), 3, "{devices}");
    assert!(devices.contains("lo:"));
    assert_eq!(read("net/fib_trie"), "");
    // Nothing open but what it was given.
    for entry in fs::read_dir(proc.join("fd")).unwrap() {
        let target = fs::read_link(entry.unwrap().path()).unwrap().to_string_lossy().into_owned();
        let known =
            ["/dev/null", "/dev/net/tun", "anon_inode:[eventfd]", "anon_inode:[userfaultfd]", "socket:[", "/memfd:"];
        let given = std::env::temp_dir().join(format!("roam-worker-{}-", std::process::id()));
        let given = given.to_str().unwrap();
        assert!(known.iter().chain([&given]).any(|start| target.starts_with(start)), "{target}");
    }
}

#[test]
fn a_start_that_is_given_up_leaves_nothing() {
    let Some(bed) = Bed::new() else { return };
    worker::become_subreaper().unwrap();
    for round in 0..24 {
        let home = Home::new();
        let deploy = Deploy::new(&bed, &home, modules::ECHO, 10);
        let path = home.path("control.sock");
        let started = block(async {
            let started = tokio::time::timeout(Duration::from_micros(500 * round), deploy.spawn()).await;
            started.ok().map(Result::unwrap)
        });
        if let Some(process) = started {
            assert!(block(Control::connect(&path, LIMIT)).is_ok());
            process.kill().unwrap();
            block(process.ended());
        }
        assert_nothing_left(&home);
    }
}

#[test]
fn a_worker_outlives_its_daemon_once_it_serves_and_not_before() {
    let Some(bed) = Bed::new() else { return };
    worker::become_subreaper().unwrap();
    let spawner = |home: &Home, module: &[u8], tap: &str| {
        fs::write(home.path("module"), module).unwrap();
        bed.lab.host().tap(tap, "br0").unwrap();
        let mut command = bed.lab.host().command(std::env::current_exe().unwrap());
        command.args(["--exact", "as_a_daemon", "--nocapture", "--test-threads=1"]);
        command.env("ROAM_TEST_HOME", &home.directory);
        Process::spawn(command).unwrap()
    };
    // Before: the guest is busy with its start function.
    let home = Home::new();
    let mut daemon = spawner(&home, &guest("(loop $l br $l)", "i64.const 0"), "tap11");
    until(|| has_process(&home, |pid| !shares(pid, "pid")));
    daemon.signal(Signal::SIGKILL).unwrap();
    daemon.wait(LIMIT).unwrap();
    assert_nothing_left(&home);
    // After.
    let mut home = Home::new();
    let mut daemon = spawner(&home, modules::ECHO, "tap10");
    daemon.wait_for("serves", LIMIT).unwrap();
    daemon.signal(Signal::SIGKILL).unwrap();
    daemon.wait(LIMIT).unwrap();
    let ip = "10.90.0.10".to_owned();
    let control = block(Control::connect(&home.path("control.sock"), LIMIT)).unwrap();
    home.pid = Some(control.pid());
    let process = WorkerProcess::open(control.pid()).unwrap();
    drop(control);
    let up = Up { bed, home, process, ip };
    up.answers();
    block(async { up.control().await.stop(LIMIT).await }).unwrap();
    assert_eq!(up.ended(), Some(0));
}

/// Part of the test above, in a process of its own: starts a worker, and waits to be killed.
#[test]
fn as_a_daemon() {
    let Some(directory) = std::env::var_os("ROAM_TEST_HOME") else { return };
    let home = std::mem::ManuallyDrop::new(Home { directory: directory.into(), pid: None });
    let module = fs::read(home.path("module")).unwrap();
    let (tap, number) = if module == modules::ECHO { ("tap10", 10) } else { ("tap11", 11) };
    let tap = Tap::open(&TapOptions { name: tap.into(), mtu: 1500 }).unwrap();
    let mut deploy = Deploy::with_tap(tap, &home, &module, number);
    if let Task::Serve { poll_budget_us, .. } = &mut deploy.launch.task {
        *poll_budget_us = 600_000_000;
    }
    let _process = block(deploy.spawn()).unwrap();
    eprintln!("serves");
    thread::sleep(10 * LIMIT);
}

#[test]
fn memory_beyond_the_limit_is_the_workers_end_alone() {
    if !roam_runtime::jail::lacks_cgroups().is_empty() {
        return common::skip("no control groups");
    }
    let Some(bed) = Bed::new() else { return };
    worker::become_subreaper().unwrap();
    let host = format!("test-serve-{}", std::process::id());
    let limits = CgroupLimits { memory_bytes_max: Some(32 << 20), cpus_max: Some(0.5), tasks_max: Some(8) };
    let cgroup = Cgroup::new(&host, "a", &limits).unwrap();
    // Touches 63 MiB, page by page.
    let greedy = guest(
        "",
        "(local $at i32) (drop (memory.grow (i32.const 1000)))
         (loop $l (i32.store (local.get $at) (i32.const 1))
           (br_if $l (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 4096))) (i32.const 65000000))))
         i64.const 0",
    );
    let home = Home::new();
    let mut deploy = Deploy::new(&bed, &home, &greedy, 10);
    deploy.cgroup = Some(&cgroup);
    let process = block(deploy.spawn()).unwrap();
    let status = block(process.ended()).unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{status}");
    assert!(cgroup.memory_kills() > 0);
    assert_eq!(read_end(&home.path("end.json")).unwrap(), None);
    block(cgroup.remove()).unwrap();
    roam_runtime::jail::sweep(&host, &[]);
    assert!(!Path::new("/sys/fs/cgroup/memory/roam").join(&host).exists());
}

#[test]
fn a_log_is_followed_while_it_is_written() {
    // Two lines a poll, polled again at once; halves of a few hundred lines.
    let chatty = guest(
        "",
        "(drop (call $log (i32.const 3) (i32.const 0) (i32.const 6)))
         (drop (call $log (i32.const 1) (i32.const 0) (i32.const 1))) (i64.add (local.get $now) (i64.const 100000))",
    );
    let small = |task: &mut Task| match task {
        Task::Serve { log_half_bytes, .. } => *log_half_bytes = 16 << 10,
        Task::Compile { .. } => {}
    };
    let Some(up) = up(&chatty, small) else { return };
    let mut reader = LogReader::open(&up.home.directory, None).unwrap();
    let mut lines = 0;
    until(|| {
        for entry in reader.read().unwrap() {
            lines += 1;
            let known = [("info", "a line"), ("error", "a")];
            assert!(known.contains(&(&*entry.level, &*entry.text)), "{entry:?}");
        }
        lines > 2000
    });
    for name in ["log.0", "log.1"] {
        assert!(fs::metadata(up.home.path(name)).unwrap().len() <= 16 << 10);
    }
    block(async { up.control().await.stop(LIMIT).await }).unwrap();
    assert_eq!(up.ended(), Some(0));
}

#[test]
fn a_start_takes_this_long() {
    let Some(bed) = Bed::new() else { return };
    worker::become_subreaper().unwrap();
    let mut times = Vec::new();
    for _ in 0..5 {
        let home = Home::new();
        let deploy = Deploy::new(&bed, &home, modules::ECHO, 10);
        let (time, process) = block(async {
            let begun = Instant::now();
            let process = deploy.spawn().await.unwrap();
            (begun.elapsed(), process)
        });
        times.push(time);
        process.kill().unwrap();
        block(process.ended());
        assert_nothing_left(&home);
    }
    // Told, not judged.
    eprintln!("spawn to ready: {times:?}");
}

fn short_budget(task: &mut Task) {
    if let Task::Serve { poll_budget_us, .. } = task {
        *poll_budget_us = 20_000;
    }
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether that process has its system call filters: it has all of the jail then.
fn is_locked(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status.contains("Seccomp:\t2"))
}

/// Whether that process is in our namespace of that kind.
fn shares(pid: u32, namespace: &str) -> bool {
    let of = |who: String| fs::read_link(format!("/proc/{who}/ns/{namespace}")).ok();
    of(pid.to_string()) == of("self".into())
}

fn has_process(home: &Home, is: impl Fn(u32) -> bool) -> bool {
    process_of(home, is).is_some()
}

/// A process like that which has this guest's standard error: it is the only file every one of a worker's has.
fn process_of(home: &Home, is: impl Fn(u32) -> bool) -> Option<u32> {
    let stderr = home.path("stderr");
    let holds = |pid: u32| fs::read_link(format!("/proc/{pid}/fd/2")).is_ok_and(|target| target == stderr);
    let pids = fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(|pid| holds(*pid) && is(*pid))
}

/// No process of this worker, and no mount on its root.
fn assert_nothing_left(home: &Home) {
    until(|| !has_process(home, |_| true));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(home.directory.to_str().unwrap()), "{mounts}");
}
