//! A client of the controller: one method a route, named as [`Controller`](roam_sdn::Controller)'s.

use std::time::Duration;

use hyper::Method;

use super::wire::encoded;
use super::{Ask, ClientError, Endpoint, WatchStream, Wire, watch};
use crate::api::sdn::{
    Accepted, Claim, ControllerStatus, Front, FrontKey, Generation, Heard, Heartbeat, Join, Move, NodeView, Revision,
    RouteView,
};
use crate::api::{GuestName, Health, PREFIX};

/// How long an answer may take to begin: a change waits for the disk, and nothing else.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// A client of the controller. Clones share its connections.
#[derive(Clone, Debug)]
pub struct SdnClient {
    wire: Wire,
}

impl SdnClient {
    /// A client of that controller; connects when it is used.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { wire: Wire::new(endpoint) }
    }

    /// The controller it speaks to.
    pub fn endpoint(&self) -> &Endpoint {
        &self.wire.endpoint
    }

    /// All addresses, with what passed if that is asked for.
    pub async fn routes(&self, counters: bool) -> Result<Vec<RouteView>, ClientError> {
        self.wire.call(get(format!("routes?counters={counters}"))).await
    }

    /// One address, by MAC, IP or name, with what passed.
    pub async fn route(&self, address: &str) -> Result<RouteView, ClientError> {
        self.wire.call(get(format!("routes/{}", encoded(address)))).await
    }

    /// Says that a host has an address.
    pub async fn claim(&self, claim: &Claim) -> Result<Accepted, ClientError> {
        self.wire.call(ask(Method::POST, "routes").json(claim)).await
    }

    /// Gives an address to another host, or its owner the next generation.
    pub async fn move_to(&self, address: &str, to: &Move) -> Result<Accepted, ClientError> {
        self.wire.call(ask(Method::POST, format!("routes/{}/move", encoded(address))).json(to)).await
    }

    /// The owner before need pass nothing on any more.
    pub async fn settle(&self, address: &str, generation: Generation) -> Result<Accepted, ClientError> {
        let path = format!("routes/{}/settle?generation={generation}", encoded(address));
        self.wire.call(ask(Method::POST, path)).await
    }

    /// Gives an address up.
    pub async fn release(&self, address: &str, generation: Generation) -> Result<Accepted, ClientError> {
        let path = format!("routes/{}?generation={generation}", encoded(address));
        self.wire.call(ask(Method::DELETE, path)).await
    }

    /// All nodes.
    pub async fn hosts(&self) -> Result<Vec<NodeView>, ClientError> {
        self.wire.call(get("hosts")).await
    }

    /// A node joins, or has other addresses.
    pub async fn join(&self, host: &GuestName, join: &Join) -> Result<Accepted, ClientError> {
        self.wire.call(ask(Method::PUT, format!("hosts/{host}")).json(join)).await
    }

    /// A node says that it is there, and how it is. An unknown one is refused as not found: it joins.
    pub async fn heartbeat(&self, host: &GuestName, heartbeat: &Heartbeat) -> Result<Heard, ClientError> {
        self.wire.call(ask(Method::POST, format!("hosts/{host}/heartbeat")).json(heartbeat)).await
    }

    /// A node goes. Refused while it owns addresses.
    pub async fn leave(&self, host: &GuestName) -> Result<Accepted, ClientError> {
        self.wire.call(ask(Method::DELETE, format!("hosts/{host}"))).await
    }

    /// All fronts.
    pub async fn fronts(&self) -> Result<Vec<Front>, ClientError> {
        self.wire.call(get("fronts")).await
    }

    /// Opens a front, or leads it elsewhere.
    pub async fn open_front(&self, front: &Front) -> Result<Accepted, ClientError> {
        self.wire.call(ask(Method::PUT, "fronts").json(front)).await
    }

    /// Closes a front. Flows through it that are under way go on.
    pub async fn close_front(&self, front: FrontKey) -> Result<Accepted, ClientError> {
        let path = format!("fronts?protocol={}&listen={}", front.protocol, encoded(&front.listen.to_string()));
        self.wire.call(ask(Method::DELETE, path)).await
    }

    /// How the controller is.
    pub async fn status(&self) -> Result<ControllerStatus, ClientError> {
        self.wire.call(get("status")).await
    }

    /// Whether it can do its work.
    pub async fn health(&self) -> Result<Health, ClientError> {
        self.wire.call(get("health")).await
    }

    /// What changes after that revision; without one, or when it is too long ago, first the table. With `figures` also
    /// the addresses with their counters, each second.
    pub async fn watch(&self, after: Option<Revision>, figures: bool) -> Result<WatchStream, ClientError> {
        let mut path = format!("watch?figures={figures}");
        if let Some(after) = after {
            path += &format!("&after={after}");
        }
        let (response, _) = self.wire.send(get(path)).await?;
        Ok(watch::table(self.wire.endpoint.clone(), response.into_body()))
    }
}

fn get(path: impl AsRef<str>) -> Ask {
    ask(Method::GET, path)
}

fn ask(method: Method, path: impl AsRef<str>) -> Ask {
    Ask::new(method, format!("{PREFIX}/{}", path.as_ref())).within(ANSWER_LIMIT)
}
