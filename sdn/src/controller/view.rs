//! What a controller shows. The wire as well.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::{Address, Front, Generation, Host, Incarnation, Name, Placement, Presence, Revision, Route};
use crate::plane::{Counters, PlaneStatus};
use crate::table::Table;

/// The table as a whole, as it is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TableView {
    /// Of which revision.
    pub revision: Revision,
    /// All nodes, by name.
    pub hosts: Vec<Host>,
    /// All addresses, by MAC.
    pub routes: Vec<Route>,
    /// All fronts.
    pub fronts: Vec<Front>,
}

impl TableView {
    /// Of that table.
    pub fn of(table: &Table) -> Self {
        Self {
            revision: table.revision(),
            hosts: table.hosts().cloned().collect(),
            routes: table.routes().cloned().collect(),
            fronts: table.fronts().cloned().collect(),
        }
    }

    /// The table that it shows, but for its floor, which only a controller needs.
    pub fn into_table(self) -> Table {
        use crate::model::Change;
        let hosts = self.hosts.into_iter().map(Change::Host);
        let rows = hosts.chain(self.routes.into_iter().map(Change::Route));
        Table::from_rows(self.revision, rows.chain(self.fronts.into_iter().map(Change::Front)))
    }
}

/// An address: whose it is, and how it fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RouteView {
    /// What frames are addressed to.
    pub address: Address,
    /// Who owns it.
    pub placement: Placement,
    /// Whether the owner is heard of.
    pub presence: Presence,
    /// How it came to its owner, as far as this controller has seen.
    pub last_switch: Option<SwitchView>,
    /// What passed the controller's data plane; `None` where it cannot be told.
    pub counters: Option<Counters>,
    /// Hosts whose data plane does not follow this placement yet, as far as they have said.
    #[schema(value_type = Vec<String>)]
    pub behind: Vec<Name>,
}

/// One move of an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SwitchView {
    /// Whose it was.
    #[schema(value_type = String)]
    pub from: Name,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
    /// From the call to the changed data plane, microseconds.
    pub plane_us: u64,
    /// From the call until it was on disk as well, microseconds; 0 while it is not.
    pub durable_us: u64,
    /// Moves of this address since the controller was started.
    pub switches: u64,
}

/// An address goes to another host; or its owner begins a new generation, so that nobody moves it from the one before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Move {
    /// To whom.
    #[schema(value_type = String)]
    pub to: Name,
    /// The generation that ends.
    pub from: Generation,
    /// Whether frames go on to the owner before, which passes them on, until it is settled.
    #[serde(default)]
    pub drain: bool,
    /// Whether the answer is to come before it is on disk. A wish: while the disk is in trouble the answer waits for it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub early: bool,
    /// Refused unless the controller is still of this incarnation, in which no early answer has been forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<Incarnation>,
}

impl Move {
    /// To that host, as soon as it is on disk.
    pub fn new(to: Name, from: Generation) -> Self {
        Self { to, from, drain: false, early: false, incarnation: None }
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// What came of an accepted change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    /// The table's revision with it. A host that has applied it forwards accordingly.
    pub revision: Revision,
    /// The address as it is now; `None` if it is no more.
    pub route: Option<Route>,
    /// From the call to the changed data plane, microseconds.
    pub plane_us: u64,
    /// Whether it is on disk. Not when an early answer was asked for: then it may still be taken back.
    pub durable: bool,
    /// From the call until it was on disk as well, microseconds; 0 if it is not.
    pub durable_us: u64,
    /// Why the controller's data plane does not follow yet. The change stands; it is tried again until it does.
    pub trouble: Option<String>,
}

/// What a host says now and then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// The revision that its data plane follows; `None` before it has read the table.
    pub applied: Option<Revision>,
    /// How its data plane is.
    pub plane: Option<PlaneStatus>,
}

/// Answer to a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Heard {
    /// The table's revision.
    pub revision: Revision,
    /// Which memory of the controller answers.
    pub incarnation: Incarnation,
}

/// A node, and how it fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    /// What is known of it.
    #[serde(flatten)]
    pub host: Host,
    /// Addresses it owns.
    pub addresses: u64,
    /// Milliseconds since it was heard; `None` if it has not been since the controller was started.
    pub heard_ms_ago: Option<u64>,
    /// The revision that its data plane follows.
    pub applied: Option<Revision>,
    /// How its data plane is.
    pub plane: Option<PlaneStatus>,
}

/// How the controller is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ControllerStatus {
    /// The node it runs on.
    #[schema(value_type = String)]
    pub node: Name,
    /// Which memory of it decides.
    pub incarnation: Incarnation,
    /// The table's revision.
    pub revision: Revision,
    /// Its own data plane; `None` if it has none.
    pub plane: Option<PlaneStatus>,
    /// Why fronts are not as they should be.
    pub fronts_trouble: Option<String>,
    /// Why nothing can be kept on disk, as of the last change that was tried.
    pub store_trouble: Option<String>,
    /// Moves since it was started.
    pub switches: u64,
}
