//! The target's hands: does what [`Target`] decides, and tells it what happened.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use roam_sdn::model::Generation;
use roam_snapshot::page::{PAGE_BYTES, Shape};
use roam_snapshot::protocol::target::{Grant, Target, TargetCommand, TargetEvent};
use roam_snapshot::protocol::wire::PagesHeader;
use roam_snapshot::protocol::{Message, Offer, Phase, Reason, ReasonCode, Timings, Token};

use super::channel::{Channel, ChannelError, Come};
use super::fault::{Fault, wait_for};
use super::frames::Frames;
use super::mark::Mark;
use super::memory::Memories;
use super::module::IncomingModule;
use super::offer::GuestOffer;
use super::sessions::{Asker, Session};
use super::source::HURRIED_PAGES_MAX;
use super::{Migrator, hold, sessions, unwritten};
use crate::ambient::monotonic_ns;
use crate::engine::ModuleHash;
use crate::host::guests::Reservation;
use crate::host::migrations::Entry;
use crate::host::overlay::{Desk, Grant as Asked};
use crate::host::record::{Record, Standing};
use crate::host::supervisor::Worker;
use crate::sys::process::hurry_thread;
use crate::worker::{Hold, HoldError, WorkerLayout, append_log};

/// A guest that comes.
pub(super) struct Arriving {
    migrator: Arc<Migrator>,
    machine: Target,
    channel: Option<Channel>,
    /// Who is at the other end.
    source: String,
    session: Arc<Session>,
    events: VecDeque<TargetEvent>,
    began: Instant,
    entry: Option<Entry>,
    offer: Option<(Offer, GuestOffer)>,
    place: Option<Reservation>,
    module: Option<IncomingModule>,
    waiting: Option<Waiting>,
    /// The guest's TAP, until no more frames are forwarded.
    frames: Option<Frames>,
    asker: Option<Asker>,
    /// Pages of the round so far, and whether it is the last, for which the guest stands still.
    round_pages: u64,
    is_last: bool,
    token: Times,
    timings: Timings,
}

/// A worker that waits for its state.
struct Waiting {
    record: Record,
    worker: Arc<Worker>,
    hold: Hold,
    layout: WorkerLayout,
    memories: Memories,
    /// Where the controller is asked, if there is one.
    desk: Option<Desk>,
    /// The generation whose successor was asked for there, and not denied.
    claimed: Option<Generation>,
    came: Mark,
    /// The guest's beside its memories, once that has come.
    state: Vec<u8>,
}

/// Moments since the token came.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    came_ns: u64,
    stopped_ns: u64,
    granted_ns: u64,
    resumed_ns: u64,
}

impl Waiting {
    /// The controller's answer, if it was asked.
    fn answer(&mut self) -> Option<Grant> {
        let desk = self.desk.as_mut().filter(|desk| desk.is_asked())?;
        Some(match desk.answer() {
            Some(Asked::Granted(_)) => Grant::Granted,
            Some(Asked::Denied(_)) => {
                self.claimed = None;
                Grant::Denied
            }
            Some(Asked::Unknown(_)) | None => Grant::Unknown,
        })
    }
}

impl Arriving {
    /// Of a connection whose first message is still to be read.
    pub(super) fn new(migrator: Arc<Migrator>, channel: Channel, session: Arc<Session>) -> Self {
        let source = channel.peer().to_owned();
        Self {
            migrator,
            machine: Target::new(0),
            channel: Some(channel),
            source,
            session,
            events: VecDeque::new(),
            began: Instant::now(),
            entry: None,
            offer: None,
            place: None,
            module: None,
            waiting: None,
            frames: None,
            asker: None,
            round_pages: 0,
            is_last: false,
            token: Times::default(),
            timings: Timings::default(),
        }
    }

    /// Until it is over. `hello` has been read already.
    pub(super) fn run(mut self, hello: Message) {
        self.events.push_back(TargetEvent::Received(hello));
        loop {
            while let Some(event) = self.events.pop_front() {
                let commands = self.machine.on(event, self.now_us());
                self.show();
                for command in commands {
                    tracing::trace!(source = self.source, ?command, "target");
                    if let TargetCommand::Finish(result) = command {
                        self.finish(result);
                        return;
                    }
                    if let Err(fault) = self.obey(command) {
                        self.note(fault);
                    }
                }
            }
            self.wait();
        }
    }

