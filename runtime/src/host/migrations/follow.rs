//! A migration as it goes on, for those who watch it.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::api::MigrationView;

/// How a migration is: first of all, then whenever that changes. The last one is over.
pub type MigrationViews = Pin<Box<dyn Stream<Item = MigrationView> + Send>>;

/// Least time between two views, unless the later one is the last.
const PAUSE: Duration = Duration::from_millis(100);

struct Follower {
    seen: watch::Receiver<MigrationView>,
    told: Option<Instant>,
    over: bool,
}

pub(super) fn views(seen: watch::Receiver<MigrationView>) -> MigrationViews {
    let follower = Follower { seen, told: None, over: false };
    Box::pin(stream::unfold(follower, |mut follower| async move {
        let view = follower.next().await?;
        Some((view, follower))
    }))
}

impl Follower {
    /// `None` when it has been seen over, or when its engine let go of it in doubt.
    async fn next(&mut self) -> Option<MigrationView> {
        if self.over {
            return None;
        }
        if let Some(told) = self.told {
            self.seen.changed().await.ok()?;
            tokio::select! {
                () = sleep_until(told + PAUSE) => {}
                // An engine that has let go changes it no more: there is nothing to wait for.
                _ = self.seen.wait_for(MigrationView::is_over) => {}
            }
        }
        let view = self.seen.borrow_and_update().clone();
        (self.told, self.over) = (Some(Instant::now()), view.is_over());
        Some(view)
    }
}
