//! Who takes part: a client's namespace, a bridge, and one `roam run` a guest.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process;
use std::time::{Duration, Instant};

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::Options;
use super::show::Show;
use crate::lab::{Lab, LabError, Namespace, Process};
use crate::modules;

/// How long a guest may take from its start to serving: on a slow machine most of it is compiling the module.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A server of the demo.
#[derive(Clone, Copy, Debug)]
pub(super) struct Role {
    pub(super) name: &'static str,
    pub(super) does: &'static str,
    pub(super) ip: &'static str,
    pub(super) ip6: &'static str,
    module: &'static [u8],
}

const CLIENT: [&str; 2] = ["10.90.0.1/24", "fd90::1/64"];
pub(super) const SQUARE: Role = Role {
    name: "square",
    does: "squares the number in a UDP datagram",
    ip: "10.90.0.10",
    ip6: "fd90::10",
    module: modules::SQUARE,
};
pub(super) const ECHO: Role = Role {
    name: "echo",
    does: "echo, discard, character generator",
    ip: "10.90.0.11",
    ip6: "fd90::11",
    module: modules::ECHO,
};
pub(super) const KV: Role =
    Role { name: "kv", does: "a memcached", ip: "10.90.0.12", ip6: "fd90::12", module: modules::KV };
pub(super) const WEB: Role =
    Role { name: "web", does: "an HTTP/1.1 server", ip: "10.90.0.13", ip6: "fd90::13", module: modules::WEB };
const ROLES: [Role; 4] = [SQUARE, ECHO, KV, WEB];

/// The running demo. Dropping it ends the guests; the namespaces go with the last process in them.
pub(super) struct Stage {
    pub(super) client: Namespace,
    // Before the lab: guests end before their network.
    guests: Vec<Guest>,
    _lab: Lab,
}

struct Guest {
    role: Role,
    process: Process,
    /// As one would type it.
    command: String,
    /// Its process reads the module from here.
    _module: Option<OwnedFd>,
}

impl Stage {
    pub(super) fn set(options: &Options, show: &mut Show) -> Result<Self, LabError> {
        show.heading("A client and a bridge, in network namespaces of their own");
        let lab = Lab::new()?;
        let client = lab.namespace("client")?;
        lab.host().bridge("br0")?;
        lab.host().veth("br0", &client, "eth0", &CLIENT)?;
        show.item("client", &CLIENT.join("  "));

        show.heading("Four guests, each with a module, a TCP/IP stack and addresses of its own");
        let begun = Instant::now();
        let started = ROLES.into_iter().map(|role| {
            lab.host().tap(role.name, "br0")?;
            Guest::start(role, &lab, options)
        });
        let mut guests = started.collect::<Result<Vec<_>, LabError>>()?;
        for guest in &mut guests {
            let Role { name, ip, ip6, does, .. } = guest.role;
            show.command(&guest.command);
            guest.process.wait_for("ready", READY_LIMIT)?;
            lab.host().wait_for_link(name, READY_LIMIT)?;
            show.item(name, &format!("{ip}  {ip6}  {does}"));
        }
        show.note(&format!("all four serve after {:.0?}", begun.elapsed()));
        Ok(Self { client, guests, _lab: lab })
    }

    /// What guests that have ended said last: the reason behind checks that fail.
    pub(super) fn fallen(&mut self) -> Vec<String> {
        let said = |guest: &mut Guest| {
            let status = guest.process.wait(Duration::ZERO).ok()??;
            let log = guest.process.stderr();
            let error = log.lines().rfind(|line| line.contains("ERROR")).or(log.lines().last());
            Some(format!("guest {} has ended ({status}): {}", guest.role.name, error.unwrap_or("without a word")))
        };
        self.guests.iter_mut().filter_map(said).collect()
    }
}

impl Guest {
    fn start(role: Role, lab: &Lab, options: &Options) -> Result<Self, LabError> {
        let file = format!("{}.wasm", role.name);
        let (path, shown, module) = match &options.guests {
            Some(folder) => (folder.join(&file), folder.join(&file).display().to_string(), None),
            None => {
                let module = in_memory(&file, role.module)?;
                (format!("/proc/{}/fd/{}", process::id(), module.as_raw_fd()).into(), file, Some(module))
            }
        };
        let arguments = format!("--tap {} --ip {}/24 --ip6 {}/64", role.name, role.ip, role.ip6);
        let mut command = lab.host().command(&options.roam);
        // Whatever the user's environment says, the guest must say when it is ready.
        command.env("ROAM_LOG", "info").arg("run").arg::<PathBuf>(path);
        command.args(arguments.split(' ')).args(["--name", role.name]);
        let process = Process::spawn(command)?;
        Ok(Self { role, process, command: format!("roam run {shown} {arguments}"), _module: module })
    }
}

/// A file without a place in any folder, so that nothing is left behind however this process ends.
fn in_memory(name: &str, content: &[u8]) -> Result<OwnedFd, LabError> {
    let write = || {
        let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
        file.write_all(content)?;
        io::Result::Ok(OwnedFd::from(file))
    };
    write().map_err(|source| LabError::Io { what: format!("writing {name} to memory"), source })
}