    fn obey(&mut self, command: TargetCommand) -> Result<(), Fault> {
        hold::command("target", &command);
        match command {
            TargetCommand::Send(message @ Message::Applied { .. }) => {
                self.channel()?.say(&message)?;
                // What comes next may be the last.
                hurry_thread(true);
                self.round_pages = 0;
                self.waiting.iter_mut().filter_map(|waiting| waiting.desk.as_mut()).for_each(Desk::warm);
            }
            TargetCommand::Send(message) => self.channel()?.say(&message)?,
            TargetCommand::Check(offer) => self.check(*offer)?,
            TargetCommand::KeepModule(piece) => self.keep_module(&piece)?,
            TargetCommand::Prepare => self.prepare()?,
            TargetCommand::Grow(shape) => self.grow(&shape)?,
            TargetCommand::AddLog(lines) => self.add_log(&lines)?,
            TargetCommand::Inject(frame) => self.inject(&frame)?,
            TargetCommand::Claim => self.claim(),
            TargetCommand::Install(token) => self.install(&token)?,
            TargetCommand::Resume => self.resume()?,
            TargetCommand::AwaitRoute => self.await_route(),
            TargetCommand::ReturnFrames => self.return_frames()?,
            TargetCommand::Discard => self.discard(),
            TargetCommand::Tell(standing) => self.asker.take().into_iter().for_each(|asker| asker.tell(standing)),
            TargetCommand::Close => self.channel = None,
            TargetCommand::Finish(_) => {}
        }
        Ok(())
    }

    fn note(&mut self, fault: Fault) {
        match fault {
            Fault::Link(error) => {
                tracing::debug!(source = self.source, %error, "a migration's connection is over");
                self.channel = None;
                self.events.push_back(TargetEvent::Lost);
            }
            Fault::Here(reason) => self.events.push_back(TargetEvent::Failed(reason)),
            Fault::Interrupted => {}
        }
    }

    fn channel(&mut self) -> Result<&mut Channel, ChannelError> {
        self.channel.as_mut().ok_or(ChannelError::Closed)
    }

    fn waiting(&mut self) -> Result<&mut Waiting, Reason> {
        self.waiting
            .as_mut()
            .ok_or_else(|| Reason { code: ReasonCode::Protocol, message: "no worker waits for a guest yet".into() })
    }

    fn wait(&mut self) {
        if self.claimed() {
            return;
        }
        let now_us = self.now_us();
        let left = self.machine.deadline_us().map(|at| Duration::from_micros(at.saturating_sub(now_us)));
        let ready = self.channel.as_ref().is_some_and(Channel::has_come);
        let [bell, ended, channel] = self.ready(if ready { Some(Duration::ZERO) } else { left });
        if bell {
            self.events.extend(self.session.take_events());
            if self.asker.is_none() {
                self.asker = self.session.take_asker();
                self.events.extend(self.asker.as_ref().map(|_| TargetEvent::Asked));
            }
        }
        if ended {
            self.events.push_back(TargetEvent::WorkerEnded);
        }
        if (channel || ready)
            && let Err(fault) = self.hear()
        {
            self.note(fault);
        }
        if self.events.is_empty() && self.machine.deadline_us().is_some_and(|at| at <= self.now_us()) {
            self.events.push_back(TargetEvent::Tick);
        }
    }

    fn ready(&self, timeout: Option<Duration>) -> [bool; 3] {
        let wanted = |wanted: bool| if wanted { PollFlags::POLLIN } else { PollFlags::empty() };
        let bell = self.session.bell();
        let worker = self.waiting.as_ref().map_or(bell, |waiting| waiting.worker.process.bell());
        let channel = self.channel.as_ref().map_or(bell, AsFd::as_fd);
        let fds = [
            PollFd::new(bell, PollFlags::POLLIN),
            PollFd::new(worker, wanted(self.waiting.is_some() && self.token.resumed_ns == 0)),
            PollFd::new(channel, wanted(self.channel.is_some())),
        ];
        wait_for(fds, timeout)
    }

    /// Takes in what has come, one message at a time: what follows may rest on what it leads to.
    fn hear(&mut self) -> Result<(), Fault> {
        while self.events.is_empty() {
            match self.channel()?.receive()? {
                None => break,
                Some(Come::Message(message)) => {
                    match message {
                        Message::Last { .. } => {
                            hurry_thread(true);
                            self.is_last = true;
                        }
                        Message::Token(_) => self.token.came_ns = monotonic_ns(),
                        _ => {}
                    }
                    self.events.push_back(TargetEvent::Received(message));
                }
                Some(Come::Pages(header, bytes)) => self.write(&header, &bytes)?,
            }
        }
        Ok(())
    }

