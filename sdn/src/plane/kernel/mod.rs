//! Linux's own: a VXLAN device in a bridge.

/// Which devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The VXLAN device, for example `vx0`.
    pub tunnel: String,
    /// The bridge it is in, for example `br0`.
    pub bridge: String,
}
