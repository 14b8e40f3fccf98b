//! The migrations of a host: those under way, and those that are over.
//!
//! ```text
//!  engine ── begin ──> Entry ── update, finish ──> Migrations ──> list, find, follow; history on disk; figures
//!                        ▲                              │
//!                        └────────── cancelled ─────────┘
//! ```
//!
//! What a migration does is the engine's; here it is only known. In reading order: this file, `history` (the file of
//! those that are over), `follow` (for those who watch one), `figures` (for Prometheus), `asked` (what a host is asked).

mod asked;
mod figures;
mod follow;
mod history;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

pub use follow::MigrationViews;

use super::HostError;
use crate::ambient::now_ms;
use crate::api::{GuestName, GuestState, GuestView, MigrationReason, MigrationState, MigrationView};
use figures::Figures;
use history::History;
use roam_snapshot::protocol::Phase;

/// Migrations that are kept when they are over; the oldest goes.
const KEPT_MAX: usize = 1000;

/// All migrations of a host.
pub(super) struct Migrations {
    book: Arc<Book>,
}

struct Book {
    state: Mutex<State>,
    /// Apart: who looks at the state does not wait for the disk.
    history: Mutex<History>,
    figures: Figures,
}

struct State {
    underway: BTreeMap<String, Seat>,
    /// The oldest first, at most [`KEPT_MAX`].
    over: VecDeque<MigrationView>,
}

/// A migration under way, as others see it.
struct Seat {
    seen: watch::Receiver<MigrationView>,
    cancel: watch::Sender<bool>,
}

/// A migration under way, as its engine holds it. Dropped before it is over, it has failed; unless it is in doubt, which
/// the next daemon takes up.
pub(super) struct Entry {
    id: String,
    book: Arc<Book>,
    seen: watch::Sender<MigrationView>,
    cancel: watch::Sender<bool>,
}

impl Migrations {
    /// With those that were over before. What cannot be read of them is left out, and said.
    pub(super) fn open(path: PathBuf) -> Self {
        let (history, over) = History::open(path);
        let state = State { underway: BTreeMap::new(), over };
        let book = Book { state: Mutex::new(state), history: Mutex::new(history), figures: Figures::default() };
        Self { book: Arc::new(book) }
    }

    /// All, the newest first.
    pub(super) fn all(&self) -> Vec<MigrationView> {
        let state = self.book.state();
        let underway = state.underway.values().map(|seat| seat.seen.borrow().clone());
        let mut all: Vec<_> = underway.chain(state.over.iter().rev().cloned()).collect();
        all.sort_by_key(|view| std::cmp::Reverse(view.began_ms));
        all
    }

    /// One, under way or over.
    pub(super) fn find(&self, id: &str) -> Result<MigrationView, HostError> {
        let state = self.book.state();
        let underway = state.underway.get(id).map(|seat| seat.seen.borrow().clone());
        underway.or_else(|| state.over(id).cloned()).ok_or_else(|| HostError::NoMigration(id.to_owned()))
    }

    /// Whether that guest comes or goes.
    pub(super) fn is_under_way(&self, guest: &GuestName) -> bool {
        self.book.state().underway.values().any(|seat| seat.seen.borrow().guest == *guest)
    }

    /// One as it goes on; ends after it has been seen over.
    pub(super) fn follow(&self, id: &str) -> Result<MigrationViews, HostError> {
        let state = self.book.state();
        match state.underway.get(id) {
            Some(seat) => Ok(follow::views(seat.seen.clone())),
            None => {
                let over = state.over(id).cloned().ok_or_else(|| HostError::NoMigration(id.to_owned()))?;
                Ok(Box::pin(futures_util::stream::once(std::future::ready(over))))
            }
        }
    }

    /// Asks for its end. Whether it was heeded is seen when it is over.
    pub(super) fn cancel(&self, id: &str) -> Result<MigrationView, HostError> {
        let refused = |reason| HostError::NotCancellable { id: id.to_owned(), reason };
        let state = self.book.state();
        let Some(seat) = state.underway.get(id) else {
            let known = state.over(id).is_some();
            return Err(if known { refused("it is over") } else { HostError::NoMigration(id.to_owned()) });
        };
        let view = seat.seen.borrow().clone();
        match (view.state, view.phase) {
            (MigrationState::InDoubt, _) => Err(refused("it is being settled which of the two hosts has the guest")),
            (_, Phase::Complete) => Err(refused("the guest is at the target already")),
            _ => {
                seat.cancel.send_replace(true);
                Ok(view)
            }
        }
    }

