//! The file system of a jail: one empty directory that cannot be written.

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

use super::JailError;
use super::enter::step;

/// Size of the file system; nothing is ever put there.
const OPTIONS: &str = "size=4k,nr_inodes=1,mode=0555";
const FLAGS: MsFlags = MsFlags::MS_RDONLY
    .union(MsFlags::MS_NOSUID)
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC)
    .union(MsFlags::MS_NOATIME);

/// Makes it the root, in this mount namespace, and lets go of all others.
pub(super) fn enter(directory: &Path) -> Result<(), JailError> {
    let none = None::<&str>;
    // Nothing done here is to be seen outside, nor the other way.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(step("separating mounts"))?;
    mount(Some("roam"), directory, Some("tmpfs"), FLAGS, Some(OPTIONS)).map_err(step("mounting an empty root"))?;
    chdir(directory).map_err(step("going to the empty root"))?;
    // The old root comes to lie over the new one, from where it is taken away: no directory is needed for it.
    pivot_root(".", ".").map_err(step("changing roots"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(step("letting go of the old root"))?;
    chdir("/").map_err(step("going to the new root"))
}
