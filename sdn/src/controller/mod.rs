//! The controller, live: table, store and plane in step.
//!
//! ```text
//!  ask ──> lock ── Table::step ── Keeper::follow (the switch: microseconds) ── queue ──┐  lock freed
//!            answer <── published to the feed <── Store::commit (the disk: milliseconds) <┘  `commit`, own thread
//! ```
//!
//! The plane follows before the disk does, because frames must not wait for it; nobody is answered or told before. If
//! the disk then says no, table and plane go back to what was committed, and the asker hears that nothing happened. A
//! controller killed in between has answered nobody; the next one has its plane follow the table that is on disk.
//! After such a failure the disk comes first, until one commit has succeeded: the plane is not to swing with each try.
//!
//! **Early answers.** A [`Move`] that asks for it is answered as soon as it is decided and the plane follows: a guest that is
//! stopped does not wait for a disk. Such an answer can be forgotten, by a controller that is killed or whose disk says
//! no. Each memory that may have forgotten one has an [`Incarnation`] of its own, by which a migration may use them:
//! - The target, which has all of a guest, polls on an early answer, and asks again without `early` until it hears that the
//!   move is on disk. If it was forgotten it is granted anew: the generation it ends is still the present one.
//! - The source never claims the address while it is not in doubt. In doubt it moves the address to itself, from the same
//!   generation, so that one of the two is too late; and it says the incarnation that it knew before it gave the guest
//!   away. A controller that may have forgotten what it granted the target is of another one, and refuses.
//!
//! That rests on one controller at a time having the store, as the file's lock has it: of two, each would have a memory
//! of its own.

mod commit;
mod error;
mod presence;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot::{self, error::TryRecvError};

pub use error::{ControllerError, OpenError};
pub use view::{Accepted, ControllerStatus, Heard, Heartbeat, Move, NodeView, RouteView, SwitchView, TableView};

use crate::give_way;
use crate::model::{Address, Front, FrontKey, Generation, Incarnation, Kind, Mac, Name, Revision, Route};
use crate::plane::{Counters, Keeper, PlaneError, PlaneStatus, Planes};
use crate::sentence::in_full;
use crate::store::{Compacted, Feed, Store, Watch};
use crate::table::{Command, Event, Table};
use commit::{Job, Queue};

/// How long a host may be silent before it is called lost.
pub const LOST_AFTER: Duration = Duration::from_secs(5);
/// How often it is looked which are, and whether fronts are as they should be.
const LOOK: Duration = Duration::from_millis(500);

/// What a controller is.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node it runs on.
    pub node: Name,
    /// That node's end of the tunnels; without, it is no part of the overlay.
    pub vtep: Option<IpAddr>,
    /// How long a host may be silent before it is called lost.
    pub lost_after: Duration,
    /// Addresses that its node has itself, and that so nobody can claim.
    pub own: Vec<IpAddr>,
}

/// Opens doors for clients outside the overlay, on the controller's node.
pub trait FrontPlane: Send {
    /// Has these fronts and no others. Flows that are under way go on.
    fn apply(&mut self, fronts: &[Front]) -> Result<(), PlaneError>;
    /// Those that are open, in any order.
    fn found(&mut self) -> Result<Vec<Front>, PlaneError>;
}

/// A live controller. Clones are the same one.
#[derive(Clone)]
pub struct Controller {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    live: Mutex<Live>,
    /// As it is on disk: what is shown.
    committed: Mutex<Table>,
    keeper: Option<Keeper>,
    fronts: Mutex<Option<Box<dyn FrontPlane>>>,
    fronts_trouble: Mutex<Option<String>>,
    feed: Feed,
    presence: Mutex<presence::Presences>,
    switches: Mutex<Switches>,
}

/// What is being decided.
struct Live {
    table: Table,
    queue: Queue,
    /// Why the last commit failed, until one succeeds: meanwhile the disk comes before the plane.
    store_trouble: Option<String>,
    /// Of this memory: early answers that were given in it are remembered.
    incarnation: Incarnation,
}

/// What was decided, before it is on disk.
struct Decision {
    accepted: Accepted,
    /// Whether the plane was asked before the disk is.
    is_ahead: bool,
    /// The switch that began with it.
    switch: Option<(Mac, Revision)>,
    kept: oneshot::Receiver<Result<Option<String>, ControllerError>>,
}

