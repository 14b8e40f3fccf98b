//! The source's hands: does what [`Source`] decides, and tells it what happened.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use roam_snapshot::dirty::{DirtyLog, Tracker};
use roam_snapshot::page::{PAGE_BYTES, PageRange, PageSet};
use roam_snapshot::protocol::source::{Outcome, Source, SourceCommand, SourceEvent};
use roam_snapshot::protocol::wire::{self, BATCH_PAGES_MAX, BATCH_RANGES_MAX, PagesHeader};
use roam_snapshot::protocol::{CHUNK_BYTES_MAX, Encoding, Message, Reason, ReasonCode, Timings, Token};
use roam_snapshot::sys::pidfd;

use super::channel::{Channel, ChannelError, Come};
use super::fault::{Fault, wait_for};
use super::frames::Frames;
use super::handover::{Handover, Said};
use super::log::LogTail;
use super::mark::Mark;
use super::memory::Memories;
use super::{Departure, Migrator, hold, reason, settle};
use crate::ambient::monotonic_ns;
use crate::api::MigrationReport;
use crate::host::migrations::Entry;
use crate::host::record::Record;
use crate::host::supervisor::Worker;
use crate::sys::process::hurry_thread;
use crate::worker::{Frozen, Hold, WorkerLayout};

/// How long frames are still waited for once the route leads to the target, and how long at most.
const LINGER_QUIET: Duration = Duration::from_millis(30);
const LINGER_MAX: Duration = Duration::from_millis(500);
/// A round of so few pages is over in moments, and what is written meanwhile is sent in the blackout: it is hurried.
pub(super) const HURRIED_PAGES_MAX: u64 = 2048;
/// Most frames that are kept either way for a guest that comes back; far more than come in a blackout.
const KEPT_FRAMES_MAX: usize = 8192;
/// What is put together in the blackout before it is sent, bytes.
const FLUSH_BYTES: u64 = 128 << 10;
/// Below this a link is slow enough for compression to pay, bytes a second.
const FAST_LINK_BYTES_PER_S: u64 = 1_000_000_000;

/// A guest that leaves.
pub(super) struct Leaving {
    pub(super) migrator: Arc<Migrator>,
    pub(super) record: Record,
    pub(super) worker: Arc<Worker>,
    pub(super) machine: Source,
    pub(super) handover: Handover,
    pub(super) bandwidth_bytes_per_s: Option<u64>,
    pub(super) entry: Entry,
    pub(super) departure: Departure,
    pub(super) began: Instant,
    pub(super) hold: Hold,
    pub(super) layout: WorkerLayout,
    pub(super) memories: Memories,
    pub(super) frames: Frames,
    pub(super) log: LogTail,
    pub(super) tracker: Option<Box<dyn Tracker>>,
    pub(super) dirty: DirtyLog,
    pub(super) channel: Option<Channel>,
    pub(super) events: VecDeque<SourceEvent>,
    pub(super) frozen: Option<Frozen>,
    /// Taken from the TAP while the guest was frozen, and not known to be at the target.
    pub(super) carried: Vec<Vec<u8>>,
    /// What the target may have read, and where that is noted.
    pub(super) said: Said,
    pub(super) mark: Option<Mark>,
    /// Came back from the target.
    pub(super) returned: Vec<Vec<u8>>,
    pub(super) forwards: bool,
    pub(super) report: MigrationReport,
    pub(super) times: Times,
    /// Why the connection was lost.
    pub(super) lost: Option<String>,
}

/// Moments of the blackout, nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    asked_ns: u64,
    frozen_ns: u64,
    scanned_ns: u64,
    sent_ns: u64,
}

impl Leaving {
    /// Until it is over: how, what it came to, and what the target may have read.
    pub(super) fn run(mut self) -> (Outcome, MigrationReport, Entry, Said) {
        loop {
            while let Some(event) = self.events.pop_front() {
                let commands = self.machine.on(event, self.now_us());
                self.show();
                for command in commands {
                    tracing::trace!(guest = %self.record.spec.name, ?command, "source");
                    if let SourceCommand::Finish(outcome) = command {
                        return (self.told(outcome), self.report, self.entry, self.said);
                    }
                    if let Err(fault) = self.obey(command) {
                        self.note(fault);
                    }
                }
            }
            self.wait();
        }
    }

