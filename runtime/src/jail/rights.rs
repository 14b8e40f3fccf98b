//! What remains to a process in a jail: no capability, and little of each resource.

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::JailError;
use super::cgroup::COMPILE_BYTES_MAX;
use super::enter::step;
use crate::sys::rights;

/// Resource limits of a process (setrlimit(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rights {
    /// Largest file it may write, bytes.
    pub file_bytes_max: u64,
    /// Open descriptors.
    pub files_max: u64,
    /// Processes and threads of its user.
    pub tasks_max: u64,
    /// CPU time, seconds.
    pub cpu_s_max: Option<u64>,
    /// Memory of its own, without what is mapped from files, bytes.
    pub data_bytes_max: Option<u64>,
}

/// What a log may grow over the size at which its half is full: one line, and other small files.
const FILE_BYTES_SLACK: u64 = 1 << 20;
/// CPU time a compilation may take, seconds.
pub(crate) const COMPILE_CPU_S_MAX: u64 = 60;
/// Largest compiled module, bytes.
const ARTIFACT_BYTES_MAX: u64 = 1 << 30;

impl Rights {
    /// Of a worker that serves a guest.
    pub fn serve(log_half_bytes: u64) -> Self {
        Self {
            file_bytes_max: log_half_bytes.saturating_add(FILE_BYTES_SLACK),
            files_max: 32,
            tasks_max: 8,
            cpu_s_max: None,
            data_bytes_max: None,
        }
    }

    /// Of a worker that compiles.
    pub fn compile() -> Self {
        Self {
            file_bytes_max: ARTIFACT_BYTES_MAX,
            files_max: 32,
            tasks_max: 1024,
            cpu_s_max: Some(COMPILE_CPU_S_MAX),
            data_bytes_max: Some(COMPILE_BYTES_MAX),
        }
    }

    /// Gives up everything else, for good.
    pub(super) fn keep_only(&self) -> Result<(), JailError> {
        self.limit().map_err(step("limiting resources"))?;
        rights::leave_keyring().map_err(step("leaving the session's keys"))?;
        rights::lock_securebits().map_err(step("locking the secure bits"))?;
        rights::drop_bounding().map_err(step("dropping the bounding set"))?;
        rights::clear_ambient().map_err(step("dropping ambient capabilities"))?;
        rights::clear_capabilities().map_err(step("dropping capabilities"))?;
        prctl::set_no_new_privs().map_err(step("renouncing new privileges"))?;
        prctl::set_dumpable(false).map_err(step("hiding memory"))
    }

    fn limit(&self) -> Result<(), Errno> {
        // Whoever started the daemon may have left less.
        let both = |resource, value: u64| {
            let value = value.min(getrlimit(resource)?.1);
            setrlimit(resource, value, value)
        };
        both(Resource::RLIMIT_CORE, 0)?;
        both(Resource::RLIMIT_MEMLOCK, 0)?;
        both(Resource::RLIMIT_MSGQUEUE, 0)?;
        both(Resource::RLIMIT_NICE, 0)?;
        both(Resource::RLIMIT_RTPRIO, 0)?;
        both(Resource::RLIMIT_SIGPENDING, 64)?;
        both(Resource::RLIMIT_FSIZE, self.file_bytes_max)?;
        both(Resource::RLIMIT_NOFILE, self.files_max)?;
        both(Resource::RLIMIT_NPROC, self.tasks_max)?;
        if let Some(bytes) = self.data_bytes_max {
            both(Resource::RLIMIT_DATA, bytes)?;
        }
        if let Some(seconds) = self.cpu_s_max {
            // SIGXCPU first, so that it can say why it ends.
            let hard = getrlimit(Resource::RLIMIT_CPU)?.1.min(seconds + 2);
            setrlimit(Resource::RLIMIT_CPU, seconds.min(hard), hard)?;
        }
        Ok(())
    }
}
