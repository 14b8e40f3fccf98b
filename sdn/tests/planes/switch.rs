//! An Open vSwitch of one's own: its daemons, database and sockets in a directory, its bridges in the network namespace
//! of the thread that starts it, frames carried by the daemon itself (datapath `netdev`). It knows nothing of another
//! Open vSwitch on the machine, and needs no kernel module.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The programs it takes, of Debian's `openvswitch-switch`.
pub(crate) const PROGRAMS: [&str; 5] = ["ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl"];
/// The shape of the database, as the package has it.
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// How long a daemon may take to end.
const END: Duration = Duration::from_secs(5);

/// It ends, and its directory goes, with this.
pub(crate) struct PrivateSwitch {
    directory: PathBuf,
}

impl PrivateSwitch {
    /// Starts one in a directory that is not there yet.
    pub(crate) fn start(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        let switch = Self { directory: directory.to_owned() };
        switch.run("ovsdb-tool", ["create".as_ref(), switch.file("conf.db").as_os_str(), SCHEMA.as_ref()])?;
        let socket = format!("--remote=punix:{}", switch.file("db.sock").display());
        let pid_file = switch.pid_option("ovsdb-server");
        let conf = switch.file("conf.db").display().to_string();
        switch.run("ovsdb-server", [&conf, &socket, &pid_file, "--detach", "--no-chdir", "--log-file"])?;
        switch.vsctl("--no-wait init")?;
        switch.start_daemon()?;
        Ok(switch)
    }

    /// Starts the daemon that carries frames. It returns when the bridges are as the database says, but for addresses
    /// on their devices, which go when it ends.
    pub(crate) fn start_daemon(&self) -> io::Result<()> {
        let database = self.database();
        let pid_file = self.pid_option("ovs-vswitchd");
        self.run("ovs-vswitchd", [&database, &pid_file, "--detach", "--no-chdir", "--log-file", "--disable-system"])?;
        // Waits until the daemon has done what the database says.
        self.vsctl("set open_vswitch . external_ids:started=yes")
    }

    /// Ends that daemon, and waits until it is gone.
    pub(crate) fn end_daemon(&self) -> io::Result<()> {
        self.end("ovs-vswitchd")
    }

    /// Configures it. The words are separated by spaces.
    pub(crate) fn vsctl(&self, words: &str) -> io::Result<()> {
        let database = format!("--db={}", self.database());
        self.run("ovs-vsctl", ["--timeout=10", &database].into_iter().chain(words.split_whitespace()))
    }

    /// Where a bridge takes OpenFlow connections.
    pub(crate) fn management(&self, bridge: &str) -> PathBuf {
        self.file(&format!("{bridge}.mgmt"))
    }

    /// The process that carries frames.
    pub(crate) fn daemon(&self) -> io::Result<Pid> {
        self.pid("ovs-vswitchd")
    }

    fn database(&self) -> String {
        format!("unix:{}", self.file("db.sock").display())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn pid_option(&self, program: &str) -> String {
        format!("--pidfile={}", self.file(&format!("{program}.pid")).display())
    }

    fn pid(&self, program: &str) -> io::Result<Pid> {
        let text = fs::read_to_string(self.file(&format!("{program}.pid")))?;
        text.trim().parse().map(Pid::from_raw).map_err(io::Error::other)
    }

    fn end(&self, program: &str) -> io::Result<()> {
        let (pid, begin) = (self.pid(program)?, Instant::now());
        let mut signal = Signal::SIGTERM;
        // One that is stopped hears nothing else.
        let _ = kill(pid, Signal::SIGCONT);
        while kill(pid, signal) != Err(Errno::ESRCH) {
            if begin.elapsed() > END {
                signal = Signal::SIGKILL;
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn run<A: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = A>) -> io::Result<()> {
        let mut command = Command::new(program);
        for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR"] {
            command.env(variable, &self.directory);
        }
        let output = command.args(arguments).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())))
    }
}

impl Drop for PrivateSwitch {
    fn drop(&mut self) {
        for program in ["ovs-vswitchd", "ovsdb-server"] {
            // One that never started has nothing to be ended.
            let _ = self.end(program);
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}
