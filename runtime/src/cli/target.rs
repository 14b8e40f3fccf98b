//! Which host, or which controller, a command speaks to.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::config::{Config, HostEntry};
use super::exit::{Unknown, Usage};
use crate::api::client::{Client, Endpoint, SdnClient};
use crate::cert::{Role, TlsFiles};
use crate::lab::standing::{BASE, Labs};

/// Where the daemon of this machine listens, unless it was told another directory.
const RUN_DIR: &str = "/run/roam";

/// Flags of commands that speak to hosts.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct HostFlags {
    /// The host: unix:/path, https://name:port, a name of the configuration file, or a standing lab's host-a or
    /// LAB/host-a [default: default-host of the configuration file, else this machine's daemon].
    #[arg(long, env = "ROAM_HOST", value_name = "HOST")]
    pub(super) host: Option<String>,
    /// Where ca.pem, operator.pem and operator.key are, for https.
    #[arg(long, env = "ROAM_TLS_DIR", value_name = "DIR")]
    pub(super) tls_dir: Option<PathBuf>,
}

/// Flags of commands that speak to a controller.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct ControllerFlags {
    /// The controller: unix:/path, https://name:port, or the name of a standing lab [default: controller of the
    /// configuration file, else this machine's].
    #[arg(long, env = "ROAM_CONTROLLER", value_name = "CONTROLLER")]
    controller: Option<String>,
    /// Where ca.pem, operator.pem and operator.key are, for https.
    #[arg(long, env = "ROAM_TLS_DIR", value_name = "DIR")]
    tls_dir: Option<PathBuf>,
}

impl ControllerFlags {
    /// The one that was asked for.
    pub(super) fn client(&self, config: &Config) -> Result<SdnClient> {
        let endpoint = match (&self.controller, &config.controller) {
            (Some(named), _) => self.endpoint(named)?,
            (None, Some(named)) => self.endpoint(named).context("controller of the configuration file")?,
            (None, None) => Self::local(config)?,
        };
        Ok(SdnClient::new(endpoint))
    }

    fn endpoint(&self, named: &str) -> Result<Endpoint> {
        if !named.contains(':') {
            let socket = labs().controllers().into_iter().find(|(lab, _)| lab.as_str() == named);
            let (_, socket) = socket.ok_or_else(|| {
                let named = named.escape_debug();
                Unknown(format!("there is no lab `{named}` with a controller{}", known_controllers()))
            })?;
            return Ok(Endpoint::Unix(socket));
        }
        let files = self.tls_dir.as_deref().map(operator);
        Ok(Endpoint::parse_controller(named, files.as_ref())?)
    }

    /// This machine's, if one has ever listened.
    fn local(config: &Config) -> Result<Endpoint> {
        let socket = run_dir(config).join("sdn.sock");
        if socket.exists() {
            return Ok(Endpoint::Unix(socket));
        }
        let text = "no controller runs on this machine; start one with `roam sdn`, raise a lab with `roam lab up`, or \
                    name one with --controller or ROAM_CONTROLLER";
        Err(Usage(format!("{text}{}", known_controllers())).into())
    }
}

/// `; there are lab, other`.
fn known_controllers() -> String {
    let labs: Vec<String> = labs().controllers().into_iter().map(|(lab, _)| lab.to_string()).collect();
    if labs.is_empty() { String::new() } else { format!("; there are {}", labs.join(", ")) }
}

/// Where this machine's daemons have their sockets.
fn run_dir(config: &Config) -> PathBuf {
    let run_dir = std::env::var_os("ROAM_RUN_DIR").map(PathBuf::from);
    run_dir.or_else(|| config.host.run_dir()).unwrap_or_else(|| RUN_DIR.into())
}

/// A host and how to speak to it.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// What it is called here.
    pub(super) name: String,
    /// The way to it.
    pub(super) client: Client,
}

/// Finds hosts by what is written for them.
pub(super) struct Targets<'a> {
    flags: &'a HostFlags,
    config: &'a Config,
    labs: Labs,
}

/// The labs of this machine.
pub(super) fn labs() -> Labs {
    Labs::at(std::env::var_os("ROAM_LAB_DIR").map_or_else(|| BASE.into(), PathBuf::from))
}

impl<'a> Targets<'a> {
    pub(super) fn new(flags: &'a HostFlags, config: &'a Config) -> Self {
        Self { flags, config, labs: labs() }
    }

    /// The one host that was asked for.
    pub(super) fn one(&self) -> Result<Target> {
        if let Some(host) = &self.flags.host {
            return self.named(host);
        }
        if let Some(host) = &self.config.default_host {
            return self.named(host).context("default-host of the configuration file");
        }
        match self.local() {
            Some(target) => Ok(target),
            None => Err(self.none_here()),
        }
    }

