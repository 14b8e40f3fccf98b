//! Taking a checkpoint: most pages while the guest runs, the last ones while it is paused.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use roam_snapshot::dirty::{TrackError, Tracker};
use roam_snapshot::image::{ImageDigest, ImageError, ImageWriter, Meta};
use roam_snapshot::page::{MemoryIndex, PAGE_BYTES, PageIndex, PageRange, PageSet};
use roam_snapshot::protocol::wire::{BATCH_PAGES_MAX, BATCH_RANGES_MAX};
use roam_snapshot::sys::pidfd;

use super::Kept;
use super::session::Session;
use crate::ambient::{monotonic_ns, now_ms};
use crate::api::{CheckpointReport, CheckpointRequest};
use crate::host::migrate::{Grip, GuestOffer, MemoryError, Migrator, hold_at};
use crate::host::record::Record;
use crate::host::supervisor::Worker;
use crate::worker::{Frozen, HoldError};

/// Most rounds while the guest runs.
const ROUNDS_MAX: u32 = 3;
/// With so few pages left the guest is paused.
const PAGES_LEFT_MAX: u64 = 256;
/// What is read of a paused guest and written when it goes on; more is written at once. Bytes.
const HELD_BYTES_MAX: usize = 64 << 20;

/// Why there is no image. The guest goes on.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The worker cannot be held.
    #[error("{0}")]
    NotHeld(String),
    /// It does not do what it is told.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// Its memory cannot be read.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// What it writes cannot be tracked.
    #[error(transparent)]
    Track(#[from] TrackError),
    /// The image cannot be written.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A descriptor or a frame cannot be had.
    #[error("the guest's frames, or its userfaultfd, cannot be had")]
    Io(#[from] io::Error),
    /// Somebody wants something else.
    #[error("{0}")]
    Cancelled(String),
}

/// An image that is whole, and what is left of taking it.
pub(super) struct Taken {
    pub(super) report: CheckpointReport,
    pub(super) image: ImageDigest,
    /// The guest is paused for as long as this is there, unless it goes on already.
    pub(super) grip: Grip,
    tracker: Box<dyn Tracker>,
}

impl Taken {
    /// What an image that follows needs.
    pub(super) fn into_kept(self, pid: u32, lasts: Duration) -> Kept {
        let (image, sequence, until) = (self.image, self.report.sequence, Instant::now() + lasts);
        Kept { pid, tracker: self.tracker, memories: self.grip.memories, image, sequence, until }
    }
}

/// A checkpoint being taken.
struct Taking<'a> {
    record: &'a Record,
    session: &'a Session,
    grip: Grip,
    tracker: Box<dyn Tracker>,
    writer: ImageWriter<&'a File>,
    /// The image that this one follows.
    parent: Option<ImageDigest>,
    sequence: u64,
    /// What is to be read.
    dirty: PageSet,
    began: Instant,
    read: PageSet,
}

/// Pages that were read of a paused guest and are still to be written.
#[derive(Default)]
struct Held {
    runs: Vec<PageRange>,
    bytes: Vec<u8>,
}

/// Takes an image of a guest that serves into an empty file. If it is to keep running it does when this returns.
pub(super) fn take(
    migrator: &Migrator,
    (record, worker): (&Record, &Arc<Worker>),
    request: &CheckpointRequest,
    session: &Session,
    file: &File,
) -> Result<Taken, TakeError> {
    let began = Instant::now();
    let follows = request.follows.as_deref();
    let kept = follows.and_then(|digest| migrator.shared.checkpoints.take(record.id, worker.pid(), digest));
    let grip = migrator.take_hold(record, worker).map_err(|reason| TakeError::NotHeld(reason.message))?;
    let writer = ImageWriter::begin(file)?;
    let read = PageSet::default();
    let taking = match kept.and_then(Kept::collected) {
        Some((kept, dirty)) => {
            let grip = Grip { memories: kept.memories, ..grip };
            let (parent, sequence) = (Some(kept.image), kept.sequence + 1);
            Taking { record, session, grip, tracker: kept.tracker, writer, parent, sequence, dirty, began, read }
        }
        None => {
            let mut dirty = grip.memories.unseen().clone();
            // As the modules give them: then no image rests on what a fresh instance has.
            for (memory, it) in (0..).map(MemoryIndex).zip(&grip.layout.memories) {
                let count = u32::try_from(it.initial_bytes.min(it.bytes) / PAGE_BYTES as u64).unwrap_or(u32::MAX);
                dirty.insert(PageRange { memory, first: PageIndex(0), count });
            }
            let tracker = arm(record, worker, &grip)?;
            let (parent, sequence) = (None, request.sequence);
            Taking { record, session, grip, tracker, writer, parent, sequence, dirty, began, read }
        }
    };
    taking.run(request.keep_running)
}

