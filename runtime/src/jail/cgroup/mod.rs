//! Limits on what a worker may use of the machine: control groups, of version 1 or 2, whichever has the controller.
//!
//! A guest's group is `roam/HOST/GUEST` in each hierarchy. The daemon makes it before the worker is, moves the worker
//! in before that is told anything, and removes it when it has ended.

mod hierarchy;

use std::collections::BTreeSet;
use std::fs;
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

fn failed(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> CgroupError {
    move |source| CgroupError { path: path.to_path_buf(), doing, source }
}

/// One worker's group, in each hierarchy that has one of the controllers. Dropping it removes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    directories: Vec<PathBuf>,
}

impl Cgroup {
    /// Makes the group of a guest (or takes the one there is) and sets its limits. `host` must be no other daemon's on
    /// this machine. Where the machine has no controller for a limit, or does not let us, there is none: [`lacks`]
    /// says so.
    pub fn new(host: &str, guest_id: &str, limits: &CgroupLimits) -> Result<Self, CgroupError> {
        let mut group = Self { directories: Vec::new() };
        for hierarchy in Hierarchy::usable() {
            let directory = hierarchy.directory().join(ROOT).join(host).join(guest_id);
            hierarchy.delegate(&[ROOT.as_ref(), host.as_ref()]);
            // One that was left over may have limits that stand in the way of these.
            let _ = remove(&directory);
            make(&directory)?;
            group.directories.push(directory.clone());
            for controller in hierarchy.controllers() {
                for (file, value) in settings(*controller, hierarchy.unified(), limits) {
                    set(&directory.join(file), &value)?;
                }
            }
        }
        Ok(group)
    }

    /// The group a guest was given before, by this daemon or the one before it.
    pub fn existing(host: &str, guest_id: &str) -> Self {
        let directory = |hierarchy: Hierarchy| hierarchy.directory().join(ROOT).join(host).join(guest_id);
        Self { directories: Hierarchy::usable().map(directory).filter(|directory| directory.is_dir()).collect() }
    }

    /// Moves a process in, with all its threads.
    pub fn add(&self, pid: u32) -> Result<(), CgroupError> {
        for directory in &self.directories {
            let path = directory.join("cgroup.procs");
            fs::write(&path, pid.to_string()).map_err(failed(&path, "joined"))?;
        }
        Ok(())
    }

    /// How often the kernel killed something in it for want of memory.
    pub fn memory_kills(&self) -> u64 {
        let files = self.directories.iter().flat_map(|directory| {
            ["memory.events", "memory.oom_control"].map(|file| fs::read_to_string(directory.join(file)))
        });
        files.flatten().filter_map(|text| memory_kills(&text)).sum()
    }

    /// Removes it, once all in it have ended. One that is gone is no error.
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
        }
        Ok(())
    }
}

/// Removes all groups of this host but those of the guests to `keep`, and its own when none is left. What is busy
/// stays: it has a process in it.
pub fn sweep(host: &str, keep: &[&str]) {
    for hierarchy in Hierarchy::usable() {
        let directory = hierarchy.directory().join(ROOT).join(host);
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let kept = keep.iter().any(|id| entry.file_name() == *id);
            if !kept && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let _ = remove(&entry.path());
            }
        }
        // Not empty is the usual answer.
        let _ = remove(&directory);
        let _ = remove(&hierarchy.directory().join(ROOT));
    }
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

fn make(directory: &Path) -> Result<(), CgroupError> {
    let mut tries = 0;
    loop {
        match fs::create_dir_all(directory) {
            // Another daemon's sweep may have removed the parent, empty until now.
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < 3 => tries += 1,
            result => return result.map_err(failed(directory, "made")),
        }
    }
}

/// Swap may not be counted on this machine: then there is no such file.
fn set(path: &Path, value: &str) -> Result<(), CgroupError> {
    if !path.exists() {
        return Ok(());
    }
    fs::write(path, value).map_err(failed(path, "set"))
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
        assert_eq!(Cgroup::existing(&host, "a"), group);
        assert_eq!(Cgroup::existing(&host, "b").directories, Vec::<PathBuf>::new());
        if group.directories.is_empty() {
            assert_eq!(lacks().len(), Controller::ALL.len());
            return;
        }
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        group.add(child.id()).unwrap();
        let mine = fs::read_to_string(format!("/proc/{}/cgroup", child.id())).unwrap();
        assert!(mine.contains(&format!("/roam/{host}/a")), "{mine}");
        sweep(&host, &[]);
        assert_eq!(Cgroup::existing(&host, "a"), group, "busy groups stay");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(group.memory_kills(), 0);
        group.remove().await.unwrap();
        Cgroup::new(&host, "b", &limits).unwrap();
        Cgroup::new(&host, "c", &limits).unwrap();
        sweep(&host, &["c"]);
        assert!(Cgroup::existing(&host, "b").directories.is_empty());
        assert!(!Cgroup::existing(&host, "c").directories.is_empty());
        sweep(&host, &[]);
        assert!(Cgroup::existing(&host, "c").directories.is_empty());
    }
}
