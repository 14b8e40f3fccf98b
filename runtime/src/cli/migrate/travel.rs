//! One migration, from its beginning to its end.

use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::StreamExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::exit::Unsettled;
use super::super::target::Target;
use super::view::View;
use crate::api::client::{ClientError, MigrationStream};
use crate::api::{GuestName, MigrateRequest, MigrationState, MigrationView};

/// How long a host that went away is waited for: a daemon that is started again takes the migration up.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long after that it is asked for again.
const AGAIN: Duration = Duration::from_millis(300);

/// How it ended, as far as it was waited for.
pub(super) enum End {
    /// The guest is at the target.
    Moved(MigrationView),
    /// It is where it was.
    Stayed {
        view: MigrationView,
        /// Because of Ctrl-C.
        cancelled: bool,
    },
    /// It goes on: Ctrl-C came twice.
    Left(MigrationView),
}

/// Counts how often Ctrl-C came.
#[derive(Clone)]
pub(super) struct Interrupts(watch::Receiver<u32>);

impl Interrupts {
    /// From now on Ctrl-C does nothing else.
    pub(super) fn listen() -> Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt()).context("waiting for Ctrl-C")?;
        let (count, counted) = watch::channel(0);
        tokio::spawn(async move {
            while interrupt.recv().await.is_some() {
                count.send_modify(|count| *count += 1);
            }
        });
        Ok(Self(counted))
    }

    /// Whether it came at all.
    pub(super) fn any(&self) -> bool {
        *self.0.borrow() > 0
    }

    /// Returns when it has come so often.
    async fn reached(&self, times: u32) {
        let mut counted = self.0.clone();
        if counted.wait_for(|count| *count >= times).await.is_err() {
            std::future::pending().await
        }
    }
}

/// Has one begin. It cannot be cancelled before it has an id: Ctrl-C only ends the waiting for that.
pub(super) async fn begin(
    source: &Target,
    guest: &GuestName,
    request: &MigrateRequest,
    interrupts: &Interrupts,
) -> Result<MigrationView> {
    tokio::select! {
        begun = source.client.migrate(guest, request) => Ok(begun?),
        () = interrupts.reached(1) => {
            let host = &source.name;
            Err(Unsettled(format!("host {host} has not said whether it began; `roam migrations` shows it")).into())
        }
    }
}

/// Follows one that has begun until it is over. The first Ctrl-C cancels it, the second leaves it.
pub(super) async fn follow(
    source: &Target,
    begun: MigrationView,
    show: &mut dyn View,
    interrupts: &Interrupts,
) -> Result<End> {
    let mut last = begun;
    let mut watching = Watching { source, id: last.id.clone(), stream: None, lost: None };
    let mut cancelled = false;
    loop {
        tokio::select! {
            seen = watching.next() => {
                last = seen?;
                show.seen(&last)?;
                if last.is_over() {
                    return Ok(ended(last, cancelled));
                }
            }
            () = interrupts.reached(2) => return Ok(End::Left(last)),
            () = interrupts.reached(1), if !cancelled => {
                cancelled = true;
                let notice = tokio::select! {
                    asked = source.client.cancel_migration(&last.id) => cancelling(asked),
                    () = interrupts.reached(2) => return Ok(End::Left(last)),
                };
                show.notice(&notice);
            }
        }
    }
}

fn ended(view: MigrationView, cancelled: bool) -> End {
    if view.state == MigrationState::Done {
        return End::Moved(view);
    }
    let heeded = view.reason.as_ref().is_some_and(|reason| reason.code == "cancelled");
    End::Stayed { view, cancelled: cancelled && heeded }
}

fn cancelling(asked: Result<MigrationView, ClientError>) -> String {
    match asked {
        Ok(_) => "cancelling; Ctrl-C once more leaves it to the hosts".to_owned(),
        Err(error) => format!("{error}; Ctrl-C once more leaves it to the hosts"),
    }
}

/// What the source says of it, even if its daemon is away for a while.
struct Watching<'a> {
    source: &'a Target,
    id: String,
    stream: Option<MigrationStream>,
    lost: Option<Instant>,
}

impl Watching<'_> {
    /// May be dropped at any time and be called again.
    async fn next(&mut self) -> Result<MigrationView> {
        loop {
            let Some(stream) = &mut self.stream else {
                self.connect().await?;
                continue;
            };
            match stream.next().await {
                Some(Ok(view)) => {
                    self.lost = None;
                    return Ok(view);
                }
                // The daemon goes down, or was killed.
                None | Some(Err(_)) => {
                    self.stream = None;
                    self.lost.get_or_insert_with(Instant::now);
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<()> {
        if self.lost.is_some() {
            tokio::time::sleep(AGAIN).await;
        }
        match self.source.client.watch_migration(&self.id).await {
            Ok(stream) => {
                self.stream = Some(stream);
                Ok(())
            }
            Err(error @ ClientError::Refused { .. }) => Err(self.unsettled(error)),
            Err(error) if self.lost.get_or_insert_with(Instant::now).elapsed() > PATIENCE => Err(self.unsettled(error)),
            Err(_) => Ok(()),
        }
    }

    fn unsettled(&self, error: ClientError) -> anyhow::Error {
        let (host, id) = (&self.source.name, &self.id);
        let text = format!(
            "it is not known how migration {id} ended, for host {host} was away; `roam ps` shows where the guest is"
        );
        anyhow::Error::from(error).context(Unsettled(text))
    }
}

#[cfg(test)]
mod tests;
