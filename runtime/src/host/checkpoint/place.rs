//! Putting an image into a worker, from which it goes on.

use std::collections::BinaryHeap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use roam_snapshot::image::{Content, Image, ImageError, ImageRange};
use roam_snapshot::page::{PAGE_BYTES, PageIndex, PageRange};

use super::receive;
use crate::ambient::{now_ms, random};
use crate::api::{GuestView, RestoreRequest};
use crate::guest::ImageRun;
use crate::host::error::in_full;
use crate::host::guests::Reservation;
use crate::host::migrate::{Grip, MemoryError, Migrator, hold_at};
use crate::host::record::{Record, Standing};
use crate::host::supervisor::{Begin, Supervised, Worker, network_config};
use crate::host::{Host, HostError, Inner, ModuleBytes};
use crate::worker::{HoldError, ImageMap, Renewal};

/// What is shorter is written rather than mapped, pages: each mapping costs the kernel something for as long as it lasts.
const RUN_PAGES_MIN: u32 = 16;
/// Pages that are written at once.
const WRITE_PAGES: u32 = 64;

/// Why an image was not put into a worker, of which nothing is left.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The worker did not come up, or cannot be held.
    #[error("{0}")]
    Worker(String),
    /// It does not do what it is told.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// Its memory cannot be written.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The image cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Something else that it takes cannot be had.
    #[error("what it takes to restore a guest cannot be had")]
    Io(#[from] io::Error),
}

impl Host {
    /// Makes a guest of an image. Returns when it serves. One that cannot be leaves nothing behind.
    pub async fn restore(&self, request: RestoreRequest, bytes: ModuleBytes) -> Result<GuestView, HostError> {
        let image = receive::receive(&self.inner.shared, bytes).await?;
        let inner = self.inner.clone();
        // A task of its own: who asked may go away, and then it is finished all the same.
        let restored = tokio::spawn(async move { inner.restore(image, &request).await });
        restored.await.unwrap_or(Err(HostError::Closing))
    }
}

impl Inner {
    async fn restore(&self, image: Image<File>, request: &RestoreRequest) -> Result<GuestView, HostError> {
        let shared = &self.shared;
        let spec = receive::wanted(shared, &image, request)?;
        self.migrator.has_room(image.meta().shape.pages() * PAGE_BYTES as u64)?;
        let reservation = self.guests.reserve_arriving(shared, spec)?;
        // As one that comes: a daemon that finds it so ends it, unless it serves.
        let record = self.claimed(&reservation.record).await?;
        let (migrator, placed) = (self.migrator.clone(), record.clone());
        let placing = tokio::task::spawn_blocking(move || place(&migrator, &placed, image));
        let worker = match placing.await {
            Ok(Ok(worker)) => worker,
            failed => {
                if let Some(overlay) = &shared.overlay {
                    overlay.release(&record).await;
                }
                let name = record.spec.name.clone();
                return Err(match failed {
                    Ok(Err(source)) => HostError::from_place(name, source),
                    _ => HostError::Closing,
                });
            }
        };
        Ok(self.settle_restored(record, worker, reservation).await)
    }

    /// The guest serves: it is supervised and on record.
    async fn settle_restored(&self, record: Record, worker: Arc<Worker>, place: Reservation) -> GuestView {
        let record = record.changed(|record| record.standing = Standing::Run);
        let name = record.spec.name.clone();
        if let Err(error) = self.shared.put(&record).await {
            tracing::error!(guest = %name, error = in_full(&error), "a restored guest is not on record as serving");
        }
        tracing::info!(guest = %name, pid = worker.pid(), "restored");
        let guest = Supervised::begin(self.shared.clone(), record, Begin::Serving(worker));
        let view = guest.view();
        self.guests.insert(name, guest.clone());
        drop(place);
        // Its owner may have changed before it could be told.
        guest.check_owner();
        view
    }
}

/// Starts a worker for the guest, which goes on there. Blocks.
fn place(migrator: &Migrator, record: &Record, mut image: Image<File>) -> Result<Arc<Worker>, PlaceError> {
    let (map, rest) = plan(&image);
    let file: OwnedFd = image.reader().as_fd().try_clone_to_owned()?;
    let started = migrator.start_waiting(record, Some((&map, file.as_fd())));
    let (worker, hold, layout) = started.map_err(|reason| PlaceError::Worker(reason.message))?;
    let begun = migrator.grip(hold, layout, record, &worker).map_err(PlaceError::from);
    let placed = begun.and_then(|mut grip| fill(migrator, record, &mut image, &rest, &mut grip));
    match placed {
        Ok(()) => Ok(worker),
        Err(error) => {
            migrator.discard(record, &worker);
            Err(error)
        }
    }
}