    fn obey(&mut self, command: SourceCommand) -> Result<(), Fault> {
        hold::command("source", &command);
        match command {
            SourceCommand::Send(Message::Bye) => {
                self.linger();
                self.channel()?.say(&Message::Bye)?;
            }
            // What is cancelled by now is not to cost the guest anything: its stop will be refused.
            SourceCommand::Send(Message::Claim) if self.departure.is_cancelled() => {}
            SourceCommand::Send(message @ Message::Claim) => {
                self.note_said(Said::Claim)?;
                self.channel()?.say(&message)?;
            }
            SourceCommand::Send(message) => self.channel()?.say(&message)?,
            SourceCommand::SendModule => self.send_module()?,
            SourceCommand::Arm => self.arm()?,
            SourceCommand::Count => self.count()?,
            SourceCommand::SendRound(number) => self.send_round(number)?,
            SourceCommand::Commit => self.dirty.commit(),
            SourceCommand::RollBack => self.dirty.roll_back(),
            SourceCommand::Throttle(percent) => self.hold.throttle(percent)?,
            SourceCommand::Record => {
                self.mark = Some(self.migrator.record_handover(&self.record, &self.handover)?);
                self.events.push_back(SourceEvent::Recorded);
            }
            SourceCommand::Freeze => {
                hurry_thread(true);
                self.freeze()?;
            }
            SourceCommand::SendLast => self.send_last().map_err(|fault| self.before_token(fault))?,
            SourceCommand::Thaw => self.thaw()?,
            SourceCommand::Forward => self.forwards = true,
            SourceCommand::Ask => {
                hurry_thread(false);
                let standing = settle::ask(&self.migrator.shared, &self.handover);
                self.events.push_back(SourceEvent::Answered(standing));
            }
            SourceCommand::Reclaim { never } => {
                let reclaimed = self.migrator.reclaim(&self.record, &self.handover, never);
                self.events.push_back(SourceEvent::Reclaimed(reclaimed));
            }
            // Its task ends the worker when it hears how this ended.
            SourceCommand::LetGo => {}
            SourceCommand::Close => self.channel = None,
            SourceCommand::Finish(_) => {}
        }
        Ok(())
    }

    /// A connection that was lost before the token was written leaves no doubt.
    fn before_token(&mut self, fault: Fault) -> Fault {
        match fault {
            Fault::Link(error) if self.said < Said::Token => {
                self.channel = None;
                Fault::Here(reason(ReasonCode::Link, &error))
            }
            fault => fault,
        }
    }

    /// With what is known of a lost connection.
    fn told(&self, outcome: Outcome) -> Outcome {
        match (outcome, &self.lost) {
            (Outcome::Stayed(why), Some(lost)) if why.code == ReasonCode::Link => {
                Outcome::Stayed(Reason::new(ReasonCode::Link, format!("{}: {lost}", why.message)))
            }
            (outcome, _) => outcome,
        }
    }

    /// Leaves word of what is about to be said.
    fn note_said(&mut self, said: Said) -> Result<(), Fault> {
        if let Some(mark) = &self.mark {
            said.note(mark)?;
        }
        self.said = said;
        Ok(())
    }

    fn note(&mut self, fault: Fault) {
        match fault {
            Fault::Link(error) => {
                self.lost = Some(crate::sentence::sentence(&error));
                self.channel = None;
                self.events.push_back(SourceEvent::Lost);
            }
            Fault::Here(reason) => self.events.push_back(SourceEvent::Failed(reason)),
            Fault::Interrupted => {}
        }
    }

    fn channel(&mut self) -> Result<&mut Channel, ChannelError> {
        self.channel.as_mut().ok_or(ChannelError::Closed)
    }

