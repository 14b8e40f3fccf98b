//! Network namespaces with names, as `ip netns` keeps them: files of `/run/netns` that a namespace is mounted on.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::StandingError;
use super::plan::{LabName, Node, Shape};
use crate::lab::{Namespace, Process, search_path};

const DIRECTORY: &str = "/run/netns";
/// How long `ip netns add` may take.
const ADD_LIMIT: Duration = Duration::from_secs(20);

/// The namespaces of a lab.
pub(super) struct Nodes {
    lab: LabName,
    open: BTreeMap<Node, Namespace>,
}

impl Nodes {
    /// Makes those of a new lab. Each says on its loopback device whose it is.
    pub(super) fn create(lab: &LabName, shape: &Shape, owner: &Path) -> Result<Self, StandingError> {
        let mut nodes = Self { lab: lab.clone(), open: BTreeMap::new() };
        for node in shape.nodes() {
            let name = lab.namespace(node);
            let mut command = Command::new("ip");
            command.env("PATH", search_path()).args(["netns", "add", &name]);
            Process::spawn(command)?.finish(b"", ADD_LIMIT)?.success()?;
            let namespace = Namespace::open(&node.to_string(), &path(&name))?;
            namespace.batch("ip -batch -", &format!("link set lo alias {} up\n", owner.display()))?;
            nodes.open.insert(node, namespace);
        }
        Ok(nodes)
    }

    /// Those that are there.
    pub(super) fn existing(lab: &LabName) -> Result<Self, StandingError> {
        let mut nodes = Self { lab: lab.clone(), open: BTreeMap::new() };
        for (_, node) in all()?.into_iter().filter(|(found, _)| found == lab) {
            // What is in the directory but leads nowhere is the remains of one.
            match Namespace::open(&node.to_string(), &path(&lab.namespace(node))) {
                Ok(namespace) if namespace.owner().is_some() => drop(nodes.open.insert(node, namespace)),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(nodes)
    }

    pub(super) fn of(&self, node: Node) -> Result<&Namespace, StandingError> {
        self.open.get(&node).ok_or_else(|| StandingError::Broken {
            lab: self.lab.to_string(),
            missing: format!("namespace {}", self.lab.namespace(node)),
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Node, &Namespace)> {
        self.open.iter().map(|(node, namespace)| (*node, namespace))
    }

    /// The directory of the lab they belong to, when that is not `owner`.
    pub(super) fn foreign(&self, owner: &Path) -> Option<PathBuf> {
        self.open.values().filter_map(Namespace::owner).find(|found| found != owner)
    }
}

impl Namespace {
    /// The directory of the lab that made it. `None` when it says none, or is no namespace at all.
    fn owner(&self) -> Option<PathBuf> {
        let shown = self.call("ip -o link show dev lo", b"", ADD_LIMIT).ok()?.success().ok()?.text();
        let alias = shown.split("\\    alias ").nth(1)?.lines().next()?.trim_end();
        Some(PathBuf::from(alias))
    }
}

/// The labs and nodes that have names here.
pub(super) fn all() -> Result<Vec<(LabName, Node)>, StandingError> {
    let entries = match fs::read_dir(DIRECTORY) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StandingError::file(DIRECTORY)(error)),
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| LabName::of_namespace(&name)).collect())
}

/// Takes a name away; the namespace goes with its last process. No error when there is none.
pub(super) fn remove(lab: &LabName, node: Node) -> Result<(), StandingError> {
    let path = path(&lab.namespace(node));
    match umount2(&path, MntFlags::MNT_DETACH) {
        // Nothing is mounted there, or nothing is there.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(errno) => return Err(StandingError::file(path)(errno.into())),
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StandingError::file(path)(error)),
        _ => Ok(()),
    }
}

pub(super) fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}