/// What is mapped, and what is to be written.
fn plan(image: &Image<File>) -> (ImageMap, Vec<ImageRange>) {
    let sizes = image.meta().shape.0.iter().map(|pages| u64::from(*pages) * PAGE_BYTES as u64).collect();
    let ranges = image.ranges();
    // The longest, if there are too many.
    let long = |it: &&ImageRange| it.content.offset().is_some() && it.range.count >= RUN_PAGES_MIN;
    let mut counts: BinaryHeap<u32> = ranges.iter().filter(long).map(|it| it.range.count).collect();
    let mut count_min = RUN_PAGES_MIN;
    if counts.len() > ImageMap::RUNS_MAX {
        for _ in 0..ImageMap::RUNS_MAX {
            counts.pop();
        }
        // Longer than the longest that is left out.
        count_min = counts.pop().map_or(count_min, |count| count + 1);
    }
    let (mapped, rest): (Vec<&ImageRange>, Vec<&ImageRange>) =
        ranges.iter().partition(|it| long(it) && it.range.count >= count_min);
    let run = |it: &ImageRange| {
        let (offset, bytes) = (it.range.offset(), it.range.bytes());
        Some(ImageRun { memory: it.range.memory.0, offset, place: it.content.offset()?, bytes })
    };
    let runs = mapped.into_iter().filter_map(run).collect();
    (ImageMap { sizes, runs }, rest.into_iter().copied().collect())
}

/// Everything that is not mapped, and the first poll.
fn fill(
    migrator: &Migrator,
    record: &Record,
    image: &mut Image<File>,
    rest: &[ImageRange],
    grip: &mut Grip,
) -> Result<(), PlaceError> {
    hold_at("restore", "Write");
    write(image, rest, grip)?;
    let network = network_config(&record.spec, &record.network);
    let moved = is_elsewhere(image, record);
    let renewal = Renewal { seed: random()?, network: moved.then_some(network) };
    if !moved {
        for frame in image.frames() {
            // One the device has no room for is lost as on any network.
            grip.frames.give(frame)?;
        }
    }
    // Outlives this daemon, which may end before it knows how this went.
    migrator.will_come(record.id)?.set(1)?;
    hold_at("restore", "Resume");
    let stopped_ms = now_ms().saturating_sub(image.meta().created_ms);
    let state = image.meta().state.clone();
    grip.hold.resume(state, stopped_ms.saturating_mul(1_000_000), Some(renewal))?;
    Ok(())
}

/// Zero pages where a fresh instance may have others, and pages that are too few to be mapped.
fn write(image: &mut Image<File>, rest: &[ImageRange], grip: &mut Grip) -> Result<(), PlaceError> {
    grip.memories.digest.grow(&grip.memories.shape());
    let mut bytes = vec![0; WRITE_PAGES as usize * PAGE_BYTES];
    for it in rest {
        let initial = grip.layout.memories.get(usize::from(it.range.memory.0)).map_or(0, |it| it.initial_bytes);
        let end = match it.content {
            Content::Zero => it.range.end().min(initial / PAGE_BYTES as u64),
            Content::At(_) => it.range.end(),
        };
        let mut first = u64::from(it.range.first.0);
        while first < end {
            // Fits: it is less than the end of a range.
            let count = u32::try_from(end - first).map_or(WRITE_PAGES, |count| count.min(WRITE_PAGES));
            let range = PageRange { first: PageIndex(first as u32), count, ..it.range };
            let bytes = &mut bytes[..range.bytes() as usize];
            image.read_pages(range, bytes)?;
            grip.memories.write(&[range], bytes)?;
            first += u64::from(count);
        }
    }
    Ok(())
}

/// Whether the guest's place in the network is another one than the image's.
fn is_elsewhere(image: &Image<File>, record: &Record) -> bool {
    let network = &record.network;
    receive::guest_of(image.meta()).is_ok_and(|spec| {
        (spec.ip, spec.ip6, spec.mac) != (network.ip, network.ip6, Some(network.mac))
            || (spec.gateway, spec.gateway6) != (network.gateway, network.gateway6)
    })
}
