//! Who was heard when, and what they said. In memory only: after a restart everybody has some time to be heard.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{Heartbeat, NodeView};
use crate::model::{Host, Name, Presence, Revision};
use crate::table::Table;

/// When each node was heard last.
#[derive(Default)]
pub(super) struct Presences {
    heard: HashMap<Name, Heard>,
}

struct Heard {
    at: Instant,
    /// Not only taken for heard.
    truly: bool,
    applied: Option<Revision>,
    said: Option<Heartbeat>,
}

impl Presences {
    /// As if all nodes of a table had just been heard.
    pub(super) fn all_heard(table: &Table, now: Instant) -> Self {
        let heard = |host: &Host| (host.name.clone(), Heard { at: now, truly: false, applied: None, said: None });
        Self { heard: table.hosts().map(heard).collect() }
    }

    pub(super) fn heard(&mut self, host: &Name, said: Option<Heartbeat>, now: Instant) {
        let applied = said.as_ref().and_then(|said| said.applied);
        self.heard.insert(host.clone(), Heard { at: now, truly: true, applied, said });
    }

    pub(super) fn forget(&mut self, host: &Name) {
        self.heard.remove(host);
    }

    /// Live nodes that have been silent for longer than that. The controller's own says nothing and is there.
    pub(super) fn silent(&self, table: &Table, own: &Name, limit: Duration, now: Instant) -> Vec<Name> {
        let silent = |host: &&Host| {
            let at = self.heard.get(&host.name).map(|heard| heard.at);
            host.presence == Presence::Live
                && host.name != *own
                && at.is_none_or(|at| now.saturating_duration_since(at) > limit)
        };
        table.hosts().filter(silent).map(|host| host.name.clone()).collect()
    }

    /// Live nodes, and the revision that their planes follow, as far as they have said.
    pub(super) fn applied(&self, table: &Table) -> Vec<(Name, Revision)> {
        let live = table.hosts().filter(|host| host.presence == Presence::Live);
        live.filter_map(|host| Some((host.name.clone(), self.heard.get(&host.name)?.applied?))).collect()
    }

    pub(super) fn nodes(&self, table: &Table, now: Instant) -> Vec<NodeView> {
        let mut owned: HashMap<&Name, u64> = HashMap::new();
        for route in table.routes() {
            *owned.entry(&route.placement.host).or_default() += 1;
        }
        let view = |host: &Host| {
            let heard = self.heard.get(&host.name);
            let ago = heard.filter(|heard| heard.truly).map(|heard| now.saturating_duration_since(heard.at));
            NodeView {
                host: host.clone(),
                addresses: owned.get(&host.name).copied().unwrap_or(0),
                heard_ms_ago: ago.map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
                applied: heard.and_then(|heard| heard.applied),
                plane: heard.and_then(|heard| heard.said.as_ref()).and_then(|said| said.plane.clone()),
            }
        };
        table.hosts().map(view).collect()
    }
}
