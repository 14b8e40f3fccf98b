//! What a host is asked about checkpoints.

use std::fs::File;
use std::io::Seek;
use std::pin::Pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use roam_snapshot::image::ImageDigest;
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;

use super::session::{Asker, Session, Word};
use super::take::{Taken, take};
use super::{keep, receive};
use crate::api::{CheckpointReport, CheckpointRequest, Direction, GuestName, GuestState, GuestView};
use crate::host::migrate::{Departure, Ended, Leave, Left, Migrator};
use crate::host::record::Record;
use crate::host::supervisor::{Supervised, Worker};
use crate::host::{Host, HostError};
use crate::sys::process::prefer_thread;

/// Bytes read from an image at once.
const PIECE_BYTES: usize = 64 * 1024;

/// An image of a guest, on its way to whoever asked for it.
pub struct Checkpoint {
    /// What it came to.
    pub report: CheckpointReport,
    /// Its bytes. If the guest does not keep running, the stream ends when that has ended or goes on; dropped before, the
    /// guest goes on.
    pub bytes: Pin<Box<dyn Stream<Item = Result<Bytes, std::io::Error>> + Send>>,
}

/// A request that a guest's task has yet to hear of.
struct Job {
    migrator: Arc<Migrator>,
    request: CheckpointRequest,
    session: Arc<Session>,
    file: File,
    answer: oneshot::Sender<Result<(CheckpointReport, File), HostError>>,
}

impl Host {
    /// Takes an image of a guest that runs. See [`CheckpointRequest`].
    pub async fn checkpoint(&self, name: &GuestName, request: CheckpointRequest) -> Result<Checkpoint, HostError> {
        request.check()?;
        let guest = self.inner.guests.find(name)?;
        self.inner.is_free(&guest)?;
        let file = receive::scratch(&self.inner.shared.layout).map_err(HostError::io("making an image's file"))?;
        let departure = Departure::new().map_err(HostError::io("making a checkpoint's bell"))?;
        let session = Session::new(departure);
        let asker = Asker(session.clone());
        let (answer, answered) = oneshot::channel();
        let job = Job { migrator: self.inner.migrator.clone(), request, session, file, answer };
        let leave: Leave = Box::new(move |record, worker| job.begin(record, worker));
        guest.depart(leave).await;
        match answered.await {
            Ok(taken) => {
                let (report, file) = taken?;
                Ok(Checkpoint { report, bytes: body(file, asker) })
            }
            // Its task had something else to do.
            Err(_dropped) => Err(self.inner.is_free(&guest).err().unwrap_or(HostError::NotRunning(name.clone()))),
        }
    }

    /// The image of a guest that was not to keep running is safe: the guest ends. How it looks then.
    pub async fn keep_checkpoint(&self, name: &GuestName, digest: &str) -> Result<GuestView, HostError> {
        let guest = self.inner.guests.find(name)?;
        let none = || HostError::NoCheckpoint { name: name.clone(), digest: digest.chars().take(64).collect() };
        let session = self.inner.shared.checkpoints.find(guest.id).ok_or_else(none)?;
        let ended = session.note_kept(digest).ok_or_else(none)?;
        match ended.await {
            Ok(true) => Ok(self.inner.guests.find(name)?.view()),
            Ok(false) | Err(_) => Err(none()),
        }
    }
}

impl crate::host::Inner {
    /// Whether a guest serves, and nobody is at it.
    pub(in crate::host) fn is_free(&self, guest: &Supervised) -> Result<(), HostError> {
        let mut view = guest.view();
        let name = view.spec.name.clone();
        self.shared.migrations.mark([&mut view]);
        // One that has just come may leave again.
        if let Some(migration) = view.migration.filter(|it| it.direction == Direction::Outgoing) {
            return Err(HostError::Migrating { name, id: migration.id });
        }
        if self.shared.checkpoints.is_under_way(guest.id) {
            return Err(HostError::Checkpointing(name));
        }
        if view.state == GuestState::Running { Ok(()) } else { Err(HostError::NotRunning(name)) }
    }
}

