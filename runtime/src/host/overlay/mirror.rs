//! This host's data plane, kept as the table says by a thread of its own: planes block.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use roam_sdn::model::{Kind, Mac, Name, Revision, Update};
use roam_sdn::plane::{Keeper, PlaneError, PlaneStatus, Planes, Ports, kernel};
use roam_sdn::table::Table;

use crate::host::OpenError;
use crate::sentence::sentence;

/// How soon a plane is tried again that cannot be kept yet.
const PAUSE: Duration = Duration::from_secs(1);

/// The way to the thread, which ends with it.
pub(super) struct Mirror {
    jobs: Sender<Job>,
    state: Arc<Mutex<State>>,
}

/// What the thread is told, in order.
enum Job {
    Table(Table),
    Update(Update),
    Port(Mac, Option<String>),
}

/// What there is to see of it.
#[derive(Default)]
struct State {
    keeper: Option<Keeper>,
    /// The revision that was followed last.
    followed: Option<Revision>,
    /// The last one with which the plane was as it should be.
    applied: Option<Revision>,
    /// Why no plane is kept.
    trouble: Option<String>,
}

/// What the thread has.
struct Hand {
    node: Name,
    /// Tunnel and bridge; without, there is no plane to keep.
    devices: Option<(String, String)>,
    /// Opened, while nothing is known that it should hold.
    planes: Option<Planes>,
    ports: Ports,
    table: Option<Table>,
    state: Arc<Mutex<State>>,
}

impl Mirror {
    /// Opens the plane and leaves it as it is: until there is a table, what the last daemon made of it holds.
    pub(super) fn open(node: Name, devices: Option<(String, String)>) -> Result<Self, OpenError> {
        let planes = devices.as_ref().map(planes).transpose().map_err(OpenError::Plane)?;
        let state = Arc::<Mutex<State>>::default();
        let (jobs, orders) = mpsc::channel();
        let hand = Hand { node, devices, planes, ports: Ports::new(), table: None, state: state.clone() };
        let spawned = thread::Builder::new().name("mirror".into()).spawn(move || hand.run(&orders));
        spawned.map_err(|source| OpenError::System { doing: "starting a thread", source })?;
        Ok(Self { jobs, state })
    }

    /// The table as a whole.
    pub(super) fn table(&self, table: Table) {
        self.give(Job::Table(table));
    }

    /// What has changed.
    pub(super) fn update(&self, update: Update) {
        self.give(Job::Update(update));
    }

    /// This host has an address on that device, or on none.
    pub(super) fn port(&self, mac: Mac, device: Option<String>) {
        self.give(Job::Port(mac, device));
    }

    /// The revision that the plane follows, and how it is.
    pub(super) fn status(&self) -> (Option<Revision>, Option<PlaneStatus>) {
        let mut state = lock(&self.state);
        let status = state.keeper.as_ref().map(Keeper::status);
        let well = state.trouble.is_none() && status.as_ref().is_none_or(|status| status.trouble.is_none());
        if well {
            state.applied = state.followed;
        }
        (state.applied, status)
    }

    /// Why the plane is not as it should be.
    pub(super) fn trouble(&self) -> Option<String> {
        let (_, status) = self.status();
        lock(&self.state).trouble.clone().or(status?.trouble)
    }

    fn give(&self, job: Job) {
        // The thread ends after this, its only giver; but for a panic, which has been told.
        let _ = self.jobs.send(job);
    }
}

impl Hand {
    fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            let job = match self.waits_for_plane() {
                true => jobs.recv_timeout(PAUSE),
                false => jobs.recv().map_err(RecvTimeoutError::from),
            };
            match job {
                Ok(job) => self.follow(job),
                Err(RecvTimeoutError::Timeout) => self.begin(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn waits_for_plane(&self) -> bool {
        self.devices.is_some() && self.table.is_some() && lock(&self.state).keeper.is_none()
    }

    /// A plane that does not obey is brought up by its keeper, which also says so.
    fn follow(&mut self, job: Job) {
        let keeper = lock(&self.state).keeper.clone();
        match (job, &mut self.table) {
            (Job::Table(table), _) => {
                let _ = keeper.as_ref().map(|keeper| keeper.follow_all(&table));
                self.table = Some(table);
            }
            (Job::Update(update), Some(table)) => {
                let touched = table.apply(&update);
                let _ = keeper.as_ref().map(|keeper| keeper.follow(table, &touched));
            }
            (Job::Port(mac, device), table) => {
                if self.ports.get(&mac) == device.as_ref() {
                    return;
                }
                match device.clone() {
                    Some(device) => drop(self.ports.insert(mac, device)),
                    None => drop(self.ports.remove(&mac)),
                }
                if let (Some(keeper), Some(table)) = (&keeper, table) {
                    let _ = keeper.set_port(table, mac, device);
                }
            }
            // Updates come after a table.
            (Job::Update(_), None) => {}
        }
        if keeper.is_none() {
            self.begin();
        }
        lock(&self.state).followed = self.table.as_ref().map(Table::revision);
    }

    /// Begins to keep the plane, with the first table. One that cannot be prepared is opened anew after a while.
    fn begin(&mut self) {
        let (Some(devices), Some(table)) = (&self.devices, &self.table) else { return };
        let opened = self.planes.take().map_or_else(|| planes(devices), Ok);
        let begun = opened.and_then(|planes| Keeper::start_with(self.node.clone(), planes, table, self.ports.clone()));
        let mut state = lock(&self.state);
        match begun {
            Ok(keeper) => (state.keeper, state.trouble) = (Some(keeper), None),
            Err(error) => {
                let trouble = sentence(&error);
                if state.trouble.as_ref() != Some(&trouble) {
                    tracing::error!(error = trouble, "the data plane cannot be kept");
                }
                state.trouble = Some(trouble);
            }
        }
    }
}

fn planes((tunnel, bridge): &(String, String)) -> Result<Planes, PlaneError> {
    kernel::open(kernel::Config { tunnel: tunnel.clone(), bridge: bridge.clone(), kind: Kind::Host })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
