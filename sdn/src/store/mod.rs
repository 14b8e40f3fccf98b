//! Where the table is kept.
//!
//! A store is what an etcd could be as well: a table with a revision, changed by compare-and-swap on it, and a watch.
//! The whole table is compared and not one row, because what is refused may rest on other rows (two addresses with one
//! IP). Today there are [`RedbStore`], a file of this machine, and [`MemoryStore`], for tests and simulations.

mod feed;
mod memory;
mod redb;

use std::io;
use std::path::PathBuf;

pub use self::redb::RedbStore;
pub use feed::{Compacted, Feed, Watch};
pub use memory::MemoryStore;

use crate::model::{Revision, Update};
use crate::table::Table;

/// Keeps the table.
pub trait Store: Send {
    /// All of it.
    fn load(&mut self) -> Result<Table, StoreError>;

    /// Keeps all of these updates or none, and only if the table's revision is `expected`: then nobody else has
    /// changed it. They are durable when this returns, and go to those who watch. After an error the table may be
    /// loaded again; what was in it before is.
    fn commit(&mut self, expected: Revision, updates: &[Update]) -> Result<(), StoreError>;

    /// The updates after that revision, as anybody commits them.
    fn watch(&self, after: Revision) -> Result<Watch, Compacted>;

    /// A handle to watch by, that outlives borrowing the store.
    fn feed(&self) -> Feed;
}

/// Why the table cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Somebody else has changed it.
    #[error("the table is at revision {found}, not {expected}: another controller has changed it; ask again")]
    Conflict {
        /// What was expected.
        expected: Revision,
        /// What is there.
        found: Revision,
    },
    /// No room.
    #[error("{}: the disk is full; make room, then ask again", .0.display())]
    Full(PathBuf),
    /// Another controller has it.
    #[error("{}: another controller uses this table; stop it, or choose another --state-dir", .0.display())]
    Locked(PathBuf),
    /// It cannot be understood.
    #[error(
        "{}: the table is damaged ({how}); move the file away, and the hosts will claim their addresses again",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        how: String,
    },
    /// A later version of roam has written it.
    #[error("{}: format {found} is of a newer roam; use that one", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// What it says.
        found: u64,
    },
    /// The file.
    #[error("{}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
