//! Following the controller, for ever: join, read the table and what changes, say once a second how we are.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use roam_sdn::Mac;
use roam_sdn::model::{Change, Generation, Revision, Update};
use roam_sdn::table::Table;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::mirror::Mirror;
use super::moves::Moves;
use super::releases::{Release, Releases};
use super::verdict::{Verdict, judge};
use super::{Guests, OverlayConfig};
use crate::api::client::{ClientError, SdnClient};
use crate::api::sdn::{Claim, Heartbeat, Join, Kind, WatchEvent};
use crate::api::{ErrorCode, GuestName, OverlayView};
use crate::sentence::sentence;

/// How often the controller is told that we are there; it waits for a few of these.
const BEAT: Duration = Duration::from_secs(1);
/// How long an answer to that may take. A controller that takes longer is asked over a new connection.
const BEAT_LIMIT: Duration = Duration::from_secs(4);
/// Pauses between two tries to reach it: they double.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Claims under way at once.
const CLAIMS_MAX: usize = 16;

/// The controller, as this host knows it.
pub(super) struct Link {
    pub(super) name: GuestName,
    pub(super) mirror: Mirror,
    pub(super) moves: Moves,
    client: SdnClient,
    join: Join,
    /// The table as far as it was followed; none before it was read.
    replica: Mutex<Option<Table>>,
    /// Why the controller is not followed; `None` while it is.
    away: watch::Sender<Option<String>>,
    claims: Semaphore,
    releases: Releases,
    /// Whose addresses they are; known when they are followed.
    guests: OnceLock<Weak<Guests>>,
    /// One tells at a time: a release that is told late must not end a claim that came after it.
    telling: tokio::sync::Mutex<()>,
}

/// What came of telling that an address is given up.
enum Released {
    /// It is not ours.
    Settled,
    /// It is of another generation, or another's.
    Fenced,
}

/// Why a session with the controller is over.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("it goes down")]
    Goodbye,
    #[error("it ended the watch")]
    Ended,
    #[error("it sent an update before the table")]
    NoTable,
    #[error("it did not answer a heartbeat within {} s", BEAT_LIMIT.as_secs())]
    Silent,
}

impl Link {
    pub(super) fn new(
        config: &OverlayConfig,
        migrate: Option<SocketAddr>,
        name: GuestName,
        mirror: Mirror,
        releases: PathBuf,
    ) -> Self {
        let (away, _) = watch::channel(Some("not reached yet".to_owned()));
        Self {
            moves: Moves::new(name.clone(), SdnClient::new(config.controller.clone())),
            name,
            mirror,
            client: SdnClient::new(config.controller.clone()),
            join: Join { kind: Kind::Host, vtep: config.vtep, migrate },
            replica: Mutex::default(),
            away,
            claims: Semaphore::new(CLAIMS_MAX),
            releases: Releases::open(releases),
            guests: OnceLock::new(),
            telling: tokio::sync::Mutex::default(),
        }
    }

    /// Waits until the controller is followed, if it has not been yet.
    pub(super) async fn contact(&self, limit: Duration) {
        if self.replica().is_none() {
            let mut away = self.away.subscribe();
            let _ = timeout(limit, away.wait_for(Option::is_none)).await;
        }
    }

    /// An answer that is lost leaves open whether the address is ours. That is noted, and the guest it was for is on
    /// record until then: what it does not get to own is given back.
    pub(super) async fn claim(self: &Arc<Self>, claim: &Claim) -> Result<Generation, ClientError> {
        let mac = claim.address.mac;
        if let Some(answer) = self.moves.claim(mac).await {
            return answer;
        }
        let doubt = Release { mac, generation: None };
        self.tell(Some(mac)).await?;
        let _turn = self.claims.acquire().await;
        let accepted = match self.client.claim(claim).await {
            Ok(accepted) => accepted,
            Err(error) => {
                if may_be_done(&error) {
                    self.note_release(doubt).await;
                }
                return Err(error);
            }
        };
        if self.releases.list(Some(mac)).contains(&doubt) {
            self.settled(doubt).await;
        }
        let placed = accepted.route.map(|route| route.placement.generation);
        placed.ok_or_else(|| ClientError::Protocol {
            endpoint: self.client.endpoint().to_string(),
            source: "a claim was accepted, but the address is nobody's".into(),
        })
    }

    /// Without a generation: whichever it is ours since, if it is.
    pub(super) async fn release(self: &Arc<Self>, mac: Mac, generation: Option<Generation>) {
        self.note_release(Release { mac, generation }).await;
        // What cannot be told now is told later.
        let _ = timeout(BEAT_LIMIT, self.tell(Some(mac))).await;
    }

