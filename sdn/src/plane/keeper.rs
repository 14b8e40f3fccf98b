//! Keeps a plane as the table says: follows each change at once, and looks whether it stays so.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Counters, Drift, Found, Order, Plane, PlaneError, Planes, Ports, Reader, State};
use crate::give_way;
use crate::model::{Mac, Name};
use crate::sentence::in_full;
use crate::table::{Table, Touched};

/// How often it is asked whether somebody has changed the plane, and how soon one that failed is tried again.
const GLANCE: Duration = Duration::from_millis(100);
/// How often it is read whole, whatever it says of changes.
const AUDIT: Duration = Duration::from_secs(2);
/// Drifts that are logged one by one in an audit; the rest as a number.
const DRIFTS_LOGGED: usize = 10;

/// A plane that is kept. Clones are the same one; when the last is gone, the plane stays as it is.
#[derive(Clone)]
pub struct Keeper {
    inner: Arc<Inner>,
}

struct Inner {
    node: Name,
    hand: Mutex<Hand>,
    eye: Mutex<Box<dyn Reader>>,
    /// Told when an audit is wanted at once.
    hurry: Condvar,
}

struct Hand {
    plane: Box<dyn Plane>,
    ports: Ports,
    wanted: State,
    /// Addresses changed since the audit began that is under way.
    fresh: BTreeSet<Mac>,
    /// The same of the ends.
    fresh_ends: bool,
    trouble: Option<String>,
    /// Where the switch cannot be reached, and why: to try costs a second, and switches wait for each other.
    away: Option<(String, io::ErrorKind, String)>,
    drifts_mended: u64,
    hurry: bool,
}

/// How a plane is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlaneStatus {
    /// `kernel` or `ovs`.
    pub kind: String,
    /// Addresses it should know.
    pub addresses: u64,
    /// Why it is not as it should be; it is tried again until it is.
    pub trouble: Option<String>,
    /// Differences that were found and mended.
    pub drifts_mended: u64,
}

impl Keeper {
    /// Keeps the plane of a node as that table says, and goes on so in a thread of its own. A plane that cannot be
    /// prepared is an error; one that fails later is tried again.
    pub fn start(node: Name, planes: Planes, table: &Table) -> Result<Self, PlaneError> {
        Self::start_with(node, planes, table, Ports::new())
    }

    /// The same where the node has addresses on devices already, so that the plane of a node that serves is not changed
    /// by who keeps it.
    pub fn start_with(
        node: Name,
        (mut plane, reader): Planes,
        table: &Table,
        ports: Ports,
    ) -> Result<Self, PlaneError> {
        plane.prepare()?;
        let wanted = State::of(table, &node, &ports);
        let hand = Hand {
            plane,
            ports,
            wanted,
            fresh: BTreeSet::new(),
            fresh_ends: false,
            trouble: None,
            away: None,
            drifts_mended: 0,
            hurry: false,
        };
        let inner = Inner { node, hand: Mutex::new(hand), eye: Mutex::new(reader), hurry: Condvar::new() };
        let keeper = Self { inner: Arc::new(inner) };
        keeper.inner.audit(true)?;
        let weak = Arc::downgrade(&keeper.inner);
        let spawned = thread::Builder::new().name("plane".into()).spawn(move || {
            give_way();
            watch(&weak);
        });
        spawned.map_err(|source| PlaneError::Refused { doing: "start a thread".into(), source })?;
        Ok(keeper)
    }

    /// Has the plane follow in what was touched. After an error it is behind, and is brought up in the background.
    pub fn follow(&self, table: &Table, touched: &Touched) -> Result<(), PlaneError> {
        let mut hand = self.inner.hand();
        let orders = table.orders(&self.inner.node, &hand.ports, touched);
        self.inner.obey(&mut hand, &orders)
    }

    /// The same with everything: the table is another one.
    pub fn follow_all(&self, table: &Table) -> Result<(), PlaneError> {
        let mut hand = self.inner.hand();
        let wanted = State::of(table, &self.inner.node, &hand.ports);
        let orders: Vec<_> =
            wanted.orders(&hand.wanted, &BTreeSet::new()).into_iter().map(|(_, order)| order).collect();
        self.inner.obey(&mut hand, &orders)
    }

    /// Says on which device this node has an address, or that it has it on none.
    pub fn set_port(&self, table: &Table, mac: Mac, device: Option<String>) -> Result<(), PlaneError> {
        let mut hand = self.inner.hand();
        match device {
            Some(device) => drop(hand.ports.insert(mac, device)),
            None => drop(hand.ports.remove(&mac)),
        }
        let orders = table.orders(&self.inner.node, &hand.ports, &Touched { macs: vec![mac], ..Touched::default() });
        self.inner.obey(&mut hand, &orders)
    }

    /// How it is.
    pub fn status(&self) -> PlaneStatus {
        let hand = self.inner.hand();
        PlaneStatus {
            kind: hand.plane.kind().into(),
            addresses: hand.wanted.entries.len() as u64,
            trouble: hand.trouble.clone(),
            drifts_mended: hand.drifts_mended,
        }
    }

