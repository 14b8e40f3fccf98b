//! Addresses that migrations move: asked for by who gets a guest, and by who gave one away and does not know what became
//! of it. What an answer that is not on disk is good for: [`roam_sdn::controller`].
//!
//! ```text
//!  target   Desk::ask ──> polls ──> confirmed      its move, early; then until it is on disk
//!              └ forgo ──> give_back               it never polls: the source has the address again
//!  source   reclaim                                in doubt: the next generation is its own, or the target's, or given back
//!           take_back                              the target has said that it never polls
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use roam_sdn::Mac;
#[cfg(test)]
use roam_sdn::model::Host;
use roam_sdn::model::{Generation, Incarnation};
use roam_sdn::table::Table;
use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{sleep, timeout};

use super::Overlay;
use super::link::Link;
use crate::api::client::{ClientError, SdnClient};
use crate::api::sdn::Move;
use crate::api::{ErrorCode, GuestName};
use crate::sentence::sentence;

/// How long the controller may take to answer. Somebody's guest is stopped meanwhile.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// Turns of a runtime until a request that was begun in it is on its way: its task's, its connection's, and room.
const TURNS_TO_SEND: usize = 8;
/// How long a connection to the controller is idle at most.
const WARMTH: Duration = Duration::from_secs(1);
/// Pauses between two tries to learn that a move is on disk: they double.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What the controller says to a host that wants an address.
#[derive(Debug)]
pub(in crate::host) enum Grant {
    /// It is this host's, since that generation.
    Granted(Generation),
    /// It is somebody else's, or of another generation.
    Denied(ClientError),
    /// It cannot be asked, or does not know either.
    Unknown(ClientError),
}

/// Asks for addresses on connections of its own: a heartbeat is not to be waited for.
pub(super) struct Moves {
    name: GuestName,
    client: SdnClient,
    /// The controller's, as it was heard last.
    incarnation: Mutex<Option<Incarnation>>,
    /// Taken over, not known to be on disk: the generations they were moved from. Of guests that came before this daemon
    /// those on record.
    unconfirmed: Mutex<BTreeMap<Mac, Generation>>,
}

/// A connection to the controller that the calling thread drives itself: while a guest is stopped, no other thread has to
/// be woken to ask and none to hear the answer.
pub(in crate::host) struct Desk {
    runtime: Runtime,
    client: SdnClient,
    link: Arc<Link>,
    /// When it was used last.
    used: Instant,
    asked: Option<JoinHandle<Grant>>,
}

