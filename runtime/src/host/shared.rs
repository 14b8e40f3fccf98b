//! What all parts of a host use.

use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::fcntl::Flock;

use super::addresses::Mtu;
use super::checkpoint::Checkpoints;
use super::device::Links;
use super::layout::Layout;
use super::migrate::{Port, Sessions};
use super::migrations::Migrations;
use super::modules::Modules;
use super::overlay::Overlay;
use super::record::{GuestId, Record};
use super::registry::{Registry, RegistryError};
use super::{HostConfig, HostError};

/// Between two tries to forget a guest on a full disk.
const FULL_PAUSE: Duration = Duration::from_millis(500);

/// One of these a host. It lives as long as a supervisor or the host does, and so does the lock on the state.
pub(super) struct Shared {
    pub(super) config: HostConfig,
    pub(super) layout: Layout,
    pub(super) registry: Arc<Registry>,
    pub(super) modules: Modules,
    pub(super) links: Links,
    pub(super) mtu: Mtu,
    pub(super) sessions: Sessions,
    /// What other hosts are spoken to with, where there are certificates.
    pub(super) port: Option<Port>,
    pub(super) migrations: Migrations,
    pub(super) checkpoints: Checkpoints,
    /// The host's part in an overlay, if it has one.
    pub(super) overlay: Option<Overlay>,
    /// Name of the host's control groups, which no other daemon of this machine has.
    pub(super) group: String,
    /// Whether workers have users of their own.
    pub(super) own_uids: bool,
    /// Keeps other daemons out of the state directory.
    pub(super) lock: Mutex<Option<Flock<File>>>,
}

impl Shared {
    /// Keeps a record. Waits for the disk on a thread made for that.
    pub(super) async fn put(&self, record: &Record) -> Result<(), HostError> {
        let record = record.clone();
        self.registry(move |registry| registry.put(&record)).await
    }

    /// Forgets a guest and removes its directory.
    pub(super) async fn forget(&self, id: GuestId) -> Result<(), HostError> {
        self.registry(move |registry| registry.remove(id)).await
    }

    /// Forgets a guest, and remembers in which session it had come here, if it had: its source may still ask.
    pub(super) async fn forget_noting(self: &Arc<Self>, id: GuestId, arrived: Option<String>) -> Result<(), HostError> {
        if let Some(session) = arrived {
            let shared = self.clone();
            let noted = tokio::task::spawn_blocking(move || shared.sessions.note_gone(session)).await;
            noted.map_err(|_ending| HostError::Closing)?.map_err(HostError::io("noting that a guest was here"))?;
        }
        self.forget(id).await
    }

    /// The same of a guest that is another host's for good. Where the disk is too full even for that, it is done as soon as
    /// there is room; a daemon that ends first leaves it to the next one.
    pub(super) async fn forget_gone(self: &Arc<Self>, id: GuestId, arrived: Option<String>) -> Result<(), HostError> {
        let forgotten = self.forget_noting(id, arrived.clone()).await;
        let Err(HostError::DiskFull(reason)) = forgotten else { return forgotten };
        tracing::error!(guest = %id, reason, "a guest that is not here any more stays on record until there is room");
        let shared = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(FULL_PAUSE).await;
                let Some(shared) = shared.upgrade() else { return };
                if !matches!(shared.forget_noting(id, arrived.clone()).await, Err(HostError::DiskFull(_))) {
                    return;
                }
            }
        });
        Ok(())
    }

    /// Asks the registry on a thread that may wait.
    pub(super) async fn registry<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Registry) -> Result<T, RegistryError> + Send + 'static,
    ) -> Result<T, HostError> {
        let registry = self.registry.clone();
        match tokio::task::spawn_blocking(move || ask(&registry)).await {
            Ok(result) => Ok(result?),
            // The runtime is being shut down.
            Err(_) => Err(HostError::Closing),
        }
    }

    /// Lets go of the state, so that another daemon may have it.
    pub(super) fn close(&self) {
        self.registry.close();
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
