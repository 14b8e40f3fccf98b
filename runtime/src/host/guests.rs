//! The guests of a host by name, those on their way included.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::resource::{Resource, getrlimit};

use super::HostError;
use super::addresses::{Neighbour, place};
use super::record::{GuestId, Record, Standing};
use super::shared::Shared;
use super::supervisor::{Supervised, network_config};
use crate::ambient::{now_ms, random};
use crate::api::{GuestName, GuestSpec, GuestState, GuestView, MacText};
use crate::engine::ModuleHash;

/// Most guests of a host: their ids' uids must differ, and each is a process.
const GUESTS_MAX: usize = 4096;
/// Descriptors the daemon has of a guest that serves: its process, twice, the way to it, and its leash.
const FILES_PER_GUEST: u64 = 4;
/// Those for everything else: a few starts at once, peers, files.
const FILES_BESIDE: u64 = 128;

/// How many guests this process can look after. One it has no descriptors for would be taken for ended.
pub(super) fn guests_max() -> usize {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(GUESTS_MAX, |(files_max, _)| guests_max_of(files_max))
}

fn guests_max_of(files_max: u64) -> usize {
    let guests = files_max.saturating_sub(FILES_BESIDE) / FILES_PER_GUEST;
    usize::try_from(guests).unwrap_or(GUESTS_MAX).min(GUESTS_MAX)
}

/// Who is where. The lock is never held across a wait.
#[derive(Default)]
pub(super) struct Guests {
    slots: Mutex<Slots>,
}

#[derive(Default)]
struct Slots {
    by_name: BTreeMap<GuestName, Slot>,
    closed: bool,
}

enum Slot {
    /// Being created: name, addresses and module are taken, but there is nothing to see yet.
    Reserved(Box<Record>),
    Here(Supervised),
}

/// A name and a place that nobody else gets meanwhile. Dropped, they are free again.
pub(super) struct Reservation {
    guests: Arc<Guests>,
    pub(super) record: Record,
}

impl Guests {
    pub(super) fn all(&self) -> Vec<Supervised> {
        self.lock().by_name.values().filter_map(Slot::here).cloned().collect()
    }

    /// Those that are on their way here, from other hosts or from images.
    pub(super) fn arriving(&self) -> Vec<GuestView> {
        let slots = self.lock();
        let arriving = slots.by_name.values().filter_map(|slot| match slot {
            Slot::Reserved(record) if record.standing == Standing::Arriving => Some(record),
            _ => None,
        });
        arriving.map(|record| record.view(GuestState::Arriving, record.created_ms, None)).collect()
    }

    pub(super) fn find(&self, name: &GuestName) -> Result<Supervised, HostError> {
        let slots = self.lock();
        let here = slots.by_name.get(name).and_then(Slot::here);
        here.cloned().ok_or_else(|| HostError::NoGuest(name.clone()))
    }

    /// Takes one in that is supervised.
    pub(super) fn insert(&self, name: GuestName, guest: Supervised) {
        let mut slots = self.lock();
        // Closed meanwhile: its task ends and leaves the worker to the next daemon.
        if !slots.closed {
            slots.by_name.insert(name, Slot::Here(guest));
        }
    }

    pub(super) fn remove(&self, name: &GuestName, id: GuestId) {
        let mut slots = self.lock();
        if slots.by_name.get(name).and_then(Slot::here).is_some_and(|guest| guest.id == id) {
            slots.by_name.remove(name);
        }
    }

    /// Has guests look whose their addresses are: those with such MACs.
    pub(super) fn check_owners(&self, which: impl Fn(MacText) -> bool) {
        self.lock().by_name.values().filter_map(Slot::here).filter(|guest| which(guest.mac())).for_each(|guest| {
            guest.check_owner();
        });
    }

    /// Whether one has this MAC, or is being created with it.
    pub(super) fn have(&self, mac: MacText) -> bool {
        self.lock().by_name.values().any(|slot| slot.mac() == mac)
    }

    /// Who uses a module, by name.
    pub(super) fn users(&self, digest: ModuleHash) -> Vec<GuestName> {
        self.lock().users(digest)
    }

    /// Does `remove` if nobody uses the module, and nobody begins to meanwhile.
    pub(super) fn if_unused(
        &self,
        digest: ModuleHash,
        remove: impl FnOnce() -> Result<(), HostError>,
    ) -> Result<(), HostError> {
        let slots = self.lock();
        match slots.users(digest) {
            guests if guests.is_empty() => remove(),
            guests => Err(HostError::ModuleInUse { digest, guests }),
        }
    }

