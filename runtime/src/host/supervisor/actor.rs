//! The task of one guest.

use std::collections::VecDeque;
use std::fs;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::ended::{Traces, explain};
use super::policy::{Next, decide};
use super::start::{clear, start, start_failed};
use super::{Answer, Order, Seen, Worker};
use crate::api::{End, EndKind, GuestState, GuestView};
use crate::host::HostError;
use crate::host::error::in_full;
use crate::host::record::{Record, Standing};
use crate::host::shared::{Shared, now_ms};
use crate::jail::Cgroup;
use crate::worker::read_end;

/// How long a killed worker may take to be gone.
const KILLED_LIMIT: Duration = Duration::from_secs(10);
/// Longest grace of a stop.
const GRACE_MAX: Duration = Duration::from_secs(60);
/// How much of a worker's last words is told.
const SAID_BYTES_MAX: usize = 1024;

/// How supervision begins.
pub(crate) enum Begin {
    /// With a worker. It is ended if its guest is to run no longer.
    Serving(Arc<Worker>),
    /// With a worker that ended before anybody looked.
    Ended { rebooted: bool },
    /// With a guest that is to be started.
    Start,
    /// With one that is to stay as it is.
    Rest,
}

/// What the task is at.
pub(super) enum State {
    Serving(Arc<Worker>),
    Starting(Option<Answer<GuestView>>),
    Waiting(Instant),
    Resting,
    /// Ending a worker for good: stopped or deleted before this daemon.
    Ending(Arc<Worker>),
    /// Ended before anybody looked.
    Missed {
        rebooted: bool,
    },
    Over,
}

pub(super) struct Actor {
    shared: Arc<Shared>,
    record: Record,
    seen: Arc<watch::Sender<Seen>>,
    mailbox: mpsc::Receiver<Order>,
    /// Orders that came while another was carried out.
    later: VecDeque<Order>,
}

impl Actor {
    pub(super) fn new(
        shared: Arc<Shared>,
        record: Record,
        mailbox: mpsc::Receiver<Order>,
        begin: Begin,
    ) -> (Self, State) {
        let (state, at_first) = match begin {
            Begin::Serving(worker) if matches!(record.standing, Standing::Run | Standing::Again) => {
                (State::Serving(worker), GuestState::Running)
            }
            Begin::Serving(worker) => (State::Ending(worker), GuestState::Stopping),
            Begin::Ended { rebooted } => (State::Missed { rebooted }, GuestState::Waiting),
            Begin::Start => (State::Starting(None), GuestState::Starting),
            Begin::Rest => (State::Resting, resting(record.standing)),
        };
        let view = record.view(at_first, now_ms(), None);
        let (seen, _) = watch::channel(Seen { view, worker: None });
        let actor = Self { shared, record, seen: Arc::new(seen), mailbox, later: VecDeque::new() };
        if let State::Serving(worker) | State::Ending(worker) = &state {
            actor.show(at_first, Some(worker));
        }
        (actor, state)
    }

    pub(super) fn seen(&self) -> Arc<watch::Sender<Seen>> {
        self.seen.clone()
    }

    pub(super) async fn run(mut self, mut state: State) {
        loop {
            state = match state {
                State::Serving(worker) => self.serve(worker).await,
                State::Starting(answer) => self.start(answer).await,
                State::Waiting(until) => self.wait(until).await,
                State::Resting => self.rest().await,
                State::Ending(worker) => self.finish(worker).await,
                State::Missed { rebooted } => self.missed(rebooted).await,
                State::Over => return,
            }
        }
    }

    /// While a worker serves.
    async fn serve(&mut self, worker: Arc<Worker>) -> State {
        loop {
            let order = tokio::select! {
                status = worker.process.ended() => return self.ended(&worker, status).await,
                order = next(&mut self.later, &mut self.mailbox) => order,
            };
            match order {
                None => return State::Over,
                Some(Order::Start(answer)) => drop(answer.send(Ok(self.view()))),
                Some(Order::Stop { grace, answer }) => match self.stop(&worker, grace).await {
                    Ok(view) => {
                        let _ = answer.send(Ok(view));
                        return State::Resting;
                    }
                    Err(error) => drop(answer.send(Err(error))),
                },
                Some(Order::Delete { force: false, answer }) => {
                    let _ = answer.send(Err(HostError::Running(self.record.spec.name.clone())));
                }
                Some(Order::Delete { force: true, answer }) => match self.delete(Some(&worker)).await {
                    Ok(()) => {
                        let _ = answer.send(Ok(()));
                        return State::Over;
                    }
                    Err(error) => {
                        let _ = answer.send(Err(error));
                        if worker.process.has_ended() {
                            return State::Resting;
                        }
                    }
                },
            }
        }
    }

