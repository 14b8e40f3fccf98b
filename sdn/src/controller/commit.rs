//! Makes decisions durable, in order and several at once, and answers.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Weak};

use tokio::sync::oneshot;

use super::{ControllerError, Inner};
use crate::model::Update;
use crate::sentence::in_full;
use crate::store::{Store, StoreError};
use crate::table::Touched;

/// Decisions that are committed together.
const JOBS_AT_ONCE: usize = 256;

/// A decision that waits for the disk.
pub(super) struct Job {
    /// What it changes; nothing if it was so already, and then the answer waits for what came before.
    pub(super) update: Option<Update>,
    /// What the plane has not followed yet.
    pub(super) touched: Option<Touched>,
    /// Told when it is on disk: why the plane does not follow, if it was to follow only then.
    pub(super) answer: oneshot::Sender<Result<Option<String>, ControllerError>>,
}

/// Where jobs go. Pushed to with the live table locked, so that they come in the order of their revisions.
pub(super) struct Queue(Sender<Job>);

impl Queue {
    /// A job that nobody takes any more is dropped, which its asker notices.
    pub(super) fn push(&self, job: Job) {
        let _ = self.0.send(job);
    }
}

pub(super) fn queue() -> (Queue, Receiver<Job>) {
    let (sender, receiver) = channel();
    (Queue(sender), receiver)
}

/// Until the controller is gone, and all that it decided is on disk.
pub(super) fn run(weak: &Weak<Inner>, mut store: Box<dyn Store>, jobs: &Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let mut batch = vec![first];
        batch.extend(jobs.try_iter().take(JOBS_AT_ONCE - 1));
        let Some(inner) = weak.upgrade() else { return };
        let updates: Vec<Update> = batch.iter().filter_map(|job| job.update.clone()).collect();
        let expected = inner.committed().revision();
        let committed = if updates.is_empty() { Ok(()) } else { store.commit(expected, &updates) };
        match committed {
            Ok(()) => succeed(&inner, &updates, batch),
            Err(error) => fail(&inner, error, &mut *store, batch, jobs),
        }
    }
}

fn succeed(inner: &Inner, updates: &[Update], batch: Vec<Job>) {
    {
        let mut committed = inner.committed();
        for update in updates {
            committed.apply(update);
        }
    }
    let behind: Vec<_> = batch.iter().filter_map(|job| job.touched.as_ref()).collect();
    let mut trouble = None;
    if !updates.is_empty() || !behind.is_empty() {
        let mut live = inner.live();
        if live.store_trouble.take().is_some() {
            tracing::info!("changes can be kept on disk again");
        }
        for touched in behind {
            let followed = inner.keeper.as_ref().map(|keeper| keeper.follow(&live.table, touched));
            trouble = followed.and_then(Result::err).map(|error| in_full(&error)).or(trouble);
        }
    }
    for job in batch {
        let late = job.touched.is_some().then(|| trouble.clone()).flatten();
        let _ = job.answer.send(Ok(late));
    }
}

/// Nothing of what waits has happened: table and plane are again as on disk. Some of it may have been answered early, and
/// is forgotten now; therefore the incarnation is another one from the moment on at which it is.
fn fail(inner: &Inner, error: StoreError, store: &mut dyn Store, batch: Vec<Job>, jobs: &Receiver<Job>) {
    let text = in_full(&error);
    tracing::error!(error = text, "changes are taken back: they cannot be kept on disk");
    // Whatever it says, what was to be committed may be on disk; and after a conflict somebody else's is.
    match store.load() {
        Ok(table) if table != *inner.committed() => {
            inner.feed.restart(table.revision());
            *inner.committed() = table;
        }
        Ok(_) => {}
        Err(error) => tracing::error!(error = in_full(&error), "the table cannot be read"),
    }
    let waiting: Vec<Job> = {
        let mut live = inner.live();
        live.table = inner.committed().clone();
        live.incarnation = super::incarnation();
        live.store_trouble = Some(text);
        if let Some(keeper) = &inner.keeper {
            // What is wrong with the plane is in its status.
            let _ = keeper.follow_all(&live.table);
        }
        batch.into_iter().chain(jobs.try_iter()).collect()
    };
    let error = Arc::new(error);
    for job in waiting {
        let _ = job.answer.send(Err(ControllerError::NotKept(error.clone())));
    }
}
