//! Limits on what a worker may use of the machine: control groups, of version 1 or 2, whichever has the controller.
//!
//! A guest's group is `roam/HOST/GUEST` in each hierarchy. The daemon makes it before the worker is, moves the worker
//! in before that is told anything, and removes it when it has ended. A worker cannot leave its group, so the group also
//! tells what is left of a guest ([`Cgroup::processes`]).
//!
//! Groups without a process are nobody's: any daemon may remove them, those of daemons that were killed among them
//! ([`sweep`]). Whoever makes one is prepared for that, up to the moment there is a process in it.

mod hierarchy;

use std::collections::BTreeSet;
use std::fs::{self, DirEntry};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

use hierarchy::{Controller, Hierarchy};

/// The group of all groups of ours.
const ROOT: &str = "roam";
/// Period of the CPU quota: what the kernel takes when nothing is said.
const CPU_PERIOD_US: u64 = 100_000;
/// Least quota the kernel takes.
const CPU_QUOTA_US_MIN: u64 = 1_000;
/// How long a worker may hurry in each second, microseconds.
const HURRY_US: &str = "50000";
/// Memory of a worker beside the guest's: its code and stacks, wasmtime, frames and messages.
const WORKER_BYTES: u64 = 64 << 20;
/// Processes and threads of a worker: the one that makes the jail, and three threads; and as many again.
const SERVE_TASKS_MAX: u32 = 8;
/// The compiler has a thread a core.
const COMPILE_TASKS_MAX: u32 = 1024;
/// Memory a compilation may take, bytes.
pub(crate) const COMPILE_BYTES_MAX: u64 = 2 << 30;
/// How often, and how long, a group is tried to be removed that the kernel still calls busy.
const REMOVE_STEP: Duration = Duration::from_millis(5);
const REMOVE_TRIES_MAX: u32 = 400;
/// How often a group is made again that another daemon removed, empty as it was.
const MAKE_TRIES_MAX: u32 = 16;

/// What a worker may use; `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CgroupLimits {
    /// Memory, bytes.
    pub memory_bytes_max: Option<u64>,
    /// CPU time in cores.
    pub cpus_max: Option<f64>,
    /// Processes and threads.
    pub tasks_max: Option<u32>,
}

impl CgroupLimits {
    /// Of a worker that serves a guest with these limits.
    pub fn serve(memory_bytes_max: u64, network: &roam_netstack::Config, cpus_max: Option<f64>) -> Self {
        let memory = memory_bytes_max.saturating_add(crate::guest::stack_bytes_max(network) as u64);
        let memory_bytes_max = Some(memory.saturating_add(WORKER_BYTES));
        Self { memory_bytes_max, cpus_max, tasks_max: Some(SERVE_TASKS_MAX) }
    }

    /// Of a worker that compiles.
    pub fn compile() -> Self {
        let memory_bytes_max = Some(COMPILE_BYTES_MAX + WORKER_BYTES);
        Self { memory_bytes_max, cpus_max: None, tasks_max: Some(COMPILE_TASKS_MAX) }
    }
}

/// Why a limit could not be set.
#[derive(Debug, thiserror::Error)]
#[error("the control group {path} cannot be {doing}")]
pub struct CgroupError {
    /// The directory or file.
    pub path: PathBuf,
    /// made, set, joined or removed.
    pub doing: &'static str,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl CgroupError {
    /// Whether the group is not there (any more).
    fn is_gone(&self) -> bool {
        let gone = [Errno::ENOENT, Errno::ENODEV].map(|errno| Some(errno as i32));
        gone.contains(&self.source.raw_os_error())
    }
}

fn failed(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> CgroupError {
    move |source| CgroupError { path: path.to_path_buf(), doing, source }
}

/// One worker's group, in each hierarchy that has one of the controllers. Dropping it removes nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Cgroup {
    directories: Vec<PathBuf>,
    /// What it was made of, should it have to be made again.
    made: Option<Made>,
}