    /// Tells the releases that wait, of one address or all.
    async fn tell(self: &Arc<Self>, mac: Option<Mac>) -> Result<(), ClientError> {
        if self.releases.list(mac).is_empty() {
            return Ok(());
        }
        let _alone = self.telling.lock().await;
        for release in self.releases.list(mac) {
            let Some(generation) = release.generation else {
                if self.tell_doubtful(release.mac).await? {
                    self.settled(release).await;
                }
                continue;
            };
            match self.released(release.mac, generation).await? {
                Released::Settled => self.settled(release).await,
                // Of another generation. It may be ours since that one, if an answer was lost.
                Released::Fenced => {
                    let doubt = Release { generation: None, ..release };
                    self.on_disk(move |releases| releases.replace(release, doubt)).await;
                }
            }
        }
        Ok(())
    }

    /// Releases what was claimed for no guest. Whether that is settled: as long as a guest has the MAC, it is not.
    async fn tell_doubtful(&self, mac: Mac) -> Result<bool, ClientError> {
        let guests = self.guests.get().and_then(Weak::upgrade);
        let is_in_use = || guests.as_ref().is_none_or(|guests| guests.have(mac));
        if is_in_use() {
            return Ok(false);
        }
        let placement = match self.client.route(&mac.to_string()).await {
            Ok(route) => route.placement,
            Err(error) if error.code() == Some(ErrorCode::NotFound) => return Ok(true),
            Err(error) => return Err(error),
        };
        if placement.host != self.name {
            return Ok(true);
        }
        // A guest that takes the MAC after this look claims it after this release.
        if is_in_use() {
            return Ok(false);
        }
        Ok(matches!(self.released(mac, placement.generation).await?, Released::Settled))
    }

    /// A no settles it as well: it is not ours any more.
    async fn released(&self, mac: Mac, generation: Generation) -> Result<Released, ClientError> {
        match self.client.release(&mac.to_string(), generation).await {
            Ok(_) => Ok(Released::Settled),
            Err(error) => match error.code() {
                Some(ErrorCode::NotFound | ErrorCode::Forbidden) => Ok(Released::Settled),
                Some(ErrorCode::Fenced) => Ok(Released::Fenced),
                _ => Err(error),
            },
        }
    }

    async fn note_release(self: &Arc<Self>, release: Release) {
        self.on_disk(move |releases| releases.add(release)).await;
    }

    async fn settled(self: &Arc<Self>, release: Release) {
        self.on_disk(move |releases| releases.remove(release)).await;
    }

    /// Changes the list of releases. What cannot be kept counts until the daemon ends.
    async fn on_disk(self: &Arc<Self>, change: impl FnOnce(&Releases) -> std::io::Result<()> + Send + 'static) {
        let link = self.clone();
        if let Ok(Err(error)) = tokio::task::spawn_blocking(move || change(&link.releases)).await {
            tracing::error!(%error, "addresses that are to be given up are not on disk as they are known here");
        }
    }

    /// Before there is a table nothing is known.
    pub(super) fn verdict(&self, mac: Mac, held: Option<Generation>) -> Verdict {
        self.replica().as_ref().map_or(Verdict::Ours, |table| judge(table, &self.name, mac, held))
    }

    /// Looks at the table as far as it was followed, if it was.
    pub(super) fn of_table<T>(&self, look: impl FnOnce(&Table) -> T) -> Option<T> {
        self.replica().as_ref().map(look)
    }

    pub(super) fn problems(&self) -> Vec<String> {
        let away = self.away.borrow().as_ref().map(|why| {
            let controller = self.client.endpoint();
            format!("the controller {controller} is not followed: {why}; guests serve on, new ones need it")
        });
        away.into_iter().chain(self.mirror.trouble()).collect()
    }

    pub(super) fn view(&self) -> OverlayView {
        let (applied, plane) = self.mirror.status();
        OverlayView {
            controller: self.client.endpoint().to_string(),
            away: self.away.borrow().clone(),
            vtep: self.join.vtep,
            revision: self.revision(),
            applied,
            plane,
        }
    }

    fn revision(&self) -> Option<Revision> {
        self.replica().as_ref().map(Table::revision)
    }

    fn replica(&self) -> MutexGuard<'_, Option<Table>> {
        self.replica.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the controller is followed, or why not; said once.
    fn note(&self, away: Option<String>) {
        self.away.send_if_modified(|known| {
            let (changed, was_away) = (*known != away, known.is_some());
            match &away {
                None if was_away => tracing::info!(controller = %self.client.endpoint(), "follows the controller"),
                Some(why) if changed => {
                    tracing::warn!(controller = %self.client.endpoint(), why, "not followed; guests serve on");
                }
                _ => {}
            }
            *known = away;
            changed
        });
    }

