//! `guest`: what a user runs, `roam run` with a module.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use roam_runtime::modules;

use super::Options;
use crate::network::{Network, Seat};

/// A guest that comes with roam, and how to see that it answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuestKind {
    name: &'static str,
    module: &'static [u8],
    /// The port of its service.
    pub(crate) port: u16,
    /// What it answers.
    pub(crate) probe: Probe,
}

impl GuestKind {
    /// Echo, discard and chargen.
    pub(crate) const ECHO: Self =
        Self { name: "echo", module: modules::ECHO, port: super::ECHO_PORT, probe: Probe::Udp(b"hello") };
    const SQUARE: Self = Self { name: "square", module: modules::SQUARE, port: 7000, probe: Probe::Udp(b"12") };
    const KV: Self = Self { name: "kv", module: modules::KV, port: 11211, probe: Probe::Tcp(b"version\r\n") };
    const WEB: Self = Self {
        name: "web",
        module: modules::WEB,
        port: 80,
        probe: Probe::Tcp(b"GET / HTTP/1.1\r\nHost: guest\r\n\r\n"),
    };
    const ALL: [Self; 4] = [Self::ECHO, Self::SQUARE, Self::KV, Self::WEB];

    /// All their names.
    pub(crate) const NAMES: &[&str] = &["echo", "square", "kv", "web"];

    /// The guest of that name, one of [`Self::NAMES`].
    pub(crate) fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|kind| kind.name == name).expect("the parameter was checked")
    }

    /// What it is called.
    pub(crate) fn name(self) -> &'static str {
        self.name
    }

    /// Its module.
    pub(crate) fn module(self) -> &'static [u8] {
        self.module
    }

    /// Its module as a file.
    pub(crate) fn file(self, network: &Network) -> Result<PathBuf> {
        let path = network.scratch().join(format!("{}.wasm", self.name));
        if !path.exists() {
            fs::write(&path, self.module).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(path)
    }
}

/// The shortest request that gets a reply.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Probe {
    /// In a datagram.
    Udp(&'static [u8]),
    /// On a connection.
    Tcp(&'static [u8]),
}

/// `roam run` of that guest on an existing TAP, with compiled modules kept in `cache` under the scratch directory.
pub(crate) fn roam_run(network: &Network, kind: GuestKind, seat: Seat, cache: &str) -> Result<Command> {
    let mut command = network.host().command(std::env::current_exe().context("this program cannot find itself")?);
    let [ipv4, ipv6] = seat.cidrs();
    command.arg0("roam").arg("run").arg(kind.file(network)?);
    command.args(["--tap", &seat.tap(), "--ip", &ipv4, "--ip6", &ipv6, "--mac", &seat.mac_text()]);
    command.args(["--mtu", &network.mtu().to_string()]).arg("--cache-dir").arg(network.scratch().join(cache));
    // Its "ready" is waited for, whatever the caller's environment says.
    command.env("ROAM_LOG", "info");
    Ok(command)
}

pub(super) fn command(network: &Network, seat: Seat, options: Options) -> Result<Command> {
    network.tap(seat)?;
    let mut command = roam_run(network, GuestKind::ECHO, seat, "cache")?;
    command.args(["--busy-poll", &format!("{}us", options.busy_poll.as_micros())]);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_a_guest() {
        assert!(GuestKind::NAMES.iter().copied().eq(GuestKind::ALL.iter().map(|kind| kind.name)));
    }
}