    fn write(&mut self, header: &PagesHeader, bytes: &[u8]) -> Result<(), Fault> {
        let fits = |shape: &Shape| header.ranges.iter().all(|range| shape.contains(*range).is_ok());
        if !self.machine.expects_pages().is_some_and(fits) {
            let message = "pages came that were not announced".to_owned();
            return Err(Reason { code: ReasonCode::Protocol, message }.into());
        }
        self.round_pages += header.pages();
        if self.round_pages > HURRIED_PAGES_MAX && !self.is_last {
            hurry_thread(false);
        }
        Ok(self.waiting()?.memories.write(&header.ranges, bytes)?)
    }

    /// Whether this host can have the guest; its name and place are kept for it from here on.
    fn check(&mut self, offer: Offer) -> Result<(), Fault> {
        let (guest, place) = self.migrator.check(&offer, &self.source)?;
        let session = self.machine.session();
        self.entry = self.migrator.begin_incoming(&guest, &offer, &self.source, session);
        let needs_module = !self.migrator.shared.modules.has(ModuleHash(offer.module));
        if needs_module {
            self.module = Some(IncomingModule::begin(&self.migrator, ModuleHash(offer.module), offer.module_bytes));
        }
        self.offer = Some((offer, guest));
        self.place = Some(place);
        self.events.push_back(TargetEvent::Checked { needs_module });
        Ok(())
    }

    fn keep_module(&mut self, piece: &[u8]) -> Result<(), Fault> {
        let Some(module) = &mut self.module else { return Ok(()) };
        if module.add(piece)? {
            self.module = None;
        }
        Ok(())
    }

    /// Everything that is slow: a worker with its network, its code warm, its memories as a new guest's.
    fn prepare(&mut self) -> Result<(), Fault> {
        let (Some((_, guest)), Some(place)) = (&self.offer, &self.place) else {
            return Err(Reason { code: ReasonCode::Protocol, message: "no guest was offered".into() }.into());
        };
        let record = guest.fill(place.record.clone());
        let record = Record {
            standing: Standing::Arriving,
            arrived: self.machine.session().map(sessions::text),
            moved_from: guest.generation,
            ..record
        };
        let (worker, hold, layout) = self.migrator.start_waiting(&record, None)?;
        let mut memories = Memories::new(worker.pid(), &layout);
        let base = memories.base(&layout)?;
        let frames = self.migrator.frames(&worker, &layout, &record)?;
        let came = self.migrator.will_come(record.id)?;
        let shape = memories.shape();
        let desk = self.migrator.desk()?;
        // It does nothing until its guest stands still, and then whatever it does is waited for.
        worker.hurry(&self.migrator.shared, record.id, true);
        self.waiting =
            Some(Waiting { record, worker, hold, layout, memories, desk, claimed: None, came, state: Vec::new() });
        self.frames = Some(frames);
        self.events.push_back(TargetEvent::Ready { shape, base });
        Ok(())
    }

    fn grow(&mut self, shape: &Shape) -> Result<(), Fault> {
        let waiting = self.waiting()?;
        if *shape == waiting.memories.shape() {
            return Ok(());
        }
        let sizes: Vec<u64> = shape.0.iter().map(|pages| u64::from(*pages) * PAGE_BYTES as u64).collect();
        waiting.hold.grow(sizes)?;
        waiting.layout = waiting.hold.layout()?;
        let sizes: Vec<u64> = waiting.layout.memories.iter().map(|memory| memory.bytes).collect();
        waiting.memories.resize(&sizes);
        Ok(())
    }

    fn add_log(&mut self, lines: &[u8]) -> Result<(), Fault> {
        let (shared, id) = (self.migrator.shared.clone(), self.waiting()?.record.id);
        let half_bytes = shared.config.log_bytes_max / 2;
        let added = append_log(&shared.layout.guest(id), half_bytes, lines);
        Ok(added.map_err(|error| unwritten("adding to the guest's log at the target", error))?)
    }

    fn inject(&mut self, frame: &[u8]) -> Result<(), Fault> {
        if let Some(frames) = &self.frames {
            // One the device has no room for is lost as on any network.
            frames.give(frame)?;
        }
        Ok(())
    }

    /// Goes on beside what follows; the answer is waited for when there is nothing else to do.
    fn claim(&mut self) {
        let from = self.offer.as_ref().and_then(|(_, guest)| guest.generation);
        let Some(waiting) = &mut self.waiting else { return };
        match (&mut waiting.desk, from) {
            (Some(desk), Some(from)) => {
                desk.ask(waiting.record.network.mac, from);
                waiting.claimed = Some(from);
            }
            // Nobody else says whose it is.
            _ => self.events.push_back(TargetEvent::Claimed(Grant::Granted)),
        }
    }

