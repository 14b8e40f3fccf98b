//! Where a host keeps what, and how a file is written so that no crash leaves half of it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

use super::record::GuestId;
use crate::engine::ModuleHash;

/// Ending of files that are not finished; they are removed when a host is opened.
pub(super) const UNFINISHED: &str = "part";

/// The files and directories of a host.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    state: PathBuf,
    run: PathBuf,
}

impl Layout {
    /// Makes the directories, closed to others.
    pub(super) fn make(state: &Path, run: &Path) -> Result<Self, (PathBuf, io::Error)> {
        let whole = |path: &Path| std::path::absolute(path).map_err(|error| (path.to_path_buf(), error));
        let layout = Self { state: whole(state)?, run: whole(run)? };
        for dir in [layout.guests(), layout.modules(), layout.images(), layout.running(), layout.root()] {
            make_dir(&dir).map_err(|error| (dir, error))?;
        }
        remove_unfinished(&layout.images());
        Ok(layout)
    }

    /// Held by the daemon that has this state.
    pub(super) fn lock(&self) -> PathBuf {
        self.state.join("lock")
    }

    pub(super) fn state(&self) -> &Path {
        &self.state
    }

    pub(super) fn database(&self) -> PathBuf {
        self.state.join("state.redb")
    }

    /// Which boot of the machine this state was last opened in.
    pub(super) fn boot(&self) -> PathBuf {
        self.state.join("boot-id")
    }

    /// Addresses that are given up, while the controller has not been told.
    pub(super) fn releases(&self) -> PathBuf {
        self.state.join("releases.json")
    }

    /// Migrations that are over, a line each.
    pub(super) fn migrations(&self) -> PathBuf {
        self.state.join("migrations.jsonl")
    }

    pub(super) fn modules(&self) -> PathBuf {
        self.state.join("modules")
    }

    pub(super) fn module(&self, digest: ModuleHash) -> PathBuf {
        self.modules().join(format!("{digest}.wasm"))
    }

    pub(super) fn cache(&self) -> PathBuf {
        self.state.join("cache")
    }

    /// Images on their way in or out, which have a name here for a moment only.
    pub(super) fn images(&self) -> PathBuf {
        self.state.join("images")
    }

    pub(super) fn guests(&self) -> PathBuf {
        self.state.join("guests")
    }

    /// What of a guest outlives its worker: record, log ([`crate::worker::LogReader`]), how it ended.
    pub(super) fn guest(&self, id: GuestId) -> PathBuf {
        self.guests().join(id.to_string())
    }

    pub(super) fn record(&self, id: GuestId) -> PathBuf {
        self.guest(id).join("record.json")
    }

    /// How its last run ended, by the worker's own word.
    pub(super) fn end(&self, id: GuestId) -> PathBuf {
        self.guest(id).join("end.json")
    }

    /// What its worker wrote to its standard error: last words of a panic.
    pub(super) fn stderr(&self, id: GuestId) -> PathBuf {
        self.guest(id).join("stderr")
    }

    /// That it is being moved to another host, and may be that host's.
    pub(super) fn handover(&self, id: GuestId) -> PathBuf {
        self.guest(id).join("handover.json")
    }

    /// How far that is: a [`super::migrate::Mark`].
    pub(super) fn handed(&self, id: GuestId) -> PathBuf {
        self.guest(id).join("handed")
    }

    /// Whether it has come from another host, that is its worker has been told to poll it: a [`super::migrate::Mark`].
    pub(super) fn came(&self, id: GuestId) -> PathBuf {
        self.guest(id).join("came")
    }

    /// Sessions of guests that came here and went.
    pub(super) fn sessions(&self) -> PathBuf {
        self.state.join("sessions.json")
    }

    pub(super) fn running(&self) -> PathBuf {
        self.run.join("guests")
    }

    /// What of a guest goes with its worker.
    pub(super) fn run(&self, id: GuestId) -> PathBuf {
        self.running().join(id.to_string())
    }

    pub(super) fn control(&self, id: GuestId) -> PathBuf {
        self.run(id).join("control.sock")
    }

    /// When its worker began to serve.
    pub(super) fn started(&self, id: GuestId) -> PathBuf {
        self.run(id).join("started")
    }

    /// An empty directory for workers to mount their root on.
    pub(super) fn root(&self) -> PathBuf {
        self.run.join("root")
    }
}

/// Makes a directory and those above it, closed to others.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// A name beside `path` that no other writer of this process has.
pub(super) fn beside(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}.{UNFINISHED}", COUNT.fetch_add(1, Ordering::Relaxed)));
    name.into()
}

/// Writes a whole file beside and renames it: whoever opens it, after whatever crash, sees all of it or what was there
/// before. A failure leaves nothing.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = beside(path);
    let written = write_new(&beside, bytes).and_then(|()| rename_durably(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

/// A new file, all of it on disk.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Renames, and waits until the directory is on disk.
pub(super) fn rename_durably(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_dir(to.parent().unwrap_or(Path::new(".")))
}

pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Removes a file or a whole directory; one that is gone is no error.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Removes what was not finished from a directory.
pub(super) fn remove_unfinished(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == UNFINISHED) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether an error says that there is no room: on the disk, in a quota, or within a limit of file sizes.
pub(super) fn is_full(error: &io::Error) -> bool {
    let full = [Errno::ENOSPC, Errno::EDQUOT, Errno::EFBIG].map(|errno| Some(errno as i32));
    full.contains(&error.raw_os_error())
}

/// Whether an error says so, or what it came from does.
pub(super) fn comes_from_full(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(|error| error.downcast_ref::<io::Error>().is_some_and(is_full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_and_leaves_nothing_beside() {
        let dir = std::env::temp_dir().join(format!("roam-layout-{}", std::process::id()));
        make_dir(&dir).unwrap();
        let path = dir.join("record.json");
        write_whole(&path, b"one").unwrap();
        write_whole(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        fs::write(beside(&path), b"half").unwrap();
        remove_unfinished(&dir);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        assert!(write_whole(&dir.join("no/such"), b"x").is_err());
        remove(&dir).unwrap();
        remove(&dir).unwrap();
        assert!(is_full(&Errno::ENOSPC.into()) && is_full(&Errno::EFBIG.into()) && !is_full(&Errno::EIO.into()));
    }
}