    /// While nothing runs and nothing is to.
    async fn rest(&mut self) -> State {
        self.show(resting(self.record.standing), None);
        loop {
            match next(&mut self.later, &mut self.mailbox).await {
                None => return State::Over,
                Some(order) => {
                    if let Some(state) = self.at_rest(order).await {
                        return state;
                    }
                }
            }
        }
    }

    /// Until it is time to start again.
    async fn wait(&mut self, until: Instant) -> State {
        self.show(GuestState::Waiting, None);
        loop {
            let order = tokio::select! {
                () = tokio::time::sleep_until(until) => {
                    let next = self.record.changed(|record| {
                        record.standing = Standing::Run;
                        record.restarts += 1;
                    });
                    self.keep_if_possible(next).await;
                    return State::Starting(None);
                }
                order = next(&mut self.later, &mut self.mailbox) => order,
            };
            match order {
                None => return State::Over,
                Some(order) => {
                    if let Some(state) = self.at_rest(order).await {
                        return state;
                    }
                }
            }
        }
    }

    /// Follows an order while there is no worker.
    async fn at_rest(&mut self, order: Order) -> Option<State> {
        match order {
            Order::Start(answer) if self.record.standing == Standing::Deleted => {
                let _ = answer.send(Err(HostError::NoGuest(self.record.spec.name.clone())));
            }
            Order::Start(answer) => {
                let next = self.record.changed(|record| {
                    record.standing = Standing::Run;
                    record.quick_ends = 0;
                });
                match self.keep(next).await {
                    Ok(()) => return Some(State::Starting(Some(answer))),
                    Err(error) => drop(answer.send(Err(error))),
                }
            }
            Order::Stop { answer, .. } => {
                let stopped = match self.record.standing {
                    Standing::Stopped | Standing::Deleted => Ok(()),
                    _ => self.keep(self.record.changed(|record| record.standing = Standing::Stopped)).await,
                };
                let done = stopped.is_ok();
                if done {
                    self.show(resting(self.record.standing), None);
                }
                let view = self.view();
                let _ = answer.send(stopped.map(|()| view));
                return done.then_some(State::Resting);
            }
            Order::Delete { answer, .. } => {
                let deleted = self.delete(None).await;
                let over = deleted.is_ok();
                let _ = answer.send(deleted);
                return over.then_some(State::Over);
            }
        }
        None
    }

    /// Starts it; an operator who waits for it is told how that went.
    async fn start(&mut self, answer: Option<Answer<GuestView>>) -> State {
        self.show(GuestState::Starting, None);
        let (shared, record) = (self.shared.clone(), self.record.clone());
        let mut starting = Box::pin(start(&shared, &record));
        let mut answers: Vec<_> = answer.into_iter().collect();
        let operator = !answers.is_empty();
        let started = loop {
            tokio::select! {
                started = &mut starting => break Some(started),
                order = self.mailbox.recv() => match order {
                    // The daemon goes: what is half started is finished, so that the next one finds it serving.
                    None => break Some(starting.as_mut().await),
                    Some(Order::Start(answer)) => answers.push(answer),
                    Some(Order::Delete { force: false, answer }) => {
                        let _ = answer.send(Err(HostError::Running(record.spec.name.clone())));
                    }
                    Some(order) => {
                        self.later.push_back(order);
                        break None;
                    }
                },
            }
        };
        drop(starting);
        match started {
            Some(Ok(worker)) => {
                tracing::info!(guest = %record.spec.name, pid = worker.pid(), "serves");
                self.show(GuestState::Running, Some(&worker));
                answers.into_iter().for_each(|answer| drop(answer.send(Ok(self.view()))));
                State::Serving(worker)
            }
            Some(Err(error)) => self.not_started(error, answers, operator).await,
            None => {
                clear(&shared, record.id).await;
                let overtaken = || HostError::Overtaken(record.spec.name.clone());
                answers.into_iter().for_each(|answer| drop(answer.send(Err(overtaken()))));
                State::Resting
            }
        }
    }

