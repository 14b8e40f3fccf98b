//! A lab that stays: hosts with daemons, a gateway and a client, on one machine, until it is taken down.
//!
//! ```text
//!  namespaces   client ── gateway ┄┄ VXLAN ┄┄ host-a, host-b …     `wiring`, `ovs`, `outside`; named for `ip netns`,
//!                            └── outside                           see `names`
//!  processes    roam host in each host, its guests' workers,       `daemons`, found again by `sweep`
//!               roam sdn in the gateway
//!  files        BASE/NAME/lab.json, ca/, tls/, host-a/{state,run,tls,log}, gateway/…      `record`
//! ```
//!
//! Unlike a [`Lab`](super::Lab) nothing of it goes by itself. So taking it down rests on no memory of how it was made:
//! it looks at what is there (namespaces by name, processes by namespace and socket, files by directory), and works as
//! well on half a lab as on none. Raising one that fails takes down what it had begun.

mod daemons;
mod error;
mod names;
mod outside;
mod ovs;
mod plan;
mod record;
mod status;
mod sweep;
mod wiring;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

pub use error::StandingError;
use names::Nodes;
pub use plan::{HOSTS_MAX, LabName, LabPlane, Node, Shape};
use record::Lock;
pub use record::Record;
pub use status::{ControllerStatus, HostStatus, NodeStatus, Status};

use super::{Namespace, require};
use crate::jail;

/// Where labs are unless somebody says otherwise.
pub const BASE: &str = "/run/roam/labs";
/// Longest path of a socket, bytes (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The standing labs beneath a directory.
#[derive(Clone, Debug)]
pub struct Labs {
    base: PathBuf,
}

/// What raising a lab came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Raised {
    /// It is new.
    New,
    /// It was up already.
    Already,
    /// It was up, but for these daemons, which were started again.
    Repaired(Vec<String>),
}

/// What taking a lab down came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Processes that were ended.
    pub processes: usize,
    /// Namespaces that were removed.
    pub namespaces: usize,
}

impl Labs {
    /// Those beneath that directory.
    pub fn at(base: impl Into<PathBuf>) -> Self {
        let base = base.into();
        // Without a working directory there is no absolute path, and what is tried then says so.
        Self { base: std::path::absolute(&base).unwrap_or(base) }
    }

