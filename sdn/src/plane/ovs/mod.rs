//! Open vSwitch, by OpenFlow 1.3 on a standing connection.
//!
//! ```text
//!  table 0  100  from MAC                goto 1        counts what comes from it
//!             0  all                     goto 1
//!  table 1  200  from tunnel, to MAC     end, in_port  relay: back into the tunnel
//!           100  to MAC                  end, tunnel   | NORMAL | port; counts what goes to it
//!            60  from tunnel             NORMAL
//!            50  multicast, broadcast    NORMAL, then to each of the other ends
//!             0  all                     NORMAL, then to each end for unclaimed addresses
//! ```
//!
//! A frame never leaves by the port it came in by unless a flow says so by name; so nothing circles between tunnels.
//! Adding a flow of the same match replaces it at once and hands its counters on: a switch is one flow-mod, a barrier,
//! and the emptying of the switch's cache (`control`). What is unclaimed is sent to the gateways *and* switched as
//! NORMAL has learned, because a flow cannot ask whether NORMAL knew it: the price is a copy, not a loss.
//!
//! The eye tells our flows by place (table, priority, match), cookie and steps; a flow in another place of the two tables
//! is foreign and is deleted by [`prepare`](super::Plane::prepare).
//!
//! In reading order: `wire` (messages), `flows` (what a state is in flows, and back), `connection`, `control`,
//! `hand`, `eye`.

mod connection;
mod control;
mod eye;
mod flows;
mod hand;
mod wire;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Entry, PlaneError, Planes};
use crate::model::Mac;
use connection::Connection;

/// Which switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the bridge takes OpenFlow connections: `/run/openvswitch/br0.mgmt`.
    pub management: PathBuf,
    /// The name of its tunnel port, whose ends are given by flows (`options:remote_ip=flow`).
    pub tunnel: String,
}

/// A plane on that switch. The switch has to be there and to speak OpenFlow 1.3.
pub fn open(config: Config) -> Result<Planes, PlaneError> {
    let asked = Asked::default();
    let hand = hand::Hand::new(config.clone(), asked.clone(), Connection::open(&config.management)?);
    let eye = eye::Eye::new(config.clone(), asked, Connection::open(&config.management)?);
    Ok((Box::new(hand), Box::new(eye)))
}

/// Whether these bytes begin with a message of a switch: a door for the fuzz targets.
#[cfg(fuzzing)]
pub fn is_message(bytes: &[u8]) -> bool {
    wire::decode(bytes).is_ok_and(|decoded| decoded.is_some_and(|(_, _, read)| read <= bytes.len()))
}

/// What the hand was told last, by address: the eye takes from it what no flow tells.
#[derive(Clone, Debug, Default)]
struct Asked(Arc<Mutex<BTreeMap<Mac, Entry>>>);

impl Asked {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Mac, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
