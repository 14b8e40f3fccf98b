//! How a worker ended, from what it wrote and what the kernel says.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::sys::signal::Signal;

use crate::api::{End, EndKind};

/// What is known of an ended worker.
#[derive(Debug, Default)]
pub(super) struct Traces {
    /// What it wrote.
    pub(super) written: Option<End>,
    /// What the kernel says; not known of one that ended while no daemon ran.
    pub(super) status: Option<ExitStatus>,
    /// How often its group ran out of memory.
    pub(super) memory_kills: u64,
    /// The end of what it wrote to its standard error.
    pub(super) said: String,
    /// Whether the machine was booted since.
    pub(super) rebooted: bool,
}

/// The end, told in one sentence.
pub(super) fn explain(traces: Traces, at_ms: u64) -> End {
    if let Some(written) = traces.written {
        return written;
    }
    let (kind, reason) = match traces.status {
        _ if traces.rebooted => (EndKind::MachineDown, "the machine went down while it ran".into()),
        None if traces.memory_kills > 0 => (EndKind::Killed, MEMORY.into()),
        None => (EndKind::Killed, "its worker ended while no daemon watched, and left no word".into()),
        Some(status) => by_status(status, &traces),
    };
    End { kind, exit_code: None, reason, at_ms }
}

const MEMORY: &str = "killed by the kernel: the worker took more memory than its limit";

fn by_status(status: ExitStatus, traces: &Traces) -> (EndKind, String) {
    let said = if traces.said.is_empty() { String::new() } else { format!("; it said: {}", traces.said) };
    let signal = status.signal().map(Signal::try_from);
    match signal {
        Some(Ok(Signal::SIGSYS)) => {
            (EndKind::Killed, format!("the jail ended it: the worker made a system call it may not{said}"))
        }
        Some(Ok(Signal::SIGKILL)) if traces.memory_kills > 0 => (EndKind::Killed, MEMORY.into()),
        Some(Ok(Signal::SIGKILL)) => (EndKind::Killed, "killed from outside (SIGKILL)".into()),
        Some(Ok(signal)) => (EndKind::Killed, format!("its worker was ended by {signal}{said}")),
        Some(Err(_)) => (EndKind::Killed, format!("its worker was ended by a signal ({status}){said}")),
        None => (EndKind::Failed, format!("its worker ended ({status}) without a record of why{said}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traces(status: i32) -> Traces {
        Traces { status: Some(ExitStatus::from_raw(status)), ..Traces::default() }
    }

    #[test]
    fn every_end_has_its_sentence() {
        let told = |traces| explain(traces, 7).reason;
        assert!(told(traces(31)).contains("system call it may not"));
        assert!(told(traces(9)).contains("from outside"));
        assert!(told(Traces { memory_kills: 1, ..traces(9) }).contains("memory"));
        assert!(told(traces(11)).contains("SIGSEGV"));
        assert!(told(Traces { said: "last words".into(), ..traces(101 << 8) }).contains("last words"));
        assert!(told(Traces::default()).contains("no daemon"));
        let down = explain(Traces { rebooted: true, ..Traces::default() }, 7);
        assert_eq!((down.kind, down.at_ms), (EndKind::MachineDown, 7));
        let written = End { kind: EndKind::Exited, exit_code: Some(3), reason: "x".into(), at_ms: 1 };
        assert_eq!(explain(Traces { written: Some(written.clone()), rebooted: true, ..traces(9) }, 7), written);
    }
}
