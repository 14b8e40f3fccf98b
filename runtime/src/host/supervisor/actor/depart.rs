//! While the guest is being moved to another host, or a checkpoint of it is taken: its worker is lent until that is over.

use std::process::ExitStatus;
use std::sync::Arc;

use roam_snapshot::protocol::{Reason, ReasonCode};
use tokio::sync::oneshot;

use super::{Actor, State};
use crate::ambient::now_ms;
use crate::api::{End, EndKind, GuestState};
use crate::host::HostError;
use crate::host::error::in_full;
use crate::host::migrate::{Departure, Ended, Left};
use crate::host::record::Standing;
use crate::host::supervisor::{Order, Worker, clear};

impl Actor {
    /// Waits until it is decided where the guest is. What would end the guest cancels the migration or the checkpoint
    /// first, and is done then.
    pub(super) async fn depart(
        &mut self,
        worker: Arc<Worker>,
        departure: Departure,
        mut over: oneshot::Receiver<Ended>,
    ) -> State {
        let (mut ended, mut closing): (Option<Option<ExitStatus>>, bool) = (None, false);
        let over = loop {
            let order = tokio::select! {
                over = &mut over => break over,
                status = worker.process.ended(), if ended.is_none() => {
                    ended = Some(status);
                    continue;
                }
                order = self.mailbox.recv(), if !closing => order,
            };
            match order {
                None => {
                    closing = true;
                    departure.cancel(Reason::new(ReasonCode::Closing, "the source goes down".to_owned()));
                }
                Some(Order::Start(answer)) => drop(answer.send(Ok(self.view()))),
                Some(Order::Delete { force: false, answer }) => {
                    let _ = answer.send(Err(HostError::Running(self.record.spec.name.clone())));
                }
                // Whose the address is, the migration sees to, or is looked at when the checkpoint is over.
                Some(Order::Owner | Order::Depart(_)) => {}
                Some(order @ (Order::Stop { .. } | Order::Delete { .. })) => {
                    let why = "an operator stopped or deleted the guest".to_owned();
                    departure.cancel(Reason::new(ReasonCode::Cancelled, why));
                    self.later.push_back(order);
                }
            }
        };
        let (left, _done) = match over {
            Ok(Ended { left, generation, done }) => {
                if let Some(generation) = generation {
                    self.note_generation(generation).await;
                }
                (left, Some(done))
            }
            // Its thread panicked, or could not be started: what is on disk is settled by the next daemon.
            Err(_gone) => (Left::Stays, None),
        };
        let state = match (left, ended) {
            (Left::Moved, _) => return self.moved(&worker).await,
            (Left::Fenced(reason), _) => self.fence(Some(&worker), reason.message).await,
            (Left::Kept(reason), _) => self.kept(worker, reason).await,
            (Left::Stays, Some(status)) => self.ended(&worker, status).await,
            (Left::Stays, None) => State::Serving(worker),
        };
        if let State::Serving(worker) = &state {
            // What the table says by now counts.
            if let Some(state) = self.check_owner(Some(worker)).await {
                return state;
            }
        }
        state
    }

    /// An image of the guest is safe, and it was to end then. What cannot be put on record is not done: it goes on.
    async fn kept(&mut self, worker: Arc<Worker>, reason: String) -> State {
        let end = End { kind: EndKind::Checkpointed, exit_code: None, reason, at_ms: now_ms() };
        let next = self.record.changed(|record| {
            record.standing = Standing::Stopped;
            record.last_end = Some(end);
        });
        if let Err(error) = self.keep(next).await {
            tracing::error!(guest = %self.record.spec.name, error = in_full(&error), "it goes on: that it ended cannot be recorded");
            return State::Serving(worker);
        }
        self.show(GuestState::Stopping, Some(&worker));
        tracing::info!(guest = %self.record.spec.name, "ended, for an image of it is kept");
        let state = self.finish(worker).await;
        // Before anybody is told that it is done.
        self.show(GuestState::Stopped, None);
        state
    }

    /// The guest is another host's: all there is of it here goes, but for its address.
    async fn moved(&mut self, worker: &Arc<Worker>) -> State {
        let name = self.record.spec.name.clone();
        self.show(GuestState::Stopping, Some(worker));
        if let Err(error) = self.kill(worker).await {
            tracing::error!(guest = %name, error = in_full(&error), "its frozen worker cannot be ended");
        }
        self.gone().await
    }

    /// What there is of a guest that is another host's, once it has no worker.
    pub(super) async fn gone(&mut self) -> State {
        let name = self.record.spec.name.clone();
        clear(&self.shared, self.record.id).await;
        if let Some(overlay) = &self.shared.overlay {
            overlay.port(self.record.network.mac, None);
        }
        // What is noted of the handover goes with the guest's directory, and tells the next daemon if this one ends here.
        if let Err(error) = self.shared.forget_gone(self.record.id, self.record.arrived.clone()).await {
            tracing::error!(guest = %name, error = in_full(&error), "a guest that went stays on record");
        }
        tracing::info!(guest = %name, "went to another host");
        State::Over
    }
}
