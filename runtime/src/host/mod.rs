//! A host: the guests it was asked to run, their workers, and the modules they are made of.
//!
//! ```text
//!  serve/ (HTTP, TLS, limits) ──> Host ──> registry   what was asked for, in redb: crash-safe
//!                                  │  ├──> modules    wasm by blake3; compiled ones beside
//!                                  │  ├──> addresses  who has which IP and MAC here
//!                                  │  └──> supervisor one task per guest: spawn, adopt, watch, restart
//!                                  └────> device      TAP into the bridge
//! ```
//!
//! The daemon is replaceable: workers serve without it, and a new one finds them by their control sockets.

mod config;
mod error;
pub mod serve;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;

pub use config::{HostConfig, Pool};
pub use error::{HostError, OpenError};

use crate::api::{GuestName, GuestSpec, GuestStats, GuestView, Health, HostView, LogEntry, ModuleView};
use crate::engine::ModuleHash;

/// A running host. Clones are the same one.
#[derive(Clone)]
pub struct Host {
    #[expect(dead_code, reason = "the skeleton that the API is written against")]
    inner: Arc<HostConfig>,
}

/// A module's bytes as they arrive.
pub type ModuleBytes = Pin<Box<dyn Stream<Item = Result<Bytes, std::io::Error>> + Send>>;
/// Log lines as they come; ends when the log does (or never, when following).
pub type LogLines = Pin<Box<dyn Stream<Item = Result<LogEntry, HostError>> + Send>>;

/// Which log lines.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogQuery {
    /// Go on with new lines as they come, until the guest is deleted.
    pub follow: bool,
    /// Begin with the last so many lines; all that are kept when `None`.
    pub tail: Option<u64>,
}

impl Host {
    /// Opens the state, adopts workers that still run, clears away what no record knows, and starts those guests
    /// whose policy says so.
    pub async fn open(config: HostConfig) -> Result<Self, OpenError> {
        Ok(Self { inner: Arc::new(config) })
    }

    /// Lets go of everything but the workers: they go on serving.
    pub async fn close(&self) {
        todo!()
    }

    /// Takes a guest on record and starts it. Returns when it serves. A guest that did not start stays on no record.
    pub async fn create(&self, _spec: GuestSpec) -> Result<GuestView, HostError> {
        todo!()
    }

    /// All guests, by name.
    pub async fn list(&self) -> Vec<GuestView> {
        todo!()
    }

    /// One guest.
    pub async fn inspect(&self, _name: &GuestName) -> Result<GuestView, HostError> {
        todo!()
    }

    /// Its counters; an error when it does not run or does not answer in time.
    pub async fn stats(&self, _name: &GuestName) -> Result<GuestStats, HostError> {
        todo!()
    }

    /// Starts a guest that is stopped, ended, waiting or parked.
    pub async fn start(&self, _name: &GuestName) -> Result<GuestView, HostError> {
        todo!()
    }

    /// Stops a guest; one that does not end within `grace` is killed. Stopping a stopped guest is no error.
    pub async fn stop(&self, _name: &GuestName, _grace: Duration) -> Result<GuestView, HostError> {
        todo!()
    }

    /// Deletes a guest, its record and its log. One that runs is refused unless `force`.
    pub async fn delete(&self, _name: &GuestName, _force: bool) -> Result<(), HostError> {
        todo!()
    }

    /// Its log. Following never holds up the guest.
    pub async fn logs(&self, _name: &GuestName, _query: LogQuery) -> Result<LogLines, HostError> {
        todo!()
    }

    /// All modules.
    pub async fn modules(&self) -> Result<Vec<ModuleView>, HostError> {
        todo!()
    }

    /// Whether a module is here.
    pub async fn module(&self, _digest: ModuleHash) -> Result<ModuleView, HostError> {
        todo!()
    }

    /// Takes a module: checks digest and size, checks that it is a guest and compiles it (jailed), and keeps both.
    /// `true` if it was new. Half of it leaves nothing behind.
    pub async fn put_module(&self, _digest: ModuleHash, _bytes: ModuleBytes) -> Result<bool, HostError> {
        todo!()
    }

    /// A module's bytes.
    pub async fn read_module(&self, _digest: ModuleHash) -> Result<tokio::fs::File, HostError> {
        todo!()
    }

    /// Deletes a module that no guest uses.
    pub async fn delete_module(&self, _digest: ModuleHash) -> Result<(), HostError> {
        todo!()
    }

    /// What this host is.
    pub async fn about(&self) -> HostView {
        todo!()
    }

    /// Whether it can do its work: the database takes writes, the bridge is there.
    pub async fn health(&self) -> Health {
        todo!()
    }
}
