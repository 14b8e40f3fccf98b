//! What a worker may do: nothing but compute, and read and write the descriptors it was given.
//!
//! ```text
//!  daemon            starter                                     worker
//!    │   spawn ──────> unshare: user, mount, pid, net, ipc, uts, cgroup
//!    │ <── Unshared ── │
//!   map_ids ── GO ───> fork ────────────────────────────────────> pid 1 of its namespace
//!    │ <── Process ─── ends                                        root ─> rights ─> seccomp
//! ```
//!
//! In reading order: [`enter`] (the steps), `root` (an empty, read-only file system), `rights` (capabilities, resource
//! limits), [`seccomp`] (system calls by role), `cgroup` (limits set from outside, by the daemon).
//!
//! Each layer holds by itself: without seccomp a worker finds nothing to open, nobody to signal, no network and no
//! privilege; with it, trying is its end. There is no time namespace: a guest's clock is an argument, and an offset to
//! the host's monotonic clock hides nothing worth hiding.

mod cgroup;
mod enter;
mod rights;
mod root;
pub mod seccomp;

pub use cgroup::{Cgroup, CgroupError, CgroupLimits, exists as has_groups, lacks as lacks_cgroups, strays, sweep};
pub use enter::{GO, Jail, JailError, enter};
pub(crate) use rights::COMPILE_CPU_S_MAX;
pub use rights::Rights;

use std::fs;
use std::io;

/// Tells the kernel who a starting worker's root is outside (user_namespaces(7)): `uid` and the gid of the same number,
/// or this process's own when `None`.
pub(crate) fn map_ids(pid: u32, uid: Option<u32>) -> io::Result<()> {
    let write = |file: &str, text: String| fs::write(format!("/proc/{pid}/{file}"), text);
    let (outer_uid, outer_gid) = match uid {
        Some(uid) => (uid, uid),
        None => {
            // Without this the kernel refuses a group map from whom is not root.
            write("setgroups", "deny".into())?;
            (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
        }
    };
    write("uid_map", format!("0 {outer_uid} 1"))?;
    write("gid_map", format!("0 {outer_gid} 1"))
}

/// What this machine lacks of the jail, in words; empty when it is whole.
pub fn lacks() -> Vec<String> {
    let mut lacks = cgroup::lacks();
    if !has_own_users() {
        lacks.push("workers have no users of their own: the daemon is not root of the whole machine".into());
    }
    if fs::read_to_string("/proc/sys/user/max_user_namespaces").is_ok_and(|max| max.trim() == "0") {
        lacks.push("no user namespaces: user.max_user_namespaces is 0; no worker can start".into());
    }
    lacks
}

/// Whether a worker can be given a user that is nobody's.
pub fn has_own_users() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| maps_all(&map))
}

/// The processes of that user, by their ids here.
pub(crate) fn processes_of(uid: u32) -> Vec<u32> {
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // Not by the directory's owner: that is root for a process whose memory is hidden.
    let is_of =
        |pid: &u32| fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|text| real_uid(&text) == Some(uid));
    pids.filter(is_of).collect()
}

/// From `status`, proc(5).
fn real_uid(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_ascii_whitespace().next()?.parse().ok()
}

/// Whether a process with this uid map and root's rights may be anybody (the initial user namespace).
fn maps_all(uid_map: &str) -> bool {
    uid_map.split_ascii_whitespace().eq(["0", "0", "4294967295"]) && nix::unistd::geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_found_by_their_user() {
        let uid = nix::unistd::getuid().as_raw();
        assert!(processes_of(uid).contains(&std::process::id()));
        assert!(processes_of(0x7fff_fff0).is_empty());
        assert_eq!(real_uid("Name:\tx\nUid:\t7\t8\t9\t10\n"), Some(7));
    }
}
