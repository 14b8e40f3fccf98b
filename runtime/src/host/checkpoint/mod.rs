//! Images of guests in files, and guests from such images.
//!
//! ```text
//!  guest's task ── depart ──> thread: take    rounds of pages while it runs ─ pause ─ last pages, state, frames ─ image
//!                               │ session: sent, kept, gone                                                  │
//!  API ── body, or nothing ─────┘                                              armed tracker kept for the next one
//!
//!  API ── image ──> receive: checked ──> worker that waits: maps it ──> place: rest of the pages, state, frames ──> resume
//! ```
//!
//! A checkpoint excludes a migration and another checkpoint of its guest, as these exclude each other: each has the guest's
//! worker lent by its task. Guests are only *paused* for one, which ends with the hold on the worker: should this daemon
//! be ended half-way, the guest goes on by itself. Frames that wait in the TAP are copied into the image and put back at
//! once, so that they are not lost either.
//!
//! In reading order: this file (what is under way, and what is kept for images that follow), `session` (what the thread
//! and the API say to each other), `take` (the thread), `asked` (what a host is asked), `receive` and `place` (restoring).

mod asked;
mod place;
mod receive;
mod session;
mod take;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use roam_snapshot::dirty::Tracker;
use roam_snapshot::image::ImageDigest;

pub use asked::Checkpoint;
pub use place::PlaceError;
pub use receive::guest_of;
pub use take::TakeError;

use super::migrate::Memories;
use super::record::GuestId;
use super::shared::Shared;
use session::Session;

/// The checkpoints of a host.
#[derive(Default)]
pub(super) struct Checkpoints {
    underway: Mutex<HashMap<GuestId, Arc<Session>>>,
    kept: Mutex<HashMap<GuestId, Kept>>,
}

/// What it takes to make an image that follows another.
struct Kept {
    /// The worker that it is of.
    pid: u32,
    /// Armed.
    tracker: Box<dyn Tracker>,
    /// With the digest of each page as the image, with all that it follows, has it.
    memories: Memories,
    image: ImageDigest,
    sequence: u64,
    until: Instant,
}

impl Checkpoints {
    /// Whether one is under way of that guest.
    pub(super) fn is_under_way(&self, id: GuestId) -> bool {
        self.underway().contains_key(&id)
    }

    /// Tracks no longer what a guest writes, if that was done for an image to come. It is over when this returns.
    pub(super) fn forget(&self, id: GuestId) {
        // Dropped while nobody else can look: who arms next finds nothing armed.
        let mut kept = self.kept();
        drop(kept.remove(&id));
    }

    fn begin(&self, id: GuestId, session: Arc<Session>) {
        self.underway().insert(id, session);
    }

    fn end(&self, id: GuestId) {
        self.underway().remove(&id);
    }

    fn find(&self, id: GuestId) -> Option<Arc<Session>> {
        self.underway().get(&id).cloned()
    }

    /// What the image that is to be followed left, if it is of this worker.
    fn take(&self, id: GuestId, pid: u32, follows: &str) -> Option<Kept> {
        let mut all = self.kept();
        let kept = all.remove(&id)?;
        (kept.pid == pid && kept.image.to_string() == follows).then_some(kept)
    }

    fn expire(&self, id: GuestId) {
        let mut all = self.kept();
        if all.get(&id).is_some_and(|kept| kept.until <= Instant::now()) {
            drop(all.remove(&id));
        }
    }

    fn underway(&self) -> MutexGuard<'_, HashMap<GuestId, Arc<Session>>> {
        self.underway.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<GuestId, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps what the next image needs until that is taken, or nobody is expected to want it any more.
fn keep(shared: &Arc<Shared>, handle: &tokio::runtime::Handle, id: GuestId, kept: Kept) {
    let lasts = kept.until.saturating_duration_since(Instant::now());
    shared.checkpoints.kept().insert(id, kept);
    let shared = Arc::downgrade(shared);
    handle.spawn(async move {
        // A little later: then its time is over.
        tokio::time::sleep(lasts + Duration::from_millis(1)).await;
        if let Some(shared) = shared.upgrade() {
            // To disarm takes milliseconds.
            let _ = tokio::task::spawn_blocking(move || shared.checkpoints.expire(id)).await;
        }
    });
}