    async fn not_started(&mut self, error: HostError, answers: Vec<Answer<GuestView>>, operator: bool) -> State {
        let error = start_failed(&self.record, error);
        let end = End { kind: EndKind::Failed, exit_code: None, reason: in_full(&error), at_ms: now_ms() };
        let state = if operator {
            // He is told, and it is his to try again.
            let next = self.record.changed(|record| {
                record.standing = Standing::Parked;
                record.last_end = Some(end);
            });
            self.keep_if_possible(next).await;
            State::Resting
        } else {
            self.account(end, Duration::ZERO).await
        };
        self.show(resting(self.record.standing), None);
        let mut error = Some(error);
        for answer in answers {
            let reason = || HostError::Overtaken(self.record.spec.name.clone());
            let _ = answer.send(Err(error.take().unwrap_or_else(reason)));
        }
        state
    }

    /// The worker ended by itself.
    async fn ended(&mut self, worker: &Worker, status: Option<ExitStatus>) -> State {
        let end = self.end(status, false);
        clear(&self.shared, self.record.id).await;
        if matches!(self.record.standing, Standing::Stopped | Standing::Deleted) {
            // It was to end, but took its time.
            return State::Resting;
        }
        let ran = Duration::from_millis(end.at_ms.saturating_sub(worker.started_ms));
        self.account(end, ran).await
    }

    /// It ended while no daemon watched, or the machine went down under it.
    async fn missed(&mut self, rebooted: bool) -> State {
        let end = self.end(None, rebooted);
        let started = fs::read_to_string(self.shared.layout.started(self.record.id)).ok();
        let started_ms: Option<u64> = started.and_then(|text| text.parse().ok());
        let ran = started_ms.map_or(super::policy::QUICK, |at| Duration::from_millis(end.at_ms.saturating_sub(at)));
        clear(&self.shared, self.record.id).await;
        self.account(end, ran).await
    }

    /// Decides what comes after an end, and puts it on record.
    async fn account(&mut self, end: End, ran: Duration) -> State {
        let (next, quick_ends) = decide(self.record.spec.restart, &end, ran, self.record.quick_ends);
        tracing::warn!(guest = %self.record.spec.name, reason = end.reason, ?next, "ended");
        let standing = match next {
            Next::Stay => Standing::Ended,
            Next::Again(_) => Standing::Again,
            Next::Park => Standing::Parked,
        };
        let next_record = self.record.changed(|record| {
            (record.standing, record.quick_ends) = (standing, quick_ends);
            record.last_end = Some(end);
        });
        self.keep_if_possible(next_record).await;
        match next {
            Next::Again(pause) => State::Waiting(Instant::now() + pause),
            Next::Stay | Next::Park => State::Resting,
        }
    }

    /// Stops a serving worker, by force when its grace is over.
    async fn stop(&mut self, worker: &Arc<Worker>, grace: Duration) -> Result<GuestView, HostError> {
        self.keep(self.record.changed(|record| record.standing = Standing::Stopped)).await?;
        self.show(GuestState::Stopping, Some(worker));
        let grace = grace.min(GRACE_MAX);
        let asked = self.ask_to_end(worker, grace).await;
        let status = match asked {
            Some(status) => status,
            None => self.kill(worker).await?,
        };
        let mut end = self.end(status, false);
        if asked.is_none() {
            end.kind = EndKind::Asked;
            end.reason = format!("stopped by an operator; it did not end within {grace:?} and was killed");
        }
        clear(&self.shared, self.record.id).await;
        self.keep_if_possible(self.record.changed(|record| record.last_end = Some(end))).await;
        self.show(GuestState::Stopped, None);
        Ok(self.view())
    }

    /// Whether it ended within its grace, and how. Who wants it deleted does not wait for that.
    async fn ask_to_end(&mut self, worker: &Worker, grace: Duration) -> Option<Option<ExitStatus>> {
        let deadline = Instant::now() + grace;
        let asking = async {
            if let Err(error) = worker.stop().await {
                tracing::warn!(guest = %self.record.spec.name, error = in_full(&error), "the worker cannot be asked to end");
            }
            worker.process.ended().await
        };
        let mut asking = Box::pin(asking);
        loop {
            tokio::select! {
                status = &mut asking => return Some(status),
                () = tokio::time::sleep_until(deadline) => return None,
                order = self.mailbox.recv() => match order {
                    // The daemon goes; the next one finds it on record as stopped.
                    None => return None,
                    Some(order) => {
                        let force = matches!(order, Order::Delete { force: true, .. });
                        self.later.push_back(order);
                        if force {
                            return None;
                        }
                    }
                },
            }
        }
    }

