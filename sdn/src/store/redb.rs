//! The table in a file of this machine, by redb.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Compacted, Feed, Store, StoreError, Watch};
use crate::model::{Change, Revision, Update};
use crate::table::Table;

const ROWS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("rows");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Of both.
const FORMAT: u64 = 1;
const CACHE_BYTES: usize = 8 << 20;

/// Keeps the table in a file. One process at a time has it.
pub struct RedbStore {
    path: PathBuf,
    /// `None` after an error of the file: it is opened again for the next commit.
    database: Option<Database>,
    feed: Feed,
}

impl RedbStore {
    /// Opens the file, or makes it, and checks it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let database = open(path)?;
        let revision = Revision(guarded(path, || revision(&database))?);
        Ok(Self { path: path.to_path_buf(), database: Some(database), feed: Feed::new(revision) })
    }

    fn database(&mut self) -> Result<&Database, StoreError> {
        if self.database.is_none() {
            self.database = Some(open(&self.path)?);
        }
        // Set just now if it was not.
        self.database.as_ref().ok_or_else(|| io_error(&self.path)(io::ErrorKind::NotFound.into()))
    }
}

impl Store for RedbStore {
    fn load(&mut self) -> Result<Table, StoreError> {
        let path = self.path.clone();
        let database = self.database()?;
        let (at, values) = guarded(&path, || {
            let transaction = database.begin_read()?;
            let rows = transaction.open_table(ROWS)?;
            let mut values = Vec::new();
            for entry in rows.iter()? {
                values.push(entry?.1.value().to_vec());
            }
            Ok((revision(database)?, values))
        })?;
        let decoded = values.iter().map(|value| serde_json::from_slice::<Change>(value));
        let rows: Result<Vec<_>, _> = decoded.collect();
        let rows = rows.map_err(|error| StoreError::Damaged { path, how: error.to_string() })?;
        Ok(Table::from_rows(Revision(at), rows))
    }

    fn commit(&mut self, expected: Revision, updates: &[Update]) -> Result<(), StoreError> {
        let path = self.path.clone();
        check_file(&path)?;
        let database = self.database()?;
        let committed = guarded(&path, || commit(database, expected, updates));
        match committed {
            Ok(None) => {
                self.feed.push(updates);
                Ok(())
            }
            Ok(Some(found)) => Err(StoreError::Conflict { expected, found }),
            Err(error) => {
                // After an error of its file the database takes no more writes until it is opened again.
                self.database = None;
                Err(error)
            }
        }
    }

    fn watch(&self, after: Revision) -> Result<Watch, Compacted> {
        self.feed.watch(after)
    }

    fn feed(&self) -> Feed {
        self.feed.clone()
    }
}

/// The revision that was found instead, if it is another.
fn commit(database: &Database, expected: Revision, updates: &[Update]) -> Result<Option<Revision>, redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut meta = transaction.open_table(META)?;
        let found = meta.get("revision")?.map_or(0, |value| value.value());
        if found != expected.0 {
            return Ok(Some(Revision(found)));
        }
        let mut rows = transaction.open_table(ROWS)?;
        for change in updates.iter().flat_map(|update| &update.changes) {
            match change {
                Change::NoHost(_) | Change::NoRoute(_) | Change::NoFront(_) => drop(rows.remove(key(change).as_str())?),
                row => {
                    let value = serde_json::to_vec(row).expect("rows are plain data with text as keys");
                    rows.insert(key(row).as_str(), value.as_slice())?;
                }
            }
        }
        if let Some(last) = updates.last() {
            meta.insert("revision", last.revision.0)?;
        }
    }
    transaction.commit()?;
    Ok(None)
}

fn key(change: &Change) -> String {
    match change {
        Change::Host(host) => format!("host/{}", host.name),
        Change::NoHost(name) => format!("host/{name}"),
        Change::Route(route) => format!("route/{}", route.address.mac),
        Change::NoRoute(mac) => format!("route/{mac}"),
        Change::Front(front) => format!("front/{}", front.key()),
        Change::NoFront(key) => format!("front/{key}"),
        Change::Floor(_) => "floor".into(),
    }
}

fn open(path: &Path) -> Result<Database, StoreError> {
    let database = guarded(path, || {
        let mut database = Database::builder().set_cache_size(CACHE_BYTES).create(path)?;
        database.check_integrity()?;
        let transaction = database.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            if meta.get("format")?.is_none() {
                meta.insert("format", FORMAT)?;
                transaction.open_table(ROWS)?;
            }
        }
        transaction.commit()?;
        Ok(database)
    })?;
    let found = guarded(path, || {
        let meta = database.begin_read()?.open_table(META)?;
        Ok(meta.get("format")?.map_or(0, |value| value.value()))
    })?;
    if found != FORMAT {
        return Err(StoreError::Newer { path: path.to_path_buf(), found });
    }
    Ok(database)
}

