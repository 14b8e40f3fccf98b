//! What hand and eye know of each other.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::devices::Devices;
use crate::model::Mac;

/// Clones are the same.
#[derive(Clone)]
pub(super) struct Shared {
    known: Arc<Mutex<Known>>,
    /// What notifications of the hand's changes carry as their sender, where the kernel names one.
    pub(super) port: u32,
}

pub(super) struct Known {
    /// Addresses the hand has changed since the plane was last read. Notifications of forwarding entries name no
    /// sender: of these they are taken for our own, and the next reading settles it.
    pub(super) touched: HashSet<Mac>,
    /// What was last found of each address: who replaces or removes an entry removes these as well.
    pub(super) traces: BTreeMap<Mac, Trace>,
    /// The devices that were prepared.
    pub(super) devices: Option<Devices>,
}

/// Parts of an address's entry that are not known by the address itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trace {
    /// Permanent neighbours on the bridge.
    pub(super) ips: BTreeSet<IpAddr>,
    /// The port other than the tunnel that the bridge sends it to.
    pub(super) port: Option<u32>,
}

impl Shared {
    pub(super) fn new(port: u32) -> Self {
        let known = Known { touched: HashSet::new(), traces: BTreeMap::new(), devices: None };
        Self { known: Arc::new(Mutex::new(known)), port }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