    async fn kill(&self, worker: &Worker) -> Result<Option<ExitStatus>, HostError> {
        worker.process.kill().map_err(HostError::io("killing a worker"))?;
        timeout(KILLED_LIMIT, worker.process.ended()).await.map_err(|_elapsed| HostError::NotEnded {
            name: self.record.spec.name.clone(),
            pid: worker.pid(),
            after: KILLED_LIMIT,
        })
    }

    /// Removes all there is of it. What a crash leaves of that, the next daemon finishes: it is on record.
    async fn delete(&mut self, worker: Option<&Arc<Worker>>) -> Result<(), HostError> {
        let deleted = self.record.changed(|record| record.standing = Standing::Deleted);
        match self.keep(deleted.clone()).await {
            // Deleting is what makes room.
            Err(HostError::DiskFull(_)) => self.record = deleted,
            result => result?,
        }
        self.show(GuestState::Stopping, worker);
        if let Some(worker) = worker {
            self.kill(worker).await?;
        }
        clear(&self.shared, self.record.id).await;
        self.shared.forget(self.record.id).await?;
        tracing::info!(guest = %self.record.spec.name, "deleted");
        Ok(())
    }

    /// Ends a worker whose guest is stopped or deleted on record.
    async fn finish(&mut self, worker: Arc<Worker>) -> State {
        if let Err(error) = self.kill(&worker).await {
            tracing::error!(guest = %self.record.spec.name, error = in_full(&error), "its worker cannot be ended");
        }
        clear(&self.shared, self.record.id).await;
        State::Resting
    }

    /// How the last run ended.
    fn end(&self, status: Option<ExitStatus>, rebooted: bool) -> End {
        let id = self.record.id;
        // What is on record already is of an earlier run: the last one did not come to write.
        let written = read_end(&self.shared.layout.end(id)).unwrap_or_default();
        let written = written.filter(|end| Some(end) != self.record.last_end.as_ref());
        let said = fs::read(self.shared.layout.stderr(id)).unwrap_or_default();
        let said = String::from_utf8_lossy(&said[said.len().saturating_sub(SAID_BYTES_MAX)..]).trim().to_owned();
        let memory_kills = Cgroup::existing(&self.shared.group, &id.to_string()).memory_kills();
        explain(Traces { written, status, memory_kills, said, rebooted }, now_ms())
    }

    /// Puts a change on record before it is acted upon.
    async fn keep(&mut self, next: Record) -> Result<(), HostError> {
        self.shared.put(&next).await?;
        self.record = next;
        Ok(())
    }

    /// The same of something that has happened, whether it can be recorded or not.
    async fn keep_if_possible(&mut self, next: Record) {
        if let Err(error) = self.shared.put(&next).await {
            let name = &next.spec.name;
            tracing::error!(guest = %name, error = in_full(&error), "a change is not on record until the next one");
        }
        self.record = next;
    }

    fn view(&self) -> GuestView {
        self.seen.borrow().view.clone()
    }

    fn show(&self, state: GuestState, worker: Option<&Arc<Worker>>) {
        self.seen.send_modify(|seen| {
            let since_ms = match worker {
                Some(worker) if state == GuestState::Running => worker.started_ms,
                _ if seen.view.state == state => seen.view.since_ms,
                _ => now_ms(),
            };
            seen.view = self.record.view(state, since_ms, worker.map(|worker| worker.pid()));
            seen.worker = worker.cloned();
        });
    }
}

/// The next order, those that came early first.
async fn next(later: &mut VecDeque<Order>, mailbox: &mut mpsc::Receiver<Order>) -> Option<Order> {
    match later.pop_front() {
        Some(order) => Some(order),
        None => mailbox.recv().await,
    }
}

/// What a guest without a worker is doing.
fn resting(standing: Standing) -> GuestState {
    match standing {
        Standing::Run => GuestState::Starting,
        Standing::Again => GuestState::Waiting,
        Standing::Ended => GuestState::Ended,
        Standing::Parked => GuestState::Parked,
        Standing::Stopped => GuestState::Stopped,
        Standing::Deleted => GuestState::Stopping,
    }
}
