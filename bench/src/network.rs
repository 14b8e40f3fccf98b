//! The one path all engines are measured on.
//!
//! ```text
//!  client namespace          host namespace               kernel's own namespace
//!   eth0 10.90.0.1 ── veth ── br0 ── TAP of guest
//!                              │ ── TAP of native
//!                              └─── veth ───────────────── eth0
//! ```

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use roam_runtime::lab::{Lab, Namespace};

/// Seats on one network.
pub(crate) const SEATS_MAX: usize = 1000;

/// Where servers are plugged in.
pub(crate) const BRIDGE: &str = "br0";
const CLIENT: [&str; 2] = ["10.90.0.1/16", "fd90::1/64"];

/// Addresses of the server with that number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat(u16);

impl Seat {
    /// The seat with that number, below [`SEATS_MAX`].
    pub(crate) fn new(number: usize) -> Self {
        assert!(number < SEATS_MAX, "seat {number} of {SEATS_MAX}");
        Self(number as u16)
    }

    pub(crate) fn ipv4(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 90, 1 + (self.0 / 250) as u8, 1 + (self.0 % 250) as u8)
    }

    pub(crate) fn ipv6(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd90, 0, 0, 0, 0, 0, 1, 1 + self.0)
    }

    pub(crate) fn mac(self) -> [u8; 6] {
        let [high, low] = self.0.to_be_bytes();
        [0x02, 0, 0, 0x90, high, low]
    }

    /// As `ip` and `roam run` take it.
    pub(crate) fn mac_text(self) -> String {
        self.mac().map(|byte| format!("{byte:02x}")).join(":")
    }

    /// With the prefix of the network.
    pub(crate) fn cidrs(self) -> [String; 2] {
        [format!("{}/16", self.ipv4()), format!("{}/64", self.ipv6())]
    }

    pub(crate) fn tap(self) -> String {
        format!("tap{}", self.0)
    }

    /// `version`: `4` or `6`.
    pub(crate) fn at(self, version: &str, port: u16) -> SocketAddr {
        let address: IpAddr = if version == "6" { self.ipv6().into() } else { self.ipv4().into() };
        (address, port).into()
    }
}

/// A client on a bridge, and room for servers. All of it goes with the value.
pub(crate) struct Network {
    lab: Lab,
    client: Namespace,
    mtu: u16,
    scratch: Scratch,
}

impl Network {
    pub(crate) fn new(mtu: u16) -> Result<Self> {
        let lab = Lab::new().context("cannot measure here")?;
        let client = lab.namespace("client")?;
        lab.host().bridge(BRIDGE)?;
        let network = Self { lab, client, mtu, scratch: Scratch::new()? };
        network.cable(&network.client, CLIENT)?;
        Ok(network)
    }

    pub(crate) fn client(&self) -> &Namespace {
        &self.client
    }

    /// Where servers with a TAP run.
    pub(crate) fn host(&self) -> &Namespace {
        self.lab.host()
    }

    pub(crate) fn mtu(&self) -> u16 {
        self.mtu
    }

    /// A directory for the time of the run.
    pub(crate) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    /// A TAP at that seat, in the bridge, for a process to attach to.
    pub(crate) fn tap(&self, seat: Seat) -> Result<()> {
        self.host().tap(&seat.tap(), BRIDGE)?;
        Ok(self.host().ip(&format!("link set {} mtu {}", seat.tap(), self.mtu))?)
    }

    /// A namespace at that seat, plugged into the bridge.
    pub(crate) fn namespace(&self, name: &str, seat: Seat) -> Result<Namespace> {
        let namespace = self.lab.namespace(name)?;
        let [ipv4, ipv6] = seat.cidrs();
        self.cable(&namespace, [&ipv4, &ipv6])?;
        Ok(namespace)
    }

    /// The client knows that seat's MAC address from now on.
    pub(crate) fn introduce(&self, seat: Seat) -> Result<()> {
        for address in [IpAddr::from(seat.ipv4()), seat.ipv6().into()] {
            self.client
                .ip(&format!("neighbour replace {address} lladdr {} dev eth0 nud permanent", seat.mac_text()))?;
        }
        Ok(())
    }

    fn cable(&self, namespace: &Namespace, addresses: [&str; 2]) -> Result<()> {
        self.host().veth(BRIDGE, namespace, "eth0", &addresses)?;
        self.host().ip(&format!("link set {}-eth0 mtu {}", namespace.name(), self.mtu))?;
        Ok(namespace.ip(&format!("link set eth0 mtu {}", self.mtu))?)
    }
}

/// Datagrams that came in that namespace when a socket was full, so far: the benchmark's own losses.
pub(crate) fn socket_drops(namespace: &Namespace) -> Result<u64> {
    let read = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}"));
    let (ipv4, ipv6) = namespace.run(|| (read("snmp"), read("snmp6")))?;
    let ipv4 = buffer_errors(&ipv4.context("cannot read the network's counters")?);
    // Where there is no IPv6 there is no such file.
    let ipv6 = ipv6.ok().and_then(|text| buffer_errors6(&text)).unwrap_or(0);
    Ok(ipv4.context("the network's counters have no RcvbufErrors")? + ipv6)
}

/// `RcvbufErrors` of UDP in the text of `/proc/net/snmp`: a line of names, then one of numbers.
fn buffer_errors(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split_ascii_whitespace().position(|name| name == "RcvbufErrors")?;
    values.split_ascii_whitespace().nth(at)?.parse().ok()
}

/// The same in the text of `/proc/net/snmp6`: a name and a number a line.
fn buffer_errors6(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("Udp6RcvbufErrors"))?.trim().parse().ok()
}

/// A directory only we can enter, removed in the end.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("roam-bench-{}", std::process::id()));
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is under the directory for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_differ() {
        let seats: Vec<Seat> = (0..SEATS_MAX).map(Seat::new).collect();
        let distinct = |key: &dyn Fn(Seat) -> String| {
            seats.iter().map(|seat| key(*seat)).collect::<std::collections::HashSet<_>>().len()
        };
        assert_eq!(distinct(&|seat| seat.ipv4().to_string()), SEATS_MAX);
        assert_eq!(distinct(&|seat| seat.ipv6().to_string()), SEATS_MAX);
        assert_eq!(distinct(&Seat::mac_text), SEATS_MAX);
        assert_eq!(seats[3].mac_text(), "02:00:00:90:00:03");
        assert_eq!(seats[250].at("4", 7).to_string(), "10.90.2.1:7");
    }

    #[test]
    fn drops_of_sockets_are_read() {
        let text = "Ip: Forwarding\nIp: 1\nUdp: InDatagrams NoPorts RcvbufErrors\nUdp: 7 0 3\nUdpLite: X\nUdpLite: 0\n";
        assert_eq!(buffer_errors(text), Some(3));
        assert_eq!(buffer_errors6("Udp6InErrors 4\nUdp6RcvbufErrors    \t3\n"), Some(3));
        assert_eq!(buffer_errors("Udp: InDatagrams\nUdp: 7\n"), None);
    }
}