impl Overlay {
    /// A connection to the controller for the calling thread alone, which must be in no runtime; open when this returns,
    /// if the controller can be reached.
    pub(in crate::host) fn desk(&self) -> std::io::Result<Desk> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = SdnClient::new(self.link.moves.client.endpoint().clone());
        let _ = runtime.block_on(async { timeout(ANSWER_LIMIT, client.health()).await });
        Ok(Desk { runtime, client, link: self.link.clone(), used: Instant::now(), asked: None })
    }

    /// Waits until an address that was taken over is this host's on disk as well, whatever happens to the controller.
    /// Never [`Grant::Unknown`]; denied, an operator has given it to somebody else, and the guest is fenced.
    pub(in crate::host) async fn confirmed(&self, mac: Mac, from: Generation) -> Grant {
        let mut pause = PAUSE_MIN;
        loop {
            match self.link.moves.confirm(mac, from).await {
                Grant::Unknown(error) => {
                    tracing::debug!(%mac, error = sentence(&error), "not known to be on disk yet");
                }
                settled => return settled,
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// A guest came here from that generation, before this daemon: as long as it is not known to be on disk that its address
    /// is this host's, it is claimed so.
    pub(in crate::host) fn came(&self, mac: Mac, from: Generation) {
        self.link.moves.unconfirmed().insert(mac, from);
    }

    /// A guest that was to come never will: whatever was granted, this host makes no use of it.
    pub(in crate::host) fn forgo(&self, mac: Mac) {
        self.link.moves.unconfirmed().remove(&mac);
    }

    /// Gives an address to its guest's source: it was asked for, the generation after that one, and this host never polls. Until
    /// the controller has said something.
    pub(in crate::host) async fn give_back(&self, mac: Mac, from: Generation, source: GuestName) {
        let back = Move::new(source, from.next());
        let mut pause = PAUSE_MIN;
        while let Grant::Unknown(error) = self.link.moves.ask(mac, &back).await {
            tracing::debug!(%mac, error = sentence(&error), "not given back yet");
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Asks for the address of a guest that was given away and may be the target's. `from` is its generation here,
    /// `incarnation` what [`Self::incarnation`] was before the guest was given away. On disk when it is granted.
    pub(in crate::host) async fn reclaim(&self, mac: Mac, from: Generation, incarnation: Incarnation) -> Grant {
        let moves = &self.link.moves;
        let refused = match moves.ask(mac, &Move { incarnation: Some(incarnation), ..moves.to_us(from) }).await {
            Grant::Granted(generation) => return Grant::Granted(generation),
            refused => refused,
        };
        let given_back = from.next().next();
        match moves.client.route(&mac.to_string()).await {
            // By the target, which had the one in between and never polls.
            Ok(route) if route.placement.host == moves.name && route.placement.generation == given_back => {
                Grant::Granted(given_back)
            }
            _ => refused,
        }
    }

    /// Asks for the address of a guest that the target has given back, with or without its address: it never polls it.
    pub(in crate::host) async fn take_back(&self, mac: Mac, from: Generation, target: &GuestName) -> Grant {
        let moves = &self.link.moves;
        let denied = match moves.ask(mac, &moves.to_us(from)).await {
            Grant::Denied(denied) => denied,
            answer => return answer,
        };
        match moves.client.route(&mac.to_string()).await {
            // The target's in the generation that it asked for, or taken back from it already. What is another's is not taken
            // from it.
            Ok(route)
                if [(target, from.next()), (&moves.name, from.next().next())]
                    .iter()
                    .any(|(host, since)| route.placement.host == **host && route.placement.generation == *since) =>
            {
                moves.ask(mac, &moves.to_us(from.next())).await
            }
            Ok(_) => Grant::Denied(denied),
            Err(error) => Grant::Unknown(error),
        }
    }

    /// The controller's incarnation, as it was heard last; `None` before that. One that is over is only refused.
    pub(in crate::host) fn incarnation(&self) -> Option<Incarnation> {
        *lock(&self.link.moves.incarnation)
    }

    /// All nodes, as far as the controller was followed.
    #[cfg(test)]
    pub(in crate::host) fn hosts(&self) -> Vec<Host> {
        self.link.of_table(|table| table.hosts().cloned().collect()).unwrap_or_default()
    }

    /// Where a host takes migrations; `None` if it takes none, or is not known.
    pub(in crate::host) fn migration_address(&self, host: &GuestName) -> Option<SocketAddr> {
        self.link.of_table(|table| table.host(host)?.migrate).flatten()
    }
}

impl Moves {
    pub(super) fn new(name: GuestName, client: SdnClient) -> Self {
        Self { name, client, incarnation: Mutex::default(), unconfirmed: Mutex::default() }
    }

    /// The controller was heard.
    pub(super) fn heard(&self, incarnation: Incarnation) {
        *lock(&self.incarnation) = Some(incarnation);
    }

    /// Claims an address that was taken over, if it was: as long as that is not on disk, a controller may have forgotten
    /// it and take the address for the source's; a claim would be refused, a move is granted again.
    pub(super) async fn claim(&self, mac: Mac) -> Option<Result<Generation, ClientError>> {
        let from = self.unconfirmed().get(&mac).copied()?;
        Some(match self.confirm(mac, from).await {
            Grant::Granted(generation) => Ok(generation),
            // The controller has lost its table, and the source's claim with it.
            Grant::Unknown(error) if error.code() == Some(ErrorCode::NotFound) => return None,
            Grant::Denied(error) | Grant::Unknown(error) => Err(error),
        })
    }

    /// What follows of a table, which is on disk: addresses that are this host's there need not be asked for again.
    pub(super) fn confirm_by(&self, table: &Table) {
        let is_ours = |mac: &Mac, from: &Generation| {
            let placement = table.route(*mac).map(|route| &route.placement);
            placement.is_some_and(|placement| placement.host == self.name && placement.generation > *from)
        };
        self.unconfirmed().retain(|mac, from| !is_ours(mac, from));
    }

    pub(super) fn is_unconfirmed(&self, mac: Mac) -> bool {
        self.unconfirmed().contains_key(&mac)
    }

    /// Asks again for what was granted early, for an answer that is on disk.
    async fn confirm(&self, mac: Mac, from: Generation) -> Grant {
        let grant = self.ask(mac, &self.to_us(from)).await;
        if !matches!(grant, Grant::Unknown(_)) {
            self.unconfirmed().remove(&mac);
        }
        grant
    }

    /// Asks early, and notes that the answer is to be confirmed.
    async fn take_over(&self, client: &SdnClient, mac: Mac, from: Generation) -> Grant {
        // Before it is asked: who claims it meanwhile claims it so.
        self.unconfirmed().insert(mac, from);
        let grant = self.ask_by(client, mac, &Move { early: true, ..self.to_us(from) }).await;
        if matches!(grant, Grant::Denied(_)) {
            self.unconfirmed().remove(&mac);
        }
        grant
    }

    fn to_us(&self, from: Generation) -> Move {
        Move::new(self.name.clone(), from)
    }

    async fn ask(&self, mac: Mac, asked: &Move) -> Grant {
        self.ask_by(&self.client, mac, asked).await
    }

    /// Asked twice it is answered alike, so a connection that had died is no reason not to know.
    async fn ask_by(&self, client: &SdnClient, mac: Mac, asked: &Move) -> Grant {
        let address = mac.to_string();
        let answered = timeout(ANSWER_LIMIT, async {
            match client.move_to(&address, asked).await {
                Err(ClientError::Lost { .. }) => client.move_to(&address, asked).await,
                answer => answer,
            }
        });
        match answered.await {
            Ok(Ok(_)) => Grant::Granted(asked.from.next()),
            Ok(Err(error)) if error.code() == Some(ErrorCode::Fenced) => Grant::Denied(error),
            Ok(Err(error)) => Grant::Unknown(error),
            Err(_elapsed) => {
                let endpoint = self.client.endpoint().to_string();
                Grant::Unknown(ClientError::TimedOut { endpoint, limit: ANSWER_LIMIT })
            }
        }
    }

    fn unconfirmed(&self) -> MutexGuard<'_, BTreeMap<Mac, Generation>> {
        lock(&self.unconfirmed)
    }
}

impl Desk {
    /// Uses the connection, which the controller would end if it were idle for long, or opens it.
    pub(in crate::host) fn warm(&mut self) {
        if self.used.elapsed() > WARMTH {
            let client = &self.client;
            // One that cannot be opened is opened when it is needed.
            let _ = self.runtime.block_on(async { timeout(ANSWER_LIMIT, client.health()).await });
            self.used = Instant::now();
        }
    }

    /// Asks for the address of a guest of which this host has all, and that was its owner's since `from`. Returns when
    /// that is on its way; [`Self::answer`] follows.
    pub(in crate::host) fn ask(&mut self, mac: Mac, from: Generation) {
        let (link, client) = (self.link.clone(), self.client.clone());
        self.asked = Some(self.runtime.spawn(async move { link.moves.take_over(&client, mac, from).await }));
        self.take_turns();
    }

    /// Goes on with what was asked, as far as that needs no waiting.
    pub(in crate::host) fn turn(&mut self) {
        if self.asked.as_ref().is_some_and(|asked| !asked.is_finished()) {
            self.take_turns();
        }
    }

    fn take_turns(&self) {
        self.runtime.block_on(async {
            for _ in 0..TURNS_TO_SEND {
                yield_now().await;
            }
        });
    }

    /// Whether an answer is to come.
    pub(in crate::host) fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    /// Waits for the answer. Granted, the guest may be polled; [`Overlay::confirmed`] follows. Where it is not known, the
    /// same follows again, or [`Overlay::forgo`].
    pub(in crate::host) fn answer(&mut self) -> Option<Grant> {
        let asked = self.asked.take()?;
        // It panicked: then nothing was granted that would be made use of.
        self.runtime.block_on(asked).ok()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
