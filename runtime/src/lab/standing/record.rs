//! A lab's directory: its record, and the lock that keeps two commands on one lab apart.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::StandingError;
use super::plan::{LabName, Shape};

const RECORD: &str = "lab.json";
/// How often the lock is tried anew because somebody has just deleted the directory it is on.
const LOCK_TRIES_MAX: usize = 100;

/// What a lab's directory says about it. It is written before anything is made, and again when all is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The lab.
    pub name: LabName,
    /// What was asked for.
    pub shape: Shape,
    /// Whether it came up.
    pub complete: bool,
}

impl Record {
    /// The one in a directory; `None` when there is none.
    pub(super) fn read(dir: &Path, lab: &LabName) -> Result<Option<Self>, StandingError> {
        let path = dir.join(RECORD);
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|source| StandingError::Record {
                lab: lab.to_string(),
                path,
                source,
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StandingError::file(path)(error)),
        }
    }

    /// Writes it whole: beside, then in place.
    pub(super) fn write(&self, dir: &Path) -> Result<(), StandingError> {
        let (path, beside) = (dir.join(RECORD), dir.join("lab.json.new"));
        let text = serde_json::to_vec_pretty(self).expect("plain data is JSON");
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&beside);
        file.and_then(|mut file| file.write_all(&text)).map_err(StandingError::file(&beside))?;
        fs::rename(&beside, &path).map_err(StandingError::file(&path))
    }
}

/// The right to change a lab, until it is dropped. It is on the lab's directory itself, so that nothing stays of it.
pub(super) struct Lock {
    _held: Flock<File>,
}

impl Lock {
    /// Makes the directory if need be, and waits until nobody else changes the lab.
    pub(super) fn take(dir: &Path) -> Result<Self, StandingError> {
        for _ in 0..LOCK_TRIES_MAX {
            match DirBuilder::new().recursive(true).mode(0o700).create(dir) {
                // Somebody has deleted the directory above in this moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                made => made.map_err(StandingError::file(dir))?,
            }
            let Ok(file) = File::open(dir) else { continue };
            let held = Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, errno)| StandingError::file(dir)(errno.into()))?;
            // Whoever held it before may have deleted the directory.
            let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
            let ours = held.metadata().map(identity).map_err(StandingError::file(dir))?;
            if fs::metadata(dir).map(identity).is_ok_and(|now| now == ours) {
                return Ok(Self { _held: held });
            }
        }
        Err(StandingError::file(dir)(io::Error::from(io::ErrorKind::ResourceBusy)))
    }
}

/// The directories of labs beneath `base`.
pub(super) fn directories(base: &Path) -> Result<Vec<LabName>, StandingError> {
    let entries = match fs::read_dir(base) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StandingError::file(base)(error)),
    };
    let mut names: Vec<LabName> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    names.sort();
    Ok(names)
}

/// Deletes what is in a lab's directory; the lock on it stays.
pub(super) fn clear(dir: &Path) -> Result<(), StandingError> {
    for entry in fs::read_dir(dir).map_err(StandingError::file(dir))? {
        let entry = entry.map_err(StandingError::file(dir))?;
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_dir { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
        removed.map_err(StandingError::file(entry.path()))?;
    }
    Ok(())
}

/// Deletes a lab's directory, and those above that were made for labs and are empty now.
pub(super) fn remove(dir: &Path) -> Result<(), StandingError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(StandingError::file(dir)(error)),
        _ => {}
    }
    let above: Vec<PathBuf> = dir.ancestors().skip(1).take(2).map(Path::to_path_buf).collect();
    for parent in above.iter().filter(|parent| parent.ends_with("labs") || parent.ends_with("run/roam")) {
        // Not empty, or not ours: it stays.
        if fs::remove_dir(parent).is_err() {
            break;
        }
    }
    Ok(())
}
