//! One controller a plane.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use super::PlaneError;

/// That a plane is ours to change, until this is dropped or the process ends. Two who change one would undo each other's
/// work without end, and each would take the other for drift.
#[derive(Debug)]
pub struct PlaneClaim {
    _socket: UnixListener,
}

impl PlaneClaim {
    /// Of the bridge of that name in this network namespace.
    pub fn take(bridge: &str) -> Result<Self, PlaneError> {
        let refused = |source| PlaneError::Refused { doing: format!("claim {bridge}"), source };
        // Abstract names (unix(7)) belong to the network namespace, as devices do, and go with the process.
        let name = SocketAddr::from_abstract_name(format!("roam-plane-{bridge}")).map_err(refused)?;
        match UnixListener::bind_addr(&name) {
            Ok(socket) => Ok(Self { _socket: socket }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(PlaneError::Device {
                device: bridge.into(),
                how: "another controller keeps this data plane; stop it, or give another bridge".into(),
            }),
            Err(error) => Err(refused(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_until_it_lets_go() {
        let bridge = format!("trial{}", std::process::id());
        let first = PlaneClaim::take(&bridge).unwrap();
        let refused = PlaneClaim::take(&bridge).unwrap_err();
        assert!(refused.to_string().contains("another controller"), "{refused}");
        drop(first);
        PlaneClaim::take(&bridge).unwrap();
    }
}
