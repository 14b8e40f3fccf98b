//! Ways to try and get out.

use nix::libc;

const AT_FDCWD: usize = libc::AT_FDCWD as usize;

/// A text the kernel can read.
fn text(text: &'static std::ffi::CStr) -> usize {
    text.as_ptr() as usize
}

/// A system call that must come to nothing.
pub(crate) struct Attempt {
    pub(crate) what: &'static str,
    pub(crate) number: libc::c_long,
    pub(crate) arguments: [usize; 6],
}

fn attempt<const N: usize>(what: &'static str, number: libc::c_long, arguments: [usize; N]) -> Attempt {
    let mut all = [0; 6];
    all[..N].copy_from_slice(&arguments);
    Attempt { what, number, arguments: all }
}

/// What fails with an error even where seccomp is not: nothing is there, or it takes a right. `outside` is the process
/// id of somebody outside.
pub(crate) fn without_seccomp(outside: usize) -> Vec<Attempt> {
    let clone = |flag: libc::c_int| attempt("a namespace of one's own", libc::SYS_unshare, [flag as usize]);
    let open = |path, flags: libc::c_int| attempt("opening", libc::SYS_openat, [AT_FDCWD, text(path), flags as usize]);
    let socket = |family: libc::c_int, kind: libc::c_int| {
        attempt("a socket that takes rights", libc::SYS_socket, [family as usize, kind as usize])
    };
    vec![
        open(c"/etc/passwd", libc::O_RDONLY),
        open(c"/proc/1/status", libc::O_RDONLY),
        open(c"/proc/self/mem", libc::O_RDWR),
        open(c"/sys/fs/cgroup", libc::O_RDONLY),
        open(c"/dev/net/tun", libc::O_RDWR),
        open(c"/../../../etc/passwd", libc::O_RDONLY),
        open(c"/file", libc::O_CREAT | libc::O_RDWR),
        attempt("a directory", libc::SYS_mkdirat, [AT_FDCWD, text(c"/directory"), 0o777]),
        attempt("a device", libc::SYS_mknodat, [AT_FDCWD, text(c"/kmem"), libc::S_IFCHR as usize | 0o600, 0x0102]),
        attempt("a mount", libc::SYS_mount, [text(c"none"), text(c"/"), text(c"tmpfs"), 0, 0]),
        attempt(
            "a writable root",
            libc::SYS_mount,
            [text(c"none"), text(c"/"), 0, (libc::MS_REMOUNT | libc::MS_BIND) as usize, 0],
        ),
        attempt("no root", libc::SYS_umount2, [text(c"/"), libc::MNT_DETACH as usize]),
        attempt("another root", libc::SYS_chroot, [text(c"/")]),
        attempt("another root", libc::SYS_pivot_root, [text(c"."), text(c".")]),
        attempt("a file system", libc::SYS_fsopen, [text(c"tmpfs"), 0]),
        attempt("a file by its handle", libc::SYS_open_by_handle_at, [AT_FDCWD, text(c"12345678"), 0]),
        attempt("tracing", libc::SYS_ptrace, [libc::PTRACE_ATTACH as usize, outside, 0, 0]),
        attempt("tracing", libc::SYS_ptrace, [libc::PTRACE_SEIZE as usize, outside, 0, 0]),
        attempt("a signal to somebody", libc::SYS_kill, [outside, libc::SIGKILL as usize]),
        attempt("a signal to all", libc::SYS_kill, [usize::MAX, 0]),
        attempt("holding a process", libc::SYS_pidfd_open, [outside, 0]),
        attempt(
            "another's memory",
            libc::SYS_process_vm_readv,
            [outside, SOMEWHERE.as_ptr() as usize, 1, SOMEWHERE.as_ptr() as usize, 1, 0],
        ),
        attempt("another's performance", libc::SYS_perf_event_open, [ZEROS.as_ptr() as usize, outside, 0, 0, 0]),
        attempt("another's limits", libc::SYS_prlimit64, [outside, libc::RLIMIT_CPU as usize, 0, 0]),
        attempt("its own limits", libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE as usize, RAISED.as_ptr() as usize, 0]),
        attempt("a program", libc::SYS_execve, [text(c"/proc/self/exe"), 0, 0]),
        attempt("a program", libc::SYS_execve, [text(c"/bin/sh"), 0, 0]),
        attempt("another user", libc::SYS_setuid, [12_345]),
        attempt("another group", libc::SYS_setgid, [12_345]),
        attempt("more groups", libc::SYS_setgroups, [1, ZEROS.as_ptr() as usize]),
        attempt("rights", libc::SYS_prctl, [libc::PR_CAP_AMBIENT as usize, libc::PR_CAP_AMBIENT_RAISE as usize, 21]),
        attempt("another name", libc::SYS_sethostname, [text(c"daemon"), 6]),
        attempt("another time", libc::SYS_clock_settime, [0, RAISED.as_ptr() as usize]),
        attempt("a namespace of another", libc::SYS_setns, [0, 0]),
        clone(libc::CLONE_NEWNS),
        clone(libc::CLONE_NEWNET),
        clone(libc::CLONE_NEWPID),
        clone(libc::CLONE_NEWUSER),
        socket(libc::AF_PACKET, libc::SOCK_RAW),
        socket(libc::AF_INET, libc::SOCK_RAW),
        attempt("somebody's key", libc::SYS_request_key, [text(c"user"), text(c"roam-jail-test"), 0, 0]),
        attempt("the kernel's programs", libc::SYS_bpf, [11, ZEROS.as_ptr() as usize, 8]),
        attempt("the kernel's own faults", libc::SYS_userfaultfd, [0]),
        attempt("a module", libc::SYS_init_module, [text(c"\x7fELF"), 4, text(c"")]),
        attempt("another kernel", libc::SYS_kexec_load, [0, 0, 0, 0]),
        attempt("another machine", libc::SYS_reboot, [0xfee1_dead, 0x2812_1969, 0, 0]),
        attempt("swap", libc::SYS_swapon, [text(c"/"), 0]),
        attempt("accounting", libc::SYS_acct, [text(c"/")]),
    ]
}

