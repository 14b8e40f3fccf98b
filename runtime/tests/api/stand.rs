//! A host and servers before it.

use std::future::Future;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use roam_runtime::api::client::{Client, Endpoint};
use roam_runtime::cert::{Authority, Issue, Role, TlsFiles, server_config};
use roam_runtime::host::{Host, HostConfig};
use roam_runtime::serve::{Limits, Listen, Server};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::migrations;

pub(crate) use crate::common::peer::{Directory, LIMIT, Raw, eventually};

const DAY: Duration = Duration::from_secs(86_400);

/// One host for all tests that run at the same time: opening one compiles the netstack.
pub(crate) struct Shared {
    pub(crate) runtime: Option<Runtime>,
    pub(crate) host: Host,
    _directory: Directory,
}

impl Shared {
    pub(crate) fn new() -> Arc<Self> {
        static SHARED: OnceLock<Mutex<Weak<Shared>>> = OnceLock::new();
        let mut shared = SHARED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = shared.upgrade() {
            return shared;
        }
        let directory = Directory::new();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        migrations::write_history(&directory.path().join("state"));
        let config = HostConfig {
            name: "host-a".to_owned(),
            state_dir: directory.path().join("state"),
            run_dir: directory.path().join("run"),
            bridge: "roam-no-bridge".to_owned(),
            pool4: None,
            pool6: None,
            mtu: None,
            log_bytes_max: 1 << 20,
            ephemeral: false,
            overlay: None,
            tls: None,
            migrate: None,
            worker_program: env!("CARGO_BIN_EXE_roam").into(),
        };
        let host = runtime.block_on(Host::open(config)).unwrap();
        let new = Arc::new(Self { runtime: Some(runtime), host, _directory: directory });
        *shared = Arc::downgrade(&new);
        new
    }

    pub(crate) fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let limited = async { tokio::time::timeout(LIMIT, work).await.expect("it takes too long") };
        self.runtime.as_ref().unwrap().block_on(limited)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let runtime = self.runtime.take().unwrap();
        runtime.block_on(self.host.close());
        runtime.shutdown_timeout(LIMIT);
    }
}

/// A server with limits of its own.
pub(crate) struct Stand {
    pub(crate) directory: Directory,
    pub(crate) socket: PathBuf,
    pub(crate) tcp: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    served: Option<JoinHandle<()>>,
    pub(crate) shared: Arc<Shared>,
}

impl Stand {
    /// On a unix socket.
    pub(crate) fn new(limits: Limits) -> Self {
        let directory = Directory::new();
        Self::at(directory, limits, None)
    }

    /// And on TCP, with an authority in `ca` and certificates in `host` and `operator`.
    pub(crate) fn with_tls(limits: Limits) -> Self {
        let directory = Directory::new();
        let authority = Authority::create(&directory.path().join("ca"), "test", DAY).unwrap();
        issue(&authority, directory.path(), Role::Host, "host-a");
        issue(&authority, directory.path(), Role::Operator, "alice");
        let config = server_config(&TlsFiles::in_dir(&directory.path().join("host"), Role::Host)).unwrap();
        Self::at(directory, limits, Some(("127.0.0.1:0".parse().unwrap(), config)))
    }

    fn at(directory: Directory, limits: Limits, tcp: Option<(SocketAddr, Arc<rustls::ServerConfig>)>) -> Self {
        let shared = Shared::new();
        let socket = directory.path().join("api.sock");
        let listen = Listen { socket: socket.clone(), socket_group: None, tcp };
        let server = shared.run(Server::bind(listen, limits)).unwrap();
        let tcp = server.tcp();
        let (stop, stopped) = oneshot::channel();
        let host = shared.host.clone();
        let served = shared.runtime.as_ref().unwrap().spawn(server.run(host, async { drop(stopped.await) }));
        Self { directory, socket, tcp, stop: Some(stop), served: Some(served), shared }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(Endpoint::Unix(self.socket.clone()))
    }

    /// A client with the certificate in that subdirectory, which calls the server `name`.
    pub(crate) fn tls_client(&self, certificate: &str, role: Role, name: &str) -> Client {
        let files = TlsFiles::in_dir(&self.directory.path().join(certificate), role);
        let url = format!("https://{name}:{}", self.tcp.unwrap().port());
        Client::new(Endpoint::parse(&url, Some(&files)).unwrap())
    }

    /// A connection to the socket.
    pub(crate) fn connect(&self) -> Raw<UnixStream> {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Raw(stream)
    }

    /// A connection to the TCP port.
    pub(crate) fn connect_tcp(&self) -> Raw<TcpStream> {
        let stream = TcpStream::connect(self.tcp.unwrap()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        Raw(stream)
    }

    /// One line of the metrics, without its name and labels.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let text = self.shared.run(self.client().metrics()).unwrap();
        let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
        Some(line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// It still serves.
    pub(crate) fn assert_serves(&self) {
        assert_eq!(self.shared.run(self.client().about()).unwrap().name, "host-a");
    }

    /// Asks the server to end, without waiting for it.
    pub(crate) fn go_down(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until it has.
    pub(crate) fn wait_down(&mut self) {
        if let Some(served) = self.served.take() {
            self.shared.run(served).unwrap();
        }
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        self.go_down();
        if !std::thread::panicking() {
            self.wait_down();
        }
    }
}

/// Issues a certificate into `DIRECTORY/ROLE`.
pub(crate) fn issue(authority: &Authority, directory: &Path, role: Role, name: &str) {
    let sans = if role == Role::Host { vec!["127.0.0.1".to_owned()] } else { Vec::new() };
    let issued = authority.issue(&Issue { name: name.to_owned(), role, sans, valid: DAY }).unwrap();
    issued.write_tls_dir(&directory.join(role.as_str()), authority, role).unwrap();
}