#[derive(Default)]
struct Switches {
    /// With the revision that each came with.
    last: HashMap<Mac, (Revision, SwitchView)>,
    total: u64,
}

impl Controller {
    /// Reads the table, has the plane follow it, and joins the overlay. Must be called in a tokio runtime.
    pub async fn open(
        config: Config,
        mut store: Box<dyn Store>,
        plane: Option<Planes>,
        fronts: Option<Box<dyn FrontPlane>>,
    ) -> Result<Self, OpenError> {
        let table = store.load()?;
        let keeper = plane.map(|planes| Keeper::start(config.node.clone(), planes, &table)).transpose()?;
        let (queue, jobs) = commit::queue();
        let inner = Arc::new(Inner {
            live: Mutex::new(Live { table: table.clone(), queue, store_trouble: None, incarnation: incarnation() }),
            presence: Mutex::new(presence::Presences::all_heard(&table, Instant::now())),
            committed: Mutex::new(table),
            keeper,
            fronts: Mutex::new(fronts),
            fronts_trouble: Mutex::default(),
            feed: store.feed(),
            switches: Mutex::default(),
            config,
        });
        let committer = Arc::downgrade(&inner);
        std::thread::Builder::new()
            .name("commit".into())
            .spawn(move || {
                give_way();
                commit::run(&committer, store, &jobs);
            })
            .map_err(OpenError::Thread)?;
        let controller = Self { inner };
        controller.inner.follow_fronts(true);
        if let Some(vtep) = controller.inner.config.vtep {
            controller.join(controller.inner.config.node.clone(), Kind::Gateway, vtep, None).await?;
        }
        tokio::spawn(look_after(Arc::downgrade(&controller.inner)));
        Ok(controller)
    }

    /// A node is there, and takes migrations at `migrate`. To join again, with other addresses as well, is no error.
    pub async fn join(
        &self,
        host: Name,
        kind: Kind,
        vtep: IpAddr,
        migrate: Option<SocketAddr>,
    ) -> Result<Accepted, ControllerError> {
        self.inner.presence().heard(&host, None, Instant::now());
        self.submit(&Event::Joined { host, kind, vtep, migrate }, None).await
    }

    /// A node goes.
    pub async fn leave(&self, host: Name) -> Result<Accepted, ControllerError> {
        if host == self.inner.config.node && self.inner.config.vtep.is_some() {
            return Err(ControllerError::OwnNode(host));
        }
        let left = self.submit(&Event::Left { host: host.clone() }, None).await?;
        self.inner.presence().forget(&host);
        Ok(left)
    }

    /// A node is heard. Told the committed revision, it sees whether it lags.
    pub async fn heartbeat(&self, host: &Name, heartbeat: Heartbeat) -> Result<Heard, ControllerError> {
        let event = Event::Heard { host: host.clone() };
        // Refused if it is unknown: then it joins.
        self.submit(&event, None).await?;
        self.inner.presence().heard(host, Some(heartbeat), Instant::now());
        Ok(Heard { revision: self.revision(), incarnation: self.incarnation() })
    }

    /// A host says that it has an address; see [`Event::Claimed`].
    pub async fn claim(
        &self,
        address: Address,
        host: Name,
        held: Option<Generation>,
    ) -> Result<Accepted, ControllerError> {
        let mac = address.mac;
        if let Some(own) = address.ips().find(|ip| self.inner.config.own.contains(ip)) {
            return Err(ControllerError::OwnAddress(own));
        }
        self.submit(&Event::Claimed { address, host, held, at_ms: now_ms() }, Some(mac)).await
    }

    /// An address goes to another host; see [`Event::Moved`]. When it is answered early, see the head of this module.
    pub async fn move_to(&self, mac: Mac, asked: Move) -> Result<Accepted, ControllerError> {
        let began = Instant::now();
        let Move { to, from, drain, early, incarnation } = asked;
        let event = Event::Moved { mac, from, to, drain, at_ms: now_ms() };
        let decision = self.inner.decide(&event, Some(mac), incarnation, began)?;
        if early && decision.is_ahead {
            self.answer_early(decision, began)
        } else {
            self.keep(&event, decision, began).await
        }
    }

