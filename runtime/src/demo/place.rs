//! Where the demo's files are: in memory, for its own processes only.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::DemoError;

/// Directories that machines have and that are seldom in use. The demo sees one of them empty; nobody else notices.
const CANDIDATES: [&str; 4] = ["/mnt", "/srv", "/media", "/opt"];

/// Gives this process, and those it starts, a file system of their own in memory. It goes with the last of them, however
/// that ends. What is needed from outside is not hidden.
pub(super) fn private(needed: &[&Path]) -> Result<PathBuf, DemoError> {
    let hides = |place: &Path| needed.iter().any(|path| path.starts_with(place));
    let place = CANDIDATES.iter().map(Path::new).find(|place| place.is_dir() && !hides(place));
    let place = place.ok_or(DemoError::NoPlace)?;
    let failed = |errno| DemoError::Place { place: place.into(), source: io::Error::from(errno) };
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>).map_err(failed)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("roam-demo"), place, Some("tmpfs"), flags, Some("mode=0755")).map_err(failed)?;
    // Its hosts' control groups are named by their directories, and those of two demos must not be the same ones.
    let own = place.join(format!("roam-demo-{}", std::process::id()));
    std::fs::create_dir(&own).map_err(|source| DemoError::Place { place: own.clone(), source })?;
    Ok(own)
}
