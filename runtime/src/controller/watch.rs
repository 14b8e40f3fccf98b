//! Server-sent events (HTML Living Standard, 9.2) for those who follow the table.
//!
//! Nothing is gathered for a follower that does not read: the next event is made when the last has been taken. Whoever
//! falls behind further than updates are kept gets the table again, once, and goes on from there.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use roam_sdn::Controller;
use roam_sdn::model::Revision;
use roam_sdn::store::Watch;
use serde::Serialize;
use tokio::sync::watch::Receiver;

use super::App;

/// How long nothing may be said: a comment keeps the connection, and shows a follower that it has one.
const SILENCE: Duration = Duration::from_secs(3);

/// The table as JSON, written once for all who begin with the same revision.
#[derive(Default)]
pub(super) struct Tables {
    last: Mutex<Option<(Revision, Bytes)>>,
}

impl Tables {
    /// The table as it is, and what comes after it.
    fn follow(&self, controller: &Controller) -> (Revision, Bytes, Watch) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((revision, table)) = &*last
            && *revision == controller.revision()
            && let Ok(watch) = controller.watch(*revision)
        {
            return (*revision, table.clone(), watch);
        }
        let (table, watch) = controller.follow();
        let (revision, table) = (table.revision, json(&table));
        *last = Some((revision, table.clone()));
        (revision, table, watch)
    }
}

/// One who follows.
struct Follower {
    app: App,
    watch: Watch,
    /// The revision that was told last.
    told: Revision,
    figures: Option<Receiver<Bytes>>,
    /// What is to be sent, in pieces.
    pieces: VecDeque<Bytes>,
    down: Pin<Box<dyn Future<Output = ()> + Send>>,
    gone: bool,
}

/// What happens next to a follower.
enum Next {
    Down,
    Update(Bytes, Revision),
    Behind,
    Figures(Bytes),
    Silence,
}

/// Events after that revision; from the table on if there is none, or if what came after it is no longer kept.
pub(super) fn events(
    app: App,
    after: Option<Revision>,
    figures: bool,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let resumed = after.and_then(|after| Some((after, app.controller.watch(after).ok()?)));
    let (told, watch, table) = match resumed {
        Some((after, watch)) => (after, watch, None),
        None => {
            let (revision, table, watch) = app.tables.follow(&app.controller);
            (revision, watch, Some(table))
        }
    };
    let figures = figures.then(|| app.figures.subscribe());
    let down = Box::pin(app.reception.going_down());
    let mut follower = Follower { app, watch, told, figures, pieces: VecDeque::new(), down, gone: false };
    match table {
        Some(table) => follower.say("table", table),
        // The answer's header leaves with its first byte.
        None => follower.pieces.push_back(Bytes::from_static(b":\n\n")),
    }
    stream::unfold(follower, |mut follower| async move {
        let piece = follower.piece().await?;
        Some((Ok(piece), follower))
    })
}

impl Follower {
    /// `None` is the end.
    async fn piece(&mut self) -> Option<Bytes> {
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                return Some(piece);
            }
            if self.gone {
                return None;
            }
            match self.next().await {
                Next::Down => {
                    self.gone = true;
                    self.say("goodbye", Bytes::from_static(b"null"));
                }
                Next::Update(update, revision) => {
                    self.told = revision;
                    self.say("update", update);
                }
                Next::Behind => {
                    let (revision, table, watch) = self.app.tables.follow(&self.app.controller);
                    (self.told, self.watch) = (revision, watch);
                    self.say("table", table);
                }
                Next::Figures(figures) => self.say("figures", figures),
                Next::Silence => return Some(Bytes::from_static(b":\n\n")),
            }
        }
    }

    async fn next(&mut self) -> Next {
        let reading = async {
            if let Some(figures) = &mut self.figures
                && figures.changed().await.is_ok()
            {
                return figures.borrow_and_update().clone();
            }
            // Not asked for; or there are no more, because the daemon goes down.
            std::future::pending().await
        };
        tokio::select! {
            biased;
            () = &mut self.down => Next::Down,
            update = self.watch.next() => match update {
                Ok(update) => Next::Update(json(&*update), update.revision),
                Err(_compacted) => Next::Behind,
            },
            figures = reading => Next::Figures(figures),
            () = tokio::time::sleep(SILENCE) => Next::Silence,
        }
    }

    /// An event. Its id is always the revision to go on after, so that a figure skips no update.
    fn say(&mut self, name: &str, data: Bytes) {
        let head = format!("event: {name}\nid: {}\ndata: ", self.told);
        self.pieces.extend([head.into(), data, Bytes::from_static(b"\n\n")]);
    }
}

/// In one line, as an event's data must be.
fn json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).expect("what is watched is plain data with text as keys").into()
}
