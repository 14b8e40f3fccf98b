//! Guests that move back and forth while their clients talk to them.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde::Serialize;

use super::show::Show;
use super::stage::{HOSTS, ROLES, Stage, guest, refused};
use super::{DemoError, interrupted};
use crate::api::{MigrateRequest, MigrationReport, MigrationState, MigrationView};

/// How long all guests are left where they are before the first move, and after the last: to compare with.
const CALM: Duration = Duration::from_millis(1500);
/// From the beginning of one move to that of the next, if it is over by then.
const STEP: Duration = Duration::from_millis(800);
/// How long one may take.
const LIMIT: Duration = Duration::from_secs(30);

/// One migration.
#[derive(Debug, Serialize)]
pub(super) struct Moved {
    pub(super) guest: &'static str,
    pub(super) from: &'static str,
    pub(super) to: &'static str,
    /// Where in time, for the picture.
    #[serde(skip)]
    pub(super) began: Instant,
    #[serde(skip)]
    pub(super) ended: Instant,
    /// What it came to.
    pub(super) report: Option<MigrationReport>,
    /// Why it failed.
    pub(super) failure: Option<String>,
}

/// Moves one guest after the other, all of them there, then all of them back, until the time is over.
pub(super) async fn run(stage: &Stage, until: Instant, show: &mut Show) -> Result<Vec<Moved>, DemoError> {
    let mut moves = Vec::new();
    tokio::time::sleep(CALM).await;
    for (step, role) in ROLES.iter().cycle().enumerate() {
        let begun = Instant::now();
        if begun + CALM >= until || interrupted() {
            break;
        }
        let from = step / ROLES.len() % 2;
        let moved = one(stage, role.name, from).await?;
        show.moved(&moved);
        let stays = moved.failure.is_some();
        moves.push(moved);
        if stays {
            // What comes next would set out from where it is not.
            break;
        }
        tokio::time::sleep_until((begun + STEP).into()).await;
    }
    Ok(moves)
}

async fn one(stage: &Stage, name: &'static str, from: usize) -> Result<Moved, DemoError> {
    let began = Instant::now();
    let view = tokio::time::timeout(LIMIT, follow(stage, name, from)).await;
    let (report, failure) = match view {
        Ok(Ok(MigrationView { state: MigrationState::Done, report, .. })) => (report, None),
        Ok(Ok(view)) => (None, Some(view.reason.map_or("no reason is given".into(), |reason| reason.message))),
        Ok(Err(error)) => return Err(error),
        Err(_elapsed) => (None, Some(format!("it is not over after {LIMIT:?}"))),
    };
    Ok(Moved { guest: name, from: HOSTS[from], to: HOSTS[1 - from], began, ended: Instant::now(), report, failure })
}

/// Has one begin, and waits for how it ends.
async fn follow(stage: &Stage, name: &str, from: usize) -> Result<MigrationView, DemoError> {
    let client = stage.host(from);
    let request = MigrateRequest::new(guest(HOSTS[1 - from]));
    let mut view = client.migrate(&guest(name), &request).await.map_err(refused(from, format!("move {name}")))?;
    let lost = || refused(from, format!("say how {name} moves"));
    let mut seen = client.watch_migration(&view.id).await.map_err(lost())?;
    while let Some(next) = seen.next().await {
        view = next.map_err(lost())?;
        if view.is_over() {
            break;
        }
    }
    Ok(view)
}
