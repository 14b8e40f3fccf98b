//! A controller without a data plane, and a server before it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use roam_runtime::cert::{Authority, Issue, Role, TlsFiles, client_config, server_config};
use roam_runtime::serve::{Limits, Listen, Server};
use roam_sdn::Controller;
use roam_sdn::controller::Config;
use roam_sdn::store::MemoryStore;
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConfig, StreamOwned};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::common::peer::{Answer, Directory, LIMIT, Raw};

const DAY: Duration = Duration::from_secs(86_400);

/// A controller and its server.
pub(crate) struct Stand {
    pub(crate) directory: Directory,
    pub(crate) controller: Controller,
    socket: PathBuf,
    tcp: Option<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    served: Option<JoinHandle<()>>,
    pub(crate) runtime: Runtime,
}

impl Stand {
    /// On a unix socket.
    pub(crate) fn new() -> Self {
        Self::at(Directory::new(), None)
    }

    /// And on TCP, with certificates for an operator and for those hosts.
    pub(crate) fn with_tls(hosts: &[&str]) -> Self {
        let directory = Directory::new();
        let authority = Authority::create(&directory.path().join("ca"), "test", DAY).unwrap();
        let issue = |name: &str, role| {
            let sans = vec!["127.0.0.1".to_owned()];
            let sans = if role == Role::Host { sans } else { Vec::new() };
            let issued = authority.issue(&Issue { name: name.to_owned(), role, sans, valid: DAY }).unwrap();
            issued.write_tls_dir(&directory.path().join(name), &authority, role).unwrap();
        };
        issue("gateway", Role::Host);
        issue("alice", Role::Operator);
        hosts.iter().for_each(|host| issue(host, Role::Host));
        let config = server_config(&TlsFiles::in_dir(&directory.path().join("gateway"), Role::Host)).unwrap();
        Self::at(directory, Some(("127.0.0.1:0".parse().unwrap(), config)))
    }

    fn at(directory: Directory, tcp: Option<(SocketAddr, Arc<ServerConfig>)>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let socket = directory.path().join("sdn.sock");
        let config = Config { node: "gateway".parse().unwrap(), vtep: None, lost_after: LIMIT, own: Vec::new() };
        let store = Box::new(MemoryStore::default());
        let controller = runtime.block_on(Controller::open(config, store, None, None)).unwrap();
        let listen = Listen { socket: socket.clone(), socket_group: None, tcp };
        let limits = Limits { requests_per_s: 100_000, requests_burst: 100_000, ..Limits::default() };
        let server = runtime.block_on(Server::bind(listen, limits)).unwrap();
        let tcp = server.tcp();
        let (stop, stopped) = oneshot::channel();
        let served = runtime.spawn(server.run(controller.clone(), async { drop(stopped.await) }));
        Self { directory, controller, socket, tcp, stop: Some(stop), served: Some(served), runtime }
    }

    /// With two hosts that have joined.
    pub(crate) fn with_hosts() -> Self {
        let stand = Self::new();
        stand.join_hosts();
        stand
    }

    pub(crate) fn join_hosts(&self) {
        let mut peer = self.connect();
        for (number, host) in ["host-a", "host-b"].iter().enumerate() {
            let join = json!({"kind": "host", "vtep": format!("172.30.0.{}", number + 1)});
            assert_eq!(ask(&mut peer, &format!("PUT /v1/hosts/{host}"), &join).status, 200);
        }
    }

    /// A connection to the socket.
    pub(crate) fn connect(&self) -> Raw<UnixStream> {
        connect(&self.socket)
    }

    /// A connection over TCP with the certificate of that name.
    pub(crate) fn connect_as(&self, name: &str, role: Role) -> Raw<impl Read + Write + use<>> {
        let files = TlsFiles::in_dir(&self.directory.path().join(name), role);
        let server = ServerName::try_from("127.0.0.1").unwrap();
        let connection = ClientConnection::new(client_config(&files).unwrap(), server).unwrap();
        let stream = TcpStream::connect(self.tcp.unwrap()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        Raw(StreamOwned::new(connection, stream))
    }

    /// One answer to one request over the socket.
    pub(crate) fn ask(&self, line: &str, body: &Value) -> Answer {
        ask(&mut self.connect(), line, body)
    }

    /// The same, which must succeed; its body.
    pub(crate) fn asked(&self, line: &str) -> Value {
        let answer = self.ask(line, &Value::Null);
        assert_eq!(answer.status, 200, "{line}: {answer:?}");
        serde_json::from_str(&answer.body).unwrap()
    }

    /// One line of the metrics, without its name and labels.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let text = self.ask("GET /metrics", &Value::Null).body;
        let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
        Some(line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// Asks the server to end, without waiting for it.
    pub(crate) fn go_down(&mut self) {
        drop(self.stop.take());
    }

    /// Waits until it has.
    pub(crate) fn wait_down(&mut self) {
        if let Some(served) = self.served.take() {
            self.runtime.block_on(async { tokio::time::timeout(LIMIT, served).await }).unwrap().unwrap();
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

pub(crate) fn connect(socket: &std::path::Path) -> Raw<UnixStream> {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    Raw(stream)
}

/// A request with that body; none if it is null.
pub(crate) fn request(line: &str, body: &Value) -> String {
    if body.is_null() {
        return format!("{line} HTTP/1.1\r\nhost: x\r\n\r\n");
    }
    let body = body.to_string();
    let head = format!("{line} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json");
    format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// One answer to one request.
pub(crate) fn ask(peer: &mut Raw<impl Read + Write>, line: &str, body: &Value) -> Answer {
    peer.say(request(line, body)).hear()
}

/// The MAC of that number.
pub(crate) fn mac(number: u32) -> String {
    let [a, b, c, d] = number.to_be_bytes();
    format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// Host and MAC of that number.
pub(crate) fn claim(host: &str, number: u32) -> Value {
    json!({"address": {"mac": mac(number)}, "host": host})
}

/// A move at a generation.
pub(crate) fn to(host: &str, from: u64) -> Value {
    json!({"to": host, "from": from})
}

/// Owner and generation of an accepted change's route, or of a route.
pub(crate) fn placed(body: &str) -> (String, u64) {
    let body: Value = serde_json::from_str(body).unwrap();
    let placement = if body["route"].is_object() { &body["route"]["placement"] } else { &body["placement"] };
    (placement["host"].as_str().unwrap().to_owned(), placement["generation"].as_u64().unwrap())
}
