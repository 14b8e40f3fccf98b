//! A guest that was being moved to another host when its daemon was ended, and whose worker has ended, too. Whether it was
//! taken there is asked before anything else is done with it: two hosts are not to serve one address.

use std::time::Duration;

use roam_snapshot::protocol::Reason;
use roam_snapshot::protocol::source::Outcome;
use tokio::time::{Instant, sleep_until};

use super::{Actor, State, next};
use crate::api::{GuestState, GuestView};
use crate::host::HostError;
use crate::host::migrate::{Handover, settled};
use crate::host::supervisor::{Answer, Order};

/// How long who wants the guest started waits for others to be asked.
const PATIENCE: Duration = Duration::from_secs(6);

impl Actor {
    /// Waits until the guest is known to be this host's, if that was ever in doubt; `Some` if something else follows, and
    /// then who wanted it started has been told. While it is in doubt it can be stopped or deleted, which decides nothing.
    pub(super) async fn settle(&mut self, answer: &mut Option<Answer<GuestView>>) -> Result<Option<State>, HostError> {
        let path = self.shared.layout.handover(self.record.id);
        let handover =
            Handover::read(&path).map_err(HostError::io("reading what is noted of the guest's migration"))?;
        let Some(handover) = handover else { return Ok(None) };
        self.show(GuestState::Waiting, None);
        let (shared, record) = (self.shared.clone(), self.record.clone());
        let mut settling = Box::pin(settled(&shared, &record, &handover));
        let patience = Instant::now() + PATIENCE;
        let name = || record.spec.name.clone();
        let tell = |answer: &mut Option<Answer<GuestView>>, error: HostError| {
            if let Some(answer) = answer.take() {
                // He may have gone.
                let _ = answer.send(Err(error));
            }
        };
        let outcome = loop {
            tokio::select! {
                outcome = &mut settling => break outcome?,
                () = sleep_until(patience), if answer.is_some() => {
                    tell(answer, HostError::InDoubt { guest: name(), to: handover.to.clone() });
                }
                order = next(&mut self.later, &mut self.mailbox) => match order {
                    None => return Ok(Some(State::Over)),
                    Some(Order::Owner) => {}
                    Some(order) => if let Some(state) = self.at_rest(order).await {
                        tell(answer, HostError::Overtaken(name()));
                        return Ok(Some(state));
                    }
                },
            }
        };
        Ok(match outcome {
            Outcome::Moved => {
                tell(answer, HostError::NoGuest(name()));
                Some(self.gone().await)
            }
            Outcome::Fenced(Reason { message: reason, .. }) => {
                tell(answer, HostError::Fenced { guest: name(), reason: reason.clone() });
                Some(self.fence(None, reason).await)
            }
            Outcome::Stayed(_) | Outcome::Ended => {
                Handover::forget(&self.shared.layout, &self.record);
                None
            }
        })
    }

    /// Whether another host may have the guest.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.shared.layout.handover(self.record.id).exists()
    }
}
