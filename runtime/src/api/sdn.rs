//! What a controller (`roam sdn`) and those who ask it say to each other: JSON over HTTP, under `/v1`.
//!
//! | request | who | body | answer |
//! | --- | --- | --- | --- |
//! | `GET /v1/routes` (`?counters=true`) | all | | `[RouteView]` |
//! | `GET /v1/routes/{address}` | all | | [`RouteView`] with counters |
//! | `POST /v1/routes` | operator, the host itself | [`Claim`] | 201 [`Accepted`] |
//! | `POST /v1/routes/{address}/move` | operator, the host it goes to | [`Move`] | [`Accepted`] |
//! | `POST /v1/routes/{address}/settle?generation=` | operator, its owner | | [`Accepted`] |
//! | `DELETE /v1/routes/{address}?generation=` | operator, its owner | | [`Accepted`] |
//! | `GET /v1/hosts` | all | | `[NodeView]` |
//! | `PUT /v1/hosts/{name}` | operator, the host itself | [`Join`] | [`Accepted`] |
//! | `POST /v1/hosts/{name}/heartbeat` | the same | [`Heartbeat`] | [`Heard`] |
//! | `DELETE /v1/hosts/{name}` | the same | | [`Accepted`] |
//! | `GET /v1/fronts` | all | | `[Front]` |
//! | `PUT /v1/fronts` | operator | [`Front`] | [`Accepted`] |
//! | `DELETE /v1/fronts?protocol=&listen=` | operator | | [`Accepted`] |
//! | `GET /v1/watch` (`?after=`, `?figures=true`) | all | | server-sent events, see [`WatchEvent`] |
//! | `GET /v1/status` | all | | [`ControllerStatus`] |
//! | `GET /v1/version` | all | | [`ControllerView`] |
//! | `GET /v1/health`, `/v1/openapi.json`, `/metrics` | all | | |
//!
//! `{address}` is a MAC, an IP address, or the name, where only one address is called so.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use roam_sdn::controller::{
    Accepted, ControllerStatus, Heard, Heartbeat, Move, NodeView, RouteView, SwitchView, TableView,
};
pub use roam_sdn::model::{
    Address, Change, Front, FrontKey, Generation, Host, Incarnation, Kind, Placement, Presence, Protocol, Revision,
    Route, Update,
};
pub use roam_sdn::plane::{Counters, PlaneStatus};

use super::GuestName;

/// TCP port of a controller when the URL names none.
pub const PORT: u16 = 7444;

/// A node joins, or has other addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// What it is for.
    pub kind: Kind,
    /// Its end of the tunnels.
    #[schema(value_type = String, example = "172.30.0.1")]
    pub vtep: IpAddr,
    /// Where it takes migrations; without, it takes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "172.30.0.1:7445")]
    pub migrate: Option<SocketAddr>,
}

/// A host has an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Which.
    pub address: Address,
    /// Who.
    #[schema(value_type = String)]
    pub host: GuestName,
    /// The generation it has it since, if it had it before.
    #[serde(default)]
    pub held: Option<Generation>,
}

/// What a controller is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ControllerView {
    /// The node it runs on.
    #[schema(value_type = String)]
    pub node: GuestName,
    /// Which memory of it decides; another one after a start.
    pub incarnation: Incarnation,
    /// The daemon's version.
    pub version: String,
    /// How long the daemon runs, milliseconds.
    pub uptime_ms: u64,
}

/// What a watch sends. The event's name is the variant's, its data the variant's as JSON, its id the revision.
///
/// Without `after`, or when the updates after it are no longer kept, a watch begins with the table; a table that
/// changes faster than it is read comes again in between. An event `goodbye` ends it when the controller goes down: read
/// on with `after`. The id of figures and goodbye is the revision that was told last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WatchEvent {
    /// The table as it is: what came before is void.
    Table(TableView),
    /// What has changed.
    Update(Update),
    /// Each second, if asked for: the addresses with their counters.
    Figures(Vec<RouteView>),
    /// The controller goes down.
    Goodbye,
}
