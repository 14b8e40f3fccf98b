//! A network namespace that goes with the test.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};

static MADE: AtomicUsize = AtomicUsize::new(0);
static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// Says that a test did not run, and counts it.
pub(crate) fn skip(reason: &str) {
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    let name = thread::current().name().unwrap_or("a test").to_owned();
    // To stderr itself: what a test that passes prints is not shown.
    let _ = writeln!(std::io::stderr(), "skipped: {name}: {reason} ({count} skipped so far)");
}

/// Whether this machine can run such tests; says so if not.
pub(crate) fn able(programs: &[&str]) -> bool {
    if !nix::unistd::geteuid().is_root() {
        skip("namespaces need root");
        return false;
    }
    let found = |program: &&&str| {
        ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|dir| Path::new(dir).join(program).exists())
    };
    match programs.iter().find(|program| !found(program)) {
        Some(missing) => skip(&format!("there is no `{missing}`")),
        None => return true,
    }
    false
}

/// Named, so that `ip netns` reaches it.
pub(crate) struct Namespace {
    pub(crate) name: String,
    file: File,
}

impl Namespace {
    pub(crate) fn new(label: &str) -> Self {
        let count = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("sdn-{}-{count}-{label}", std::process::id());
        shell(&format!("ip netns add {name}"));
        let file = File::open(format!("/run/netns/{name}")).unwrap();
        let namespace = Self { name, file };
        namespace.shell("ip link set lo up");
        namespace
    }

    /// Runs `work` on a thread of its own, inside.
    pub(crate) fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        thread::scope(|scope| {
            let inside = move || {
                setns(&self.file, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            };
            let name = thread::current().name().unwrap_or("inside").to_owned();
            let thread = thread::Builder::new().name(name).spawn_scoped(scope, inside).unwrap();
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs commands inside, which must succeed; what they print.
    pub(crate) fn shell(&self, script: &str) -> String {
        self.run(|| shell(script))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn shell(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{script}`: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