#[derive(Clone, Debug, PartialEq)]
struct Made {
    host: String,
    guest_id: String,
    limits: CgroupLimits,
}

impl Cgroup {
    /// Makes the group of a guest (or takes the one there is) and sets its limits. `host` must be no other daemon's on
    /// this machine. Where the machine has no controller for a limit, or does not let us, there is none: [`lacks`]
    /// says so.
    pub fn new(host: &str, guest_id: &str, limits: &CgroupLimits) -> Result<Self, CgroupError> {
        let made = Made { host: host.into(), guest_id: guest_id.into(), limits: *limits };
        Ok(Self { directories: made.make()?, made: Some(made) })
    }

    /// The group a guest was given before, by this daemon or the one before it.
    pub fn existing(host: &str, guest_id: &str) -> Self {
        let directory = |hierarchy: Hierarchy| hierarchy.directory().join(ROOT).join(host).join(guest_id);
        let directories = Hierarchy::usable().map(directory).filter(|directory| directory.is_dir()).collect();
        Self { directories, made: None }
    }

    /// Moves a process in, with all its threads. From then on the group is there as long as that process.
    pub fn add(&self, pid: u32) -> Result<(), CgroupError> {
        let join = |directory: &PathBuf| {
            let path = directory.join("cgroup.procs");
            fs::write(&path, pid.to_string()).map_err(failed(&path, "joined"))
        };
        let mut tries = 0;
        loop {
            match (self.directories.iter().try_for_each(join), &self.made) {
                (Err(error), Some(made)) if error.is_gone() && tries < MAKE_TRIES_MAX => drop(made.make()?),
                (result, _) => return result,
            }
            tries += 1;
        }
    }

    /// Lets its processes hurry (`SCHED_RR`), or no more, where groups have to be let: in version 1, if the kernel counts that
    /// time.
    pub fn may_hurry(&self, may: bool) {
        let runtime_us = if may { HURRY_US } else { "0" };
        for directory in &self.directories {
            // Without it they are as quick as others.
            let _ = fs::write(directory.join("cpu.rt_runtime_us"), runtime_us);
        }
    }

    /// The processes in it, by their ids here. One that has ended but was not reaped is none of them.
    pub fn processes(&self) -> Vec<u32> {
        processes(self.directories.iter().cloned())
    }

    /// How often the kernel killed something in it for want of memory.
    pub fn memory_kills(&self) -> u64 {
        let files = self.directories.iter().flat_map(|directory| {
            ["memory.events", "memory.oom_control"].map(|file| fs::read_to_string(directory.join(file)))
        });
        files.flatten().filter_map(|text| memory_kills(&text)).sum()
    }

    /// Removes it, once all in it have ended, and its host's when that was the last. One that is gone is no error.
    pub async fn remove(self) -> Result<(), CgroupError> {
        for directory in &self.directories {
            let mut tries = 0;
            while let Err(error) = remove(directory) {
                tries += 1;
                if error.source.raw_os_error() != Some(Errno::EBUSY as i32) || tries >= REMOVE_TRIES_MAX {
                    return Err(error);
                }
                tokio::time::sleep(REMOVE_STEP).await;
            }
            // Not empty is the usual answer.
            directory.ancestors().skip(1).take(2).for_each(|above| drop(remove(above)));
        }
        Ok(())
    }
}

impl Made {
    fn make(&self) -> Result<Vec<PathBuf>, CgroupError> {
        let mut directories = Vec::new();
        for hierarchy in Hierarchy::usable() {
            let directory = hierarchy.directory().join(ROOT).join(&self.host).join(&self.guest_id);
            // One that was left over may have limits that stand in the way of these.
            let _ = remove(&directory);
            let way: [&Path; 2] = [ROOT.as_ref(), self.host.as_ref()];
            make(&hierarchy, &way, &directory)?;
            // Who else is on the way may not have got as far as to hand on all controllers. Now it stays.
            hierarchy.make_way(&way);
            for controller in hierarchy.controllers() {
                for (file, value) in settings(*controller, hierarchy.unified(), &self.limits) {
                    set(&directory.join(file), &value)?;
                }
            }
            directories.push(directory);
        }
        Ok(directories)
    }
}

