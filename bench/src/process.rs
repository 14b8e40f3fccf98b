//! What the kernel knows of a process: CPU time, wake-ups, memory.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// CPU time of all threads of a process, user and system.
///
/// Packets that the kernel moves in a soft interrupt count for whatever runs at that time on that core: mostly the
/// sender, sometimes nobody. So this says what a server costs, not all that its packets do.
pub(crate) fn cpu_time(id: u32) -> Result<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(id as i32)).with_context(|| format!("process {id} has no clock"))?;
    Ok(clock.now().with_context(|| format!("the clock of process {id} cannot be read"))?.into())
}

/// CPU time of the calling thread.
pub(crate) fn thread_cpu_time() -> Result<Duration> {
    let clock = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
    Ok(clock.now().context("the thread's clock cannot be read")?.into())
}

/// How often the threads of a process went to sleep by themselves: each is one wake-up later.
pub(crate) fn sleeps(id: u32) -> Result<u64> {
    let threads = fs::read_dir(format!("/proc/{id}/task")).with_context(|| format!("process {id} has no threads"))?;
    let mut sleeps = 0;
    for thread in threads {
        // A thread may end between the two reads.
        let Ok(status) = fs::read_to_string(thread?.path().join("status")) else { continue };
        sleeps += field(&status, "voluntary_ctxt_switches:").unwrap_or(0);
    }
    Ok(sleeps)
}

/// Memory of a process, KiB (`smaps_rollup`, proc(5)).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Resident, shared code included.
    pub(crate) rss_kib: u64,
    /// Resident, shared pages divided among those who share them.
    pub(crate) pss_kib: u64,
    /// Resident and nobody else's, clean or dirty.
    pub(crate) private_kib: u64,
    /// Written to and nobody else's.
    pub(crate) private_dirty_kib: u64,
}

/// How much memory a process holds.
pub(crate) fn memory(id: u32) -> Result<Memory> {
    let path = format!("/proc/{id}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let kib = |name| field(&text, name).with_context(|| format!("{path} has no {name}"));
    let private_dirty_kib = kib("Private_Dirty:")?;
    Ok(Memory {
        rss_kib: kib("Rss:")?,
        pss_kib: kib("Pss:")?,
        private_kib: kib("Private_Clean:")? + private_dirty_kib,
        private_dirty_kib,
    })
}

/// One core for the server and one for the client, where there are two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cores {
    server: usize,
    client: usize,
}

impl Cores {
    /// Of the cores this process may use.
    pub(crate) fn choose() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("the cores of this process cannot be read")?;
        let mut cores = (0..CpuSet::count()).filter(|core| allowed.is_set(*core).unwrap_or(false));
        let client = cores.next().context("this process may use no core")?;
        Ok(Self { client, server: cores.next().unwrap_or(client) })
    }

    /// The calling thread, and what it spawns from now on, runs with the servers.
    pub(crate) fn enter_server(self) -> Result<()> {
        pin(self.server)
    }

    /// The calling thread, and what it spawns from now on, runs with the clients.
    pub(crate) fn enter_client(self) -> Result<()> {
        pin(self.client)
    }
}

fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core).context("no such core")?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot run on core {core}"))
}

/// The number behind `name` in the text of a `/proc` file.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_time_and_memory() {
        let id = std::process::id();
        assert!(cpu_time(id).unwrap() > Duration::ZERO);
        assert!(thread_cpu_time().unwrap() > Duration::ZERO);
        sleeps(id).unwrap();
        let memory = memory(id).unwrap();
        assert!(memory.rss_kib >= memory.private_kib && memory.private_kib >= memory.private_dirty_kib);
        assert!(memory.pss_kib > 0);
    }

    #[test]
    fn fields() {
        let text = "voluntary_ctxt_switches:\t12\nRss:          340 kB\n";
        assert_eq!((field(text, "Rss:"), field(text, "voluntary_ctxt_switches:")), (Some(340), Some(12)));
        assert_eq!(field(text, "Pss:"), None);
    }
}
