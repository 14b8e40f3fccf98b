//! Where this machine has which controller.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

/// What can be limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Controller {
    Memory,
    Cpu,
    Tasks,
}

impl Controller {
    pub(super) const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Tasks];

    /// The kernel's name.
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Tasks => "pids",
        }
    }

    /// What it limits, in words.
    pub(super) fn what(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "CPU time",
            Self::Tasks => "processes",
        }
    }
}

/// The share of processors that the guests of all hosts, and of one host, have against a process outside: 20 times what
/// that has, as each version puts it.
const SHARE_V1: &str = "20480";
const SHARE_V2: &str = "2000";
/// For how much of each second workers of all hosts, and of one, may hurry ([`super::Cgroup::may_hurry`]), microseconds.
const HURRY_US_ALL: &str = "400000";
const HURRY_US_HOST: &str = "100000";

/// A mounted tree of groups with at least one controller of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    directory: PathBuf,
    unified: bool,
    controllers: Vec<Controller>,
}

impl Hierarchy {
    /// Those this process may make groups in. A controller is in one at most.
    pub(super) fn usable() -> impl Iterator<Item = Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let controllers = |directory: &Path| fs::read_to_string(directory.join("cgroup.controllers"));
        let found = parse(&mounts, |directory| controllers(directory).unwrap_or_default());
        found.into_iter().filter(|hierarchy| access(&hierarchy.directory, AccessFlags::W_OK).is_ok())
    }

    /// Where it is mounted.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether it is version 2.
    pub(super) fn unified(&self) -> bool {
        self.unified
    }

    /// What it can limit.
    pub(super) fn controllers(&self) -> &[Controller] {
        &self.controllers
    }

    /// What a group of that name under the root gets to limit.
    pub(super) fn granted(&self, group: &Path) -> Vec<Controller> {
        if !self.unified {
            return self.controllers.clone();
        }
        self.make_way(&[group]);
        let listed = fs::read_to_string(self.directory.join(group).join("cgroup.controllers")).unwrap_or_default();
        let given = |controller: &&Controller| listed.split_whitespace().any(|name| name == controller.name());
        self.controllers.iter().filter(given).copied().collect()
    }

    /// Makes the groups on the way to a new one. In version 2 a group's children have the controllers it hands on, from
    /// the root down. A step that fails shows when the new group is made, or a limit is set: the file is missing.
    ///
    /// All guests of a machine together are to have more of its processors than one other process, which is what a group
    /// has that nothing was said about.
    pub(super) fn make_way(&self, path: &[&Path]) {
        let mut directory = self.directory.clone();
        for part in std::iter::once(Path::new("")).chain(path.iter().copied()) {
            directory.push(part);
            let _ = fs::create_dir(&directory);
            if !part.as_os_str().is_empty() && self.controllers.contains(&Controller::Cpu) {
                let (file, share) = if self.unified { ("cpu.weight", SHARE_V2) } else { ("cpu.shares", SHARE_V1) };
                let _ = fs::write(directory.join(file), share);
                let hurry_us = if part == path[0] { HURRY_US_ALL } else { HURRY_US_HOST };
                let _ = fs::write(directory.join("cpu.rt_runtime_us"), hurry_us);
            }
            if self.unified {
                for controller in &self.controllers {
                    let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{}", controller.name()));
                }
            }
        }
    }
}

/// From the text of /proc/self/mounts, proc(5). `listed` gives the controllers of a version 2 tree.
fn parse(mounts: &str, listed: impl Fn(&Path) -> String) -> Vec<Hierarchy> {
    let mut taken = Vec::new();
    let mut found = Vec::new();
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        let (Some(directory), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let (directory, unified) = match kind {
            "cgroup" => (PathBuf::from(directory), false),
            "cgroup2" => (PathBuf::from(directory), true),
            _ => continue,
        };
        let names = if unified { listed(&directory) } else { options.to_owned() };
        let has = |controller: &Controller| names.split([',', ' ', '\n']).any(|name| name == controller.name());
        let here = |controller: &Controller| has(controller) && !taken.contains(controller);
        let controllers: Vec<_> = Controller::ALL.into_iter().filter(here).collect();
        if !controllers.is_empty() {
            taken.extend(&controllers);
            found.push(Hierarchy { directory, unified, controllers });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_found_in_both_versions() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n\
            cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
            cgroup2 /mnt/again cgroup2 rw 0 0\nshort line\n";
        let found = parse(mounts, |_| "cpuset cpu pids\n".into());
        let controllers: Vec<_> = found.iter().map(|hierarchy| hierarchy.controllers.clone()).collect();
        assert_eq!(controllers, [vec![Controller::Cpu], vec![Controller::Memory], vec![Controller::Tasks]]);
        assert_eq!(found[2].directory, Path::new("/sys/fs/cgroup/unified"));
        assert!(found[2].unified && !found[0].unified);
        assert_eq!(parse("cgroup2 / cgroup2 rw 0 0", |_| String::new()), []);
    }
}