    /// Waits for whatever comes first.
    fn wait(&mut self) {
        let now_us = self.now_us();
        let timeout = self.machine.deadline_us().map(|at| Duration::from_micros(at.saturating_sub(now_us)));
        self.look(timeout);
        if self.events.is_empty() && self.machine.deadline_us().is_some_and(|at| at <= self.now_us()) {
            self.events.push_back(SourceEvent::Tick);
        }
    }

    /// Takes in what has happened; waits for that at most so long, for ever if `None`.
    fn look(&mut self, timeout: Option<Duration>) {
        let ready = self.channel.as_ref().is_some_and(Channel::has_come);
        let timeout = if ready { Some(Duration::ZERO) } else { timeout };
        let [cancel, ended, tap, channel] = self.ready(timeout);
        if cancel && let Some(reason) = self.departure.take_cancel() {
            self.events.push_back(SourceEvent::Cancel(reason));
        }
        if ended && self.departure.note_ended() {
            self.events.push_back(SourceEvent::WorkerEnded);
        }
        if (channel || ready)
            && let Err(error) = self.hear()
        {
            self.note(Fault::Link(error));
        }
        if tap && let Err(fault) = self.forward() {
            self.note(fault);
        }
    }

    fn ready(&self, timeout: Option<Duration>) -> [bool; 4] {
        let none = PollFlags::empty();
        let wanted = |wanted: bool| if wanted { PollFlags::POLLIN } else { none };
        let bell = self.departure.bell();
        let ended = self.worker.process.bell();
        let channel = self.channel.as_ref().map_or(bell, AsFd::as_fd);
        let fds = [
            PollFd::new(bell, PollFlags::POLLIN),
            PollFd::new(ended, wanted(!self.departure.has_ended())),
            PollFd::new(self.frames.bell(), wanted(self.forwards && self.takes_frames())),
            PollFd::new(channel, wanted(self.channel.is_some())),
        ];
        wait_for(fds, timeout)
    }

    fn hear(&mut self) -> Result<(), ChannelError> {
        while let Some(channel) = &mut self.channel {
            let message = match channel.receive()? {
                None => break,
                Some(Come::Pages(..)) => return Err(ChannelError::Closed),
                Some(Come::Message(message)) => message,
            };
            self.heard(&message);
            self.events.push_back(SourceEvent::Received(message));
        }
        Ok(())
    }

    /// What concerns the hands rather than the head.
    fn heard(&mut self, message: &Message) {
        match message {
            Message::Prepared { base, .. } => self.memories.has(base),
            Message::Frame(frame) if self.returned.len() < KEPT_FRAMES_MAX => self.returned.push(frame.clone()),
            Message::Taken(timings) => self.taken(timings),
            Message::Switched { route_us } => {
                self.report.route_us = *route_us;
                self.report.total_us = micros(self.began.elapsed());
            }
            _ => {}
        }
    }

    fn send_module(&mut self) -> Result<(), Fault> {
        let path = self.migrator.shared.layout.module(self.record.spec.module);
        let module = std::fs::read(path)?;
        for piece in module.chunks(CHUNK_BYTES_MAX) {
            self.channel()?.say(&Message::Module(piece.to_vec()))?;
        }
        Ok(())
    }

    fn arm(&mut self) -> Result<(), Fault> {
        let userfault = self.layout.userfault.map(|number| pidfd::getfd(self.worker.process.bell(), number));
        let choice = self.memories.tracker(userfault.transpose()?);
        if choice.untracked.is_some() {
            tracing::warn!(guest = %self.record.spec.name, "{choice}");
        }
        let mut tracker = choice.tracker;
        tracker.arm(&self.memories.regions)?;
        self.dirty.dirty().union(self.memories.unseen());
        self.tracker = Some(tracker);
        Ok(())
    }

    fn count(&mut self) -> Result<(), Fault> {
        let mut dirty = PageSet::default();
        if let Some(tracker) = &mut self.tracker {
            tracker.look(&self.memories.digest, &mut dirty)?;
        }
        self.events.push_back(SourceEvent::Counted(dirty.count()));
        Ok(())
    }

