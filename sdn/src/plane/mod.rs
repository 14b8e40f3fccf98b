//! What carries frames from node to node, and how it is kept as the table says.
//!
//! Each node has a plane of its own: the gateway's is the controller's, a host's is its daemon's. What a plane should
//! hold is a [`State`], computed from the table ([`State::of`]); what it does hold is read back and compared
//! ([`State::orders`]). A [`Keeper`] does both, and so a plane is only three things: [`Plane::apply`],
//! [`Reader::found`], [`Reader::counters`].
//!
//! | | `kernel` | `ovs` |
//! | --- | --- | --- |
//! | an address lives elsewhere | VXLAN and bridge FDB entries, one message | one flow: set tunnel end, output |
//! | who is asked for it | permanent neighbour entries; the bridge answers ARP and NS | ARP goes to all |
//! | broadcast | VXLAN default entries | one flow with all ends |
//! | passing on (trombone) | nftables `fwd`, ingress of the tunnel | a flow back into the tunnel |
//! | counters | nftables sets | flow statistics |

mod claim;
mod error;
mod keeper;
pub mod kernel;
pub mod ovs;
mod state;
#[cfg(test)]
pub(crate) mod trial;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use claim::PlaneClaim;
pub use error::PlaneError;
pub use keeper::{Keeper, PlaneStatus};
pub use state::{Drift, Ends, Entry, Found, Hop, Order, Ports, State};

use crate::model::Mac;

/// A data plane: the hand and the eye.
pub type Planes = (Box<dyn Plane>, Box<dyn Reader>);

/// The side of a plane that changes it. What it does is done when a call returns: frames that come later go the new way.
pub trait Plane: Send {
    /// `kernel` or `ovs`, as `--plane` has it.
    fn kind(&self) -> &'static str;

    /// Settings of devices or switch that everything else needs; to be called again when they have drifted.
    fn prepare(&mut self) -> Result<(), PlaneError>;

    /// Does all of these. One [`Order::Set`] for an address that moves between tunnel ends is one message: it is the
    /// switch that clients must not notice. After an error any part of them may be done.
    fn apply(&mut self, orders: &[Order]) -> Result<(), PlaneError>;
}

/// The side that looks. It has a connection of its own, so that looking at much holds up no switch.
pub trait Reader: Send {
    /// What the plane holds now, of what concerns us.
    fn found(&mut self) -> Result<Found, PlaneError>;

    /// What has passed, by address, since the plane knows it. Starts at 0 when the plane is made anew.
    fn counters(&mut self) -> Result<BTreeMap<Mac, Counters>, PlaneError>;

    /// Whether anybody but us may have changed the plane since this was asked last. Never waits. A plane that is not
    /// told of changes says `false`, and is looked at from time to time.
    fn changed(&mut self) -> bool;
}

/// What passed this node to and from an address. Segments that travel as one frame count once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counters {
    /// Packets to it.
    pub to_packets: u64,
    /// Bytes to it.
    pub to_bytes: u64,
    /// Packets from it.
    pub from_packets: u64,
    /// Bytes from it.
    pub from_bytes: u64,
}
