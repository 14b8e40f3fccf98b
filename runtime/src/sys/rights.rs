//! Giving up capabilities (capabilities(7)).
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::libc;

/// Root is nobody special, and stays so.
const SECUREBITS: libc::c_int = libc::SECBIT_NOROOT
    | libc::SECBIT_NOROOT_LOCKED
    | libc::SECBIT_NO_SETUID_FIXUP
    | libc::SECBIT_NO_SETUID_FIXUP_LOCKED
    | libc::SECBIT_KEEP_CAPS_LOCKED
    | libc::SECBIT_NO_CAP_AMBIENT_RAISE
    | libc::SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
/// `_LINUX_CAPABILITY_VERSION_3`, linux/capability.h.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// Capabilities a kernel could know of.
const CAPABILITIES_MAX: libc::c_int = 64;

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Being root gives nothing from now on. Takes CAP_SETPCAP.
pub(crate) fn lock_securebits() -> Result<(), Errno> {
    prctl(libc::PR_SET_SECUREBITS, SECUREBITS, 0).map(drop)
}

/// Keys of whoever started this process are not for it (keyctl(2)). No error where the kernel has no keys.
pub(crate) fn leave_keyring() -> Result<(), Errno> {
    let nameless = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name is how the call is told to make a new keyring without one.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, nameless) };
    match Errno::result(result) {
        Ok(_) | Err(Errno::ENOSYS) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Nothing executed can have a capability. Takes CAP_SETPCAP.
pub(crate) fn drop_bounding() -> Result<(), Errno> {
    for capability in 0..CAPABILITIES_MAX {
        match prctl(libc::PR_CAPBSET_DROP, capability, 0) {
            // One beyond the last.
            Err(Errno::EINVAL) if capability > 0 => return Ok(()),
            result => result.map(drop)?,
        }
    }
    Ok(())
}

/// Nothing is handed on to what is executed.
pub(crate) fn clear_ambient() -> Result<(), Errno> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0).map(drop)
}

/// Empties the effective, permitted and inheritable sets of this thread.
pub(crate) fn clear_capabilities() -> Result<(), Errno> {
    let header = Header { version: CAPABILITY_VERSION, pid: 0 };
    let sets = [Sets { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: both point to live values laid out as capset(2) wants them for this version: one header, two sets.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    Errno::result(result).map(drop)
}

fn prctl(option: libc::c_int, first: libc::c_int, second: libc::c_ulong) -> Result<libc::c_int, Errno> {
    let first = libc::c_ulong::try_from(first).map_err(|_negative| Errno::EINVAL)?;
    let unused: libc::c_ulong = 0;
    // SAFETY: the options above take numbers only and touch no memory of ours.
    Errno::result(unsafe { libc::prctl(option, first, second, unused, unused) })
}
