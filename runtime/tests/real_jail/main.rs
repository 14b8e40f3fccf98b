//! Breaking out of the jail. This program is also the prisoner: the worker's place is taken by its own `probe`, which
//! enters the jail by the same calls, and then tries.
#![allow(clippy::unwrap_used)]

mod attempts;
mod sys;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use attempts::{Attempt, under_seccomp, without_seccomp};
use nix::libc;
use nix::sys::signal::Signal;
use roam_runtime::jail::seccomp::{Role, lock};
use roam_runtime::jail::{Jail, Rights, enter};
use roam_runtime::worker::{Daemon, Launch, Launched, Spawn, SpawnError, Task, become_subreaper, spawn};

/// Far beyond what it takes.
const LIMIT: Duration = Duration::from_secs(60);
/// Roles by what the prisoner is told.
const ROLES: [(&str, Role); 4] = [
    ("datapath", Role::Datapath),
    ("watchdog", Role::Watchdog),
    ("control", Role::Control),
    ("compile", Role::Compile),
];

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "worker") {
        probe();
        return ExitCode::SUCCESS;
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
    become_subreaper().unwrap();
    let tests: [(&str, fn()); 4] = [
        ("without_seccomp_there_is_nothing_and_no_right", without_seccomp_there_is_nothing_and_no_right),
        ("under_each_filter_trying_is_the_end", under_each_filter_trying_is_the_end),
        ("the_control_case_goes_through", the_control_case_goes_through),
        ("what_goes_wrong_by_itself_is_no_attempt", what_goes_wrong_by_itself_is_no_attempt),
    ];
    for (name, test) in tests {
        if filter.is_none_or(|filter| name.contains(filter.as_str())) {
            test();
            println!("test {name} ... ok");
        }
    }
    ExitCode::SUCCESS
}

// --- outside -----------------------------------------------------------------------------------------------------

/// Without a filter each attempt gets an error, and the prisoner lives to tell.
fn without_seccomp_there_is_nothing_and_no_right() {
    let told = imprison("none all").unwrap();
    let expected = without_seccomp(outside());
    let lines: Vec<_> = told.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{told}");
    for (line, attempt) in lines.iter().zip(expected) {
        assert!(line.starts_with("refused"), "{}: {line}", attempt.what);
    }
}

/// Under a filter the kernel kills the prisoner (`SIGSYS`).
fn under_each_filter_trying_is_the_end() {
    for (name, role) in ROLES {
        for (index, attempt) in under_seccomp(outside()).iter().enumerate() {
            if is_allowed(role, attempt) {
                continue;
            }
            let what = format!("{name}: {} (call {} of {index})", attempt.what, attempt.number);
            match imprison(&format!("{name} {index}")) {
                Err(SpawnError::Died { status: Some(status), .. }) => {
                    assert_eq!(status.signal(), Some(Signal::SIGSYS as i32), "{what}: {status}");
                }
                other => panic!("{what}: {other:?}"),
            }
        }
    }
}

/// A prisoner that tries nothing comes through each filter: so it is the attempts that end the others.
fn the_control_case_goes_through() {
    for (name, _) in ROLES {
        assert_eq!(imprison(&format!("{name} nothing")).unwrap(), "through\n", "{name}");
    }
}

/// Panics, aborts and a hunger for memory end as they do elsewhere, and can say so.
fn what_goes_wrong_by_itself_is_no_attempt() {
    for (name, _) in ROLES {
        let Err(SpawnError::Died { status: Some(status), said }) = imprison(&format!("{name} panic")) else {
            panic!("{name}: no panic")
        };
        assert!(status.code() == Some(101) && said.contains("on purpose"), "{name}: {status}: {said}");
        let Err(SpawnError::Died { status: Some(status), .. }) = imprison(&format!("{name} abort")) else {
            panic!("{name}: no abort")
        };
        // Pid 1 does not hear a signal from itself that it does not handle; the instruction after it does the rest.
        let signal = status.signal().and_then(|signal| Signal::try_from(signal).ok());
        assert!(matches!(signal, Some(Signal::SIGABRT | Signal::SIGSEGV | Signal::SIGILL)), "{name}: {status}");
        assert_eq!(imprison(&format!("{name} memory")).unwrap(), "through\n", "{name}");
    }
}