    /// Says of guests which migration they are in: one that leaves rather than one that has just come.
    pub(super) fn mark<'a>(&self, guests: impl IntoIterator<Item = &'a mut GuestView>) {
        let state = self.book.state();
        let mut underway: Vec<_> = state.underway.values().map(|seat| seat.seen.borrow().clone()).collect();
        drop(state);
        underway.sort_by_key(|view| view.direction);
        for guest in guests {
            let found = underway.iter().find(|view| view.guest == guest.spec.name);
            guest.migration = found.map(MigrationView::brief);
            if found.is_some_and(|view| view.state == MigrationState::InDoubt) {
                guest.state = GuestState::InDoubt;
            }
        }
    }

    pub(super) fn figures(&self) -> &Figures {
        &self.book.figures
    }
}

impl Migrations {
    /// One begins. A guest that goes the same way already is refused.
    pub(super) fn begin(&self, view: MigrationView) -> Result<Entry, HostError> {
        let mut state = self.book.state();
        let same = |seat: &&Seat| {
            let there = seat.seen.borrow();
            there.guest == view.guest && there.direction == view.direction
        };
        if let Some(seat) = state.underway.values().find(same) {
            return Err(HostError::Migrating { name: view.guest.clone(), id: seat.seen.borrow().id.clone() });
        }
        let id = view.id.clone();
        let (seen, cancel) = (watch::Sender::new(view), watch::Sender::new(false));
        state.underway.insert(id.clone(), Seat { seen: seen.subscribe(), cancel: cancel.clone() });
        // One that a daemon before had taken for over is under way again.
        state.over.retain(|over| over.id != id);
        drop(state);
        Ok(Entry { id, book: self.book.clone(), seen, cancel })
    }
}

impl Entry {
    pub(super) fn view(&self) -> MigrationView {
        self.seen.borrow().clone()
    }

    /// Tells how it is now. Never waits; who follows sees it at most ten times a second.
    pub(super) fn update(&self, change: impl FnOnce(&mut MigrationView)) {
        self.seen.send_modify(change);
    }

    /// Whether somebody wants it cancelled.
    #[cfg(test)]
    pub(super) fn is_cancelled(&self) -> bool {
        *self.cancel.borrow()
    }

    /// Returns when somebody wants it cancelled (`true`), or when it is over and nobody can want that any more.
    pub(super) fn cancelled(&self) -> impl Future<Output = bool> + Send + 'static + use<> {
        let mut cancel = self.cancel.subscribe();
        async move { cancel.wait_for(|&cancelled| cancelled).await.is_ok() }
    }

    /// It is over: `change` makes it done or failed. Waits for the disk.
    pub(super) fn finish(self, change: impl FnOnce(&mut MigrationView)) {
        self.end(change);
    }
}

impl Entry {
    fn end(&self, change: impl FnOnce(&mut MigrationView)) {
        let mut view = self.seen.borrow().clone();
        change(&mut view);
        view.ended_ms.get_or_insert_with(now_ms);
        assert!(view.is_over(), "migration {} ends as {:?}", view.id, view.state);
        self.book.figures.count(&view);
        let mut state = self.book.state();
        state.underway.remove(&self.id);
        state.over.push_back(view.clone());
        let surplus = state.over.len().saturating_sub(KEPT_MAX);
        state.over.drain(..surplus);
        drop(state);
        // Who sees it over may begin another at once.
        self.seen.send_replace(view.clone());
        let mut history = self.book.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.add(&view, || self.book.state().over.iter().cloned().collect());
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let state = self.seen.borrow().state;
        match state {
            MigrationState::Done | MigrationState::Failed => {}
            MigrationState::InDoubt => drop(self.book.state().underway.remove(&self.id)),
            MigrationState::Running => self.end(|view| {
                let message = "the host went down, or failed; its log has more".to_owned();
                view.state = MigrationState::Failed;
                view.reason = Some(MigrationReason { code: "internal".to_owned(), message });
            }),
        }
    }
}

impl Book {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn over(&self, id: &str) -> Option<&MigrationView> {
        self.over.iter().rev().find(|view| view.id == id)
    }
}

#[cfg(test)]
mod tests;