/// Eight bytes somewhere, as an `iovec`.
static SOMEWHERE: [u64; 2] = [0x10_0000, 8];

/// An argument that asks for nothing in particular.
static ZEROS: [u64; 32] = [0; 32];

/// More open files than it may have.
static RAISED: [u64; 2] = [1 << 20, 1 << 20];

/// What is the end under a filter, also where it would come to nothing.
pub(crate) fn under_seccomp(outside: usize) -> Vec<Attempt> {
    let any = |what, number| attempt(what, number, [0; 6]);
    let executable = (libc::PROT_READ | libc::PROT_EXEC) as usize;
    let mut attempts = without_seccomp(outside);
    attempts.extend([
        attempt("executable memory", libc::SYS_mprotect, [0x10_0000, 4096, executable]),
        attempt("executable memory", libc::SYS_pkey_mprotect, [0x10_0000, 4096, executable, 0]),
        attempt("the TAP's settings", libc::SYS_ioctl, [3, 0x4004_54ca, 0]),
        attempt("typing for the operator", libc::SYS_ioctl, [0, libc::TIOCSTI as usize, text(c"x")]),
        attempt("a socket", libc::SYS_socket, [libc::AF_INET as usize, libc::SOCK_STREAM as usize, 0]),
        attempt("a socket", libc::SYS_socket, [libc::AF_UNIX as usize, libc::SOCK_STREAM as usize, 0]),
        attempt("a socket", libc::SYS_socket, [libc::AF_NETLINK as usize, libc::SOCK_RAW as usize, 0]),
        attempt("two sockets", libc::SYS_socketpair, [libc::AF_UNIX as usize, libc::SOCK_STREAM as usize, 0, 0]),
        attempt("a process", libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0, 0]),
        attempt("a namespace", libc::SYS_clone, [CLONE_A_NAMESPACE, 0, 0, 0, 0]),
        attempt("a signal to another", libc::SYS_tgkill, [2, 2, 0]),
        attempt("a signal to another", libc::SYS_rt_sigqueueinfo, [outside, 0, 0]),
        attempt("a name", libc::SYS_prctl, [libc::PR_SET_DUMPABLE as usize, 1]),
        attempt("a filter", libc::SYS_seccomp, [0, 0, 0]),
        any("connecting", libc::SYS_connect),
        any("binding", libc::SYS_bind),
        any("sending files", libc::SYS_sendmsg),
        any("receiving files", libc::SYS_recvmsg),
        any("a file", libc::SYS_openat2),
        any("a file without a name", libc::SYS_memfd_create),
        any("a program without a name", libc::SYS_execveat),
        any("a secret", libc::SYS_memfd_secret),
        any("a ring", libc::SYS_io_uring_setup),
        any("a ring", libc::SYS_io_uring_enter),
        any("a key", libc::SYS_keyctl),
        any("a key", libc::SYS_add_key),
        any("another descriptor's twin", libc::SYS_pidfd_getfd),
        any("a tree", libc::SYS_open_tree),
        any("a link", libc::SYS_symlinkat),
        any("a removal", libc::SYS_unlinkat),
        any("a mode", libc::SYS_fchmodat),
        any("a directory", libc::SYS_getdents64),
        any("another directory", libc::SYS_chdir),
        any("shared memory", libc::SYS_shmget),
        any("a queue", libc::SYS_msgget),
        any("a semaphore", libc::SYS_semget),
        any("watching files", libc::SYS_inotify_init1),
        any("watching files", libc::SYS_fanotify_init),
        any("another personality", libc::SYS_personality),
        any("other processors", libc::SYS_sched_setaffinity),
        any("a timer", libc::SYS_timer_create),
        any("the kernel's log", libc::SYS_syslog),
        any("a pipe", libc::SYS_pipe2),
        any("pages from a pipe", libc::SYS_vmsplice),
        any("rules", libc::SYS_landlock_create_ruleset),
    ]);
    attempts
}

const CLONE_A_NAMESPACE: usize =
    (libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_VM | libc::CLONE_NEWUSER) as usize;