/// The compiler's own work, or answered with an error there.
fn is_allowed(role: Role, attempt: &Attempt) -> bool {
    let answered = [libc::SYS_openat, libc::SYS_mprotect];
    role == Role::Compile && answered.contains(&attempt.number)
}

/// Somebody outside: this process.
fn outside() -> usize {
    std::process::id() as usize
}

/// What the prisoner with these instructions wrote.
fn imprison(instructions: &str) -> Result<String, SpawnError> {
    let home = Home::new();
    fs::write(home.0.join("source"), format!("{} {instructions}", outside())).unwrap();
    let source = File::open(home.0.join("source")).unwrap();
    let artifact = File::create(home.0.join("artifact")).unwrap();
    let stderr = File::options().read(true).write(true).create_new(true).open(home.0.join("stderr")).unwrap();
    let root = home.0.join("root").to_str().unwrap().to_owned();
    let whole = fs::read_to_string("/proc/self/uid_map").unwrap().contains("4294967295");
    let uid = (whole && nix::unistd::geteuid().is_root()).then_some(0x7000_0000);
    let launch = Launch { task: Task::Compile { guest: true }, root, uid, leashed: false };
    let program = std::env::current_exe().unwrap();
    let files = [source.as_fd(), artifact.as_fd()];
    let spawning = spawn(Spawn {
        program: &program,
        launch: &launch,
        descriptors: &files,
        stderr: &stderr,
        cgroup: None,
        limit: LIMIT,
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(spawning)?;
    Ok(fs::read_to_string(home.0.join("artifact")).unwrap())
}

/// A directory that goes with the test.
struct Home(PathBuf);

impl Home {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("roam-jail-{}", std::process::id()));
        fs::create_dir_all(path.join("root")).unwrap();
        Self(path)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

// --- inside ------------------------------------------------------------------------------------------------------

fn probe() {
    let daemon = Daemon::from_stdin().unwrap();
    let (launch, files) = daemon.orders().unwrap();
    let jail = Jail { root: Path::new(&launch.root), own_user: launch.uid.is_some(), rights: Rights::compile() };
    let announce = |pid| daemon.tell(&Launched::Process { pid });
    enter(&jail, daemon.stream(), || daemon.tell(&Launched::Unshared), announce).unwrap();
    let [source, artifact] = files.try_into().unwrap();
    let mut instructions = String::new();
    File::from(source).read_to_string(&mut instructions).unwrap();
    let mut words = instructions.split(' ');
    let mut word = || words.next().unwrap();
    let (outside, role, what) = (word().parse().unwrap(), word(), word());
    let attempts = if role == "none" { without_seccomp(outside) } else { under_seccomp(outside) };
    if let Some((_, role)) = ROLES.iter().find(|(name, _)| *name == role) {
        // As a worker does it: setup first, and a role on top.
        if *role != Role::Compile {
            lock(Role::Setup).unwrap();
        }
        lock(*role).unwrap();
    }
    let told = match what {
        "nothing" => "through\n".to_owned(),
        "panic" => panic!("on purpose"),
        "abort" => std::process::abort(),
        "memory" => {
            use_memory();
            "through\n".to_owned()
        }
        "all" => attempts.iter().map(attempt).collect(),
        index => attempt(&attempts[index.parse::<usize>().unwrap()]),
    };
    File::from(artifact).write_all(told.as_bytes()).unwrap();
    daemon.tell(&Launched::Ready).unwrap();
}

/// Small and large blocks, grown, shrunk and given back; a hash table's seed; the time.
fn use_memory() {
    let mut table = std::collections::HashMap::new();
    for size in (0..24).map(|power| 1usize << power) {
        let mut block = vec![1_u8; size];
        block.resize(3 * size, 2);
        block.truncate(size / 2);
        block.shrink_to_fit();
        table.insert(std::time::SystemTime::now(), block);
    }
    drop(table);
    std::thread::yield_now();
    std::thread::park_timeout(Duration::from_millis(1));
}

fn attempt(attempt: &Attempt) -> String {
    match sys::call(attempt.number, attempt.arguments) {
        Ok(result) => format!("went through ({result}): {}\n", attempt.what),
        Err(errno) => format!("refused ({errno:?}): {}\n", attempt.what),
    }
}
