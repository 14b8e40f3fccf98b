//! Whose the guest's address is. Where no controller says, it is this host's.

use std::sync::Arc;

use roam_sdn::model::Generation;

use super::{Actor, State};
use crate::ambient::now_ms;
use crate::api::{End, EndKind, ErrorCode, GuestState};
use crate::host::HostError;
use crate::host::error::in_full;
use crate::host::overlay::Verdict;
use crate::host::record::Standing;
use crate::host::supervisor::{Worker, clear};

impl Actor {
    /// Looks whose the address is, and does what follows. Judged by the record and the table as they are now: what was
    /// so when this was ordered may be over.
    pub(super) async fn check_owner(&mut self, worker: Option<&Arc<Worker>>) -> Option<State> {
        let overlay = self.shared.overlay.as_ref()?;
        if matches!(self.record.standing, Standing::Fenced | Standing::Deleted) {
            return None;
        }
        match overlay.verdict(&self.record) {
            Verdict::Ours => None,
            Verdict::Since(generation) => {
                self.note_generation(generation).await;
                None
            }
            Verdict::Fenced(reason) => Some(self.fence(worker, reason).await),
            // Whoever has it by now claims it; who is in doubt only asks.
            Verdict::Claim if self.is_in_doubt() => None,
            Verdict::Claim => match overlay.claim(&self.record, self.record.generation).await {
                Ok(generation) => {
                    self.note_generation(generation).await;
                    None
                }
                Err(HostError::NotGranted { code: ErrorCode::Fenced | ErrorCode::Conflict, message, .. }) => {
                    Some(self.fence(worker, message).await)
                }
                Err(error) => {
                    tracing::warn!(guest = %self.record.spec.name, error = in_full(&error), "not claimed again yet");
                    None
                }
            },
        }
    }

    /// Ends the guest for good, because its address is another's: at once, whatever it was to do before.
    pub(super) async fn fence(&mut self, worker: Option<&Arc<Worker>>, reason: String) -> State {
        tracing::warn!(guest = %self.record.spec.name, reason, "fenced");
        // Two owners may not be; what is on record may wait.
        let killed = match worker {
            Some(worker) => self.kill(worker).await.map(drop),
            None => Ok(()),
        };
        let end = End { kind: EndKind::Fenced, exit_code: None, reason, at_ms: now_ms() };
        let next = self.record.changed(|record| {
            record.standing = Standing::Fenced;
            record.last_end = Some(end);
        });
        self.keep_if_possible(next).await;
        match (killed, worker) {
            (Err(error), Some(worker)) => {
                tracing::error!(guest = %self.record.spec.name, error = in_full(&error), "its worker is still there");
                self.show(GuestState::Stopping, Some(worker));
                State::Ending(worker.clone())
            }
            _ => {
                clear(&self.shared, self.record.id).await;
                State::Resting
            }
        }
    }

    /// Why the guest must not be started, if its address is known to be another's.
    pub(super) async fn is_anothers(&self) -> Option<String> {
        match self.shared.overlay.as_ref()?.first_verdict(&self.record).await {
            Verdict::Fenced(reason) => Some(reason),
            Verdict::Ours | Verdict::Since(_) | Verdict::Claim => None,
        }
    }

    /// The same while it runs, as far as is known now.
    pub(super) fn is_fenced(&self) -> bool {
        let verdict = self.shared.overlay.as_ref().map(|overlay| overlay.verdict(&self.record));
        matches!(verdict, Some(Verdict::Fenced(_)))
    }

    /// The generation a guest has that an operator starts: one that is fenced needs another.
    pub(super) async fn claimed_anew(&self) -> Result<Option<Generation>, HostError> {
        match &self.shared.overlay {
            Some(overlay) if self.record.standing == Standing::Fenced => {
                overlay.claim(&self.record, None).await.map(Some)
            }
            _ => Ok(self.record.generation),
        }
    }

    pub(super) async fn note_generation(&mut self, generation: Generation) {
        if self.record.generation == Some(generation) {
            return;
        }
        self.keep_if_possible(self.record.changed(|record| record.generation = Some(generation))).await;
        self.seen.send_modify(|seen| seen.view.generation = Some(generation));
    }
}