    /// Reserves name, addresses and module of a guest.
    pub(super) fn reserve(self: &Arc<Self>, shared: &Shared, spec: GuestSpec) -> Result<Reservation, HostError> {
        self.reserve_as(Standing::Run, shared, spec, |spec| shared.modules.size(spec.module).map(drop))
    }

    /// The same of a guest that comes from another host, and perhaps its module with it; or from an image.
    pub(super) fn reserve_arriving(
        self: &Arc<Self>,
        shared: &Shared,
        spec: GuestSpec,
    ) -> Result<Reservation, HostError> {
        self.reserve_as(Standing::Arriving, shared, spec, |_| Ok(()))
    }

    fn reserve_as(
        self: &Arc<Self>,
        standing: Standing,
        shared: &Shared,
        spec: GuestSpec,
        check: impl FnOnce(&GuestSpec) -> Result<(), HostError>,
    ) -> Result<Reservation, HostError> {
        spec.check()?;
        let mut slots = self.lock();
        if slots.closed {
            return Err(HostError::Closing);
        }
        let guests_max = guests_max();
        if slots.by_name.len() >= guests_max {
            return Err(HostError::TooManyGuests(guests_max));
        }
        let id = slots.new_id()?;
        let looks: Vec<_> = slots.by_name.values().map(Slot::look).collect();
        let neighbours: Vec<_> = looks.iter().map(|(name, network)| Neighbour { name, network }).collect();
        let network = place(&spec, id, (shared.config.pool4, shared.config.pool6), shared.mtu, &neighbours)?;
        network_config(&spec, &network).check()?;
        check(&spec)?;
        let record = Record { standing, ..Record::new(id, spec, network, now_ms()) };
        slots.by_name.insert(record.spec.name.clone(), Slot::Reserved(Box::new(record.clone())));
        drop(slots);
        Ok(Reservation { guests: self.clone(), record })
    }

    /// Lets go of all; no more are taken in.
    pub(super) fn close(&self) -> Vec<Supervised> {
        let mut slots = self.lock();
        slots.closed = true;
        let all = std::mem::take(&mut slots.by_name);
        all.into_values().filter_map(|slot| slot.here().cloned()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // Deleted by somebody who did not wait for it.
        slots.by_name.retain(|_, slot| slot.here().is_none_or(|guest| !guest.is_over()));
        slots
    }
}

impl Slots {
    fn users(&self, digest: ModuleHash) -> Vec<GuestName> {
        let uses = |slot: &Slot| match slot {
            Slot::Reserved(record) => record.spec.module == digest,
            Slot::Here(guest) => guest.spec(|spec| spec.module == digest),
        };
        self.by_name.iter().filter(|(_, slot)| uses(slot)).map(|(name, _)| name.clone()).collect()
    }

    /// One whose uid and device are nobody else's.
    fn new_id(&self) -> Result<GuestId, HostError> {
        loop {
            let random = random().map_err(HostError::io("drawing an id"))?;
            let id = GuestId::new(u64::from_le_bytes(random));
            let same = |other: GuestId| other.uid() == id.uid() || other.tap() == id.tap();
            if !self.by_name.values().any(|slot| same(slot.id())) {
                return Ok(id);
            }
        }
    }
}

impl Slot {
    fn here(&self) -> Option<&Supervised> {
        match self {
            Self::Reserved(_) => None,
            Self::Here(guest) => Some(guest),
        }
    }

    fn id(&self) -> GuestId {
        match self {
            Self::Reserved(record) => record.id,
            Self::Here(guest) => guest.id,
        }
    }

    fn mac(&self) -> MacText {
        match self {
            Self::Reserved(record) => record.network.mac,
            Self::Here(guest) => guest.mac(),
        }
    }

    fn look(&self) -> (GuestName, crate::api::NetworkView) {
        match self {
            Self::Reserved(record) => (record.spec.name.clone(), record.network.clone()),
            Self::Here(guest) => {
                let view = guest.view();
                (view.spec.name, view.network)
            }
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut slots = self.guests.lock();
        let name = &self.record.spec.name;
        if matches!(slots.by_name.get(name), Some(Slot::Reserved(record)) if record.id == self.record.id) {
            slots.by_name.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_descriptors_for_every_guest() {
        assert_eq!([0, 128, 131, 132].map(guests_max_of), [0, 0, 0, 1]);
        assert!(guests_max_of(1024) >= 200);
        assert_eq!(guests_max_of(u64::MAX), GUESTS_MAX);
    }
}
