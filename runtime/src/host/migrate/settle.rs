//! Asking a target what became of a session, and the controller.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use roam_snapshot::plan::PlanName;
use roam_snapshot::protocol::source::{Outcome, Reclaim, Source, SourceCommand, SourceEvent};
use roam_snapshot::protocol::{Greeting, Message, Standing, VERSION_MAX, VERSION_MIN};
use tokio::sync::oneshot;

use super::channel::{Channel, ChannelError, Come};
use super::fault::wait_for;
use super::handover::{Handover, Said};
use super::{outgoing, port};
use crate::api::{MigrationReport, MigrationState};
use crate::host::HostError;
use crate::host::record::Record;
use crate::host::shared::Shared;

/// How long the answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(4);

/// Waits until it is known whose a guest is that was being moved when its daemon was ended, and whose worker is gone. Returns
/// [`Outcome::Ended`] where it never was another's.
pub(in crate::host) async fn settled(
    shared: &Arc<Shared>,
    record: &Record,
    handover: &Handover,
) -> Result<Outcome, HostError> {
    // Which plan it was is of no importance any more.
    let entry = outgoing::begin(shared, record, handover, PlanName::PreCopy)?;
    entry.update(|view| view.state = MigrationState::InDoubt);
    tracing::warn!(guest = %record.spec.name, to = %handover.to, "it is in doubt who has this guest, which has no worker; that is being settled");
    let began = Instant::now();
    let mut machine = match handover.said(&shared.layout.handed(record.id)) {
        Said::Token => Source::in_doubt(handover.session, shared.overlay.is_some(), 0),
        Said::Claim | Said::Nothing => Source::back(handover.session, 0),
    };
    let mut events = VecDeque::from([SourceEvent::WorkerEnded, SourceEvent::Tick]);
    loop {
        let now_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let Some(event) = events.pop_front() else {
            let rest_us = machine.deadline_us().map_or(0, |at_us| at_us.saturating_sub(now_us));
            tokio::time::sleep(Duration::from_micros(rest_us)).await;
            events.push_back(SourceEvent::Tick);
            continue;
        };
        for command in machine.on(event, now_us) {
            match command {
                SourceCommand::Ask => {
                    events.push_back(SourceEvent::Answered(ask_beside(shared, handover).await));
                }
                SourceCommand::Reclaim { never } => {
                    events.push_back(SourceEvent::Reclaimed(reclaim(shared, record, handover, never).await));
                }
                SourceCommand::Finish(outcome) => {
                    outgoing::end(entry, &outcome, MigrationReport::default());
                    return Ok(outcome);
                }
                // There is no worker to go on, nor one to be ended.
                _ => {}
            }
        }
    }
}

/// Asks on a thread of its own: a daemon that goes down does not wait for it.
async fn ask_beside(shared: &Arc<Shared>, handover: &Handover) -> Option<Standing> {
    let (answer, answered) = oneshot::channel();
    let (shared, handover) = (shared.clone(), handover.clone());
    let asking = move || {
        // Nobody may wait for it any more.
        let _ = answer.send(ask(&shared, &handover));
    };
    thread::Builder::new().name("settling".into()).spawn(asking).ok()?;
    answered.await.ok().flatten()
}

/// Asks the controller for the guest's address.
pub(super) async fn reclaim(shared: &Shared, record: &Record, handover: &Handover, never: bool) -> Reclaim {
    let (Some(overlay), Some(from)) = (&shared.overlay, handover.generation) else { return Reclaim::Unknown };
    let mac = record.network.mac;
    match handover.incarnation {
        _ if never => overlay.take_back(mac, from, &handover.to).await.into(),
        Some(incarnation) => overlay.reclaim(mac, from, incarnation).await.into(),
        None => Reclaim::Unknown,
    }
}

/// `None` if it cannot be asked.
pub(super) fn ask(shared: &Shared, handover: &Handover) -> Option<Standing> {
    match exchange(shared, handover) {
        Ok(standing) => Some(standing),
        Err(error) => {
            tracing::warn!(target = %handover.to, error = crate::sentence::sentence(&error), "cannot be asked whether it has a guest");
            None
        }
    }
}

fn exchange(shared: &Shared, handover: &Handover) -> Result<Standing, ChannelError> {
    let mut channel = Channel::connect(handover.at, handover.to.as_str(), port(shared)?.client.clone())?;
    let versions = (VERSION_MIN, VERSION_MAX);
    channel.say(&Message::Hello { versions, session: handover.session, greeting: Greeting::Settle })?;
    match receive(&mut channel, ANSWER_LIMIT)? {
        Message::Settled(standing) => Ok(standing),
        _ => Err(ChannelError::Closed),
    }
}

/// The next message, waited for at most so long.
pub(super) fn receive(channel: &mut Channel, limit: Duration) -> Result<Message, ChannelError> {
    let deadline = Instant::now() + limit;
    loop {
        match channel.receive()? {
            Some(Come::Message(message)) => return Ok(message),
            Some(Come::Pages(..)) => return Err(ChannelError::Closed),
            None => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ChannelError::Io(std::io::ErrorKind::TimedOut.into()));
        }
        wait_for([PollFd::new(channel.as_fd(), PollFlags::POLLIN)], Some(left));
    }
}
