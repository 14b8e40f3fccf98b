//! Open vSwitch, by OpenFlow 1.3.

use std::path::PathBuf;

/// Which switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the bridge takes OpenFlow connections: `/run/openvswitch/br0.mgmt`.
    pub management: PathBuf,
    /// The name of its tunnel port, whose ends are given by flows (`options:remote_ip=flow`).
    pub tunnel: String,
}
