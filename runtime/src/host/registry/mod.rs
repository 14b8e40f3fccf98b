//! What was asked for, so that no crash of daemon or machine loses it.
//!
//! A record is in two places: in the database, and as a file in the guest's directory, written first. When the
//! database is damaged, it is set aside and made anew: from memory while the daemon runs, from the files when it
//! starts. Of two copies the one with the higher revision counts. What is reported as done is in both.

mod store;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::layout::{self, Layout};
use super::record::{GuestId, RECORD_VERSION, Record};
use store::{Change, Store};

/// Longest record, bytes: a specification with the most arguments and environment there may be, written as JSON.
const RECORD_BYTES_MAX: u64 = 4 << 20;
/// Where the last revision is kept until the next is in the database.
const BEFORE: &str = "record.before";

/// All records of a host. Its methods block: they wait for the disk.
pub(super) struct Registry {
    layout: Layout,
    state: Mutex<State>,
}

struct State {
    /// `None` after a failure, until it could be opened again.
    store: Option<Store>,
    records: BTreeMap<GuestId, Record>,
    closed: bool,
}

/// Why a record could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is no room.
    #[error("the disk of {0} is full")]
    Full(PathBuf),
    /// A file cannot be read or written.
    #[error("{path} cannot be read or written")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The database is not whole.
    #[error("the database {path} is damaged: {how}")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        how: String,
    },
    /// A record is not whole.
    #[error("a record in {path} cannot be read")]
    Record {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// The host was closed.
    #[error("the host is closed")]
    Closed,
    /// Written by a later roam.
    #[error("{path} was written by a later roam (format {found}); run that, or start with an empty state directory")]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
}

impl RegistryError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| if layout::is_full(&source) { Self::Full(path) } else { Self::Io { path, source } }
    }

    fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Record { .. })
    }
}

impl Registry {
    /// Opens the database, or makes it anew from the guests' files when it is damaged.
    pub(super) fn open(layout: Layout) -> Result<Self, RegistryError> {
        let path = layout.database();
        let opened = Store::open(&path).and_then(|store| Ok((store.records()?, store)));
        let (known, store) = match opened {
            Ok((known, store)) => (known, Some(store)),
            Err(error) if error.is_damage() => {
                set_aside(&path, &error)?;
                (Vec::new(), None)
            }
            Err(error) => return Err(error),
        };
        let mut records: BTreeMap<_, _> = known.into_iter().map(|record| (record.id, record)).collect();
        let in_files = read_files(&layout)?;
        let newer = |record: &Record| records.get(&record.id).is_none_or(|known| known.revision < record.revision);
        let newer: Vec<_> = in_files.into_iter().filter(newer).collect();
        records.extend(newer.iter().map(|record| (record.id, record.clone())));
        let registry = Self { layout, state: Mutex::new(State { store, records, closed: false }) };
        // Also makes the database, if it is still to be made.
        let changes: Vec<_> = newer.iter().map(Change::Put).collect();
        registry.lock().store(&path)?.change_all(&changes)?;
        registry.restore_files()?;
        Ok(registry)
    }

    /// All records, as they are on disk.
    pub(super) fn records(&self) -> Vec<Record> {
        self.lock().records.values().cloned().collect()
    }

    /// Keeps a new or changed record. After an error what was there before counts.
    pub(super) fn put(&self, record: &Record) -> Result<(), RegistryError> {
        let mut state = self.lock();
        let path = self.layout.record(record.id);
        let before = path.with_file_name(BEFORE);
        write_record(&path, &before, record)?;
        let kept = state.change(&self.layout.database(), Change::Put(record));
        match &kept {
            Ok(()) => {
                let _ = fs::remove_file(&before);
                state.records.insert(record.id, record.clone());
            }
            // Renaming takes no room: it succeeds on a full disk, too.
            Err(_) => {
                let undone = match state.records.contains_key(&record.id) {
                    true => fs::rename(&before, &path),
                    false => fs::remove_file(&path),
                };
                if let Err(error) = undone {
                    tracing::error!(path = %path.display(), %error, "the record before a failed change is not restored");
                }
            }
        }
        kept
    }

    /// Forgets a guest, and removes its directory.
    pub(super) fn remove(&self, id: GuestId) -> Result<(), RegistryError> {
        let mut state = self.lock();
        // The directory goes first: it makes room, and what is left of it without the record is removed by the next
        // daemon, while the record alone would call for a guest that is gone.
        let dir = self.layout.guest(id);
        layout::remove(&dir).map_err(RegistryError::io(&dir))?;
        state.change(&self.layout.database(), Change::Remove(id))?;
        state.records.remove(&id);
        Ok(())
    }

    /// Whether the database takes a write.
    pub(super) fn probe(&self) -> Result<(), RegistryError> {
        self.lock().change(&self.layout.database(), Change::Probe)
    }

