//! Networks to try servers in: namespaces, bridges, links and child processes that clean up after themselves.
//!
//! ```text
//!  host (a namespace)                      client (a namespace)
//!   tap0 ── br0 ── veth ───────────────────── eth0 10.90.0.1
//!   tap1 ──  │ ├── wire (loses, reorders) ─── eth1
//!            │ └── port (frames of your own)
//! ```
//!
//! A namespace here is a descriptor, not a name under `/run/netns`: it has no trace on any file system, and the
//! kernel removes it, with all its devices, when the last process that holds it is gone. Children get `SIGKILL` when
//! the thread that spawned them ends. So nothing stays behind, not even after `kill -9`.
//!
//! A lab that is to stay until it is taken down, with hosts that run daemons, is a [`standing`] one.
//!
//! In reading order: [`Lab`], [`Namespace`] (and the links between two), [`Process`], [`Port`], [`Wire`].
//!
//! Links are made by `ip` (iproute2); bridges forward at once (no spanning tree), and no device has an IPv6 link-local
//! address or duplicate address detection, so that addresses work from the first packet.

mod error;
mod links;
mod namespace;
mod port;
mod process;
mod rights;
pub mod standing;
mod wire;

pub use error::{LabError, Missing};
pub use namespace::Namespace;
pub use port::Port;
pub use process::{Finished, Process};
pub use rights::{enter_user_namespace, has_rights};
pub use wire::{Impairment, Wire};

use std::fs::OpenOptions;
use std::path::PathBuf;

/// Where TAP devices come from.
const TUN: &str = "/dev/net/tun";

/// A set of network namespaces of its own. Everything in it goes with the last handle and the last process in it.
#[derive(Debug)]
pub struct Lab {
    host: Namespace,
}

impl Lab {
    /// A lab with one empty namespace, the host. [`Missing`] when this machine or user cannot have one: root is needed,
    /// or [`enter_user_namespace`] first.
    pub fn new() -> Result<Self, LabError> {
        require("ip", "iproute2")?;
        // Tried before any device is, to say what is wrong before anything has begun.
        OpenOptions::new().read(true).write(true).open(TUN).map_err(|source| Missing::Tap { source })?;
        Ok(Self { host: Namespace::new("host")? })
    }

    /// The namespace of bridges and of what serves on them.
    pub fn host(&self) -> &Namespace {
        &self.host
    }

    /// A further namespace, empty but for its loopback device. The name is for messages only.
    pub fn namespace(&self, name: &str) -> Result<Namespace, LabError> {
        Namespace::new(name)
    }
}

/// Where `tool` is, or which Debian package to install.
pub fn require(tool: &'static str, package: &'static str) -> Result<PathBuf, Missing> {
    std::env::split_paths(&search_path())
        .map(|directory| directory.join(tool))
        .find(|path| path.is_file())
        .ok_or(Missing::Tool { tool, package })
}

/// `PATH`, and the directories of administration tools that an ordinary user's lacks.
fn search_path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_named_with_its_package() {
        assert!(require("sh", "dash").is_ok());
        let missing = require("no-such-tool", "no-such-package").unwrap_err();
        assert_eq!(missing.to_string(), "no-such-tool is not installed: apt-get install no-such-package");
    }
}
