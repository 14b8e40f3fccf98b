//! `jailed`: what a user deploys. A host daemon, and guests in jailed workers under it.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use roam_runtime::api::client::{Client, ClientError, Endpoint};
use roam_runtime::api::{CidrText, GuestName, GuestSpec, GuestView, MacText};
use roam_runtime::engine::ModuleHash;
use roam_runtime::lab::Process;
use tokio::runtime::Runtime;

use super::{GuestKind, START_LIMIT};
use crate::network::{BRIDGE, Network, Seat};
use crate::process::Cores;

/// A host daemon on a network, for the time of a run. Its guests go with it.
pub(crate) struct Host {
    process: Process,
    client: Client,
    runtime: Runtime,
}

impl Host {
    /// Starts `roam host` on the servers' core, its workers included, and waits until it is ready.
    pub(crate) fn start(network: &Network, cores: Cores) -> Result<Self> {
        let run_dir = network.scratch().join("run");
        let mut command = network.host().command(std::env::current_exe().context("this program cannot find itself")?);
        command.arg0("roam").args(["host", "--name", "bench", "--bridge", BRIDGE, "--ephemeral"]);
        command.arg("--state-dir").arg(network.scratch().join("state")).arg("--run-dir").arg(&run_dir);
        // Its "ready" is waited for, whatever the caller's environment says.
        command.env("ROAM_LOG", "info").env_remove("ROAM_CONFIG");
        cores.enter_server()?;
        let mut process = Process::spawn(command)?;
        cores.enter_client()?;
        process.wait_for("ready", START_LIMIT)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { process, client: Client::new(Endpoint::Unix(run_dir.join("api.sock"))), runtime })
    }

    /// The daemon's process.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Gives the host a module, compiled when this returns.
    pub(crate) fn put(&self, network: &Network, kind: GuestKind) -> Result<ModuleHash> {
        let path: PathBuf = kind.file(network)?;
        let digest = ModuleHash::of(kind.module());
        let file = std::fs::File::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
        self.wait(self.client.put_module(digest, file.into(), |_| {}))?;
        Ok(digest)
    }

    /// Deploys a guest at that seat; returns when it serves.
    pub(crate) fn deploy(&self, digest: ModuleHash, seat: Seat, busy_poll: Duration) -> Result<GuestView> {
        let spec = spec(digest, seat, busy_poll)?;
        self.wait(self.client.create(&spec))
    }

    /// Deletes the guest at that seat.
    pub(crate) fn delete(&self, seat: Seat) -> Result<()> {
        self.wait(self.client.delete(&name(seat)?, true))
    }

    fn wait<T>(&self, answer: impl Future<Output = Result<T, ClientError>>) -> Result<T> {
        let answer = self.runtime.block_on(answer);
        answer.with_context(|| format!("the host: {}", last_line(&self.process.stderr())))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Ephemeral: its workers end with it, in whatever way it ends.
        let _ = self.process.signal(Signal::SIGTERM);
        let _ = self.process.wait(START_LIMIT);
    }
}

fn name(seat: Seat) -> Result<GuestName> {
    Ok(seat.tap().parse()?)
}

fn spec(digest: ModuleHash, seat: Seat, busy_poll: Duration) -> Result<GuestSpec> {
    let [ipv4, ipv6] = seat.cidrs();
    let mut spec = GuestSpec::new(name(seat)?, digest);
    let wrong = |text: String| anyhow::anyhow!("a seat's address: {text}");
    spec.ip = Some(ipv4.parse::<CidrText<_>>().map_err(wrong)?);
    spec.ip6 = Some(ipv6.parse::<CidrText<_>>().map_err(wrong)?);
    spec.mac = Some(MacText(seat.mac()));
    spec.busy_poll_us = busy_poll.as_micros() as u64;
    Ok(spec)
}

fn last_line(text: &str) -> &str {
    text.trim().lines().last().unwrap_or_default()
}
