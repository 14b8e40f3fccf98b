//! Bridges and what is plugged into them.

use std::thread;
use std::time::{Duration, Instant};

use super::{Impairment, LabError, Namespace, Port, Wire};

/// Frames that wait in a TAP for its process: enough that a busy machine loses none while the process has to wait for
/// the CPU.
const TAP_QUEUE_FRAMES: usize = 4096;

/// How often a device that is waited for is looked at.
const LINK_STEP: Duration = Duration::from_millis(5);

impl Namespace {
    /// A bridge, up.
    pub fn bridge(&self, name: &str) -> Result<(), LabError> {
        self.ip(&format!("link add {name} type bridge forward_delay 0 stp_state 0 mcast_snooping 0"))?;
        self.quiet_up(name)
    }

    /// A TAP device in that bridge that waits for a process to attach (`roam run --tap`). It stays when the process
    /// goes.
    pub fn tap(&self, name: &str, bridge: &str) -> Result<(), LabError> {
        self.ip(&format!("tuntap add dev {name} mode tap"))?;
        self.ip(&format!("link set {name} txqueuelen {TAP_QUEUE_FRAMES}"))?;
        self.plug(name, bridge)
    }

    /// Waits until that device's bridge forwards what it sends. A TAP has a carrier only from when a process attaches,
    /// and its bridge may hear of that a little later; until then frames are lost.
    pub fn wait_for_link(&self, device: &str, limit: Duration) -> Result<(), LabError> {
        let command = format!("ip -details link show dev {device}");
        let deadline = Instant::now() + limit;
        loop {
            let shown = self.call(&command, b"", limit)?.success()?.text();
            if shown.contains("state forwarding") {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(LabError::Timeout { command, limit, output: shown });
            }
            thread::sleep(LINK_STEP);
        }
    }

    /// Puts an existing device of this namespace, say a TAP a guest has made itself, into that bridge.
    pub fn plug(&self, device: &str, bridge: &str) -> Result<(), LabError> {
        self.ip(&format!("link set {device} master {bridge}"))?;
        self.quiet_up(device)
    }

    /// A cable from that bridge to a new device of `peer`, with those addresses (`10.90.0.1/24`, `fd90::1/64`).
    pub fn veth(&self, bridge: &str, peer: &Namespace, device: &str, addresses: &[&str]) -> Result<(), LabError> {
        let near = format!("{}-{device}", peer.name());
        self.ip(&format!("link add {near} type veth peer name {device} netns {}", peer.path()))?;
        self.plug(&near, bridge)?;
        peer.addresses(device, addresses)
    }

    /// As [`Namespace::veth`], over a wire that may lose, duplicate and reorder frames.
    pub fn wire(
        &self,
        bridge: &str,
        peer: &Namespace,
        device: &str,
        addresses: &[&str],
        impairment: Impairment,
    ) -> Result<Wire, LabError> {
        let near = self.port(&format!("{}-{device}", peer.name()), bridge)?;
        let far = Port::open(peer, device)?;
        peer.addresses(device, addresses)?;
        Wire::start(near, far, impairment)
    }

    /// A port of that bridge whose frames the caller writes and reads.
    pub fn port(&self, name: &str, bridge: &str) -> Result<Port, LabError> {
        let port = Port::open(self, name)?;
        self.plug(name, bridge)?;
        Ok(port)
    }

    /// Gives a device of this namespace its addresses and brings it up.
    pub fn addresses(&self, device: &str, addresses: &[&str]) -> Result<(), LabError> {
        for address in addresses {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            self.ip(&format!("address replace {address} dev {device}{nodad}"))?;
        }
        self.quiet_up(device)
    }

    /// Up, and without a link-local address: no duplicate address detection, no router solicitations. Two commands: in
    /// one the kernel brings the device up first, and a bridge has its address then.
    fn quiet_up(&self, device: &str) -> Result<(), LabError> {
        self.batch("ip -batch -", &format!("link set {device} addrgenmode none\nlink set {device} up\n"))
    }
}