    /// Lets go of the database, so that another daemon may have it.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        (state.store, state.closed) = (None, true);
    }

    /// Databases that were set aside and are still there.
    pub(super) fn set_aside(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.layout.state()).into_iter().flatten().flatten();
        let damaged = |path: &PathBuf| path.to_string_lossy().contains("/state.redb.damaged-");
        entries.map(|entry| entry.path()).filter(damaged).collect()
    }

    /// A record whose file is missing or older gets it again.
    fn restore_files(&self) -> Result<(), RegistryError> {
        for record in self.records() {
            let path = self.layout.record(record.id);
            let _ = fs::remove_file(path.with_file_name(BEFORE));
            if read_record(&path).ok().is_none_or(|found| found != record) {
                write_record(&path, &path.with_file_name(BEFORE), &record)?;
                let _ = fs::remove_file(path.with_file_name(BEFORE));
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The database, opened again if need be.
    fn store(&mut self, path: &Path) -> Result<&mut Store, RegistryError> {
        if self.closed {
            return Err(RegistryError::Closed);
        }
        if self.store.is_none() {
            let mut store = match Store::open(path) {
                Err(error) if error.is_damage() => {
                    set_aside(path, &error)?;
                    Store::open(path)?
                }
                result => result?,
            };
            // Whatever it holds, it is to hold what is known.
            let mut changes = Vec::new();
            if store.records()? != self.records.values().cloned().collect::<Vec<_>>() {
                changes.extend(store.records()?.iter().map(|record| Change::Remove(record.id)));
                changes.extend(self.records.values().map(Change::Put));
            }
            store.change_all(&changes)?;
            self.store = Some(store);
        }
        self.store.as_mut().ok_or_else(|| RegistryError::io(path)(io::ErrorKind::NotFound.into()))
    }

    /// After a failure the database is opened again, and made anew if it is damaged; then the change is tried once
    /// more.
    fn change(&mut self, path: &Path, change: Change<'_>) -> Result<(), RegistryError> {
        let first = self.store(path).and_then(|store| store.change(&change));
        let Err(error) = first else { return Ok(()) };
        // After an error of its file the database takes no more writes until it is opened again.
        self.store = None;
        match error {
            RegistryError::Full(_) | RegistryError::Newer { .. } | RegistryError::Closed => return Err(error),
            RegistryError::Damaged { .. } => set_aside(path, &error)?,
            error => tracing::warn!(%error, "the database is opened again"),
        }
        let second = self.store(path).and_then(|store| store.change(&change));
        if second.is_err() {
            self.store = None;
        }
        second
    }
}

/// Renames a damaged database, so that it can be looked at. There is none then.
fn set_aside(path: &Path, error: &RegistryError) -> Result<(), RegistryError> {
    let aside = (1..).map(|number: u32| path.with_file_name(format!("state.redb.damaged-{number}")));
    let aside = aside.into_iter().find(|aside| !aside.exists()).unwrap_or_else(|| path.with_extension("damaged"));
    match fs::rename(path, &aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(RegistryError::io(path)(error)),
        _ => {
            tracing::error!(%error, aside = %aside.display(), "the database is damaged; it is set aside and made anew")
        }
    }
    Ok(())
}

fn encode(record: &Record) -> Vec<u8> {
    serde_json::to_vec(record).expect("a record has no map whose keys are no strings")
}

pub(super) fn decode(bytes: &[u8], path: &Path) -> Result<Record, RegistryError> {
    /// What all versions have.
    #[derive(serde::Deserialize)]
    struct Version {
        version: u32,
    }
    let damaged = |source| RegistryError::Record { path: path.to_path_buf(), source };
    let Version { version } = serde_json::from_slice(bytes).map_err(damaged)?;
    if version != RECORD_VERSION {
        return Err(RegistryError::Newer { path: path.to_path_buf(), found: version.into() });
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

/// The new record under its name, the one before under `before`.
fn write_record(path: &Path, before: &Path, record: &Record) -> Result<(), RegistryError> {
    let failed = RegistryError::io(path);
    let dir = path.parent().unwrap_or(Path::new("."));
    let write = || {
        layout::make_dir(dir)?;
        let _ = fs::remove_file(before);
        match fs::hard_link(path, before) {
            // The first record of this guest: its directory, too, is to be on disk.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                layout::sync_dir(dir.parent().unwrap_or(Path::new(".")))?;
            }
            result => result?,
        }
        layout::write_whole(path, &encode(record))
    };
    write().map_err(failed)
}

fn read_record(path: &Path) -> Result<Record, RegistryError> {
    let failed = RegistryError::io(path);
    let bytes = fs::metadata(path).and_then(|metadata| match metadata.len() {
        0..=RECORD_BYTES_MAX => fs::read(path),
        _ => Err(io::ErrorKind::FileTooLarge.into()),
    });
    decode(&bytes.map_err(failed)?, path)
}

/// The records that guests' directories hold. What cannot be read is as if it were not there, but it is said.
fn read_files(layout: &Layout) -> Result<Vec<Record>, RegistryError> {
    let dir = layout.guests();
    let mut records = Vec::new();
    for entry in fs::read_dir(&dir).map_err(RegistryError::io(&dir))?.flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<GuestId>().ok()) else { continue };
        let path = layout.record(id);
        match read_record(&path) {
            Ok(record) if record.id == id => records.push(record),
            Ok(_) => tracing::error!(path = %path.display(), "this record is another guest's and is left out"),
            Err(error @ RegistryError::Newer { .. }) => return Err(error),
            Err(RegistryError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::error!(%error, "this copy of a record is left out"),
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests;