    /// While the guest runs.
    fn send_round(&mut self, number: u32) -> Result<(), Fault> {
        self.layout = self.hold.layout()?;
        let sizes: Vec<u64> = self.layout.memories.iter().map(|memory| memory.bytes).collect();
        self.grow(&sizes)?;
        if let Some(tracker) = &mut self.tracker {
            tracker.collect(&self.memories.digest, self.dirty.dirty())?;
        }
        let pages = self.dirty.take().clone();
        hurry_thread(pages.count() <= HURRIED_PAGES_MAX);
        let shape = self.memories.shape();
        let before = self.channel()?.sent_bytes();
        self.channel()?.put(&Message::Round { number, shape })?;
        let sent = self.send_pages(&pages, true)?;
        self.send_log()?;
        let channel = self.channel()?;
        channel.say(&Message::RoundEnd { number })?;
        let bytes = channel.sent_bytes() - before;
        self.report.rounds = number;
        self.report.pages_sent += sent;
        self.events.push_back(SourceEvent::Sent { pages: sent, bytes });
        Ok(())
    }

    fn freeze(&mut self) -> Result<(), Fault> {
        // The last moment at which it costs the guest nothing.
        if let Some(reason) = self.departure.take_cancel() {
            self.events.push_back(SourceEvent::Cancel(reason));
            return Ok(());
        }
        self.times.asked_ns = monotonic_ns();
        let frozen = self.hold.freeze()?;
        self.times.frozen_ns = frozen.at_ns.max(self.times.asked_ns);
        self.grow(&frozen.memory_bytes)?;
        self.frozen = Some(frozen);
        self.events.push_back(SourceEvent::Frozen);
        Ok(())
    }

    fn grow(&mut self, sizes: &[u64]) -> Result<(), Fault> {
        self.memories.resize(sizes);
        for region in &self.memories.regions {
            if let Some(tracker) = &mut self.tracker {
                tracker.resize(region.memory, region.bytes)?;
            }
        }
        Ok(())
    }

    /// In the blackout.
    fn send_last(&mut self) -> Result<(), Fault> {
        let mut pages = PageSet::default();
        match &mut self.tracker {
            // The guest stands still: nothing needs to be protected again.
            Some(tracker) => {
                tracker.look(&self.memories.digest, &mut pages)?;
                // Without a round before, what no tracker tells of.
                pages.union(self.dirty.dirty());
            }
            None => self.memories.touched(&mut pages)?,
        }
        self.times.scanned_ns = monotonic_ns();
        let shape = self.memories.shape();
        let before = self.channel()?.sent_bytes();
        self.channel()?.put(&Message::Last { shape: shape.clone() })?;
        let sent = self.send_pages(&pages, false)?;
        self.send_log()?;
        self.report.frames_carried = self.pass_on()?;
        let state = self.frozen.as_ref().map(|frozen| frozen.state.clone()).unwrap_or_default();
        let digest = self.memories.digest.seal(&shape, &state);
        let stopped_ns = monotonic_ns().saturating_sub(self.times.frozen_ns);
        hold::at("source", "Token");
        self.note_said(Said::Token)?;
        let channel = self.channel()?;
        channel.put(&Message::Token(Token { state, digest, stopped_ns }))?;
        let channel = self.channel()?;
        channel.flush()?;
        let bytes = channel.sent_bytes() - before;
        hold::at("source", "TokenSent");
        self.times.sent_ns = monotonic_ns();
        self.report.pages_last = sent;
        self.report.pages_sent += sent;
        self.events.push_back(SourceEvent::Sent { pages: sent, bytes });
        Ok(())
    }

