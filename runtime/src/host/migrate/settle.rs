//! Asking a target what became of a session.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags};
use roam_snapshot::protocol::{Greeting, Message, Standing, VERSION_MAX, VERSION_MIN};

use super::Migrator;
use super::channel::{Channel, ChannelError, Come};
use super::fault::wait_for;
use super::handover::Handover;

/// How long the answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(4);

/// `None` if it cannot be asked.
pub(super) fn ask(migrator: &Migrator, handover: &Handover) -> Option<Standing> {
    match exchange(migrator, handover) {
        Ok(standing) => Some(standing),
        Err(error) => {
            tracing::warn!(target = %handover.to, error = crate::sentence::sentence(&error), "cannot be asked whether it has a guest");
            None
        }
    }
}

fn exchange(migrator: &Migrator, handover: &Handover) -> Result<Standing, ChannelError> {
    let mut channel = Channel::connect(handover.at, handover.to.as_str(), migrator.port()?.client.clone())?;
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
