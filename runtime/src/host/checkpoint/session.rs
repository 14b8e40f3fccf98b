//! What the thread that takes a checkpoint and the API that hands it out say to each other.

use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use roam_snapshot::image::ImageDigest;
use roam_snapshot::protocol::{Reason, ReasonCode};
use tokio::sync::{oneshot, watch};

use crate::host::migrate::{Departure, wait_for};
use crate::host::supervisor::Worker;

/// How long a frozen guest waits, once its image was sent, for the word that it is safe.
const CONFIRM_LIMIT: Duration = Duration::from_secs(60);

/// A checkpoint under way.
pub(super) struct Session {
    pub(super) departure: Departure,
    slots: Mutex<Slots>,
    over: watch::Sender<bool>,
}

#[derive(Default)]
struct Slots {
    /// The image whose confirmation is waited for.
    awaited: Option<ImageDigest>,
    sent: Option<Instant>,
    kept: Option<oneshot::Sender<bool>>,
}

/// How the wait for a confirmation ended.
pub(super) enum Word {
    /// The image is safe. Whether the guest has ended with that is to be told.
    Kept(oneshot::Sender<bool>),
    /// It will not come.
    Never(String),
}

impl Session {
    pub(super) fn new(departure: Departure) -> Arc<Self> {
        Arc::new(Self { departure, slots: Mutex::default(), over: watch::Sender::new(false) })
    }

    /// At the API: all of the image is with the peer, as far as is known.
    pub(super) fn note_sent(&self) {
        self.slots().sent = Some(Instant::now());
        self.departure.ring();
    }

    /// At the API: the image is safe with the peer. Whether the guest has ended with that comes later; `None` if nobody
    /// waits for this.
    pub(super) fn note_kept(&self, digest: &str) -> Option<oneshot::Receiver<bool>> {
        let mut slots = self.slots();
        slots.awaited.filter(|awaited| awaited.to_string() == digest)?;
        slots.awaited = None;
        let (sender, receiver) = oneshot::channel();
        slots.kept = Some(sender);
        drop(slots);
        self.departure.ring();
        Some(receiver)
    }

    /// At the API: returns when the guest goes on or has ended.
    pub(super) async fn over(&self) {
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// At the thread: a confirmation of that image is waited for from now on.
    pub(super) fn begin_to_wait(&self, image: ImageDigest) {
        self.slots().awaited = Some(image);
    }

    /// At the thread: waits for it.
    pub(super) fn wait(&self, worker: &Worker) -> Word {
        loop {
            if let Some(reason) = self.departure.take_cancel() {
                return self.never(reason.message);
            }
            if let Some(kept) = self.slots().kept.take() {
                return Word::Kept(kept);
            }
            if worker.process.has_ended() {
                return self.never("the guest's worker has ended".to_owned());
            }
            let sent = self.slots().sent;
            let left = sent.map(|sent| CONFIRM_LIMIT.saturating_sub(sent.elapsed()));
            if left.is_some_and(|left| left.is_zero()) {
                return self.never(format!("nobody has confirmed the image within {} s", CONFIRM_LIMIT.as_secs()));
            }
            let fd = |file| PollFd::new(file, PollFlags::POLLIN);
            wait_for([fd(self.departure.bell()), fd(worker.process.bell().as_fd())], left);
        }
    }

    fn never(&self, why: String) -> Word {
        let mut slots = self.slots();
        slots.awaited = None;
        // Confirmed in the same moment: he is told that it came too late.
        slots.kept.take().into_iter().for_each(|kept| _ = kept.send(false));
        Word::Never(why)
    }

    /// At the thread: it is over.
    pub(super) fn end(&self) {
        self.over.send_replace(true);
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who asked for a checkpoint, or its answer on the way to him. When that goes, nobody wants it any more.
pub(super) struct Asker(pub(super) Arc<Session>);

impl Drop for Asker {
    fn drop(&mut self) {
        let why = "whoever asked for the checkpoint has gone".to_owned();
        self.0.departure.cancel(Reason::new(ReasonCode::Cancelled, why));
    }
}
