//! How a worker ended, from what it wrote and what the kernel says.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use nix::sys::signal::Signal;

use crate::api::{End, EndKind};

/// What is known of an ended worker.
#[derive(Debug, Default)]
pub(super) struct Traces {
    /// What it wrote. It may have become hostile.
    pub(super) written: Option<End>,
    /// Whether an operator wanted it to end.
    pub(super) asked: bool,
    /// What this daemon saw of its end.
    pub(super) watched: Watched,
    /// How often its group ran out of memory.
    pub(super) memory_kills: u64,
    /// The end of what it wrote to its standard error.
    pub(super) said: String,
}

/// What a daemon sees of a worker's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Watched {
    /// It was there. How the worker ended is not known of one it has adopted: that is not its child.
    Ended(Option<ExitStatus>),
    /// It was not there yet.
    Nothing {
        /// Whether the machine was booted since.
        rebooted: bool,
    },
}

impl Default for Watched {
    fn default() -> Self {
        Self::Nothing { rebooted: false }
    }
}

/// The end, told in one sentence.
pub(super) fn explain(traces: Traces, now_ms: u64) -> End {
    // Nothing has happened in the future.
    let written = traces.written.as_ref().map(|end| End { at_ms: end.at_ms.min(now_ms), ..end.clone() });
    if let Some(written) = written.filter(|end| is_its_to_say(end.kind, &traces)) {
        return written;
    }
    let (kind, reason) = match traces.watched {
        Watched::Ended(Some(status)) => by_status(status, &traces),
        Watched::Nothing { rebooted: true } => (EndKind::MachineDown, "the machine went down while it ran".into()),
        _ if traces.memory_kills > 0 => (EndKind::Killed, MEMORY.into()),
        Watched::Ended(None) => {
            (EndKind::Killed, "its worker, which an earlier daemon had started, ended without a record of why".into())
        }
        Watched::Nothing { .. } => {
            (EndKind::Killed, "its worker ended while no daemon watched, and left no word".into())
        }
    };
    End { kind, exit_code: None, reason, at_ms: now_ms }
}

/// A worker cannot know that it was killed. Whether it was asked to end is known here; and its daemon did not go down
/// with it while that watched: what follows from such an end is not counted against a guest.
fn is_its_to_say(kind: EndKind, traces: &Traces) -> bool {
    match kind {
        EndKind::Killed | EndKind::Fenced | EndKind::Checkpointed => false,
        EndKind::Asked => traces.asked,
        EndKind::MachineDown => matches!(traces.watched, Watched::Nothing { .. }),
        EndKind::Exited | EndKind::Trapped | EndKind::Overran | EndKind::Failed => true,
    }
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
        Traces { watched: Watched::Ended(Some(ExitStatus::from_raw(status))), ..Traces::default() }
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
        assert!(told(Traces { watched: Watched::Ended(None), ..Traces::default() }).contains("without a record"));
        let down = Traces { watched: Watched::Nothing { rebooted: true }, ..Traces::default() };
        let down = explain(down, 7);
        assert_eq!((down.kind, down.at_ms), (EndKind::MachineDown, 7));
        let written = End { kind: EndKind::Exited, exit_code: Some(3), reason: "x".into(), at_ms: 1 };
        assert_eq!(explain(Traces { written: Some(written.clone()), ..traces(9) }, 7), written);
    }

    #[test]
    fn a_worker_is_not_believed_everything() {
        let told = |kind, watched, asked| {
            let written = End { kind, exit_code: None, reason: "says who?".into(), at_ms: u64::MAX };
            explain(Traces { written: Some(written), watched, asked, ..Traces::default() }, 7)
        };
        let says = |kind, watched| told(kind, watched, false);
        let watched = Watched::Ended(Some(ExitStatus::from_raw(0)));
        for kind in [EndKind::Killed, EndKind::Asked, EndKind::MachineDown, EndKind::Fenced] {
            assert_eq!(says(kind, watched).kind, EndKind::Failed, "{kind:?}");
        }
        let leashed = says(EndKind::MachineDown, Watched::default());
        assert_eq!((leashed.kind, leashed.at_ms), (EndKind::MachineDown, 7));
        let asked = told(EndKind::Asked, watched, true);
        assert_eq!((asked.kind, asked.at_ms), (EndKind::Asked, 7));
    }
}