    /// What passed, by address. Takes as long as reading the plane does.
    pub fn counters(&self) -> Result<BTreeMap<Mac, Counters>, PlaneError> {
        self.inner.eye().counters()
    }

    /// Reads the plane now and mends it; what was found.
    pub fn audit(&self) -> Result<Vec<Drift>, PlaneError> {
        self.inner.audit(false)
    }
}

impl Inner {
    fn hand(&self) -> MutexGuard<'_, Hand> {
        self.hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn eye(&self) -> MutexGuard<'_, Box<dyn Reader>> {
        self.eye.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn obey(&self, hand: &mut Hand, orders: &[Order]) -> Result<(), PlaneError> {
        for order in orders {
            hand.wanted.obey(order);
            match order {
                Order::Ends(_) => hand.fresh_ends = true,
                Order::Set(entry) => drop(hand.fresh.insert(entry.mac)),
                Order::Remove(mac) => drop(hand.fresh.insert(*mac)),
            }
        }
        // One that cannot be reached is asked again by the audit alone, which holds up nobody.
        let done = match &hand.away {
            Some((at, kind, why)) => {
                Err(PlaneError::Unreachable { at: at.clone(), source: io::Error::new(*kind, why.clone()) })
            }
            None => hand.plane.apply(orders),
        };
        if let Err(error) = &done {
            hand.in_trouble(error);
            hand.hurry = true;
            self.hurry.notify_all();
        }
        done
    }

    /// The plane is read without holding up switches; what they change meanwhile is left out of the comparison.
    fn audit(&self, first: bool) -> Result<Vec<Drift>, PlaneError> {
        let mut eye = self.eye();
        {
            let mut hand = self.hand();
            hand.fresh.clear();
            hand.fresh_ends = false;
        }
        let found = eye.found();
        let mut hand = self.hand();
        let mended = found.and_then(|found| hand.mend(&found));
        match mended {
            Ok(drifts) => {
                hand.away = None;
                if hand.trouble.take().is_some() {
                    tracing::info!(plane = hand.plane.kind(), "the data plane is as it should be again");
                }
                if !first && !drifts.is_empty() {
                    hand.tell(&drifts);
                }
                Ok(drifts)
            }
            Err(error) => {
                hand.in_trouble(&error);
                Err(error)
            }
        }
    }
}

impl Hand {
    fn mend(&mut self, found: &Found) -> Result<Vec<Drift>, PlaneError> {
        if !found.unprepared.is_empty() {
            self.plane.prepare()?;
        }
        let mut orders = self.wanted.orders(&found.state, &self.fresh);
        orders.retain(|(drift, _)| *drift != Drift::Ends || !self.fresh_ends);
        let (drifts, orders): (Vec<_>, Vec<_>) = orders.into_iter().unzip();
        self.plane.apply(&orders)?;
        Ok(found.unprepared.iter().cloned().map(Drift::Setting).chain(drifts).collect())
    }

    fn tell(&mut self, drifts: &[Drift]) {
        self.drifts_mended += drifts.len() as u64;
        for drift in drifts.iter().take(DRIFTS_LOGGED) {
            tracing::warn!(plane = self.plane.kind(), "mended: {drift}");
        }
        if drifts.len() > DRIFTS_LOGGED {
            tracing::warn!(plane = self.plane.kind(), more = drifts.len() - DRIFTS_LOGGED, "mended");
        }
    }

    fn in_trouble(&mut self, error: &PlaneError) {
        self.away = match error {
            PlaneError::Unreachable { at, source } => Some((at.clone(), source.kind(), source.to_string())),
            _ => None,
        };
        let trouble = in_full(error);
        if self.trouble.as_ref() != Some(&trouble) {
            tracing::error!(plane = self.plane.kind(), error = trouble, "the data plane is not as it should be");
            self.trouble = Some(trouble);
        }
    }
}