/// Whether this machine has a group for every worker.
pub fn exists() -> bool {
    Hierarchy::usable().next().is_some()
}

/// The processes in groups of this host but those of the guests to `keep`: nobody knows them.
pub fn strays(host: &str, keep: &[&str]) -> Vec<u32> {
    let groups = Hierarchy::usable().flat_map(|hierarchy| children(&hierarchy.directory().join(ROOT).join(host)));
    let strays = groups.filter(|entry| !keep.iter().any(|id| entry.file_name() == *id));
    processes(strays.map(|entry| entry.path()))
}

/// Removes all groups of this host but those of the guests to `keep`, and whatever other daemons have left, as far as
/// no process is in it.
pub fn sweep(host: &str, keep: &[&str]) {
    for hierarchy in Hierarchy::usable() {
        let root = hierarchy.directory().join(ROOT);
        for of_host in children(&root) {
            for of_guest in children(&of_host.path()) {
                let kept = of_host.file_name() == host && keep.iter().any(|id| of_guest.file_name() == *id);
                if !kept {
                    let _ = remove(&of_guest.path());
                }
            }
            // Not empty is the usual answer.
            let _ = remove(&of_host.path());
        }
        let _ = remove(&root);
    }
}

/// The groups in a group.
fn children(directory: &Path) -> impl Iterator<Item = DirEntry> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

fn processes(groups: impl Iterator<Item = PathBuf>) -> Vec<u32> {
    let listed = groups.flat_map(|directory| fs::read_to_string(directory.join("cgroup.procs")));
    // One of another pid namespace has no number here, and is shown as 0.
    let pids = listed.flat_map(|text| text.lines().flat_map(str::parse).filter(|pid| *pid != 0).collect::<Vec<u32>>());
    pids.collect::<BTreeSet<_>>().into_iter().collect()
}

/// Which limits this machine cannot set, in words.
pub fn lacks() -> Vec<String> {
    let had: BTreeSet<_> = Hierarchy::usable().flat_map(|hierarchy| hierarchy.granted(ROOT.as_ref())).collect();
    let missing = Controller::ALL.into_iter().filter(|controller| !had.contains(controller));
    missing.map(|controller| format!("no limit of {}: no writable control group", controller.what())).collect()
}

/// Files of a group and what to write into them.
fn settings(controller: Controller, unified: bool, limits: &CgroupLimits) -> Vec<(&'static str, String)> {
    match (controller, unified) {
        (Controller::Memory, _) => {
            let Some(bytes) = limits.memory_bytes_max.map(|bytes| bytes.to_string()) else { return Vec::new() };
            match unified {
                true => vec![("memory.max", bytes), ("memory.swap.max", "0".into())],
                false => vec![("memory.limit_in_bytes", bytes.clone()), ("memory.memsw.limit_in_bytes", bytes)],
            }
        }
        (Controller::Cpu, _) => {
            let Some(cpus) = limits.cpus_max else { return Vec::new() };
            let quota = ((cpus * CPU_PERIOD_US as f64) as u64).max(CPU_QUOTA_US_MIN);
            match unified {
                true => vec![("cpu.max", format!("{quota} {CPU_PERIOD_US}"))],
                false => {
                    vec![("cpu.cfs_period_us", CPU_PERIOD_US.to_string()), ("cpu.cfs_quota_us", quota.to_string())]
                }
            }
        }
        (Controller::Tasks, _) => limits.tasks_max.map(|tasks| ("pids.max", tasks.to_string())).into_iter().collect(),
    }
}

fn make(hierarchy: &Hierarchy, way: &[&Path], directory: &Path) -> Result<(), CgroupError> {
    let mut tries = 0;
    loop {
        hierarchy.make_way(way);
        match fs::create_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
            // Another daemon's sweep may have removed the parent, empty until now.
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < MAKE_TRIES_MAX => tries += 1,
            result => return result.map_err(failed(directory, "made")),
        }
    }
}

