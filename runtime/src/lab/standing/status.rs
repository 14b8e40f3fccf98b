//! How a standing lab is.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::plan::{Node, Shape};
use super::{Nodes, Record, daemons, outside, wiring};

/// How a lab is.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// Whether everything is there and every daemon is healthy.
    pub whole: bool,
    /// Where its files are.
    pub dir: PathBuf,
    /// A `--tls-dir` with an operator's certificate.
    pub tls_dir: PathBuf,
    /// What it was made as; `None` when there are only remains.
    pub shape: Option<Shape>,
    /// Its namespaces.
    pub nodes: Vec<NodeStatus>,
    /// Its daemons.
    pub hosts: Vec<HostStatus>,
    /// Its controller, if it has one.
    pub controller: Option<ControllerStatus>,
}

/// How a lab's controller is.
#[derive(Clone, Debug, Serialize)]
pub struct ControllerStatus {
    /// Its socket: `--controller unix:…`.
    pub socket: PathBuf,
    /// Where it is reached with a certificate, from within the lab.
    pub url: String,
    /// Whether it can do its work.
    pub healthy: bool,
    /// What is wrong.
    pub problems: Vec<String>,
}

/// How a namespace is.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    /// Which.
    pub node: String,
    /// What `ip netns` calls it.
    pub namespace: String,
    /// Whether it is there.
    pub present: bool,
    /// Its addresses.
    pub addresses: Vec<String>,
}

/// How a daemon is.
#[derive(Clone, Debug, Serialize)]
pub struct HostStatus {
    /// The host.
    pub name: String,
    /// Its socket: `--host unix:…`.
    pub socket: PathBuf,
    /// Where it is reached with a certificate, from within the lab.
    pub url: String,
    /// Whether it can do its work.
    pub healthy: bool,
    /// What is wrong.
    pub problems: Vec<String>,
    /// Guests it knows.
    pub guests: Option<u64>,
}

impl Status {
    pub(super) fn of(record: &Record, dir: &Path, nodes: &Nodes) -> Self {
        let Record { name, shape, complete } = record;
        let present = |node| nodes.of(node).is_ok();
        let node_status = |node: Node| NodeStatus {
            node: node.to_string(),
            namespace: name.namespace(node),
            present: present(node),
            addresses: addresses(node, shape),
        };
        let nodes: Vec<_> = shape.nodes().map(node_status).collect();
        let hosts: Vec<_> = shape.host_nodes().map(|node| HostStatus::of(dir, node)).collect();
        let controller = shape.has_controller().then(|| ControllerStatus::of(dir));
        let healthy = hosts.iter().all(|host| host.healthy) && controller.iter().all(|it| it.healthy);
        Self {
            name: name.to_string(),
            whole: *complete && nodes.iter().all(|node| node.present) && healthy,
            dir: dir.to_owned(),
            tls_dir: daemons::tls_dir(dir),
            shape: Some(shape.clone()),
            nodes,
            hosts,
            controller,
        }
    }
}

impl HostStatus {
    fn of(dir: &Path, node: Node) -> Self {
        let socket = daemons::socket(dir, node);
        let (healthy, problems) = health(&socket);
        let guests = if healthy { daemons::guests(&socket).ok() } else { None };
        Self { name: node.to_string(), socket, url: daemons::url(node), healthy, problems, guests }
    }
}

impl ControllerStatus {
    fn of(dir: &Path) -> Self {
        let socket = daemons::socket(dir, Node::Gateway);
        let (healthy, problems) = health(&socket);
        Self { socket, url: daemons::url(Node::Gateway), healthy, problems }
    }
}

fn health(socket: &Path) -> (bool, Vec<String>) {
    match daemons::health(socket) {
        Ok(health) => (health.healthy, health.problems),
        Err(error) => (false, vec![error.to_string()]),
    }
}

fn addresses(node: Node, shape: &Shape) -> Vec<String> {
    let mut all: Vec<String> = node.underlay().map(|address| format!("{address}/24")).into_iter().collect();
    let others: &[&[&str]] = match node {
        Node::Client => &[&wiring::CLIENT],
        Node::Outside => &[&outside::OUTSIDE],
        Node::Gateway if shape.has_controller() => &[&wiring::GATEWAY, &outside::PUBLIC],
        _ => &[],
    };
    all.extend(others.iter().flat_map(|some| some.iter().map(|address| (*address).to_owned())));
    all
}
