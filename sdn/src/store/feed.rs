//! What has been committed, for those who follow.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::model::{Revision, Update};

/// Updates that are kept for those who come late; whoever misses more reads the table anew.
const UPDATES_KEPT: usize = 4096;

/// The last updates, and a bell. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Feed {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    ring: Mutex<Ring>,
    bell: watch::Sender<Revision>,
}

#[derive(Debug)]
struct Ring {
    /// How often the table became another one: revisions of two tables do not compare.
    epoch: u64,
    /// The revision before the first update that is kept.
    before: Revision,
    updates: VecDeque<Arc<Update>>,
}

/// The updates after that revision are no longer kept: read the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("updates after revision {0} are no longer kept; read the table, and follow from its revision")]
pub struct Compacted(pub Revision);

/// Updates in order, from a revision on.
#[derive(Debug)]
pub struct Watch {
    feed: Feed,
    epoch: u64,
    after: Revision,
    bell: watch::Receiver<Revision>,
}

impl Feed {
    /// Of a table at that revision.
    pub fn new(revision: Revision) -> Self {
        let ring = Mutex::new(Ring { epoch: 0, before: revision, updates: VecDeque::new() });
        let (bell, _) = watch::channel(revision);
        Self { inner: Arc::new(Inner { ring, bell }) }
    }

    /// What has been committed next.
    pub fn push(&self, updates: &[Update]) {
        let Some(last) = updates.last() else { return };
        {
            let mut ring = self.ring();
            ring.updates.extend(updates.iter().cloned().map(Arc::new));
            while ring.updates.len() > UPDATES_KEPT {
                ring.before = ring.updates.pop_front().map_or(ring.before, |update| update.revision);
            }
        }
        self.inner.bell.send_replace(last.revision);
    }

    /// The table is another one: who follows reads it anew, whatever its revision.
    pub fn restart(&self, revision: Revision) {
        {
            let mut ring = self.ring();
            *ring = Ring { epoch: ring.epoch + 1, before: revision, updates: VecDeque::new() };
        }
        self.inner.bell.send_replace(revision);
    }

    /// Updates after that revision.
    pub fn watch(&self, after: Revision) -> Result<Watch, Compacted> {
        let ring = self.ring();
        let last = ring.updates.back().map_or(ring.before, |update| update.revision);
        // A revision that was never reached is of another table.
        if after < ring.before || after > last {
            return Err(Compacted(after));
        }
        let bell = self.inner.bell.subscribe();
        Ok(Watch { feed: self.clone(), epoch: ring.epoch, after, bell })
    }

    fn next(&self, epoch: u64, after: Revision) -> Result<Option<Arc<Update>>, Compacted> {
        let ring = self.ring();
        if epoch != ring.epoch || after < ring.before {
            return Err(Compacted(after));
        }
        let at = ring.updates.partition_point(|update| update.revision <= after);
        Ok(ring.updates.get(at).cloned())
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.inner.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    /// The next update, when there is one. Whoever waits too long between two may find that it is no longer kept.
    pub async fn next(&mut self) -> Result<Arc<Update>, Compacted> {
        loop {
            if let Some(update) = self.feed.next(self.epoch, self.after)? {
                self.after = update.revision;
                return Ok(update);
            }
            // The feed that holds the bell is ours.
            let _ = self.bell.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(revision: u64) -> Update {
        Update { revision: Revision(revision), changes: Vec::new() }
    }

    #[tokio::test]
    async fn updates_come_in_order_whenever_one_begins() {
        let feed = Feed::new(Revision(5));
        let mut early = feed.watch(Revision(5)).unwrap();
        feed.push(&[update(6), update(7)]);
        let mut late = feed.watch(Revision(6)).unwrap();
        assert_eq!(early.next().await.unwrap().revision, Revision(6));
        assert_eq!(early.next().await.unwrap().revision, Revision(7));
        assert_eq!(late.next().await.unwrap().revision, Revision(7));
        let waiting = tokio::spawn(async move { late.next().await });
        tokio::task::yield_now().await;
        feed.push(&[update(8)]);
        assert_eq!(waiting.await.unwrap().unwrap().revision, Revision(8));
    }

    #[tokio::test]
    async fn who_is_too_late_or_of_another_table_is_told() {
        let feed = Feed::new(Revision(5));
        assert_eq!(feed.watch(Revision(4)).unwrap_err(), Compacted(Revision(4)));
        assert_eq!(feed.watch(Revision(6)).unwrap_err(), Compacted(Revision(6)));
        let mut slow = feed.watch(Revision(5)).unwrap();
        let many: Vec<_> = (6..6 + UPDATES_KEPT as u64 + 1).map(update).collect();
        feed.push(&many);
        assert_eq!(slow.next().await.unwrap_err(), Compacted(Revision(5)));
        let mut other = feed.watch(many.last().unwrap().revision).unwrap();
        feed.restart(Revision(1_000_000));
        assert!(other.next().await.is_err());
    }

    #[tokio::test]
    async fn a_table_of_a_lower_revision_is_another_one_all_the_same() {
        let feed = Feed::new(Revision(9));
        let mut watch = feed.watch(Revision(9)).unwrap();
        let waiting = tokio::spawn(async move { watch.next().await });
        tokio::task::yield_now().await;
        feed.restart(Revision(5));
        assert_eq!(waiting.await.unwrap().unwrap_err(), Compacted(Revision(9)));
        // Nor does one that has come to the same revision meanwhile go on where the other was.
        let mut watch = feed.watch(Revision(5)).unwrap();
        feed.restart(Revision(4));
        feed.push(&[update(5), update(6)]);
        assert!(watch.next().await.is_err());
    }
}
