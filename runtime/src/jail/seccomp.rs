//! Which system calls a worker's threads may make (seccomp(2)).
//!
//! A worker takes [`Role::Setup`] before it maps a module; each of its threads then takes its own role, before the
//! guest's first instruction runs. Filters add up: a thread may do what all of its filters allow, and none can be taken
//! off. Whatever is not in the table kills the process (`SIGSYS`), so that an attempt is seen as what it is.
//!
//! What is called for each frame (`readv`, `writev`, `ppoll`, `futex`) has no condition on its arguments: for such calls
//! the kernel (Linux 5.11 on) keeps a bitmap and does not run the filter.

use std::collections::BTreeMap;
use std::io;

use nix::libc;
use seccompiler::SeccompCmpArgLen::Qword;
use seccompiler::SeccompCmpOp::MaskedEq;
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, TargetArch};

/// What a thread of a worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Maps modules and starts threads; the only one that may make memory executable. All threads begin as this.
    Setup,
    /// Runs the guest and moves its frames.
    Datapath,
    /// Looks at the datapath's CPU time.
    Watchdog,
    /// Answers the daemon.
    Control,
    /// Compiles a module, on several threads.
    Compile,
}

/// Why a filter could not be put in place.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The table does not make a filter.
    #[error("the system call filter cannot be built")]
    Build(#[from] BackendError),
    /// The kernel has no seccomp, or does not take the filter.
    #[error("the kernel does not take the system call filter")]
    Install(#[source] seccompiler::Error),
}

impl From<SeccompError> for io::Error {
    fn from(error: SeccompError) -> Self {
        io::Error::other(error)
    }
}

/// When a call is allowed.
#[derive(Clone, Copy)]
enum When {
    Always,
    /// When all of these hold.
    If(&'static [Argument]),
    /// It is answered with that error, as if the kernel had no such call.
    Never(libc::c_int),
}

use When::{Always, If, Never};

/// The argument of that number, masked, has that value.
struct Argument {
    number: u8,
    mask: u64,
    value: u64,
}

const fn argument(number: u8, mask: u64, value: u64) -> Argument {
    Argument { number, mask, value }
}

/// What an `int` shows of the register it comes in.
const INT: u64 = u32::MAX as u64;

struct Call {
    number: libc::c_long,
    roles: u8,
    when: When,
}

const fn call(number: libc::c_long, roles: u8, when: When) -> Call {
    Call { number, roles, when }
}

const SETUP: u8 = 1;
const DATAPATH: u8 = 2;
const WATCHDOG: u8 = 4;
const CONTROL: u8 = 8;
const COMPILE: u8 = 16;
/// Those a worker has while its guest runs.
const SERVE: u8 = DATAPATH | WATCHDOG | CONTROL;
const ALL: u8 = SERVE | COMPILE;

const NOT_EXECUTABLE: When = If(&[argument(2, libc::PROT_EXEC as u64, 0)]);
/// The worker is pid 1 of its namespace, and alone in it.
const ITSELF: When = If(&[argument(0, INT, 1)]);
const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;
const A_THREAD: When = If(&[argument(
    0,
    (libc::CLONE_THREAD | NAMESPACES).cast_unsigned() as u64,
    libc::CLONE_THREAD.cast_unsigned() as u64,
)]);
/// Its own, by number 0, and no new ones: a null pointer.
const LOOKING_AT_ITS_LIMITS: When = If(&[argument(0, INT, 0), argument(2, u64::MAX, 0)]);
const ITS_NAME: When = If(&[argument(0, INT, libc::PR_SET_NAME as u64)]);
const NO_NEW_PRIVILEGES: When = If(&[argument(0, INT, libc::PR_SET_NO_NEW_PRIVS as u64)]);
const FLAGS_OF_A_FILE: When = If(&[argument(1, INT, libc::F_GETFL as u64)]);

/// Who may call what, and what for. What [`SERVE`] may, [`SETUP`] may too.
#[rustfmt::skip]
const TABLE: &[Call] = &[
    // Frames.
    call(libc::SYS_readv, DATAPATH, Always),
    call(libc::SYS_writev, DATAPATH | COMPILE, Always),             // and the message of a panic
    call(libc::SYS_ppoll, DATAPATH | CONTROL | COMPILE, Always),
    // Threads waiting for each other, and eventfds, which they wake each other by.
    call(libc::SYS_futex, ALL, Always),
    call(libc::SYS_read, DATAPATH | CONTROL | COMPILE, Always),     // and the module to compile
    call(libc::SYS_write, ALL, Always),                             // and the last words
    call(libc::SYS_sched_yield, ALL, Always),
    call(libc::SYS_restart_syscall, ALL, Always),                   // a wait that a stop interrupted
    // Time, where the kernel does not answer in user space: the CPU time of a thread.
    call(libc::SYS_clock_gettime, ALL, Always),
    // The log, and how the guest ended.
    call(libc::SYS_pwrite64, DATAPATH | WATCHDOG, Always),
    call(libc::SYS_ftruncate, DATAPATH | WATCHDOG, Always),
    call(libc::SYS_pread64, DATAPATH, Always),                      // what another host's worker logged
    call(libc::SYS_lseek, DATAPATH | COMPILE, Always),
    // The daemon: the first answer, then requests on the control socket, and what the datapath is asked on its own.
    call(libc::SYS_listen, DATAPATH, Always),
    call(libc::SYS_sendto, ALL, Always),
    call(libc::SYS_recvfrom, DATAPATH | CONTROL | COMPILE, Always),
    call(libc::SYS_accept4, CONTROL, Always),
    call(libc::SYS_close, ALL, Always),
    // Memory, never executable: linear memories that grow, the allocator.
    call(libc::SYS_mmap, SERVE, NOT_EXECUTABLE),
    call(libc::SYS_mprotect, SERVE, NOT_EXECUTABLE),
    call(libc::SYS_munmap, ALL, Always),
    call(libc::SYS_mremap, ALL, Always),
    call(libc::SYS_madvise, ALL, Always),
    call(libc::SYS_brk, ALL, Always),
    // Traps of the guest are signals; a panic that cannot unwind is one to itself.
    call(libc::SYS_rt_sigreturn, ALL, Always),
    call(libc::SYS_rt_sigprocmask, ALL, Always),
    call(libc::SYS_rt_sigaction, ALL, Always),
    call(libc::SYS_sigaltstack, ALL, Always),
    call(libc::SYS_tgkill, ALL, ITSELF),
    call(libc::SYS_getpid, ALL, Always),
    call(libc::SYS_gettid, ALL, Always),
    // Seeds of hash tables.
    call(libc::SYS_getrandom, ALL, Always),
    // The end.
    call(libc::SYS_exit, ALL, Always),
    call(libc::SYS_exit_group, ALL, Always),

    // Mapping compiled modules.
    call(libc::SYS_mmap, SETUP | COMPILE, Always),
    call(libc::SYS_mprotect, SETUP | COMPILE, Always),
    call(libc::SYS_fstat, SETUP | COMPILE, Always),
    call(libc::SYS_statx, SETUP | COMPILE, Always),
    call(libc::SYS_newfstatat, SETUP | COMPILE, Always),
    call(libc::SYS_memfd_create, SETUP, Always),                    // the initial content of a linear memory
    call(libc::SYS_membarrier, SETUP | COMPILE, Always),            // new code, on some processors
    call(libc::SYS_fcntl, SETUP | COMPILE, FLAGS_OF_A_FILE),
    call(libc::SYS_fcntl, SETUP, If(&[argument(1, INT, libc::F_DUPFD_CLOEXEC as u64)])),
    call(libc::SYS_fcntl, SETUP, If(&[argument(1, INT, libc::F_ADD_SEALS as u64)])),
    // Starting threads. `clone3` keeps its flags where no filter can see them, so there is only `clone`.
    call(libc::SYS_clone3, SETUP | COMPILE, Never(libc::ENOSYS)),
    call(libc::SYS_clone, SETUP | COMPILE, A_THREAD),
    call(libc::SYS_set_robust_list, SETUP | COMPILE, Always),
    call(libc::SYS_rseq, SETUP | COMPILE, Always),
    call(libc::SYS_prctl, SETUP | COMPILE, ITS_NAME),
    call(libc::SYS_sched_getaffinity, SETUP | COMPILE, Always),
    call(libc::SYS_prlimit64, SETUP | COMPILE, LOOKING_AT_ITS_LIMITS), // the size of stacks
    call(libc::SYS_eventfd2, SETUP, Always),
    // Taking the next filter.
    call(libc::SYS_prctl, SETUP, NO_NEW_PRIVILEGES),
    call(libc::SYS_seccomp, SETUP, Always),
    // How many cores to compile on is looked for in files, of which there are none.
    call(libc::SYS_openat, COMPILE, Never(libc::ENOENT)),
    call(libc::SYS_readlinkat, COMPILE, Never(libc::ENOENT)),
    // Hearing that its CPU time is used up.
    call(libc::SYS_rt_sigtimedwait, COMPILE, Always),
];

impl Role {
    fn may(self, call: &Call) -> bool {
        let roles = match self {
            Self::Setup => SETUP | SERVE,
            Self::Datapath => DATAPATH,
            Self::Watchdog => WATCHDOG,
            Self::Control => CONTROL,
            Self::Compile => COMPILE,
        };
        call.roles & roles != 0
    }
}

/// Holds the calling thread, and those it starts from now on, to a role. For good.
pub fn lock(role: Role) -> Result<(), SeccompError> {
    for program in programs(role)? {
        seccompiler::apply_filter(&program).map_err(SeccompError::Install)?;
    }
    Ok(())
}

/// First those that answer with an error, of which there is one an error; last the one that kills.
fn programs(role: Role) -> Result<Vec<BpfProgram>, BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let mut allowed = BTreeMap::new();
    let mut refused = BTreeMap::<libc::c_int, BTreeMap<i64, Vec<SeccompRule>>>::new();
    for call in TABLE.iter().filter(|call| role.may(call)) {
        let rules = match call.when {
            Always => None,
            If(arguments) => Some(rule(arguments)?),
            Never(errno) => {
                refused.entry(errno).or_default().insert(call.number, Vec::new());
                None
            }
        };
        // No rule at all is no condition, and wins over those of other lines.
        match (allowed.get_mut(&call.number), rules) {
            (None, rule) => drop(allowed.insert(call.number, Vec::from_iter(rule))),
            (Some(rules), Some(rule)) if !rules.is_empty() => rules.push(rule),
            (Some(_), Some(_)) => {}
            (Some(rules), None) => rules.clear(),
        }
    }
    let mut programs = Vec::new();
    for (errno, calls) in refused {
        let answer = SeccompAction::Errno(errno.cast_unsigned());
        programs.push(SeccompFilter::new(calls, SeccompAction::Allow, answer, arch)?.try_into()?);
    }
    let kill = SeccompAction::KillProcess;
    programs.push(SeccompFilter::new(allowed, kill, SeccompAction::Allow, arch)?.try_into()?);
    Ok(programs)
}

fn rule(arguments: &[Argument]) -> Result<SeccompRule, BackendError> {
    let condition =
        |argument: &Argument| SeccompCondition::new(argument.number, Qword, MaskedEq(argument.mask), argument.value);
    SeccompRule::new(arguments.iter().map(condition).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_role_may_its_predecessor_may_too() {
        for role in [Role::Datapath, Role::Watchdog, Role::Control] {
            assert!(TABLE.iter().filter(|call| role.may(call)).all(|call| Role::Setup.may(call)));
        }
    }

    #[test]
    fn every_role_has_its_programs() {
        let count = |role| programs(role).unwrap().len();
        assert_eq!([Role::Setup, Role::Datapath, Role::Watchdog, Role::Control].map(count), [2, 1, 1, 1]);
        assert_eq!(count(Role::Compile), 3);
    }

    #[test]
    fn calls_of_every_frame_have_no_condition() {
        for number in [libc::SYS_readv, libc::SYS_writev, libc::SYS_ppoll, libc::SYS_futex] {
            assert!(TABLE.iter().filter(|call| call.number == number).all(|call| matches!(call.when, Always)));
        }
    }
}
