//! The servers that are compared. All speak alike: echo on 7 (UDP, TCP), discard on TCP 9, chargen on TCP 19.

mod guest;
mod host;
mod kernel;
mod native;

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use roam_runtime::lab::{Namespace, Process};

use crate::network::{Network, Seat};
use crate::process::{self, Cores};

pub(crate) use guest::{GuestKind, Probe, roam_run};
pub(crate) use host::Host;

/// How long a server may take until it serves; a guest may have to be compiled.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(60);

pub(crate) const ECHO_PORT: u16 = 7;
pub(crate) const DISCARD_PORT: u16 = 9;
pub(crate) const CHARGEN_PORT: u16 = 19;

/// Their names, in the order they are measured in.
pub(crate) const NAMES: &[&str] = &["guest", "native", "kernel"];
/// The guest once more, deployed: in a jail under a host daemon.
pub(crate) const JAILED: &str = "jailed";

/// What a server can be told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// How long `guest` and `native` look for frames before they sleep.
    pub(crate) busy_poll: Duration,
}

/// A server that serves, in a process of its own.
pub(crate) struct Server {
    name: &'static str,
    seat: Seat,
    program: Program,
}

/// What a server is made of.
enum Program {
    Own {
        process: Process,
        /// The kernel's server has a namespace to itself.
        _namespace: Option<Namespace>,
    },
    /// Under a host daemon of its own.
    Deployed { pid: u32, _host: Host },
}

impl Server {
    /// Starts the engine of that name on the servers' core, and waits until it serves.
    ///
    /// The calling thread must outlive the server, and runs with the clients afterwards.
    pub(crate) fn start(
        network: &Network,
        name: &'static str,
        seat: Seat,
        options: Options,
        cores: Cores,
    ) -> Result<Self> {
        if name == JAILED {
            let host = Host::start(network, cores)?;
            let digest = host.put(network, GuestKind::ECHO)?;
            let view = host.deploy(digest, seat, options.busy_poll)?;
            let pid = view.pid.context("a guest that serves has a process")?;
            return Ok(Self { name, seat, program: Program::Deployed { pid, _host: host } });
        }
        cores.enter_server()?;
        let (command, namespace) = match name {
            "guest" => (guest::command(network, seat, options)?, None),
            "native" => (native_command(network, seat, options)?, None),
            _ => {
                let namespace = network.namespace(name, seat)?;
                (serve_command(&namespace, name)?, Some(namespace))
            }
        };
        let mut process = Process::spawn(command)?;
        cores.enter_client()?;
        process.wait_for("ready", START_LIMIT)?;
        Ok(Self { name, seat, program: Program::Own { process, _namespace: namespace } })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn seat(&self) -> Seat {
        self.seat
    }

    /// CPU time used so far; an error that says why when the server has ended.
    pub(crate) fn cpu_time(&mut self) -> Result<Duration> {
        match &mut self.program {
            Program::Own { process, .. } => {
                if let Some(status) = process.wait(Duration::ZERO)? {
                    bail!("{} ended ({status}): {}", self.name, process.stderr().trim());
                }
                process::cpu_time(process.id())
            }
            Program::Deployed { pid, .. } => process::cpu_time(*pid),
        }
    }
}

fn serve_command(namespace: &Namespace, engine: &str) -> Result<Command> {
    let mut command = namespace.command(std::env::current_exe().context("this program cannot find itself")?);
    command.args(["__serve", engine]);
    Ok(command)
}

fn native_command(network: &Network, seat: Seat, options: Options) -> Result<Command> {
    network.tap(seat)?;
    let mut command = serve_command(network.host(), "native")?;
    let [ipv4, ipv6] = [seat.ipv4().to_string(), seat.ipv6().to_string()];
    command.args(["--tap", &seat.tap(), "--ipv4", &ipv4, "--ipv6", &ipv6, "--mac", &seat.mac_text()]);
    command.args(["--mtu", &network.mtu().to_string()]);
    command.args(["--busy-poll-us", &options.busy_poll.as_micros().to_string()]);
    Ok(command)
}

/// Which server to be.
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArguments {
    #[command(subcommand)]
    engine: Serve,
}

#[derive(Debug, clap::Subcommand)]
enum Serve {
    /// Blocking kernel sockets.
    Kernel,
    /// The netstack without a sandbox.
    Native(native::Arguments),
}

/// Serves until killed.
pub(crate) fn serve(arguments: ServeArguments) -> Result<()> {
    match arguments.engine {
        Serve::Kernel => kernel::serve(),
        Serve::Native(arguments) => native::serve(&arguments),
    }
}