    /// The controller that is named, else that of the lab which the host is of, else the usual one.
    pub(super) fn controller(&self, named: Option<&str>) -> Result<SdnClient> {
        let host = self.flags.host.as_deref().filter(|host| !self.config.hosts.contains_key(*host));
        let of_lab = host.and_then(|host| {
            let mut all = self.labs.hosts().into_iter();
            all.find(|(lab, name, _)| is_called(lab.as_str(), name, host)).map(|(lab, _, _)| lab.to_string())
        });
        let controller = named.map(str::to_owned).or(of_lab);
        ControllerFlags { controller, tls_dir: self.flags.tls_dir.clone() }.client(self.config)
    }

    /// The one host that was asked for; all that are known where none was.
    pub(super) fn all(&self) -> Result<Vec<Target>> {
        if self.flags.host.is_some() {
            return Ok(vec![self.one()?]);
        }
        let mut targets = Vec::new();
        targets.extend(self.local());
        for (name, entry) in &self.config.hosts {
            targets.push(self.entry(name, entry)?);
        }
        let hosts = self.labs.hosts();
        let several = hosts.iter().any(|(lab, _, _)| *lab != hosts[0].0);
        for (lab, host, socket) in &hosts {
            let clear = !several && !self.config.hosts.contains_key(host);
            let name = if clear { host.clone() } else { format!("{lab}/{host}") };
            targets.push(unix(name, socket));
        }
        if targets.is_empty() { Err(self.none_here()) } else { Ok(targets) }
    }

    /// By URL, by name, or by a lab's.
    pub(super) fn named(&self, host: &str) -> Result<Target> {
        if host.starts_with("unix:") || host.starts_with("https://") {
            let files = self.flags.tls_dir.as_deref().map(operator);
            let client = Client::new(Endpoint::parse(host, files.as_ref())?);
            return Ok(Target { name: host.to_owned(), client });
        }
        if host.contains("://") {
            let text = format!("`{}` is no way to a host: write unix:/path or https://name:port", host.escape_debug());
            return Err(Usage(text).into());
        }
        if let Some(entry) = self.config.hosts.get(host) {
            return self.entry(host, entry);
        }
        let all = self.labs.hosts();
        let found: Vec<_> = all.iter().filter(|(lab, name, _)| is_called(lab.as_str(), name, host)).collect();
        match found.as_slice() {
            [(_, _, socket)] => Ok(unix(host.to_owned(), socket)),
            [] => Err(Unknown(format!("there is no host `{}`{}", host.escape_debug(), self.known())).into()),
            several => {
                let names: Vec<_> = several.iter().map(|(lab, name, _)| format!("{lab}/{name}")).collect();
                Err(Usage(format!("`{host}` is a host of several labs; write {}", names.join(" or "))).into())
            }
        }
    }

    fn entry(&self, name: &str, entry: &HostEntry) -> Result<Target> {
        let files = self.flags.tls_dir.as_deref().or(entry.tls_dir.as_deref()).map(operator);
        let endpoint = Endpoint::parse(&entry.url, files.as_ref());
        let client = Client::new(endpoint.with_context(|| format!("host {name} of the configuration file"))?);
        Ok(Target { name: name.to_owned(), client })
    }

    /// This machine's daemon, if one has ever listened.
    fn local(&self) -> Option<Target> {
        let socket = run_dir(self.config).join("api.sock");
        socket.exists().then(|| unix("local".to_owned(), &socket))
    }

    fn none_here(&self) -> anyhow::Error {
        let text = match self.known() {
            known if known.is_empty() => {
                "no daemon runs on this machine; start one with `roam host`, raise a lab with \
                                          `roam lab up`, or name a host with --host"
                    .to_owned()
            }
            known => format!("no daemon runs on this machine itself; say which host with --host{known}"),
        };
        Usage(text).into()
    }

    /// `: there are a, b`.
    fn known(&self) -> String {
        let mut names: Vec<String> = self.config.hosts.keys().cloned().collect();
        names.extend(self.labs.hosts().into_iter().map(|(lab, host, _)| format!("{lab}/{host}")));
        if names.is_empty() { String::new() } else { format!("; there are {}", names.join(", ")) }
    }
}

/// Whether a lab's host is written like that.
fn is_called(lab: &str, name: &str, written: &str) -> bool {
    name == written || written.split_once('/') == Some((lab, name))
}

fn operator(dir: &Path) -> TlsFiles {
    TlsFiles::in_dir(dir, Role::Operator)
}

fn unix(name: String, socket: &Path) -> Target {
    Target { name, client: Client::new(Endpoint::Unix(socket.to_owned())) }
}