fn revision(database: &Database) -> Result<u64, redb::Error> {
    let meta = database.begin_read()?.open_table(META)?;
    Ok(meta.get("revision")?.map_or(0, |value| value.value()))
}

/// The database reads its file rarely: that somebody took it away would show too late.
fn check_file(path: &Path) -> Result<(), StoreError> {
    fs::metadata(path).map(drop).map_err(io_error(path))
}

fn io_error(path: &Path) -> impl Fn(io::Error) -> StoreError + use<> {
    let path = path.to_path_buf();
    move |source| StoreError::Io { path: path.clone(), source }
}

/// Some damage the database meets with an assertion; that is damage like any other.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StoreError> {
    let full = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
    };
    let damaged = |how: String| StoreError::Damaged { path: path.to_path_buf(), how };
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(redb::Error::Io(error))) if full(&error) => Err(StoreError::Full(path.to_path_buf())),
        // A file that was cut short ends too early.
        Ok(Err(redb::Error::Io(source)))
            if ![io::ErrorKind::InvalidData, io::ErrorKind::UnexpectedEof].contains(&source.kind()) =>
        {
            Err(io_error(path)(source))
        }
        Ok(Err(redb::Error::DatabaseAlreadyOpen)) => Err(StoreError::Locked(path.to_path_buf())),
        Ok(Err(error)) => Err(damaged(error.to_string())),
        Err(_panic) => Err(damaged("an assertion of the database failed".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Generation, Name};

    fn update(revision: u64, changes: Vec<Change>) -> Update {
        Update { revision: Revision(revision), changes }
    }

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("roam-store-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_was_committed_is_there_again() {
        let dir = Dir::new("again");
        let path = dir.0.join("table.redb");
        let name: Name = "host-a".parse().unwrap();
        {
            let mut store = RedbStore::open(&path).unwrap();
            store.commit(Revision(0), &[update(1, vec![Change::Floor(Generation(7))])]).unwrap();
            store.commit(Revision(1), &[update(2, vec![Change::NoHost(name)])]).unwrap();
        }
        let mut store = RedbStore::open(&path).unwrap();
        let table = store.load().unwrap();
        assert_eq!((table.revision(), table.floor()), (Revision(2), Generation(7)));
    }

    #[test]
    fn rows_of_before_hosts_took_migrations_are_read() {
        let dir = Dir::new("before");
        let mut store = RedbStore::open(&dir.0.join("table.redb")).unwrap();
        let row = br#"{"host":{"name":"a","kind":"host","vtep":"172.30.0.1","presence":"live"}}"#;
        {
            let transaction = store.database().unwrap().begin_write().unwrap();
            transaction.open_table(ROWS).unwrap().insert("host/a", row.as_slice()).unwrap();
            transaction.commit().unwrap();
        }
        let table = store.load().unwrap();
        let host = table.hosts().next().unwrap();
        assert_eq!((host.name.as_str(), host.migrate), ("a", None));
        // And as written for those who only know such rows.
        assert_eq!(serde_json::to_vec(&Change::Host(host.clone())).unwrap(), row);
        let at = "172.30.0.1:7445".parse().unwrap();
        let host = crate::model::Host { migrate: Some(at), ..host.clone() };
        store.commit(Revision(0), &[update(1, vec![Change::Host(host)])]).unwrap();
        assert_eq!(store.load().unwrap().hosts().next().unwrap().migrate, Some(at));
    }

    #[test]
    fn a_commit_on_another_revision_changes_nothing() {
        let dir = Dir::new("conflict");
        let mut store = RedbStore::open(&dir.0.join("table.redb")).unwrap();
        store.commit(Revision(0), &[update(1, vec![Change::Floor(Generation(1))])]).unwrap();
        let late = store.commit(Revision(0), &[update(1, vec![Change::Floor(Generation(9))])]);
        assert!(matches!(late, Err(StoreError::Conflict { expected: Revision(0), found: Revision(1) })), "{late:?}");
        assert_eq!(store.load().unwrap().floor(), Generation(1));
    }

    #[test]
    fn two_cannot_have_it_and_damage_is_named() {
        let dir = Dir::new("damage");
        let path = dir.0.join("table.redb");
        let store = RedbStore::open(&path).unwrap();
        assert!(matches!(RedbStore::open(&path), Err(StoreError::Locked(_))));
        drop(store);
        fs::write(&path, b"not a database").unwrap();
        assert!(matches!(RedbStore::open(&path), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn a_file_taken_away_is_noticed() {
        let dir = Dir::new("gone");
        let path = dir.0.join("table.redb");
        let mut store = RedbStore::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let lost = store.commit(Revision(0), &[update(1, vec![Change::Floor(Generation(1))])]);
        assert!(matches!(lost, Err(StoreError::Io { .. })), "{lost:?}");
    }
}