    /// What the controller says, once that is all that is missing. Before, the answer comes on its way.
    fn claimed(&mut self) -> bool {
        let awaited = self.machine.awaits_grant();
        let Some(waiting) = &mut self.waiting else { return false };
        if !awaited {
            waiting.desk.iter_mut().for_each(Desk::turn);
            return false;
        }
        let Some(grant) = waiting.answer() else { return false };
        self.token.granted_ns = monotonic_ns();
        self.events.push_back(TargetEvent::Claimed(grant));
        true
    }

    fn install(&mut self, token: &Token) -> Result<(), Fault> {
        self.token.stopped_ns = token.stopped_ns;
        let waiting = self.waiting()?;
        let shape = waiting.memories.shape();
        if waiting.memories.digest.seal(&shape, &token.state) != token.digest {
            let message = "the guest's memories differ from the source's".to_owned();
            return Err(Reason { code: ReasonCode::Digest, message }.into());
        }
        waiting.state = token.state.clone();
        self.timings.apply_us = us(self.token.came_ns, monotonic_ns());
        self.events.push_back(TargetEvent::Installed);
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Fault> {
        let asked_ns = monotonic_ns();
        let stopped_ns = self.token.stopped_ns.saturating_add(asked_ns.saturating_sub(self.token.came_ns));
        let waiting = self.waiting()?;
        let pid = waiting.worker.pid();
        // Outlives this daemon, which may end before it knows how this went.
        waiting.came.set(1)?;
        hold::at("target", "Noted");
        let (began_ns, ended_ns) = match waiting.hold.resume(std::mem::take(&mut waiting.state), stopped_ns, None) {
            Ok(polled) => polled,
            Err(error @ (HoldError::Refused(_) | HoldError::Unheard)) => return Err(error.into()),
            Err(error) => {
                // It may have been told: then it was the guest's owner, and is no more.
                tracing::error!(pid, %error, "a worker that was to go on does not answer; it is ended");
                if let Err(error) = self.waiting()?.worker.process.kill() {
                    tracing::debug!(pid, %error, "it had ended already");
                }
                (asked_ns, monotonic_ns())
            }
        };
        hurry_thread(false);
        self.token.resumed_ns = ended_ns;
        self.timings.grant_us = us(self.token.came_ns, self.token.granted_ns);
        self.timings.resume_us = us(self.token.came_ns, began_ns);
        self.timings.first_poll_us = us(began_ns, ended_ns);
        self.timings.answered_us = us(self.token.came_ns, monotonic_ns());
        self.events.push_back(TargetEvent::Resumed(self.timings));
        Ok(())
    }

    /// The guest is this host's from now on; the answer rings the bell.
    fn await_route(&mut self) {
        let Some(waiting) = self.waiting.take() else { return };
        let Waiting { record, worker, .. } = waiting;
        worker.hurry(&self.migrator.shared, record.id, false);
        let from = self.offer.as_ref().and_then(|(_, guest)| guest.generation);
        let (place, session) = (self.place.take(), self.session.clone());
        self.migrator.settle_in((record, from), worker, place, self.token.resumed_ns, session);
    }

    fn return_frames(&mut self) -> Result<(), Fault> {
        while let Some(frames) = &mut self.frames {
            let Some(frame) = frames.take()?.map(<[u8]>::to_vec) else { break };
            self.channel()?.put(&Message::Frame(frame))?;
        }
        Ok(())
    }

    fn discard(&mut self) {
        self.frames = None;
        hurry_thread(false);
        if let Some(mut waiting) = self.waiting.take() {
            // What is still being asked for is not to be granted after it was given back.
            let _answered = waiting.answer();
            self.migrator.discard(&waiting.record, &waiting.worker);
            if let Some(from) = waiting.claimed {
                self.migrator.give_back(waiting.record.network.mac, from, &self.source);
            }
        }
        self.place = None;
        self.module = None;
    }

    fn finish(&mut self, result: Result<(), Reason>) {
        if result.is_ok() && self.waiting.is_some() {
            // The source is gone, but the guest is here.
            self.await_route();
        }
        self.session.over(result.is_ok());
        if let Some(entry) = self.entry.take() {
            self.migrator.end_incoming(entry, result);
        }
    }

    fn show(&self) {
        let phase = self.machine.phase();
        if let Some(entry) = self.entry.as_ref().filter(|_| phase != Phase::Failed) {
            entry.update(|view| view.phase = phase);
        }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

fn us(from_ns: u64, to_ns: u64) -> u64 {
    to_ns.saturating_sub(from_ns) / 1000
}
