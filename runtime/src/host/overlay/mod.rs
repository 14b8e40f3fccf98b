//! The host's side of the overlay: which of its guests' addresses are its own, by the controller's word.
//!
//! ```text
//!  controller ── table, updates ──> link ──┬──> replica ──> verdict ──> a guest's task: serve on, or be fenced
//!      ▲                                   └──> mirror ──> roam_sdn's Keeper ──> this host's data plane
//!      ├── heartbeat, join ────────────────┘
//!      ├── claim, release <── guests created and deleted
//!      └── moves <── guests that come and go
//! ```
//!
//! A controller that is away changes nothing: planes stay as they are, guests serve on. Only what would make a new owner
//! has to wait for it. In reading order: this file (what a host asks of it), `verdict` (whose an address is: pure),
//! `link` (following the controller), `mirror` (the data plane), `releases` (what is still to be told), `moves` (what
//! migrations ask).

mod link;
mod mirror;
mod moves;
mod releases;
mod verdict;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use roam_sdn::model::Generation;
use tokio::task::AbortHandle;

pub(super) use moves::{Desk, Grant};
pub(super) use verdict::Verdict;

use super::guests::Guests;
use super::record::Record;
use super::{HostError, OpenError};
use crate::api::client::{ClientError, Endpoint};
use crate::api::sdn::{Address, Claim};
use crate::api::{ErrorCode, GuestName, MacText, OverlayView};
use link::Link;
use mirror::Mirror;

/// How a host is part of an overlay.
#[derive(Clone, Debug)]
pub struct OverlayConfig {
    /// The controller.
    pub controller: Endpoint,
    /// The address of this host's end of the tunnels.
    pub vtep: IpAddr,
    /// The VXLAN device in the host's bridge; `None` where the network needs no telling where an address is.
    pub tunnel: Option<String>,
}

/// How long a guest that begins waits for a controller that has not been reached yet.
const CONTACT_LIMIT: Duration = Duration::from_secs(3);

/// A host's part in an overlay. When it goes, the data plane stays as it is.
pub(super) struct Overlay {
    link: Arc<Link>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Overlay {
    /// Opens the data plane; follows nobody yet. `migrate` is where this host takes migrations. `releases` is where those are kept that are still to be told.
    pub(super) fn open(
        config: &OverlayConfig,
        migrate: Option<SocketAddr>,
        name: GuestName,
        bridge: &str,
        releases: PathBuf,
    ) -> Result<Self, OpenError> {
        let mirror = Mirror::open(name.clone(), config.tunnel.clone().map(|tunnel| (tunnel, bridge.to_owned())))?;
        let link = Link::new(config, migrate, name, mirror, releases);
        Ok(Self { link: Arc::new(link), tasks: Mutex::default() })
    }

    /// Begins to follow the controller, and to tell these guests.
    pub(super) fn begin(&self, guests: &Arc<Guests>) {
        let following = tokio::spawn(link::follow(self.link.clone(), Arc::downgrade(guests)));
        self.tasks().push(following.abort_handle());
    }

    /// Follows no longer.
    pub(super) fn end(&self) {
        self.tasks().drain(..).for_each(|task| task.abort());
    }

    /// Claims a guest's address. Refused, it is another's.
    pub(super) async fn claim(&self, record: &Record, held: Option<Generation>) -> Result<Generation, HostError> {
        self.link.contact(CONTACT_LIMIT).await;
        let claim = Claim { address: address(record), host: self.link.name.clone(), held };
        let granted = self.link.claim(&claim).await.map_err(|error| not_granted(&record.spec.name, error))?;
        tracing::debug!(guest = %record.spec.name, mac = %record.network.mac, generation = %granted, "claimed");
        Ok(granted)
    }

    /// Gives a guest's address up: now, or as soon as the controller can be told.
    pub(super) async fn release(&self, record: &Record) {
        self.link.release(record.network.mac, record.generation).await;
    }

    /// Whose a guest's address is, as far as is known here.
    pub(super) fn verdict(&self, record: &Record) -> Verdict {
        self.link.verdict(record.network.mac, record.generation)
    }

    /// The same before a guest is started, for which a controller that has not been reached yet is waited for a little.
    pub(super) async fn first_verdict(&self, record: &Record) -> Verdict {
        self.link.contact(CONTACT_LIMIT).await;
        self.verdict(record)
    }

    /// A guest has its address on that device, or on none.
    pub(super) fn port(&self, mac: MacText, device: Option<&str>) {
        self.link.mirror.port(mac, device.map(str::to_owned));
    }

    /// What is wrong, in words.
    pub(super) fn problems(&self) -> Vec<String> {
        self.link.problems()
    }

    pub(super) fn view(&self) -> OverlayView {
        self.link.view()
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<AbortHandle>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a guest's frames are addressed to.
fn address(record: &Record) -> Address {
    let network = &record.network;
    Address {
        mac: network.mac,
        ip: network.ip.map(|ip| ip.0.address),
        ip6: network.ip6.map(|ip6| ip6.0.address),
        name: Some(record.spec.name.clone()),
    }
}

/// The controller's own no, or that it cannot be asked.
fn not_granted(guest: &GuestName, error: ClientError) -> HostError {
    let guest = guest.clone();
    match error.code() {
        Some(code @ (ErrorCode::Fenced | ErrorCode::Conflict | ErrorCode::Invalid)) => {
            HostError::NotGranted { guest, code, message: error.to_string() }
        }
        _ => HostError::NoController { guest, source: Box::new(error) },
    }
}
