//! What all parts of a host use.

use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};

use nix::fcntl::Flock;

use super::device::Links;
use super::layout::Layout;
use super::migrate::Sessions;
use super::migrations::Migrations;
use super::modules::Modules;
use super::overlay::Overlay;
use super::record::{GuestId, Record};
use super::registry::{Registry, RegistryError};
use super::{HostConfig, HostError};

/// One of these a host. It lives as long as a supervisor or the host does, and so does the lock on the state.
pub(super) struct Shared {
    pub(super) config: HostConfig,
    pub(super) layout: Layout,
    pub(super) registry: Arc<Registry>,
    pub(super) modules: Modules,
    pub(super) links: Links,
    pub(super) sessions: Sessions,
    pub(super) migrations: Migrations,
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
