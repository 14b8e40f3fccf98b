//! The methods, one a route.

use std::time::Duration;

use hyper::{Method, StatusCode};

use super::wire::encoded;
use super::{ANSWER_LIMIT, Ask, Client, ClientError, LogStream, MigrationStream};
use crate::api::{
    ErrorCode, GuestName, GuestSpec, GuestStats, GuestView, Health, HostView, MigrateRequest, MigrationView,
    ModuleView, PREFIX,
};
use crate::engine::ModuleHash;
use crate::host::LogQuery;

impl Client {
    /// Deploys a guest; answers when it serves. The host must have its module.
    pub async fn create(&self, spec: &GuestSpec) -> Result<GuestView, ClientError> {
        self.wire.call(Ask::new(Method::POST, format!("{PREFIX}/guests")).json(spec)).await
    }

    /// All guests, by name.
    pub async fn list(&self) -> Result<Vec<GuestView>, ClientError> {
        self.wire.call(Ask::get(format!("{PREFIX}/guests"))).await
    }

    /// One guest.
    pub async fn inspect(&self, name: &GuestName) -> Result<GuestView, ClientError> {
        self.wire.call(Ask::get(format!("{PREFIX}/guests/{name}"))).await
    }

    /// Its counters.
    pub async fn stats(&self, name: &GuestName) -> Result<GuestStats, ClientError> {
        self.wire.call(Ask::get(format!("{PREFIX}/guests/{name}/stats"))).await
    }

    /// Starts a guest that is stopped, ended, waiting or parked.
    pub async fn start(&self, name: &GuestName) -> Result<GuestView, ClientError> {
        self.wire.call(Ask::new(Method::POST, format!("{PREFIX}/guests/{name}/start"))).await
    }

    /// Stops a guest; one that does not end within `grace` is killed.
    pub async fn stop(&self, name: &GuestName, grace: Duration) -> Result<GuestView, ClientError> {
        let path = format!("{PREFIX}/guests/{name}/stop?grace_ms={}", grace.as_millis());
        self.wire.call(Ask::new(Method::POST, path).within(ANSWER_LIMIT.saturating_add(grace))).await
    }

    /// Deletes a guest with its record and log. One that runs is refused unless `force`.
    pub async fn delete(&self, name: &GuestName, force: bool) -> Result<(), ClientError> {
        let path = format!("{PREFIX}/guests/{name}?force={force}");
        self.wire.status(Ask::new(Method::DELETE, path)).await.map(drop)
    }

    /// Its log, as it comes.
    pub async fn logs(&self, name: &GuestName, query: LogQuery) -> Result<LogStream, ClientError> {
        let mut path = format!("{PREFIX}/guests/{name}/logs?follow={}", query.follow);
        if let Some(tail) = query.tail {
            path += &format!("&tail={tail}");
        }
        let (response, _) = self.wire.send(Ask::get(path)).await?;
        Ok(super::logs::lines(self.wire.endpoint.clone(), response.into_body()))
    }

    /// Has a guest begin to move to another host; answers when that is under way.
    pub async fn migrate(&self, name: &GuestName, request: &MigrateRequest) -> Result<MigrationView, ClientError> {
        self.wire.call(Ask::new(Method::POST, format!("{PREFIX}/guests/{name}/migrate")).json(request)).await
    }

    /// Migrations under way and the last ones that are over, the newest first: of one guest, or all.
    pub async fn migrations(&self, guest: Option<&GuestName>) -> Result<Vec<MigrationView>, ClientError> {
        let query = guest.map_or_else(String::new, |guest| format!("?guest={guest}"));
        self.wire.call(Ask::get(format!("{PREFIX}/migrations{query}"))).await
    }

    /// One of them, by an id that the host has told.
    pub async fn migration(&self, id: &str) -> Result<MigrationView, ClientError> {
        self.wire.call(Ask::get(format!("{PREFIX}/migrations/{}", encoded(id)))).await
    }

    /// One of them as it goes on.
    pub async fn watch_migration(&self, id: &str) -> Result<MigrationStream, ClientError> {
        let (response, _) = self.wire.send(Ask::get(format!("{PREFIX}/migrations/{}/watch", encoded(id)))).await?;
        Ok(super::watch::migration(self.wire.endpoint.clone(), response.into_body()))
    }

    /// Asks for the end of one that is under way. Whether it came in time is seen when it is over.
    pub async fn cancel_migration(&self, id: &str) -> Result<MigrationView, ClientError> {
        self.wire.call(Ask::new(Method::DELETE, format!("{PREFIX}/migrations/{}", encoded(id)))).await
    }

    /// All modules.
    pub async fn modules(&self) -> Result<Vec<ModuleView>, ClientError> {
        self.wire.call(Ask::get(format!("{PREFIX}/modules"))).await
    }

    /// Whether the host has a module.
    pub async fn has_module(&self, digest: ModuleHash) -> Result<bool, ClientError> {
        // An answer to HEAD has no body that would tell the code.
        match self.wire.status(Ask::new(Method::HEAD, format!("{PREFIX}/modules/{digest}"))).await {
            Ok(_) => Ok(true),
            Err(ClientError::Refused { status, .. }) if status == ErrorCode::NotFound.status() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes a module that no guest uses.
    pub async fn delete_module(&self, digest: ModuleHash) -> Result<(), ClientError> {
        self.wire.status(Ask::new(Method::DELETE, format!("{PREFIX}/modules/{digest}"))).await.map(drop)
    }

    /// What the host is.
    pub async fn about(&self) -> Result<HostView, ClientError> {
        self.wire.call(Ask::get(format!("{PREFIX}/version"))).await
    }

    /// Whether the host can do its work.
    pub async fn health(&self) -> Result<Health, ClientError> {
        self.wire.call(Ask::get(format!("{PREFIX}/health"))).await
    }

    /// The host's metrics, Prometheus text.
    pub async fn metrics(&self) -> Result<String, ClientError> {
        let (response, kept) = self.wire.send(Ask::get("/metrics")).await?;
        let bytes = self.wire.collect(response, kept).await?;
        String::from_utf8(bytes.into()).map_err(|source| self.wire.endpoint.protocol(source))
    }

    /// The status says whether a module was new.
    pub(super) fn was_new(status: StatusCode) -> bool {
        status == StatusCode::CREATED
    }
}