/// Swap may not be counted on this machine: then there is no such file.
fn set(path: &Path, value: &str) -> Result<(), CgroupError> {
    if !path.exists() {
        return Ok(());
    }
    match fs::write(path, value).map_err(failed(path, "set")) {
        // The whole group is gone: it is made again when it is joined.
        Err(error) if error.is_gone() => Ok(()),
        result => result,
    }
}

fn remove(directory: &Path) -> Result<(), CgroupError> {
    match fs::remove_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(failed(directory, "removed")),
    }
}

/// `oom_kill N` of `memory.events` (version 2) or `memory.oom_control` (version 1).
fn memory_kills(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_what_each_version_calls_them() {
        let limits = CgroupLimits { memory_bytes_max: Some(1 << 20), cpus_max: Some(0.5), tasks_max: None };
        let cpu = |unified| settings(Controller::Cpu, unified, &limits);
        assert_eq!(cpu(true), [("cpu.max", "50000 100000".to_owned())]);
        assert_eq!(cpu(false)[1], ("cpu.cfs_quota_us", "50000".to_owned()));
        assert_eq!(settings(Controller::Memory, true, &limits)[0], ("memory.max", "1048576".to_owned()));
        assert_eq!(settings(Controller::Memory, false, &limits)[0], ("memory.limit_in_bytes", "1048576".to_owned()));
        assert_eq!(settings(Controller::Tasks, true, &limits), []);
        let least = CgroupLimits { cpus_max: Some(0.000_1), ..limits };
        assert_eq!(settings(Controller::Cpu, true, &least), [("cpu.max", "1000 100000".to_owned())]);
    }

    #[test]
    fn kills_are_counted_in_both_versions() {
        assert_eq!(memory_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"), Some(3));
        assert_eq!(memory_kills("low 0\nhigh 0\nmax 5\noom 1\noom_kill 1\noom_group_kill 0\n"), Some(1));
        assert_eq!(memory_kills("low 0\n"), None);
    }

    #[tokio::test]
    async fn a_group_is_made_joined_and_removed() {
        let host = format!("test-{}", std::process::id());
        let limits =
            CgroupLimits { memory_bytes_max: Some(64 << 20), cpus_max: Some(0.5), tasks_max: Some(SERVE_TASKS_MAX) };
        let group = Cgroup::new(&host, "a", &limits).unwrap();
        assert_eq!(Cgroup::existing(&host, "b").directories, Vec::<PathBuf>::new());
        if group.directories.is_empty() {
            assert_eq!(lacks().len(), Controller::ALL.len());
            return;
        }
        // Another daemon has come by.
        sweep("test-other", &[]);
        assert_eq!(Cgroup::existing(&host, "a").directories, Vec::<PathBuf>::new());
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        group.add(child.id()).unwrap();
        let mine = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
        assert!(mine.contains(&format!("/roam/{host}/a")), "{mine}");
        let limits = fs::read_to_string(group.directories[0].join("memory.limit_in_bytes"));
        assert!(limits.is_err() || limits.is_ok_and(|bytes| bytes.trim() == "67108864"), "limits are set again");
        assert_eq!(group.processes(), [child.id()]);
        assert_eq!((strays(&host, &["a"]), strays(&host, &["b"])), (vec![], vec![child.id()]));
        let name = host.as_str();
        for sweeper in [name, "test-other"] {
            sweep(sweeper, &[]);
            assert_eq!(Cgroup::existing(name, "a").directories, group.directories, "busy groups stay");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(group.memory_kills(), 0);
        let parents: Vec<_> = group.directories.iter().filter_map(|it| it.parent().map(Path::to_path_buf)).collect();
        group.remove().await.unwrap();
        assert!(!parents.iter().any(|parent| parent.exists()), "the host's goes with the last");
    }
}
