//! A table that goes with the process.

use super::{Compacted, Feed, Store, StoreError, Watch};
use crate::model::{Revision, Update};
use crate::table::Table;

/// Keeps the table in memory: for tests, simulations and benchmarks.
#[derive(Debug)]
pub struct MemoryStore {
    table: Table,
    feed: Feed,
}

impl MemoryStore {
    /// With that table.
    pub fn new(table: Table) -> Self {
        let feed = Feed::new(table.revision());
        Self { table, feed }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(Table::default())
    }
}

impl Store for MemoryStore {
    fn load(&mut self) -> Result<Table, StoreError> {
        Ok(self.table.clone())
    }

    fn commit(&mut self, expected: Revision, updates: &[Update]) -> Result<(), StoreError> {
        let found = self.table.revision();
        if found != expected {
            return Err(StoreError::Conflict { expected, found });
        }
        for update in updates {
            self.table.apply(update);
        }
        self.feed.push(updates);
        Ok(())
    }

    fn watch(&self, after: Revision) -> Result<Watch, Compacted> {
        self.feed.watch(after)
    }

    fn feed(&self) -> Feed {
        self.feed.clone()
    }
}