/// As long as there is a keeper.
fn watch(weak: &Weak<Inner>) {
    let mut audited = Instant::now();
    loop {
        let Some(inner) = weak.upgrade() else { return };
        let waiting = inner.hand();
        let waited = inner.hurry.wait_timeout_while(waiting, GLANCE, |hand| !hand.hurry);
        let (mut hand, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let hurry = std::mem::take(&mut hand.hurry) || hand.trouble.is_some();
        drop(hand);
        if inner.eye().changed() || hurry || audited.elapsed() >= AUDIT {
            // What is wrong is in the status, and is tried again.
            let failed = inner.audit(false).is_err();
            audited = Instant::now();
            if failed {
                drop(inner);
                thread::sleep(GLANCE);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::model::{Address, Generation, Kind};
    use crate::plane::trial::Trial;
    use crate::plane::{Ends, Hop};
    use crate::table::{Command, Event};

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn table() -> Table {
        let mut table = Table::default();
        for (host, last) in [("a", 1), ("b", 2)] {
            let vtep = IpAddr::from([172, 30, 0, last]);
            table.step(&Event::Joined { host: name(host), kind: Kind::Host, vtep, migrate: None }).unwrap();
        }
        let address = Address { mac: MAC, ip: None, ip6: None, name: None };
        table.step(&Event::Claimed { address, host: name("a"), held: None, at_ms: 0 }).unwrap();
        table
    }

    fn move_to_b(table: &mut Table) -> Touched {
        let moved = Event::Moved { mac: MAC, from: Generation(1), to: name("b"), drain: false, at_ms: 0 };
        match &table.step(&moved).unwrap()[..] {
            [_, Command::Program(touched)] => touched.clone(),
            commands => panic!("{commands:?}"),
        }
    }

    fn hop(trial: &Trial) -> Option<Hop> {
        trial.inside().state.entries.get(&MAC).map(|entry| entry.hop.clone())
    }

    fn end(last: u8) -> Option<Hop> {
        Some(Hop::Tunnel(IpAddr::from([172, 30, 0, last])))
    }

    #[test]
    fn a_plane_follows_at_once_with_one_order() {
        let (trial, mut table) = (Trial::default(), table());
        let keeper = Keeper::start(name("gate"), trial.planes(), &table).unwrap();
        assert_eq!(hop(&trial), end(1));
        trial.inside().orders.clear();
        let touched = move_to_b(&mut table);
        keeper.follow(&table, &touched).unwrap();
        assert_eq!((hop(&trial), trial.inside().orders.len()), (end(2), 1));
    }

    #[test]
    fn what_is_changed_by_hand_is_found_and_mended() {
        let (trial, table) = (Trial::default(), table());
        let keeper = Keeper::start(name("gate"), trial.planes(), &table).unwrap();
        assert!(keeper.audit().unwrap().is_empty());
        {
            let mut inside = trial.inside();
            let mut foreign = inside.state.entries.remove(&MAC).unwrap();
            foreign.mac = Mac([2, 0, 0, 0, 0, 9]);
            inside.state.entries.insert(foreign.mac, foreign);
            inside.state.ends = Ends::default();
        }
        let drifts = keeper.audit().unwrap();
        assert_eq!(drifts, [Drift::Ends, Drift::Entry(MAC), Drift::Foreign(Mac([2, 0, 0, 0, 0, 9]))]);
        assert_eq!(hop(&trial), end(1));
        assert!(keeper.audit().unwrap().is_empty());
        assert_eq!(keeper.status().drifts_mended, 3);
    }

    #[test]
    fn a_switch_while_the_plane_is_read_is_not_undone() {
        let (trial, mut table) = (Trial::default(), table());
        let keeper = Keeper::start(name("gate"), trial.planes(), &table).unwrap();
        let touched = move_to_b(&mut table);
        let switching = keeper.clone();
        let switch = move || switching.follow(&table, &touched).unwrap();
        trial.inside().during_reading = Some(Box::new(switch));
        assert!(keeper.audit().unwrap().is_empty());
        assert_eq!(hop(&trial), end(2));
        assert!(keeper.audit().unwrap().is_empty());
    }

    #[test]
    fn a_plane_that_fails_is_brought_up_when_it_works_again() {
        let (trial, mut table) = (Trial::default(), table());
        let keeper = Keeper::start(name("gate"), trial.planes(), &table).unwrap();
        trial.inside().fails = true;
        let touched = move_to_b(&mut table);
        assert!(keeper.follow(&table, &touched).is_err());
        assert!(keeper.status().trouble.is_some());
        assert_eq!(hop(&trial), end(1));
        trial.inside().fails = false;
        let deadline = Instant::now() + Duration::from_secs(20);
        while keeper.status().trouble.is_some() {
            assert!(Instant::now() < deadline, "the plane stays behind");
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(hop(&trial), end(2));
    }

    #[test]
    fn a_switch_that_cannot_be_reached_is_not_waited_for_each_time() {
        let (trial, mut table) = (Trial::default(), table());
        let keeper = Keeper::start(name("gate"), trial.planes(), &table).unwrap();
        trial.inside().away = true;
        let touched = move_to_b(&mut table);
        let tries = trial.inside().tries;
        for _ in 0..3 {
            let away = keeper.follow(&table, &touched);
            assert!(matches!(away, Err(PlaneError::Unreachable { .. })), "{away:?}");
        }
        // None if an audit was the first to notice.
        assert!(trial.inside().tries <= tries + 1);
        assert_eq!(hop(&trial), end(1));
        trial.inside().away = false;
        let deadline = Instant::now() + Duration::from_secs(20);
        while hop(&trial) != end(2) {
            assert!(Instant::now() < deadline, "the plane stays behind");
            thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_plane_that_cannot_be_prepared_is_refused() {
        let trial = Trial::default();
        trial.inside().fails = true;
        assert!(Keeper::start(name("gate"), trial.planes(), &table()).is_err());
    }
}
