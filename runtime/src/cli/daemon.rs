//! What the daemons (`roam host`, `roam sdn`) have in common.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use nix::libc::SIGXFSZ;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Group};
use rustls::ServerConfig;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::api::GuestName;
use crate::cert::{Role, TlsFiles, server_config};

/// IFNAMSIZ without its NUL.
const DEVICE_BYTES_MAX: usize = 15;

/// What a daemon is told from outside.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    _oversize: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self> {
        let receive = |kind| signal(kind).context("signals cannot be received");
        Ok(Self {
            terminate: receive(SignalKind::terminate())?,
            interrupt: receive(SignalKind::interrupt())?,
            // Where files are limited in size (setrlimit(2)), writing is to fail, not to end the daemon.
            _oversize: receive(SignalKind::from_raw(SIGXFSZ))?,
        })
    }

    /// Somebody wants it to end.
    pub(super) async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Its name, or the first label of the machine's. `flag` is what the name is given by.
pub(super) fn node_name(given: Option<String>, flag: &str) -> Result<GuestName> {
    if let Some(name) = given {
        return check_name(&name, flag);
    }
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let name = name.with_context(|| format!("the machine's name cannot be read; give {flag}"))?.to_lowercase();
    check_name(name.trim().split('.').next().unwrap_or_default(), flag)
        .with_context(|| format!("the machine's name does not serve; give {flag}"))
}

fn check_name(name: &str, flag: &str) -> Result<GuestName> {
    name.parse().map_err(|_| {
        anyhow!(
            "{flag}: `{name}` is no host name: 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit"
        )
    })
}

/// The kernel's own rule for the names of devices.
pub(super) fn check_device(flag: &str, name: String) -> Result<String> {
    let possible = (1..=DEVICE_BYTES_MAX).contains(&name.len()) && name != "." && name != "..";
    if possible && !name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) {
        return Ok(name);
    }
    bail!(
        "{flag}: `{}` is no device's name: 1 to {DEVICE_BYTES_MAX} bytes without `/`, `:` or blanks",
        name.escape_debug()
    )
}

pub(super) fn group(name: String) -> Result<Gid> {
    let found = Group::from_name(&name).with_context(|| format!("--socket-group: looking for group `{name}`"))?;
    Ok(found.ok_or_else(|| anyhow!("--socket-group: there is no group `{name}`"))?.gid)
}

/// Where to listen on TCP, with which certificate: of role host, whichever daemon it is.
pub(super) fn tcp(
    listen: Option<SocketAddr>,
    tls_dir: Option<PathBuf>,
) -> Result<Option<(SocketAddr, Arc<ServerConfig>)>> {
    match (listen, tls_dir) {
        (Some(address), Some(dir)) => Ok(Some((address, server_config(&TlsFiles::in_dir(&dir, Role::Host))?))),
        (Some(_), None) => bail!("--listen needs --tls-dir: over TCP only peers with certificates are heard"),
        (None, _) => Ok(None),
    }
}

/// Tells systemd, if that started us (sd_notify(3)).
pub(super) fn notify(state: &str) -> std::io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match path.as_encoded_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

/// Serves what the settings came to; those that make no sense end it with 2. Each thread of it begins with `on_thread_start`.
pub(super) fn run<P>(
    plan: Result<P>,
    on_thread_start: fn(),
    serve: impl AsyncFnOnce(P) -> Result<ExitCode>,
) -> Result<ExitCode> {
    let plan = match plan {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("roam: {error:#}");
            return Ok(ExitCode::from(2));
        }
    };
    // What the daemon makes is nobody else's, unless it says so.
    umask(Mode::from_bits_truncate(0o077));
    raise_descriptors();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().on_thread_start(on_thread_start).build().context("no threads to run on")?;
    runtime.block_on(serve(plan))
}

/// Each guest and each connection takes some; the usual soft limit of 1024 is for programs that use select(2).
fn raise_descriptors() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
