//! Finding and ending the processes of a lab, whatever state it is in.
//!
//! A process belongs to a lab if it is in one of its namespaces (the daemons, and what `roam lab exec` started), if it
//! listens on a socket in the lab's directory (the daemons and workers), or if it has a worker's socket that was made
//! in one of its namespaces (workers, whose own network namespace is empty; for when the directory is gone), or if it is
//! in a control group of the lab's hosts (workers that have closed their sockets). No name and no stored process id is
//! trusted.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::daemons::control_group;
use super::names::Nodes;
use super::{HOSTS_MAX, Node, StandingError, runtime};
use crate::jail;
use crate::worker::{Control, WorkerProcess};

/// How long processes that were killed may take to be gone.
const END_LIMIT: Duration = Duration::from_secs(10);
const END_STEP: Duration = Duration::from_millis(5);
/// A daemon may start a worker while it is looked for.
const ROUNDS_MAX: usize = 10;
/// How long a connection to a socket may take; it needs nobody's doing but the kernel's.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);
/// How deep in a lab's directory sockets are: `host-a/run/guests/ID/control.sock`.
const DEPTH_MAX: usize = 6;
const CGROUPS: &str = "/sys/fs/cgroup";
/// How often a group is tried that the kernel still calls busy.
const CGROUP_TRIES_MAX: u32 = 200;

/// Ends all processes of the lab in that directory, and removes the control groups they were in.
pub(super) fn end_processes(dir: &Path, nodes: &Nodes) -> Result<usize, StandingError> {
    let mut ended = 0;
    for _ in 0..ROUNDS_MAX {
        let found = Members::find(dir, nodes)?;
        if found.0.is_empty() {
            return Ok(ended);
        }
        ended += found.0.len();
        let groups: BTreeSet<PathBuf> = found.0.iter().flat_map(|pid| groups(*pid)).collect();
        found.end(dir, nodes)?;
        groups.iter().for_each(|group| remove_group(group));
    }
    Err(StandingError::Remains(format!("processes of the lab in {}", dir.display())))
}

/// Process ids.
struct Members(BTreeSet<u32>);

impl Members {
    fn find(dir: &Path, nodes: &Nodes) -> Result<Self, StandingError> {
        let mut namespaces = Vec::new();
        let mut sockets = BTreeSet::new();
        for (_, namespace) in nodes.iter() {
            namespaces.push(namespace.identity()?);
            sockets.extend(namespace.run(control_sockets)?);
        }
        let mut found: BTreeSet<u32> = listeners(dir).into_iter().collect();
        // One that does not listen any more is still in its host's control groups.
        found.extend((0..HOSTS_MAX).flat_map(|index| jail::strays(&control_group(dir, Node::Host(index)), &[])));
        found.extend(processes().filter(|pid| is_in(*pid, &namespaces) || holds(*pid, &sockets)));
        found.remove(&std::process::id());
        Ok(Self(found))
    }

    fn end(self, dir: &Path, nodes: &Nodes) -> Result<(), StandingError> {
        let open: Vec<_> = self.0.iter().filter_map(|pid| WorkerProcess::open(*pid).ok()).collect();
        // Now that they are held, whether they are still who they were: ids are used again.
        let still = Self::find(dir, nodes)?;
        let members: Vec<_> = open.into_iter().filter(|process| still.0.contains(&process.pid())).collect();
        for process in &members {
            let killed = process.kill();
            killed.map_err(StandingError::file(format!("/proc/{}", process.pid())))?;
        }
        let deadline = Instant::now() + END_LIMIT;
        for process in &members {
            while !process.has_ended() {
                if Instant::now() >= deadline {
                    return Err(StandingError::Remains(format!("process {}", process.pid())));
                }
                thread::sleep(END_STEP);
            }
        }
        Ok(())
    }
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

fn is_in(pid: u32, namespaces: &[(u64, u64)]) -> bool {
    fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|file| namespaces.contains(&(file.dev(), file.ino())))
}

fn holds(pid: u32, sockets: &BTreeSet<String>) -> bool {
    if sockets.is_empty() {
        return false;
    }
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    let mut links = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
    links.any(|link| link.to_str().is_some_and(|link| sockets.contains(link)))
}

/// Workers' listening sockets that were made in this thread's network namespace, as `/proc/PID/fd` shows them.
fn control_sockets() -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/thread-self/net/unix").unwrap_or_default();
    table.lines().filter_map(control_socket).map(|inode| format!("socket:[{inode}]")).collect()
}

/// The inode in a line of `/proc/net/unix` (proc(5)): `Num RefCount Protocol Flags Type St Inode Path`.
fn control_socket(line: &str) -> Option<&str> {
    let mut columns = line.split_ascii_whitespace().skip(6);
    let (inode, path) = (columns.next()?, columns.next()?);
    path.ends_with("/control.sock").then_some(inode)
}

/// Who listens on sockets in that directory.
fn listeners(dir: &Path) -> Vec<u32> {
    let mut sockets = Vec::new();
    find_sockets(dir, DEPTH_MAX, &mut sockets);
    let Ok(runtime) = runtime() else { return Vec::new() };
    let pid = |path: &PathBuf| runtime.block_on(Control::connect(path, CONNECT_LIMIT)).ok().map(|peer| peer.pid());
    sockets.iter().filter_map(pid).collect()
}

fn find_sockets(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_socket() {
            found.push(entry.path());
        } else if kind.is_dir() && depth > 1 {
            find_sockets(&entry.path(), depth - 1, found);
        }
    }
}

/// roam's own control groups that a process is in: `…/roam/HOST/GUEST`.
fn groups(pid: u32) -> Vec<PathBuf> {
    let table = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    table.lines().filter_map(group).collect()
}

/// The directory of a line of `/proc/PID/cgroup` (cgroups(7)): `id:controllers:path`.
fn group(line: &str) -> Option<PathBuf> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let hierarchy = controllers.strip_prefix("name=").unwrap_or(controllers);
    let is_ours = Path::new(path).iter().rev().nth(2).is_some_and(|part| part == "roam");
    is_ours.then(|| Path::new(CGROUPS).join(hierarchy).join(path.trim_start_matches('/')))
}

/// Removes a group and, when they are left empty, those of its host and of roam.
fn remove_group(group: &Path) {
    for _ in 0..CGROUP_TRIES_MAX {
        match fs::remove_dir(group) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => thread::sleep(END_STEP),
            _ => break,
        }
    }
    let above = group.ancestors().skip(1).take_while(|path| path.starts_with(CGROUPS) && *path != Path::new(CGROUPS));
    for parent in above.take(2) {
        if fs::remove_dir(parent).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_known_by_their_sockets() {
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 4242 /proc/self/fd/9/control.sock";
        assert_eq!(control_socket(line), Some("4242"));
        assert_eq!(control_socket("0: 2 0 0 1 01 4242 /run/api.sock"), None);
        assert_eq!(control_socket("0: 2 0 0 1 01 4242"), None);
        assert_eq!(control_socket("Num       RefCount Protocol Flags    Type St Inode Path"), None);
    }

    #[test]
    fn only_groups_of_ours_are_removed() {
        assert_eq!(group("4:memory:/roam/a/b"), Some("/sys/fs/cgroup/memory/roam/a/b".into()));
        assert_eq!(group("0::/roam/a/b"), Some("/sys/fs/cgroup/roam/a/b".into()));
        assert_eq!(group("0::/user.slice"), None);
        assert_eq!(group("0::/roam/a"), None);
        assert_eq!(group("nonsense"), None);
    }
}
