//! Addresses that were given up while the controller could not be told, or that may have been claimed for nobody. Kept
//! on disk until it has been told.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use roam_sdn::Mac;
use roam_sdn::model::Generation;
use serde::{Deserialize, Serialize};

use crate::host::layout::write_whole;

/// Longest list that is read, bytes: of far more guests than a host has.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// An address that is to be released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Release {
    pub(super) mac: Mac,
    /// The one that ends. `None` if it is not known whether the address is ours, and since which: a claim was sent, and
    /// its answer was lost.
    pub(super) generation: Option<Generation>,
}

/// Those that are still to be told, as on disk. Its methods wait for that.
pub(super) struct Releases {
    path: PathBuf,
    pending: Mutex<Vec<Release>>,
}

impl Releases {
    /// A list that cannot be read is as if it were empty, but it is said: what is lost are addresses that stay claimed.
    pub(super) fn open(path: PathBuf) -> Self {
        let read = fs::metadata(&path).and_then(|metadata| match metadata.len() {
            0..=FILE_BYTES_MAX => fs::read(&path),
            _ => Err(io::ErrorKind::FileTooLarge.into()),
        });
        let pending = match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read.and_then(|bytes| Ok(serde_json::from_slice(&bytes)?)),
        };
        let pending = pending.unwrap_or_else(|error| {
            let path = path.display();
            tracing::error!(%path, %error, "addresses that were given up stay claimed; look at `roam route ls`");
            Vec::new()
        });
        Self { path, pending: Mutex::new(pending) }
    }

    pub(super) fn add(&self, release: Release) -> io::Result<()> {
        let mut pending = self.pending();
        if !pending.contains(&release) {
            pending.push(release);
            return self.keep(&pending);
        }
        Ok(())
    }

    /// Has another in the place of one.
    pub(super) fn replace(&self, release: Release, by: Release) -> io::Result<()> {
        let mut pending = self.pending();
        pending.retain(|it| *it != release && *it != by);
        pending.push(by);
        self.keep(&pending)
    }

    pub(super) fn remove(&self, release: Release) -> io::Result<()> {
        let mut pending = self.pending();
        pending.retain(|it| *it != release);
        self.keep(&pending)
    }

    /// All of them, or those of one address.
    pub(super) fn list(&self, mac: Option<Mac>) -> Vec<Release> {
        self.pending().iter().filter(|it| mac.is_none_or(|mac| it.mac == mac)).copied().collect()
    }

    fn keep(&self, pending: &[Release]) -> io::Result<()> {
        write_whole(&self.path, &serde_json::to_vec(pending)?)
    }

    fn pending(&self) -> MutexGuard<'_, Vec<Release>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_told_outlives_the_daemon() {
        let path = std::env::temp_dir().join(format!("roam-releases-{}", std::process::id()));
        let release = |last, generation: u64| {
            let generation = (generation > 0).then_some(Generation(generation));
            Release { mac: Mac([2, 0, 0, 0, 0, last]), generation }
        };
        let releases = Releases::open(path.clone());
        for one in [release(1, 1), release(2, 5), release(1, 1), release(1, 7)] {
            releases.add(one).unwrap();
        }
        assert_eq!(releases.list(Some(Mac([2, 0, 0, 0, 0, 1]))), [release(1, 1), release(1, 7)]);
        releases.remove(release(1, 1)).unwrap();
        assert_eq!(Releases::open(path.clone()).list(None), [release(2, 5), release(1, 7)]);
        for _ in 0..2 {
            releases.replace(release(1, 7), release(1, 0)).unwrap();
        }
        assert_eq!(Releases::open(path.clone()).list(None), [release(2, 5), release(1, 0)]);
        fs::write(&path, r#"[{"mac":"02:00:00:00:00:01","generation":7}]"#).unwrap();
        assert_eq!(Releases::open(path.clone()).list(None), [release(1, 7)]);
        fs::write(&path, "[{").unwrap();
        assert_eq!(Releases::open(path.clone()).list(None), []);
        fs::remove_file(&path).unwrap();
        assert_eq!(Releases::open(path).list(None), []);
    }
}
