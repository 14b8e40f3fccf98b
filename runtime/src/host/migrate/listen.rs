//! Taking connections of hosts that have a guest for us, or ask what became of one.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use roam_snapshot::protocol::{Greeting, Message, Reason, ReasonCode};

use super::channel::{Channel, ChannelError};
use super::target::Arriving;
use super::{Migrator, settle};
use crate::sys::process::prefer_thread;

/// Connections at once; more are closed.
const CONNECTIONS_MAX: usize = 32;
/// How long the first message may take.
const HELLO_LIMIT: Duration = Duration::from_secs(5);
/// Pause after an error of the listener: out of descriptors, say.
const PAUSE: Duration = Duration::from_millis(100);

/// Counts a connection for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes connections until the host closes.
pub(super) fn listen(migrator: &Arc<Migrator>, listener: &TcpListener) {
    let count = Arc::new(AtomicUsize::new(0));
    while !migrator.is_closed() {
        let (stream, from) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a migration's connection cannot be taken");
                thread::sleep(PAUSE);
                continue;
            }
        };
        if migrator.is_closed() {
            break;
        }
        let counted = Counted(count.clone());
        if count.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            tracing::warn!(%from, "too many migrations at once; one is turned away");
            continue;
        }
        let migrator = migrator.clone();
        let serve = move || {
            let _counted = counted;
            if let Err(error) = serve(&migrator, stream) {
                tracing::info!(%from, error = crate::sentence::sentence(&error), "a migration's connection came to nothing");
            }
        };
        if let Err(error) = thread::Builder::new().name("arriving".into()).spawn(serve) {
            tracing::error!(%error, "a migration cannot be served");
        }
    }
}

/// Hears what a connection is for.
fn serve(migrator: &Arc<Migrator>, stream: TcpStream) -> Result<(), ChannelError> {
    let mut channel = Channel::accept(stream, super::port(&migrator.shared)?.server.clone())?;
    let hello = settle::receive(&mut channel, HELLO_LIMIT)?;
    let Message::Hello { session, greeting, .. } = hello else { return Err(ChannelError::Closed) };
    if greeting == Greeting::Settle {
        let standing = migrator.standing(session);
        return channel.say(&Message::Settled(standing));
    }
    let Some(live) = migrator.shared.sessions.begin(session)? else {
        let message = "there is a session of that id already".to_owned();
        return channel.say(&Message::Refused(Reason { code: ReasonCode::Protocol, message }));
    };
    prefer_thread();
    Arriving::new(migrator.clone(), channel, live).run(hello);
    migrator.shared.sessions.end(session);
    Ok(())
}