    /// Which memory of it decides.
    pub fn incarnation(&self) -> Incarnation {
        self.inner.live().incarnation
    }

    /// The owner before passes nothing on any more.
    pub async fn settle(&self, mac: Mac, generation: Generation) -> Result<Accepted, ControllerError> {
        self.submit(&Event::Settled { mac, generation }, Some(mac)).await
    }

    /// An address is given up.
    pub async fn release(&self, mac: Mac, generation: Generation) -> Result<Accepted, ControllerError> {
        self.submit(&Event::Released { mac, generation }, Some(mac)).await
    }

    /// Opens a front, or leads it elsewhere.
    pub async fn open_front(&self, front: Front) -> Result<Accepted, ControllerError> {
        self.submit(&Event::Opened { front }, None).await
    }

    /// Closes a front. Flows through it that are under way go on.
    pub async fn close_front(&self, front: FrontKey) -> Result<Accepted, ControllerError> {
        self.submit(&Event::Closed { front }, None).await
    }

    /// An address by what people call it: MAC, IP or name.
    pub fn find(&self, text: &str) -> Result<Route, ControllerError> {
        let none = || ControllerError::NoSuch(text.chars().take(80).collect());
        let table = self.inner.committed();
        if let Ok(mac) = text.parse::<Mac>() {
            return table.route(mac).cloned().ok_or_else(none);
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return table.route_of_ip(ip).cloned().ok_or_else(none);
        }
        let Ok(name) = text.parse::<Name>() else { return Err(none()) };
        let mut called = table.routes().filter(|route| route.address.name.as_ref() == Some(&name));
        let found = called.next().cloned().ok_or_else(none)?;
        if called.next().is_some() { Err(ControllerError::Ambiguous(name)) } else { Ok(found) }
    }

    /// All of the table.
    pub fn table(&self) -> TableView {
        TableView::of(&self.inner.committed())
    }

    /// Its revision.
    pub fn revision(&self) -> Revision {
        self.inner.committed().revision()
    }

    /// The table, and what is committed after it.
    pub fn follow(&self) -> (TableView, Watch) {
        loop {
            let table = self.table();
            // A feed that has moved on so far meanwhile is asked for again.
            if let Ok(watch) = self.watch(table.revision) {
                return (table, watch);
            }
        }
    }

    /// What is committed after a revision.
    pub fn watch(&self, after: Revision) -> Result<Watch, Compacted> {
        self.inner.feed.watch(after)
    }

    /// Addresses with how they fare. Without `counters` nothing is asked of the plane.
    pub fn routes(&self, counters: &BTreeMap<Mac, Counters>) -> Vec<RouteView> {
        let table = self.inner.committed();
        let applied = self.inner.presence().applied(&table);
        let view = |route: &Route| {
            let placement = &route.placement;
            let owner = table.host(&placement.host);
            // Locked for each: a move, which waits for this, must not wait for all of them.
            let last_switch = self.inner.switches().last.get(&route.address.mac).map(|(_, last)| last.clone());
            let behind = applied.iter().filter(|(_, applied)| *applied < placement.revision);
            RouteView {
                address: route.address.clone(),
                placement: placement.clone(),
                presence: owner.map_or(crate::model::Presence::Lost, |host| host.presence),
                counters: counters.get(&route.address.mac).copied(),
                behind: behind.map(|(host, _)| host.clone()).collect(),
                last_switch,
            }
        };
        table.routes().map(view).collect()
    }

    /// What passed this node's plane, by address; nothing if it has none.
    pub async fn counters(&self) -> Result<BTreeMap<Mac, Counters>, ControllerError> {
        let Some(keeper) = self.inner.keeper.clone() else { return Ok(BTreeMap::new()) };
        let read = tokio::task::spawn_blocking(move || keeper.counters()).await;
        let read = read.map_err(|_ending| ControllerError::Closing)?;
        read.map_err(|error| ControllerError::Counters(Arc::new(error)))
    }