impl Job {
    /// On the guest's task: has a thread take the image.
    fn begin(self, record: &Record, worker: &Arc<Worker>) -> Option<(Departure, oneshot::Receiver<Ended>)> {
        let (record, worker, departure) = (record.clone(), worker.clone(), self.session.departure.clone());
        let (sender, ended) = oneshot::channel();
        let (shared, session) = (self.migrator.shared.clone(), self.session.clone());
        shared.checkpoints.begin(record.id, session.clone());
        let id = record.id;
        let run = move || {
            prefer_thread();
            self.run(&record, &worker, sender);
        };
        let began = thread::Builder::new().name("checkpoint".into()).spawn(run);
        if let Err(error) = began {
            // Who asked sees that his answer is dropped.
            tracing::error!(%error, "a checkpoint cannot begin");
            shared.checkpoints.end(id);
            session.end();
            return None;
        }
        Some((departure, ended))
    }

    fn run(self, record: &Record, worker: &Arc<Worker>, sender: oneshot::Sender<Ended>) {
        let Self { migrator, request, session, file, answer } = self;
        let lend = Lent { migrator: &migrator, record, session: &session, sender: Some(sender) };
        let taken = take(&migrator, (record, worker), &request, &session, &file);
        let taken = taken.map_err(HostError::from_take(&record.spec.name)).and_then(|taken| {
            let bytes = file.metadata().map_err(HostError::io("looking at an image"))?.len();
            (&file).rewind().map_err(HostError::io("reading an image"))?;
            let report = CheckpointReport { bytes, ..taken.report.clone() };
            Ok((report, taken))
        });
        let (report, taken) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                lend.end(Left::Stays);
                let _ = answer.send(Err(error));
                return;
            }
        };
        tracing::info!(guest = %record.spec.name, digest = report.digest, bytes = report.bytes, "an image was taken");
        if request.keep_running {
            if request.expect_more_ms > 0 {
                let lasts = Duration::from_millis(request.expect_more_ms);
                let kept = taken.into_kept(worker.pid(), lasts);
                keep(&migrator.shared, &migrator.handle, record.id, kept);
            } else {
                drop(taken);
            }
            lend.end(Left::Stays);
            let _ = answer.send(Ok((report, file)));
            return;
        }
        session.begin_to_wait(taken.image);
        if answer.send(Ok((report, file))).is_ok() {
            finish(&session, worker, taken, lend);
        } else {
            drop(taken);
            lend.end(Left::Stays);
        }
    }
}

/// A paused guest whose image is on its way: it ends when that is safe, or goes on.
fn finish(session: &Session, worker: &Worker, taken: Taken, lend: Lent<'_>) {
    match session.wait(worker) {
        Word::Kept(told) => {
            // Until it has ended: paused as long as `taken` is there.
            lend.end(Left::Kept(kept_sentence(taken.image)));
            let ended = worker.process.has_ended();
            drop(taken);
            let _ = told.send(ended);
        }
        Word::Never(why) => {
            tracing::warn!(guest = %lend.record.spec.name, why, "a guest whose image was not confirmed goes on");
            drop(taken);
            lend.end(Left::Stays);
        }
    }
}

fn kept_sentence(image: ImageDigest) -> String {
    format!("checkpointed: image {image} is kept by whoever asked for it")
}

/// A guest that its task has lent.
struct Lent<'a> {
    migrator: &'a Migrator,
    record: &'a Record,
    session: &'a Session,
    sender: Option<oneshot::Sender<Ended>>,
}

impl Lent<'_> {
    /// Gives it back; returns when its task has done what follows.
    fn end(mut self, left: Left) {
        let (done, all_done) = oneshot::channel();
        if self.sender.take().is_some_and(|sender| sender.send(Ended { left, generation: None, done }).is_ok()) {
            // It ends without a word: when the task is through, or the host goes down.
            let _ = self.migrator.handle.block_on(all_done);
        }
        self.migrator.shared.checkpoints.end(self.record.id);
        self.session.end();
    }
}

/// An image's bytes, and then nothing until it is decided what becomes of its guest.
fn body(file: File, asker: Asker) -> Pin<Box<dyn Stream<Item = Result<Bytes, std::io::Error>> + Send>> {
    let file = tokio::fs::File::from_std(file);
    let pieces = stream::try_unfold(Some((file, asker)), |state| async move {
        let Some((mut file, asker)) = state else { return Ok(None) };
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        if file.read_buf(&mut piece).await? > 0 {
            return Ok(Some((piece.freeze(), Some((file, asker)))));
        }
        asker.0.note_sent();
        asker.0.over().await;
        Ok(None)
    });
    Box::pin(pieces)
}
