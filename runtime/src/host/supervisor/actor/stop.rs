//! Ending a worker: by an operator's wish, or with the daemon.

use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Actor, State};
use crate::api::{EndKind, GuestState, GuestView};
use crate::host::HostError;
use crate::host::error::in_full;
use crate::host::record::Standing;
use crate::host::supervisor::ended::Watched;
use crate::host::supervisor::{Order, Worker, clear};

/// How long a killed worker may take to be gone.
const KILLED_LIMIT: Duration = Duration::from_secs(10);
/// How long a worker may take to end with its daemon before it is killed.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);
/// Longest grace of a stop.
const GRACE_MAX: Duration = Duration::from_secs(60);

impl Actor {
    /// Stops a serving worker, by force when its grace is over.
    pub(super) async fn stop(&mut self, worker: &Arc<Worker>, grace: Duration) -> Result<GuestView, HostError> {
        self.keep(self.record.changed(|record| record.standing = Standing::Stopped)).await?;
        self.show(GuestState::Stopping, Some(worker));
        let grace = grace.min(GRACE_MAX);
        let asked = self.ask_to_end(worker, grace).await;
        let status = match asked {
            Some(status) => status,
            None => self.kill(worker).await?,
        };
        let mut end = self.end(Watched::Ended(status));
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
                        let at_once = match &order {
                            Order::Delete { force, .. } => *force,
                            Order::Owner => self.is_fenced(),
                            _ => false,
                        };
                        self.later.push_back(order);
                        if at_once {
                            return None;
                        }
                    }
                },
            }
        }
    }

    /// The daemon goes, and with it a worker that was to. What is on record stands: as after the machine went down.
    pub(super) async fn leave(&self, worker: &Arc<Worker>) {
        if !self.shared.config.ephemeral {
            return;
        }
        worker.process.let_go();
        if timeout(LEAVE_LIMIT, worker.process.ended()).await.is_err()
            && let Err(error) = self.kill(worker).await
        {
            tracing::error!(guest = %self.record.spec.name, error = in_full(&error), "its worker cannot be ended");
        }
        clear(&self.shared, self.record.id).await;
    }

    pub(super) async fn kill(&self, worker: &Worker) -> Result<Option<ExitStatus>, HostError> {
        worker.process.kill().map_err(HostError::io("killing a worker"))?;
        timeout(KILLED_LIMIT, worker.process.ended()).await.map_err(|_elapsed| HostError::NotEnded {
            name: self.record.spec.name.clone(),
            pid: worker.pid(),
            after: KILLED_LIMIT,
        })
    }

    /// Removes all there is of it. What a crash leaves of that, the next daemon finishes: it is on record.
    pub(super) async fn delete(&mut self, worker: Option<&Arc<Worker>>) -> Result<(), HostError> {
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
        if let Some(overlay) = &self.shared.overlay {
            overlay.port(self.record.network.mac, None);
            overlay.release(&self.record).await;
        }
        self.shared.forget_noting(self.record.id, self.record.arrived.clone()).await?;
        tracing::info!(guest = %self.record.spec.name, "deleted");
        Ok(())
    }

    /// Ends a worker whose guest is stopped or deleted on record.
    pub(super) async fn finish(&mut self, worker: Arc<Worker>) -> State {
        if let Err(error) = self.kill(&worker).await {
            tracing::error!(guest = %self.record.spec.name, error = in_full(&error), "its worker cannot be ended");
        }
        clear(&self.shared, self.record.id).await;
        State::Resting
    }
}