impl Kept {
    /// With what was written since the image; `None` if that cannot be found out any more.
    fn collected(mut self) -> Option<(Self, PageSet)> {
        let mut dirty = PageSet::default();
        match self.tracker.collect(&self.memories.digest, &mut dirty) {
            Ok(()) => Some((self, dirty)),
            Err(error) => {
                tracing::info!(%error, "an image has everything, for it is not known what changed");
                None
            }
        }
    }
}

fn arm(record: &Record, worker: &Worker, grip: &Grip) -> Result<Box<dyn Tracker>, TakeError> {
    let userfault = grip.layout.userfault.map(|number| pidfd::getfd(worker.process.bell(), number));
    let choice = grip.memories.tracker(userfault.transpose()?);
    if choice.untracked.is_some() {
        tracing::warn!(guest = %record.spec.name, "{choice}");
    }
    let mut tracker = choice.tracker;
    tracker.arm(&grip.memories.regions)?;
    Ok(tracker)
}

impl Taking<'_> {
    fn run(mut self, keep_running: bool) -> Result<Taken, TakeError> {
        self.grip.memories.digest.grow(&self.grip.memories.shape());
        let rounds = self.rounds()?;
        let frozen = self.grip.hold.pause()?;
        let created_ms = now_ms().saturating_sub(monotonic_ns().saturating_sub(frozen.at_ns) / 1_000_000);
        let (held, pages_last) = self.last(&frozen)?;
        let frames = self.frames()?;
        hold_at("checkpoint", "Thaw");
        let mut blackout_us = None;
        if keep_running {
            self.grip.hold.thaw()?;
            blackout_us = Some(monotonic_ns().saturating_sub(frozen.at_ns) / 1000);
        }
        self.write(&held)?;
        let meta = Meta {
            guest: GuestOffer::of(self.record).encode(),
            module: self.record.spec.module.0,
            netstack: crate::engine::ModuleHash::of(crate::modules::NETSTACK).0,
            abi: roam_abi::VERSION,
            shape: self.grip.memories.shape(),
            created_ms,
            sequence: self.sequence,
            parent: self.parent,
            stands_for: None,
            state: frozen.state,
        };
        let image = self.writer.finish(&meta, &frames)?;
        let report = CheckpointReport {
            digest: image.to_string(),
            parent: self.parent.map(|parent| parent.to_string()),
            sequence: self.sequence,
            created_ms,
            // The caller knows the file.
            bytes: 0,
            pages: self.read.count(),
            pages_last,
            frames: frames.len() as u64,
            rounds,
            blackout_us,
            total_us: u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX),
        };
        Ok(Taken { report, image, grip: self.grip, tracker: self.tracker })
    }

    /// While the guest runs; how many.
    fn rounds(&mut self) -> Result<u32, TakeError> {
        for round in 1.. {
            let layout = self.grip.hold.layout()?;
            let sizes: Vec<u64> = layout.memories.iter().map(|memory| memory.bytes).collect();
            self.grow(&sizes)?;
            self.tracker.collect(&self.grip.memories.digest, &mut self.dirty)?;
            let dirty = std::mem::take(&mut self.dirty);
            hold_at("checkpoint", "Round");
            self.copy(&dirty, None)?;
            let mut left = PageSet::default();
            self.tracker.look(&self.grip.memories.digest, &mut left)?;
            if round == ROUNDS_MAX || left.count() <= PAGES_LEFT_MAX {
                return Ok(round);
            }
        }
        unreachable!("there are no more rounds than {ROUNDS_MAX}")
    }

    fn grow(&mut self, sizes: &[u64]) -> Result<(), TakeError> {
        let memories = &mut self.grip.memories;
        memories.resize(sizes);
        for region in &memories.regions {
            self.tracker.resize(region.memory, region.bytes)?;
        }
        Ok(())
    }

    /// What is left, of the paused guest: what is still to be written of that, and how many pages were read.
    fn last(&mut self, frozen: &Frozen) -> Result<(Held, u64), TakeError> {
        self.grow(&frozen.memory_bytes)?;
        let mut pages = PageSet::default();
        self.tracker.look(&self.grip.memories.digest, &mut pages)?;
        let mut held = Held::default();
        self.copy(&pages, Some(&mut held))?;
        Ok((held, pages.count()))
    }

    /// Copies those of these pages that the image has otherwise, or has not and should.
    fn copy(&mut self, pages: &PageSet, mut held: Option<&mut Held>) -> Result<(), TakeError> {
        self.read.union(pages);
        let mut ranges = pages.ranges(BATCH_PAGES_MAX).peekable();
        while ranges.peek().is_some() {
            if let Some(reason) = self.session.departure.take_cancel() {
                return Err(TakeError::Cancelled(reason.message));
            }
            let (mut batch, mut count) = (Vec::new(), 0);
            while let Some(range) = ranges.next_if(|range| count + range.count <= BATCH_PAGES_MAX) {
                batch.push(range);
                count += range.count;
                if batch.len() == BATCH_RANGES_MAX {
                    break;
                }
            }
            let mut bytes = vec![0; count as usize * PAGE_BYTES];
            self.grip.memories.read(&batch, &mut bytes)?;
            let mut rest = bytes.as_slice();
            for range in batch {
                let (these, others) = rest.split_at(range.bytes() as usize);
                for run in self.news(range, these) {
                    let skip = (run.first.0 - range.first.0) as usize * PAGE_BYTES;
                    let bytes = &these[skip..skip + run.bytes() as usize];
                    match &mut held {
                        Some(held) if held.bytes.len() + bytes.len() <= HELD_BYTES_MAX => {
                            held.runs.push(run);
                            held.bytes.extend_from_slice(bytes);
                        }
                        _ => self.writer.write_pages(run, bytes)?,
                    }
                }
                rest = others;
            }
        }
        Ok(())
    }

    /// Of pages that hold these bytes now, those to be written.
    fn news(&mut self, range: PageRange, bytes: &[u8]) -> Vec<PageRange> {
        let (memory, first) = (range.memory, range.first.0);
        let mut news = vec![false; range.count as usize];
        self.grip.memories.digest.set_range(range, bytes, |page| news[(page.0 - first) as usize] = true);
        let mut runs: Vec<PageRange> = Vec::new();
        for (page, changed) in (first..).zip(news) {
            // One with everything says of zero pages, too, that they are.
            let lacks = self.parent.is_none() && !self.writer.contains(memory, PageIndex(page));
            match runs.last_mut() {
                _ if !changed && !lacks => {}
                Some(last) if last.end() == u64::from(page) => last.count += 1,
                _ => runs.push(PageRange { memory, first: PageIndex(page), count: 1 }),
            }
        }
        runs
    }

    fn write(&mut self, held: &Held) -> Result<(), TakeError> {
        let mut rest = held.bytes.as_slice();
        for run in &held.runs {
            let (these, others) = rest.split_at(run.bytes() as usize);
            self.writer.write_pages(*run, these)?;
            rest = others;
        }
        Ok(())
    }

    /// Those that wait for the guest. They are put back, for whoever gets to take them.
    fn frames(&mut self) -> Result<Vec<Vec<u8>>, TakeError> {
        let mut frames = Vec::new();
        while let Some(frame) = self.grip.frames.take()? {
            frames.push(frame.to_vec());
        }
        for frame in &frames {
            self.grip.frames.give(frame)?;
        }
        Ok(frames)
    }
}
