//! What a host is asked about migrations.

use prometheus_client::registry::Registry;

use super::MigrationViews;
use crate::api::{GuestName, MigrateRequest, MigrationView};
use crate::host::{Host, HostError};

impl Host {
    /// Has a guest begin to move to another host. Returns as soon as that is under way; [`Host::watch_migration`] tells
    /// how it goes. What can be known beforehand is refused here, everything else is how it ends.
    pub async fn migrate(&self, name: &GuestName, request: MigrateRequest) -> Result<MigrationView, HostError> {
        request.check()?;
        let guest = self.inner.guests.find(name)?;
        if request.to.as_str() == self.inner.shared.config.name {
            return Err(HostError::AlreadyHere(name.clone()));
        }
        self.inner.is_free(&guest)?;
        self.inner.migrator.migrate(&guest, request).await
    }

    /// All migrations under way and the last ones that are over, the newest first.
    pub fn migrations(&self) -> Vec<MigrationView> {
        self.inner.shared.migrations.all()
    }

    /// One of them.
    pub fn migration(&self, id: &str) -> Result<MigrationView, HostError> {
        self.inner.shared.migrations.find(id)
    }

    /// One of them as it goes on, at most ten times a second; ends after it has been seen over.
    pub fn watch_migration(&self, id: &str) -> Result<MigrationViews, HostError> {
        self.inner.shared.migrations.follow(id)
    }

    /// Asks for the end of one that is under way. The guest stays where it is, unless that came too late: how it ended is
    /// seen when it is over.
    pub fn cancel_migration(&self, id: &str) -> Result<MigrationView, HostError> {
        self.inner.shared.migrations.cancel(id)
    }

    /// Has them told at a scrape.
    pub(in crate::host) fn register_migrations(&self, registry: &mut Registry) {
        self.inner.shared.migrations.register(registry);
    }
}
