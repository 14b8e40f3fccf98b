//! The database file: records by id, as JSON.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::RegistryError;
use crate::host::layout::is_full;
use crate::host::record::{GuestId, Record};

const GUESTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("guests");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Of the tables, not of the records.
const FORMAT: u64 = 1;
/// The database is small: a guest's record is some hundred bytes.
const CACHE_BYTES: usize = 1 << 20;

/// An open database.
pub(super) struct Store {
    database: Database,
    path: PathBuf,
    inode: u64,
    bytes: u64,
}

/// What is done to a record.
pub(super) enum Change<'a> {
    Put(&'a Record),
    Remove(GuestId),
    /// Nothing but a write, to see whether it can.
    Probe,
}

impl Store {
    /// Opens it, or makes a new one, and checks it.
    pub(super) fn open(path: &Path) -> Result<Self, RegistryError> {
        let opened = guarded(path, || {
            let mut database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
            database.check_integrity()?;
            Ok(database)
        })?;
        let mut store = Self { database: opened, path: path.to_path_buf(), inode: 0, bytes: 0 };
        store.initialise()?;
        store.measure()?;
        Ok(store)
    }

    /// All records.
    pub(super) fn records(&self) -> Result<Vec<Record>, RegistryError> {
        let values = guarded(&self.path, || {
            let transaction = self.database.begin_read()?;
            let table = transaction.open_table(GUESTS)?;
            let mut values = Vec::new();
            for entry in table.iter()? {
                values.push(entry?.1.value().to_vec());
            }
            Ok(values)
        })?;
        let decode = |value: Vec<u8>| super::decode(&value, &self.path);
        values.into_iter().map(decode).collect()
    }

    /// Makes the change; it is on disk when this returns.
    pub(super) fn change(&mut self, change: &Change<'_>) -> Result<(), RegistryError> {
        self.check_file()?;
        self.change_all(std::slice::from_ref(change))?;
        self.measure()
    }

    /// Makes all of them, or none.
    pub(super) fn change_all(&self, changes: &[Change<'_>]) -> Result<(), RegistryError> {
        guarded(&self.path, || {
            let transaction = self.database.begin_write()?;
            {
                let mut table = transaction.open_table(GUESTS)?;
                let mut meta = transaction.open_table(META)?;
                for change in changes {
                    match change {
                        Change::Put(record) => {
                            table.insert(record.id.to_string().as_str(), super::encode(record).as_slice())?;
                        }
                        Change::Remove(id) => drop(table.remove(id.to_string().as_str())?),
                        Change::Probe => drop(meta.insert("format", FORMAT)?),
                    }
                }
            }
            transaction.commit()?;
            Ok(())
        })
    }

    fn initialise(&self) -> Result<(), RegistryError> {
        let format = guarded(&self.path, || {
            let transaction = self.database.begin_read()?;
            match transaction.open_table(META) {
                Ok(table) => Ok(table.get("format")?.map(|value| value.value())),
                Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
                Err(error) => Err(error.into()),
            }
        })?;
        match format {
            Some(FORMAT) => Ok(()),
            Some(found) => Err(RegistryError::Newer { path: self.path.clone(), found }),
            None => self.change_all(&[Change::Probe]),
        }
    }

    /// The database reads its file rarely: that somebody cut it short or took it away shows here.
    fn check_file(&self) -> Result<(), RegistryError> {
        let metadata = fs::metadata(&self.path).map_err(|source| self.io(source))?;
        if metadata.ino() != self.inode || metadata.len() < self.bytes {
            return Err(RegistryError::Damaged {
                path: self.path.clone(),
                how: "it was cut short or replaced while in use".into(),
            });
        }
        Ok(())
    }

    fn measure(&mut self) -> Result<(), RegistryError> {
        let metadata = fs::metadata(&self.path).map_err(|source| self.io(source))?;
        if metadata.len() > self.bytes {
            // The file has holes. Room for them is taken now, so that on a full disk what is there can be changed and
            // removed. Where there is none, or no way to do so, it may fail then.
            let file = fs::File::options().write(true).open(&self.path).map_err(|source| self.io(source))?;
            let _ = fallocate(&file, FallocateFlags::empty(), 0, metadata.len().cast_signed());
        }
        (self.inode, self.bytes) = (metadata.ino(), metadata.len());
        Ok(())
    }

    fn io(&self, source: io::Error) -> RegistryError {
        RegistryError::Io { path: self.path.clone(), source }
    }
}

/// Some damage the database meets with an assertion; that is damage like any other, and its state is thrown away.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, RegistryError> {
    let failed = |how: String| RegistryError::Damaged { path: path.to_path_buf(), how };
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(redb::Error::Io(error))) if is_full(&error) => Err(RegistryError::Full(path.to_path_buf())),
        Ok(Err(redb::Error::Io(source))) if source.kind() == io::ErrorKind::PermissionDenied => {
            Err(RegistryError::Io { path: path.to_path_buf(), source })
        }
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_panic) => Err(failed("an assertion of the database failed".into())),
    }
}