    /// Sends those of these pages that the target does not have as they are now. Returns how many.
    fn send_pages(&mut self, pages: &PageSet, running: bool) -> Result<u64, Fault> {
        let (began, mut sent, mut on_wire, mut flushed) = (Instant::now(), 0, 0u64, 0);
        let slow = self.machine.progress().last.is_some_and(|round| {
            round.bytes > FAST_LINK_BYTES_PER_S / 1000
                && round.bytes * 1_000_000 / round.took_us.max(1) < FAST_LINK_BYTES_PER_S
        });
        let encoding = if slow || self.bandwidth_bytes_per_s.is_some() { Encoding::Lz4 } else { Encoding::Raw };
        let (mut batch, mut count) = (Vec::with_capacity(BATCH_RANGES_MAX), 0);
        let mut ranges = pages.ranges(BATCH_PAGES_MAX).peekable();
        while let Some(range) = ranges.next() {
            batch.push(range);
            count += range.count;
            let full = ranges.peek().is_none_or(|next| count + next.count > BATCH_PAGES_MAX);
            if !full && batch.len() < BATCH_RANGES_MAX {
                continue;
            }
            let (pages, bytes) = self.send_batch(&batch, encoding)?;
            (sent, on_wire) = (sent + pages, on_wire + bytes);
            batch.clear();
            count = 0;
            let channel = self.channel()?;
            if running {
                channel.flush()?;
                self.pace(began, on_wire)?;
            } else if on_wire - flushed > FLUSH_BYTES {
                // Little is sent in one go; much is on its way while more is read.
                channel.flush()?;
                flushed = on_wire;
            }
        }
        Ok(sent)
    }

    /// Puts a batch with what will be sent; pages and bytes.
    fn send_batch(&mut self, ranges: &[PageRange], encoding: Encoding) -> Result<(u64, u64), Fault> {
        let count: usize = ranges.iter().map(|range| range.count as usize).sum();
        let mut bytes = vec![0; count * PAGE_BYTES];
        self.memories.read(ranges, &mut bytes)?;
        // No more ranges than pages, and no more pages than fit.
        let (news, kept) = self.memories.keep_news(ranges, &mut bytes);
        if kept == 0 {
            return Ok((0, 0));
        }
        let header = PagesHeader { ranges: news, encoding };
        let data = wire::pack(encoding, &bytes[..kept * PAGE_BYTES]);
        let prefix = wire::encode_pages(&header, data.len());
        let channel = self.channel()?;
        channel.put_bytes(&prefix)?;
        channel.put_bytes(&data)?;
        Ok((kept as u64, (prefix.len() + data.len()) as u64))
    }

    /// Holds to the bandwidth, and looks whether anything else happened.
    fn pace(&mut self, began: Instant, bytes: u64) -> Result<(), Fault> {
        let due = self.bandwidth_bytes_per_s.map(|rate| Duration::from_secs_f64(bytes as f64 / rate as f64));
        let early = due.and_then(|due| due.checked_sub(began.elapsed())).unwrap_or_default();
        self.look(Some(early));
        if self.events.is_empty() { Ok(()) } else { Err(Fault::Interrupted) }
    }

    fn send_log(&mut self) -> Result<(), Fault> {
        while let Some(lines) = self.log.take(CHUNK_BYTES_MAX)? {
            self.channel()?.put(&Message::Log(lines))?;
        }
        Ok(())
    }

    /// Puts the frames that have come for the guest with what will be sent; how many.
    fn pass_on(&mut self) -> Result<u64, Fault> {
        let mut passed_on = 0;
        while self.takes_frames()
            && let Some(frame) = self.frames.take()?
        {
            let frame = frame.to_vec();
            let message = self.channel.is_some().then(|| Message::Frame(frame.clone()));
            // Without a connection they wait for whoever gets to serve.
            if self.carried.len() < KEPT_FRAMES_MAX {
                self.carried.push(frame);
            }
            if let (Some(channel), Some(message)) = (&mut self.channel, message) {
                channel.put(&message)?;
                passed_on += 1;
            }
        }
        Ok(passed_on)
    }

    /// While it is in doubt whose the guest is, frames that are too many stay in the device, and are lost there.
    fn takes_frames(&self) -> bool {
        self.channel.is_some() || self.carried.len() < KEPT_FRAMES_MAX
    }