    /// All nodes.
    pub fn nodes(&self) -> Vec<NodeView> {
        let table = self.inner.committed();
        let own = self.inner.keeper.as_ref().map(Keeper::status);
        let mut nodes = self.inner.presence().nodes(&table, Instant::now());
        for node in nodes.iter_mut().filter(|node| node.host.name == self.inner.config.node) {
            (node.heard_ms_ago, node.applied, node.plane) = (Some(0), Some(table.revision()), own.clone());
        }
        nodes
    }

    /// How it is.
    pub fn status(&self) -> ControllerStatus {
        ControllerStatus {
            node: self.inner.config.node.clone(),
            incarnation: self.incarnation(),
            revision: self.revision(),
            plane: self.plane(),
            fronts_trouble: lock(&self.inner.fronts_trouble).clone(),
            store_trouble: self.inner.live().store_trouble.clone(),
            switches: self.inner.switches().total,
        }
    }

    /// How its own data plane is.
    pub fn plane(&self) -> Option<PlaneStatus> {
        self.inner.keeper.as_ref().map(Keeper::status)
    }

    /// Decides on an event, has the plane follow, and returns when it is on disk.
    async fn submit(&self, event: &Event, mac: Option<Mac>) -> Result<Accepted, ControllerError> {
        let began = Instant::now();
        let decision = self.inner.decide(event, mac, None, began)?;
        self.keep(event, decision, began).await
    }

    /// Answers when it is on disk.
    async fn keep(&self, event: &Event, decision: Decision, began: Instant) -> Result<Accepted, ControllerError> {
        let Decision { mut accepted, switch, kept, .. } = decision;
        let late = kept.await.map_err(|_gone| ControllerError::Closing)??;
        accepted.trouble = accepted.trouble.or(late);
        (accepted.durable, accepted.durable_us) = (true, micros(began.elapsed()));
        self.inner.switches().note(switch, accepted.durable_us);
        if matches!(event, Event::Opened { .. } | Event::Closed { .. }) {
            let inner = self.inner.clone();
            // nft takes milliseconds. A task that ends early was cut off with its runtime.
            let _ = tokio::task::spawn_blocking(move || inner.follow_fronts(true)).await;
            accepted.trouble = lock(&self.inner.fronts_trouble).clone();
        }
        Ok(accepted)
    }

    /// Answers before it is on disk, and notes when it is.
    fn answer_early(&self, decision: Decision, began: Instant) -> Result<Accepted, ControllerError> {
        let Decision { accepted, switch, mut kept, .. } = decision;
        let inner = self.inner.clone();
        match kept.try_recv() {
            Err(TryRecvError::Empty) => drop(tokio::spawn(async move {
                // That it was taken back is said where it is, and to whoever asks again.
                if let Ok(Ok(_)) = kept.await {
                    inner.switches().note(switch, micros(began.elapsed()));
                }
            })),
            Err(TryRecvError::Closed) => return Err(ControllerError::Closing),
            // As fast as that it was kept, or could not be.
            Ok(done) => {
                done?;
                inner.switches().note(switch, micros(began.elapsed()));
            }
        }
        Ok(accepted)
    }
}

impl Inner {
    /// On the path of a switch: no disk, no waiting, but for the plane. `mac` is the address that the answer shows.
    fn decide(
        &self,
        event: &Event,
        mac: Option<Mac>,
        said: Option<Incarnation>,
        began: Instant,
    ) -> Result<Decision, ControllerError> {
        let mut live = self.live();
        if let Some(said) = said.filter(|said| *said != live.incarnation) {
            return Err(ControllerError::Unsettled { said, now: live.incarnation });
        }
        let from = match event {
            Event::Moved { mac, to, .. } => {
                live.table.route(*mac).map(|route| route.placement.host.clone()).filter(|from| from != to)
            }
            _ => None,
        };
        let commands = live.table.step(event)?;
        let (mut update, mut touched) = (None, None);
        for command in commands {
            match command {
                Command::Keep(kept) => update = Some(kept),
                Command::Program(what) => touched = Some(what),
            }
        }
        let revision = live.table.revision();
        let mut trouble = None;
        let durable_first = live.store_trouble.is_some();
        if let (Some(touched), false, Some(keeper)) = (&touched, durable_first, &self.keeper) {
            trouble = keeper.follow(&live.table, touched).err().map(|error| in_full(&error));
        }
        let plane_us = if update.is_some() { micros(began.elapsed()) } else { 0 };
        let mut switch = None;
        if let (Event::Moved { mac, at_ms, .. }, Some(_), Some(from)) = (event, &update, from) {
            let view = SwitchView { from, at_ms: *at_ms, plane_us, durable_us: 0, switches: 0 };
            self.switches().begin(*mac, revision, view);
            switch = Some((*mac, revision));
        }
        let route = mac.and_then(|mac| live.table.route(mac).cloned());
        let accepted = Accepted { revision, route, plane_us, durable: false, durable_us: 0, trouble };
        let (answer, kept) = oneshot::channel();
        live.queue.push(Job { update, touched: touched.filter(|_| durable_first), answer });
        Ok(Decision { accepted, is_ahead: !durable_first, switch, kept })
    }

