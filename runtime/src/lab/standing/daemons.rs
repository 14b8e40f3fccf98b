//! The daemons of a standing lab: one in each host, and the controller in the gateway.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::plan::{LabName, LabPlane, Node, PORT, Shape};
use super::{Nodes, StandingError, ovs, runtime, wiring};
use crate::api::client::{Client, ClientError, Endpoint};
use crate::api::{Health, MIGRATION_PORT, sdn};
use crate::cert::{Authority, Issue, Role};
use crate::host;

/// How long a daemon may take until it is healthy: it compiles the netstack when it starts for the first time.
const HEALTHY_LIMIT: Duration = Duration::from_secs(60);
const HEALTHY_STEP: Duration = Duration::from_millis(20);
/// How long the question may take.
const HEALTH_LIMIT: Duration = Duration::from_secs(2);
/// How much of a daemon's log an error shows.
const LOG_TAIL_BYTES: u64 = 2048;
/// How long certificates of a lab are good for; it goes with the machine's next start anyway.
const CERTIFICATES_VALID: Duration = Duration::from_secs(3650 * 86_400);

/// Where the operator's certificate is: a `--tls-dir`.
pub(super) fn tls_dir(dir: &Path) -> PathBuf {
    dir.join("tls")
}

/// The nodes with daemons, in the order they are started in.
pub(super) fn nodes(shape: &Shape) -> impl Iterator<Item = Node> + use<> {
    shape.has_controller().then_some(Node::Gateway).into_iter().chain(shape.host_nodes())
}

/// What a node's daemon is called.
pub(super) fn name(node: Node) -> String {
    if node == Node::Gateway { "the controller".to_owned() } else { format!("the daemon of {node}") }
}

/// The socket of a node's daemon.
pub(super) fn socket(dir: &Path, node: Node) -> PathBuf {
    let name = if node == Node::Gateway { "sdn.sock" } else { "api.sock" };
    dir.join(node.to_string()).join("run").join(name)
}

/// Where a node's daemon is reached with a certificate.
pub(super) fn url(node: Node) -> String {
    let port = if node == Node::Gateway { sdn::PORT } else { PORT };
    node.underlay().map_or_else(String::new, |address| format!("https://{address}:{port}"))
}

fn state(dir: &Path, node: Node) -> PathBuf {
    dir.join(node.to_string()).join("state")
}

/// What a host's control groups are called.
pub(super) fn control_group(dir: &Path, node: Node) -> String {
    host::control_group(&node.to_string(), &state(dir, node))
}

fn log(dir: &Path, node: Node) -> PathBuf {
    dir.join(node.to_string()).join("log")
}

/// Makes an authority of the lab's own, a certificate for each daemon, and one for its operator.
pub(super) fn certify(dir: &Path, lab: &LabName, shape: &Shape) -> Result<(), StandingError> {
    let authority = Authority::create(&dir.join("ca"), &format!("roam-lab-{lab}"), CERTIFICATES_VALID)?;
    for node in nodes(shape) {
        let sans = node.underlay().map(|address| address.to_string()).into_iter().collect();
        let issue = Issue { name: node.to_string(), role: Role::Host, sans, valid: CERTIFICATES_VALID };
        let tls = dir.join(node.to_string()).join("tls");
        authority.issue(&issue)?.write_tls_dir(&tls, &authority, Role::Host)?;
    }
    let operator = Issue { name: "operator".into(), role: Role::Operator, sans: Vec::new(), valid: CERTIFICATES_VALID };
    authority.issue(&operator)?.write_tls_dir(&tls_dir(dir), &authority, Role::Operator)?;
    Ok(())
}

/// Starts the daemon of a node, in a session of its own.
pub(super) fn start(dir: &Path, node: Node, shape: &Shape, nodes: &Nodes, roam: &Path) -> Result<Child, StandingError> {
    let log = log(dir, node);
    let output = OpenOptions::new().append(true).create(true).mode(0o600).open(&log);
    let output = output.map_err(StandingError::file(&log))?;
    let again = output.try_clone().map_err(StandingError::file(&log))?;
    let mut command = nodes.of(node)?.detached(roam);
    // What the user has set for other hosts is not for these.
    for (key, _) in std::env::vars_os().filter(|(key, _)| key.as_encoded_bytes().starts_with(b"ROAM_")) {
        command.env_remove(key);
    }
    let local = node.underlay().expect("daemons are at ends of tunnels").to_string();
    match node {
        Node::Host(index) => host_flags(&mut command, index, shape, &local),
        _ => controller_flags(&mut command, dir, shape, &local),
    }
    let home = dir.join(node.to_string());
    command.args(["--config", "/dev/null", "--log", "info", "--log-format", "human"]);
    command.args([Path::new("--state-dir"), &state(dir, node), Path::new("--run-dir"), &home.join("run")]);
    command.args([Path::new("--tls-dir"), &home.join("tls")]);
    command.current_dir("/").stdin(Stdio::null()).stdout(output).stderr(again);
    command.spawn().map_err(StandingError::file(roam))
}

