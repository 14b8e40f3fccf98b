//! The task of one guest: what it is at, and which orders it follows meanwhile.
//!
//! In reading order: this file (what is waited for in each state), `start`, `stop`, `account` (after an end), `owner`
//! (when its address becomes another host's), `depart` and `doubt` (when it is being moved, or was).

mod account;
mod depart;
mod doubt;
mod owner;
mod start;
mod stop;

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::{Answer, Order, Seen, Worker};
use crate::ambient::now_ms;
use crate::api::{GuestState, GuestView};
use crate::host::HostError;
use crate::host::error::in_full;
use crate::host::migrate::{Departure, Ended, Handover};
use crate::host::record::{Record, Standing};
use crate::host::shared::Shared;

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
    /// A worker serves, or is frozen, while its guest is being moved to another host.
    Departing(Arc<Worker>, Departure, oneshot::Receiver<Ended>),
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
                State::Departing(worker, departure, outcome) => self.depart(worker, departure, outcome).await,
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
                None => {
                    self.leave(&worker).await;
                    return State::Over;
                }
                Some(Order::Owner) => {
                    if let Some(state) = self.check_owner(Some(&worker)).await {
                        return state;
                    }
                }
                Some(Order::Start(answer)) => drop(answer.send(Ok(self.view()))),
                Some(Order::Depart(leave)) => {
                    if let Some((departure, outcome)) = leave(&self.record, &worker) {
                        return State::Departing(worker, departure, outcome);
                    }
                }
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
            Order::Owner => return self.check_owner(None).await,
            // Only who serves can leave.
            Order::Depart(leave) => drop(leave),
            Order::Start(answer) => {
                let generation = match self.claimed_anew().await {
                    Ok(generation) => generation,
                    Err(error) => {
                        let _ = answer.send(Err(error));
                        return None;
                    }
                };
                let next = self.record.changed(|record| {
                    record.standing = Standing::Run;
                    record.quick_ends = 0;
                    record.generation = generation;
                });
                let was_fenced = self.record.standing == Standing::Fenced;
                match self.keep(next).await {
                    Ok(()) if was_fenced => {
                        // The address is this host's anew, whatever became of a migration before that.
                        Handover::forget(&self.shared.layout, &self.record);
                        return Some(State::Starting(Some(answer)));
                    }
                    Ok(()) => return Some(State::Starting(Some(answer))),
                    Err(error) => drop(answer.send(Err(error))),
                }
            }
            Order::Stop { answer, .. } => {
                let stopped = match self.record.standing {
                    // One that is fenced must not be forgotten to be so.
                    Standing::Stopped | Standing::Fenced | Standing::Deleted => Ok(()),
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
        if let Some(overlay) = &self.shared.overlay {
            overlay.port(self.record.network.mac, worker.map(|_| self.record.network.tap.as_str()));
        }
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
        Standing::Run | Standing::Arriving => GuestState::Starting,
        Standing::Again => GuestState::Waiting,
        Standing::Ended => GuestState::Ended,
        Standing::Parked => GuestState::Parked,
        Standing::Fenced => GuestState::Fenced,
        Standing::Stopped => GuestState::Stopped,
        Standing::Deleted => GuestState::Stopping,
    }
}