    /// Frames that came after the token.
    fn forward(&mut self) -> Result<(), Fault> {
        self.report.frames_forwarded += self.pass_on()?;
        match &mut self.channel {
            Some(channel) => Ok(channel.flush()?),
            None => Ok(()),
        }
    }

    /// The route leads to the target; what is on its way here still is waited for.
    fn linger(&mut self) {
        let until = Instant::now() + LINGER_MAX;
        let mut forwarded = self.report.frames_forwarded;
        let mut quiet_since = Instant::now();
        while Instant::now() < until && quiet_since.elapsed() < LINGER_QUIET && self.channel.is_some() {
            self.look(Some(LINGER_QUIET));
            if forwarded != self.report.frames_forwarded {
                (forwarded, quiet_since) = (self.report.frames_forwarded, Instant::now());
            }
        }
    }

    /// The guest goes on here.
    fn thaw(&mut self) -> Result<(), Fault> {
        self.forwards = false;
        // Dropped, it tracks no more.
        self.tracker = None;
        self.give_frames();
        let is_frozen = self.frozen.take().is_some() || self.layout.frozen;
        let thawed = if is_frozen { self.hold.thaw() } else { Ok(()) };
        hurry_thread(false);
        // Until the address is this host's again, if it was another's, that stays to be settled.
        if self.said == Said::Nothing {
            Handover::forget(&self.migrator.shared.layout, &self.record);
        }
        match thawed {
            // One that has ended goes on nowhere; a throttle ends with its hold.
            Err(error) if !self.worker.process.has_ended() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// What the target gave back, then what was sent there and did not come back; what has come since waits behind.
    fn give_frames(&mut self) {
        let mut sent = std::mem::take(&mut self.carried);
        let returned = std::mem::take(&mut self.returned);
        for frame in &returned {
            if let Some(same) = sent.iter().position(|it| it == frame) {
                sent.remove(same);
            }
        }
        for frame in returned.iter().chain(&sent) {
            if let Err(error) = self.frames.give(frame) {
                // The target may have made it up. The guest goes on all the same.
                tracing::warn!(guest = %self.record.spec.name, %error, "a frame that came while it was stopped is lost");
            }
        }
    }

    fn taken(&mut self, timings: &Timings) {
        let (now_ns, times) = (monotonic_ns(), self.times);
        let us = |from: u64, to: u64| to.saturating_sub(from) / 1000;
        hurry_thread(false);
        let report = &mut self.report;
        report.stop_us = us(times.asked_ns, times.frozen_ns);
        report.scan_us = us(times.frozen_ns, times.scanned_ns);
        let there_and_back = us(times.sent_ns, now_ns).saturating_sub(timings.answered_us);
        report.send_us = us(times.scanned_ns, times.sent_ns) + there_and_back;
        report.apply_us = timings.apply_us;
        report.grant_us = timings.grant_us;
        report.first_poll_us = timings.first_poll_us;
        let after_first_poll = timings.answered_us.saturating_sub(timings.resume_us + timings.first_poll_us);
        report.blackout_us = us(times.frozen_ns, now_ns).saturating_sub(after_first_poll);
        // The target serves; that the route leads there is still to come.
        report.total_us = micros(self.began.elapsed());
    }

    /// For whom looks on.
    fn show(&mut self) {
        // Nobody is woken to look while the guest stands still.
        if self.frozen.is_some() && !self.forwards {
            return;
        }
        if let Some(channel) = &self.channel {
            self.report.bytes_on_wire = channel.sent_bytes();
        }
        let (phase, progress, in_doubt) = (self.machine.phase(), self.machine.progress(), self.machine.is_in_doubt());
        let memory_bytes = self.memories.bytes();
        self.entry.update(|view| {
            super::view::show(view, phase, in_doubt, &progress, &self.report, memory_bytes);
        });
    }

    fn now_us(&self) -> u64 {
        micros(self.began.elapsed())
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
