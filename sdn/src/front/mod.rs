//! Fronts by the kernel's address translation: doors for clients outside the overlay.
//!
//! ```text
//!  client ──> 192.0.2.1:80 ── dnat (map) ──> bridge ── masquerade ──> 10.90.1.2:80
//! ```
//!
//! A new flow is looked up in a map; conntrack keeps what was found, so that a flow that is under way lives on when its
//! front is closed or leads elsewhere, and follows its guest wherever the bridge sends frames. What leaves by the
//! bridge has the bridge's own address: guests need no route to clients, but the bridge needs an address of the
//! overlay. A firewall that drops what is forwarded must let these flows through; that is the operator's.

mod rules;

use std::{fs, io};

use nix::errno::Errno;

use crate::controller::FrontPlane;
use crate::model::Front;
use crate::nft;
use crate::plane::PlaneError;

/// Whether this network namespace passes packets on, by family; to set IPv6's also ends the acceptance of router
/// advertisements, see `ip-sysctl` in the kernel's documentation.
const FORWARDING: [&str; 2] = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"];

/// Fronts in the network namespace of the thread that calls, by nftables.
#[derive(Clone, Debug)]
pub struct Nftables {
    bridge: String,
}

impl Nftables {
    /// Fronts that lead to addresses behind this bridge.
    pub fn new(bridge: &str) -> Self {
        Self { bridge: bridge.into() }
    }
}

impl FrontPlane for Nftables {
    fn apply(&mut self, fronts: &[Front]) -> Result<(), PlaneError> {
        for (switch, _) in FORWARDING.iter().zip(families(fronts)).filter(|(_, used)| *used) {
            forward(switch)?;
        }
        nft::run(&rules::text(&self.bridge, fronts), "open the fronts")
    }

    fn found(&mut self) -> Result<Vec<Front>, PlaneError> {
        let Some(list) = nft::table(rules::FAMILY, &rules::table(&self.bridge))? else { return Ok(Vec::new()) };
        let mut fronts = rules::read(&list, &self.bridge);
        // Without forwarding none of its family is open.
        let [four, six] = FORWARDING.map(forwards);
        fronts.retain(|front| if front.listen.is_ipv4() { four } else { six });
        Ok(fronts)
    }
}

/// Whether there are IPv4 and IPv6 ones.
fn families(fronts: &[Front]) -> [bool; 2] {
    [fronts.iter().any(|front| front.listen.is_ipv4()), fronts.iter().any(|front| front.listen.is_ipv6())]
}

fn forwards(switch: &str) -> bool {
    fs::read_to_string(switch).is_ok_and(|value| value.trim() != "0")
}

fn forward(switch: &str) -> Result<(), PlaneError> {
    if forwards(switch) {
        return Ok(());
    }
    let doing = format!("turn on forwarding ({switch})");
    fs::write(switch, "1").map_err(|source: io::Error| match source.raw_os_error() {
        Some(code) if code == Errno::EPERM as i32 || code == Errno::EACCES as i32 => PlaneError::Permission { doing },
        _ => PlaneError::Refused { doing, source },
    })
}
