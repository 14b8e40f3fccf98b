//! While the guest is being moved to another host: its worker is the migration's until that is over.

use std::process::ExitStatus;
use std::sync::Arc;

use roam_snapshot::protocol::source::Outcome;
use roam_snapshot::protocol::{Reason, ReasonCode};
use tokio::sync::oneshot;

use super::{Actor, State};
use crate::api::GuestState;
use crate::host::HostError;
use crate::host::error::in_full;
use crate::host::migrate::{Departure, Ended};
use crate::host::supervisor::{Order, Worker, clear};

impl Actor {
    /// Waits until it is decided where the guest is. What would end the guest cancels the migration first, and is done
    /// then.
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
                // Whose the address is, the migration sees to.
                Some(Order::Owner | Order::Depart(_)) => {}
                Some(order @ (Order::Stop { .. } | Order::Delete { .. })) => {
                    let why = "an operator stopped or deleted the guest".to_owned();
                    departure.cancel(Reason::new(ReasonCode::Cancelled, why));
                    self.later.push_back(order);
                }
            }
        };
        let (outcome, _done) = match over {
            Ok(Ended { outcome, done }) => (Ok(outcome), Some(done)),
            Err(gone) => (Err(gone), None),
        };
        let state = match outcome {
            Ok(Outcome::Moved) => return self.moved(&worker).await,
            Ok(Outcome::Fenced(reason)) => self.fence(Some(&worker), reason.message).await,
            // Its thread panicked, or could not be started: what is on disk is settled by the next daemon.
            Err(_) | Ok(Outcome::Stayed(_) | Outcome::Ended) => match ended {
                Some(status) => self.ended(&worker, status).await,
                None => State::Serving(worker),
            },
        };
        if let State::Serving(worker) = &state {
            // What the table says by now counts.
            if let Some(state) = self.check_owner(Some(worker)).await {
                return state;
            }
        }
        state
    }

    /// The guest is another host's: all there is of it here goes, but for its address.
    async fn moved(&mut self, worker: &Arc<Worker>) -> State {
        let name = self.record.spec.name.clone();
        self.show(GuestState::Stopping, Some(worker));
        if let Err(error) = self.kill(worker).await {
            tracing::error!(guest = %name, error = in_full(&error), "its frozen worker cannot be ended");
        }
        clear(&self.shared, self.record.id).await;
        if let Some(overlay) = &self.shared.overlay {
            overlay.port(self.record.network.mac, None);
        }
        // What is noted of the handover goes with the guest's directory, and tells the next daemon if this one ends here.
        if let Err(error) = self.forget().await {
            tracing::error!(guest = %name, error = in_full(&error), "a guest that went stays on record");
        }
        tracing::info!(guest = %name, "went to another host");
        State::Over
    }
}
