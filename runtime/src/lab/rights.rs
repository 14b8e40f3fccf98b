//! The right to make namespaces and devices: root's, or one's own in a user namespace.

use std::fs;
use std::io;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use super::{LabError, Missing};

/// `CAP_NET_ADMIN` and `CAP_SYS_ADMIN`, capabilities(7).
const CAPABILITIES_NEEDED: u64 = 1 << 12 | 1 << 21;

/// Whether this process may make network namespaces and devices in them.
pub fn has_rights() -> bool {
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| effective_capabilities(&status))
        .is_some_and(|held| held & CAPABILITIES_NEEDED == CAPABILITIES_NEEDED)
}

/// Moves this process into a user namespace of its own, where it is root over what it makes itself and no more than
/// the user it was over the rest (user_namespaces(7)). Only while the process has one thread: call it first in `main`.
pub fn enter_user_namespace() -> Result<(), LabError> {
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|errno| Missing::UserNamespaces { source: errno.into() })?;
    let write = |file: &str, text: String| {
        fs::write(file, text).map_err(|source| LabError::from(Missing::UserNamespaces { source }))
    };
    // Without this the kernel refuses a group map from whom is not root outside.
    write("/proc/self/setgroups", "deny".into())?;
    write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    if has_rights() {
        Ok(())
    } else {
        Err(Missing::UserNamespaces { source: io::Error::from(io::ErrorKind::PermissionDenied) }.into())
    }
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status_file() {
        assert_eq!(effective_capabilities("Name:\tx\nCapEff:\t00000000a80425fb\n"), Some(0xa804_25fb));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
    }
}