fn host_flags(command: &mut Command, index: u8, shape: &Shape, local: &str) {
    let number = u16::from(index) + 1;
    command.args(["host", "--name", &Node::Host(index).to_string(), "--bridge", wiring::BRIDGE]);
    command.args(["--network", "10.90.0.0/16", "--pool", &format!("10.90.{number}.0/24")]);
    command.args(["--network6", "fd90::/64", "--pool6", &format!("fd90::{number:x}:0/112")]);
    command.args(["--listen", &format!("{local}:{PORT}")]);
    if shape.has_controller() {
        command.args(["--controller", &url(Node::Gateway), "--vtep", local, "--tunnel", wiring::TUNNEL]);
    } else {
        command.args(["--migrate-listen", &format!("{local}:{MIGRATION_PORT}")]);
    }
}

fn controller_flags(command: &mut Command, dir: &Path, shape: &Shape, local: &str) {
    command.args(["sdn", "--node", &Node::Gateway.to_string(), "--vtep", local, "--plane", &shape.plane.to_string()]);
    command.args(["--tunnel", wiring::TUNNEL, "--bridge", wiring::BRIDGE]);
    command.args(["--listen", &format!("{local}:{}", sdn::PORT)]);
    if shape.plane == LabPlane::Ovs {
        command.arg("--ovs-management").arg(ovs::management(dir));
    }
}

/// Waits until a daemon can do its work; `child` is it, if it was started just now.
pub(super) fn wait(
    dir: &Path,
    node: Node,
    mut child: Option<&mut Child>,
    interrupted: &AtomicBool,
) -> Result<(), StandingError> {
    let deadline = Instant::now() + HEALTHY_LIMIT;
    let failed = |problem: String| StandingError::Daemon { daemon: name(node), problem, log: tail(&log(dir, node)) };
    loop {
        let problem = match health(&socket(dir, node)) {
            Ok(Health { healthy: true, .. }) => return Ok(()),
            Ok(Health { problems, .. }) => problems.join("; "),
            Err(error) => error.to_string(),
        };
        if interrupted.load(Ordering::Relaxed) {
            return Err(StandingError::Interrupted);
        }
        if let Some(Ok(Some(status))) = child.as_mut().map(|child| child.try_wait()) {
            return Err(failed(format!("ended at once ({status})")));
        }
        if Instant::now() >= deadline {
            return Err(failed(format!("is not healthy after {} s: {problem}", HEALTHY_LIMIT.as_secs())));
        }
        thread::sleep(HEALTHY_STEP);
    }
}

/// Asks a daemon how it is.
pub(super) fn health(socket: &Path) -> Result<Health, ClientError> {
    ask(socket, async |client| client.health().await)
}

/// How many guests a daemon has.
pub(super) fn guests(socket: &Path) -> Result<u64, ClientError> {
    ask(socket, async |client| Ok(client.about().await?.guests))
}

fn ask<T>(socket: &Path, question: impl AsyncFnOnce(Client) -> Result<T, ClientError>) -> Result<T, ClientError> {
    let endpoint = Endpoint::Unix(socket.to_owned());
    let late = || ClientError::TimedOut { endpoint: format!("unix:{}", socket.display()), limit: HEALTH_LIMIT };
    let runtime = runtime().map_err(ClientError::File)?;
    let asked = async { tokio::time::timeout(HEALTH_LIMIT, question(Client::new(endpoint))).await };
    runtime.block_on(asked).unwrap_or_else(|_elapsed| Err(late()))
}

/// The last lines of a log.
fn tail(path: &Path) -> String {
    let read = || {
        let mut file = fs::File::open(path)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error: std::io::Error| format!("{}: {error}", path.display()))
}