    /// One session: until it is over.
    async fn session(self: &Arc<Self>, guests: &Weak<Guests>) -> Lost {
        if let Err(error) = self.client.join(&self.name, &self.join).await {
            return error.into();
        }
        tokio::select! {
            lost = self.watch(guests) => lost,
            lost = self.beat() => lost,
            () = self.tell_on(guests) => Lost::Ended,
        }
    }

    /// Each session begins with the table: one of the same revision may be another one.
    async fn watch(&self, guests: &Weak<Guests>) -> Lost {
        let mut events = match self.client.watch(None, false).await {
            Ok(events) => events,
            Err(error) => return error.into(),
        };
        loop {
            match events.next().await {
                Some(Ok(WatchEvent::Table(view))) => {
                    let table = view.into_table();
                    self.mirror.table(table.clone());
                    *self.replica() = Some(table);
                    self.note(None);
                    guests.upgrade().iter().for_each(|guests| guests.check_owners(|_| true));
                }
                Some(Ok(WatchEvent::Update(update))) => {
                    if !self.updated(&update, guests) {
                        return Lost::NoTable;
                    }
                }
                Some(Ok(WatchEvent::Figures(_))) => {}
                Some(Ok(WatchEvent::Goodbye)) => return Lost::Goodbye,
                Some(Err(error)) => return error.into(),
                None => return Lost::Ended,
            }
        }
    }

    /// The guests concerned are told first: what fences them must not wait for a plane.
    fn updated(&self, update: &Update, guests: &Weak<Guests>) -> bool {
        match self.replica().as_mut() {
            Some(table) => drop(table.apply(update)),
            None => return false,
        }
        let macs: Vec<Mac> = update.changes.iter().filter_map(concerned).collect();
        if let Some(guests) = guests.upgrade().filter(|_| !macs.is_empty()) {
            guests.check_owners(|mac| macs.contains(&mac));
        }
        self.mirror.update(update.clone());
        true
    }

    async fn beat(&self) -> Lost {
        let mut beats = interval(BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beats.tick().await;
            let (applied, plane) = self.mirror.status();
            let heartbeat = Heartbeat { applied, plane };
            match timeout(BEAT_LIMIT, self.client.heartbeat(&self.name, &heartbeat)).await {
                Ok(Ok(heard)) => self.moves.heard(heard.incarnation),
                // Not known there, or a connection that died: a new session joins.
                Ok(Err(error)) => return error.into(),
                Err(_elapsed) => return Lost::Silent,
            }
        }
    }

    /// Tells what is to be told, again and again, and has guests look whose address is nobody's, or taken over and not known
    /// to be on disk: a claim that failed is made again.
    async fn tell_on(self: &Arc<Self>, guests: &Weak<Guests>) {
        loop {
            let _ = self.tell(None).await;
            tokio::time::sleep(BEAT).await;
            self.of_table(|table| self.moves.confirm_by(table));
            let is_open = |mac| self.is_nobodys(mac) || self.moves.is_unconfirmed(mac);
            guests.upgrade().iter().for_each(|guests| guests.check_owners(is_open));
        }
    }

    /// By the table as it is known here; nothing is before there is one.
    fn is_nobodys(&self, mac: Mac) -> bool {
        self.replica().as_ref().is_some_and(|table| table.route(mac).is_none())
    }
}

/// Whether a request that failed so may have been carried out: not if it was never sent, or was refused.
fn may_be_done(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } => false,
        ClientError::Refused { status, .. } => *status >= 500,
        _ => true,
    }
}

/// The address that a change is about.
fn concerned(change: &Change) -> Option<Mac> {
    match change {
        Change::Route(route) => Some(route.address.mac),
        Change::NoRoute(mac) => Some(*mac),
        _ => None,
    }
}

/// Follows the controller and comes back to it, with pauses that grow while it cannot be reached.
pub(super) async fn follow(link: Arc<Link>, guests: Weak<Guests>) {
    let guests = link.guests.get_or_init(|| guests);
    let mut pause = PAUSE_MIN;
    loop {
        let began = Instant::now();
        let lost = link.session(guests).await;
        link.note(Some(sentence(&lost)));
        pause = next_pause(pause, began.elapsed());
        tokio::time::sleep(pause).await;
    }
}

/// After a session of that length. One that lasted makes the pauses before it forgotten.
fn next_pause(pause: Duration, lasted: Duration) -> Duration {
    if lasted > BEAT_LIMIT { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_a_session_lasts() {
        let mut pauses = Vec::new();
        let mut pause = PAUSE_MIN;
        for _ in 0..6 {
            pause = next_pause(pause, Duration::ZERO);
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses, [200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(next_pause(pause, Duration::from_secs(60)), PAUSE_MIN);
    }
}