    /// Has the fronts be those of the table; if `always`, even if they seem to be.
    fn follow_fronts(&self, always: bool) {
        let mut fronts = lock(&self.fronts);
        let Some(plane) = fronts.as_mut() else { return };
        let wanted: Vec<Front> = self.committed().fronts().cloned().collect();
        let differs = |found: Vec<Front>| {
            let found: BTreeMap<_, _> = found.into_iter().map(|front| (front.key(), front)).collect();
            found.len() != wanted.len() || wanted.iter().any(|front| found.get(&front.key()) != Some(front))
        };
        let done = match always {
            true => plane.apply(&wanted),
            false => plane.found().and_then(|found| match differs(found) {
                true => {
                    tracing::warn!("mended: the fronts were changed");
                    plane.apply(&wanted)
                }
                false => Ok(()),
            }),
        };
        let trouble = done.err().map(|error| in_full(&error));
        let mut shown = lock(&self.fronts_trouble);
        if let Some(trouble) = trouble.as_ref().filter(|trouble| shown.as_ref() != Some(*trouble)) {
            tracing::error!(error = trouble, "the fronts are not as they should be");
        }
        *shown = trouble;
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        lock(&self.live)
    }

    fn committed(&self) -> MutexGuard<'_, Table> {
        lock(&self.committed)
    }

    fn presence(&self) -> MutexGuard<'_, presence::Presences> {
        lock(&self.presence)
    }

    fn switches(&self) -> MutexGuard<'_, Switches> {
        lock(&self.switches)
    }
}

impl Switches {
    fn begin(&mut self, mac: Mac, revision: Revision, switch: SwitchView) {
        let switches = self.last.get(&mac).map_or(0, |(_, last)| last.switches) + 1;
        self.total += 1;
        self.last.insert(mac, (revision, SwitchView { switches, ..switch }));
    }

    /// If it still is the last one: an early answer lets the next begin before it is on disk.
    fn note(&mut self, switch: Option<(Mac, Revision)>, durable_us: u64) {
        let Some((mac, revision)) = switch else { return };
        if let Some((_, last)) = self.last.get_mut(&mac).filter(|(begun, _)| *begun == revision) {
            last.durable_us = durable_us;
        }
    }
}

/// Notices silent hosts and changed fronts, as long as there is a controller.
async fn look_after(weak: Weak<Inner>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(inner) = weak.upgrade() else { return };
        let silent = {
            let table = inner.committed();
            inner.presence().silent(&table, &inner.config.node, inner.config.lost_after, Instant::now())
        };
        let controller = Controller { inner: inner.clone() };
        for host in silent {
            tracing::warn!(%host, after_s = inner.config.lost_after.as_secs(), "lost: nothing is heard of it");
            if let Err(error) = controller.submit(&Event::Lost { host }, None).await {
                tracing::error!(error = in_full(&error), "a lost host is not noted as such");
            }
        }
        drop(controller);
        // nft takes milliseconds.
        let _ = tokio::task::spawn_blocking(move || inner.follow_fronts(false)).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Unlike all others: the system's randomness is in the keys of a hasher.
fn incarnation() -> Incarnation {
    // As many bits as every reader of JSON takes.
    Incarnation(RandomState::new().hash_one(()) >> 11)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