    /// The names of all of them, and of what is left of some.
    pub fn names(&self) -> Result<Vec<LabName>, StandingError> {
        let mut names = record::directories(&self.base)?;
        for (name, _) in names::all()? {
            // One without a directory is whoever's it says.
            if !names.contains(&name) && Nodes::existing(&name)?.foreign(&self.dir(&name)).is_none() {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// The hosts of all labs that came up, with their daemons' sockets: `(lab, host, socket)`.
    pub fn hosts(&self) -> Vec<(LabName, String, PathBuf)> {
        let names = record::directories(&self.base).unwrap_or_default();
        let hosts = |name: LabName| {
            let dir = self.dir(&name);
            let record = Record::read(&dir, &name).ok().flatten().filter(|record| record.complete);
            let nodes: Vec<Node> = record.iter().flat_map(|record| record.shape.host_nodes()).collect();
            nodes.into_iter().map(move |node| (name.clone(), node.to_string(), daemons::socket(&dir, node)))
        };
        names.into_iter().flat_map(hosts).collect()
    }

    /// The controllers of all labs that came up with one, with their sockets.
    pub fn controllers(&self) -> Vec<(LabName, PathBuf)> {
        let names = record::directories(&self.base).unwrap_or_default();
        let socket = |name: LabName| {
            let dir = self.dir(&name);
            let record = Record::read(&dir, &name).ok().flatten()?;
            let there = record.complete && record.shape.has_controller();
            there.then(|| (name, daemons::socket(&dir, Node::Gateway)))
        };
        names.into_iter().filter_map(socket).collect()
    }

    /// Raises a lab, or finds it up. `roam` is the program to run the daemons with; `progress` is told what is being
    /// done. When `interrupted` becomes true it ends early and leaves nothing.
    pub fn up(
        &self,
        name: &LabName,
        shape: &Shape,
        roam: &Path,
        progress: &mut dyn FnMut(&str),
        interrupted: &AtomicBool,
    ) -> Result<Raised, StandingError> {
        shape.check().map_err(StandingError::Shape)?;
        for tool in ["ip", "bridge", "tc"] {
            require(tool, "iproute2")?;
        }
        if shape.has_controller() {
            require("nft", "nftables")?;
        }
        if shape.plane == LabPlane::Ovs {
            ovs::check()?;
        }
        let dir = self.dir(name);
        if daemons::socket(&dir, Node::Gateway).as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            return Err(StandingError::TooDeep(dir));
        }
        if shape.delay_us.is_some() {
            wiring::check_delay()?;
        }
        let _lock = Lock::take(&dir)?;
        let nodes = Nodes::existing(name)?;
        if let Some(owner) = nodes.foreign(&dir) {
            record::remove(&dir)?;
            return Err(StandingError::Foreign { lab: name.to_string(), owner });
        }
        match Record::read(&dir, name)? {
            Some(record) if record.complete => self.again(&record, shape, &nodes, roam, progress, interrupted),
            // Nothing, or what was begun when power or patience ran out.
            _ => {
                sweep_all(name, &dir, &nodes)?;
                record::clear(&dir)?;
                let raised = raise(name, shape, &dir, roam, progress, interrupted);
                if raised.is_err() {
                    progress("taking down what was begun");
                    sweep_all(name, &dir, &Nodes::existing(name)?)?;
                    record::remove(&dir)?;
                }
                raised.map(|()| Raised::New)
            }
        }
    }

    /// It is up. Is it the one that is asked for, and is it whole?
    fn again(
        &self,
        record: &Record,
        shape: &Shape,
        nodes: &Nodes,
        roam: &Path,
        progress: &mut dyn FnMut(&str),
        interrupted: &AtomicBool,
    ) -> Result<Raised, StandingError> {
        let dir = self.dir(&record.name);
        if let Some(differs) = difference(&record.shape, shape) {
            return Err(StandingError::Differs { lab: record.name.to_string(), differs });
        }
        shape.nodes().try_for_each(|node| nodes.of(node).map(drop))?;
        let dead = |node: &Node| daemons::health(&daemons::socket(&dir, *node)).is_err();
        let dead: Vec<Node> = daemons::nodes(shape).filter(dead).collect();
        let mut again = Vec::new();
        if shape.plane == LabPlane::Ovs {
            let switch = ovs::Switch::of(&dir, nodes)?;
            if !switch.runs() {
                progress("starting Open vSwitch");
                switch.start(nodes, shape)?;
                again.push("Open vSwitch".to_owned());
            }
        }
        start(&dir, &dead, shape, nodes, roam, progress, interrupted)?;
        again.extend(dead.iter().map(|node| daemons::name(*node)));
        // Those that stayed have to find back to a controller that was away.
        for node in daemons::nodes(shape).filter(|node| !again.is_empty() && !dead.contains(node)) {
            daemons::wait(&dir, node, None, interrupted)?;
        }
        if again.is_empty() { Ok(Raised::Already) } else { Ok(Raised::Repaired(again)) }
    }

    /// Takes a lab down, whatever is left of it.
    pub fn down(&self, name: &LabName) -> Result<Removed, StandingError> {
        let dir = self.dir(name);
        let _lock = Lock::take(&dir)?;
        let nodes = Nodes::existing(name)?;
        if let Some(owner) = nodes.foreign(&dir) {
            record::remove(&dir)?;
            return Err(StandingError::Foreign { lab: name.to_string(), owner });
        }
        let removed = sweep_all(name, &dir, &nodes)?;
        record::remove(&dir)?;
        Ok(removed)
    }

    /// How a lab is; `None` when there is no trace of it.
    pub fn status(&self, name: &LabName) -> Result<Option<Status>, StandingError> {
        let dir = self.dir(name);
        let nodes = Nodes::existing(name)?;
        if let Some(record) = Record::read(&dir, name)? {
            return Ok(Some(Status::of(&record, &dir, &nodes)));
        }
        if nodes.iter().next().is_none() && !dir.exists() {
            return Ok(None);
        }
        let tls_dir = daemons::tls_dir(&dir);
        let name = name.to_string();
        Ok(Some(Status {
            name,
            whole: false,
            dir,
            tls_dir,
            shape: None,
            nodes: Vec::new(),
            hosts: Vec::new(),
            controller: None,
        }))
    }

    /// A command that will run in a node of a lab, taking this process's place.
    pub fn command(&self, name: &LabName, node: &str, program: &str) -> Result<Command, StandingError> {
        Ok(self.namespace(name, node)?.replacing(program))
    }

    /// The namespace of a node of a lab.
    pub fn namespace(&self, name: &LabName, node: &str) -> Result<Namespace, StandingError> {
        let Some(record) = Record::read(&self.dir(name), name)? else {
            return Err(StandingError::NoLab(name.to_string()));
        };
        let known = record.shape.nodes().find(|known| known.to_string() == node);
        let known = known.ok_or_else(|| StandingError::NoNode {
            lab: name.to_string(),
            node: node.chars().take(80).collect(),
            nodes: record.shape.nodes().map(|node| node.to_string()).collect::<Vec<_>>().join(", "),
        })?;
        let nodes = Nodes::existing(name)?;
        Ok(nodes.of(known)?.clone())
    }

    fn dir(&self, name: &LabName) -> PathBuf {
        self.base.join(name.as_str())
    }
}

fn raise(
    name: &LabName,
    shape: &Shape,
    dir: &Path,
    roam: &Path,
    progress: &mut dyn FnMut(&str),
    interrupted: &AtomicBool,
) -> Result<(), StandingError> {
    let mut record = Record { name: name.clone(), shape: shape.clone(), complete: false };
    record.write(dir)?;
    progress("making namespaces and links");
    let nodes = Nodes::create(name, shape, dir)?;
    go_on(interrupted)?;
    wiring::wire(name, shape, &nodes)?;
    if shape.has_controller() {
        outside::wire(name, &nodes)?;
    }
    go_on(interrupted)?;
    if shape.plane == LabPlane::Ovs {
        progress("starting Open vSwitch");
        ovs::Switch::of(dir, &nodes)?.start(&nodes, shape)?;
    }
    go_on(interrupted)?;
    daemons::certify(dir, name, shape)?;
    let all: Vec<Node> = daemons::nodes(shape).collect();
    start(dir, &all, shape, &nodes, roam, progress, interrupted)?;
    go_on(interrupted)?;
    record.complete = true;
    record.write(dir)
}

/// Starts daemons at once and waits for each.
fn start(
    dir: &Path,
    dead: &[Node],
    shape: &Shape,
    nodes: &Nodes,
    roam: &Path,
    progress: &mut dyn FnMut(&str),
    interrupted: &AtomicBool,
) -> Result<(), StandingError> {
    let mut started = Vec::new();
    for node in dead {
        started.push((*node, daemons::start(dir, *node, shape, nodes, roam)?));
    }
    for (node, child) in &mut started {
        progress(&format!("waiting for {}", daemons::name(*node)));
        daemons::wait(dir, *node, Some(child), interrupted)?;
    }
    Ok(())
}

fn go_on(interrupted: &AtomicBool) -> Result<(), StandingError> {
    if interrupted.load(Ordering::Relaxed) { Err(StandingError::Interrupted) } else { Ok(()) }
}

/// Ends its processes and removes its namespaces.
fn sweep_all(name: &LabName, dir: &Path, nodes: &Nodes) -> Result<Removed, StandingError> {
    let processes = sweep::end_processes(dir, nodes)?;
    // Groups that have lost their processes before. Each host has some, its directory may be gone.
    (0..HOSTS_MAX).for_each(|index| jail::sweep(&daemons::control_group(dir, Node::Host(index)), &[]));
    let mut namespaces = 0;
    for (_, node) in names::all()?.into_iter().filter(|(found, _)| found == name) {
        names::remove(name, node)?;
        namespaces += 1;
    }
    Ok(Removed { processes, namespaces })
}

fn difference(is: &Shape, wanted: &Shape) -> Option<String> {
    let link =
        |rate: Option<u64>| rate.map_or("unlimited links".to_owned(), |rate| format!("links of {}", as_written(rate)));
    let delay = |delay: Option<u64>| delay.map_or("no delay".to_owned(), |us| format!("a delay of {us} µs"));
    let mut differs = Vec::new();
    if is.hosts != wanted.hosts {
        differs.push(format!("{} hosts, not {}", is.hosts, wanted.hosts));
    }
    if is.link_bits_per_s != wanted.link_bits_per_s {
        differs.push(format!("{}, not {}", link(is.link_bits_per_s), link(wanted.link_bits_per_s)));
    }
    if is.delay_us != wanted.delay_us {
        differs.push(format!("{}, not {}", delay(is.delay_us), delay(wanted.delay_us)));
    }
    if is.plane != wanted.plane {
        differs.push(format!("--plane {}, not {}", is.plane, wanted.plane));
    }
    (!differs.is_empty()).then(|| differs.join("; "))
}

/// For the few questions that are asked of daemons.
fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// A rate as one writes it for `--link`.
fn as_written(bits_per_s: u64) -> String {
    let units = [(1_000_000_000, "Gbit"), (1_000_000, "Mbit"), (1000, "kbit"), (1, "bit")];
    let fits = units.into_iter().find(|(unit, _)| bits_per_s.is_multiple_of(*unit));
    let (unit, name) = fits.unwrap_or((1, "bit"));
    format!("{}{name}", bits_per_s / unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_named() {
        let shape = Shape { hosts: 2, link_bits_per_s: None, delay_us: None, plane: LabPlane::Kernel };
        assert_eq!(difference(&shape, &shape), None);
        let other = Shape { hosts: 3, link_bits_per_s: Some(1_000_000), delay_us: None, plane: LabPlane::None };
        let text = difference(&shape, &other).unwrap();
        assert_eq!(text, "2 hosts, not 3; unlimited links, not links of 1Mbit; --plane kernel, not none");
    }
}
