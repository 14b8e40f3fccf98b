//! What happens when a guest has ended: pure.

use std::time::Duration;

use crate::api::{End, EndKind, RestartPolicy};

/// A run shorter than this counts towards parking; a longer one makes all before it forgotten.
pub(crate) const QUICK: Duration = Duration::from_secs(3);
/// Quick ends in a row after which a guest is parked.
pub(crate) const QUICK_ENDS_MAX: u32 = 10;
/// Pause before the first start again; it doubles with each quick end.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Leave it ended.
    Stay,
    /// Start it again after a pause.
    Again(Duration),
    /// It ended too often; leave it until an operator starts it.
    Park,
}

/// Decides after a run of that length, with that many quick ends in a row before it. Also how many it is now.
pub(super) fn decide(policy: RestartPolicy, end: &End, ran: Duration, quick_ends: u32) -> (Next, u32) {
    let quick_ends = if ran < QUICK { quick_ends.saturating_add(1) } else { 0 };
    let meant = matches!(end.kind, EndKind::Asked) || end.exit_code == Some(0);
    let again = match policy {
        RestartPolicy::No => false,
        RestartPolicy::OnFailure => !meant,
        RestartPolicy::Always => true,
    };
    let next = match again {
        false => Next::Stay,
        // Not the guest's doing, and no reason to wait.
        true if end.kind == EndKind::MachineDown => return (Next::Again(Duration::ZERO), 0),
        true if quick_ends >= QUICK_ENDS_MAX => Next::Park,
        true => Next::Again(pause(quick_ends)),
    };
    (next, quick_ends)
}

fn pause(quick_ends: u32) -> Duration {
    let doubled = 1u32.checked_shl(quick_ends.saturating_sub(1)).unwrap_or(u32::MAX);
    PAUSE_MIN.saturating_mul(doubled).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn end(kind: EndKind, exit_code: Option<i32>) -> End {
        End { kind, exit_code, reason: String::new(), at_ms: 0 }
    }

    #[test]
    fn policies() {
        use EndKind::*;
        use RestartPolicy::*;
        let (soon, at_once) = (Next::Again(MS * 100), Next::Again(Duration::ZERO));
        for (policy, end, next) in [
            (No, end(Trapped, None), Next::Stay),
            (No, end(MachineDown, None), Next::Stay),
            (No, end(Exited, Some(0)), Next::Stay),
            (OnFailure, end(Exited, Some(0)), Next::Stay),
            (OnFailure, end(Asked, None), Next::Stay),
            (OnFailure, end(Exited, Some(1)), soon),
            (OnFailure, end(Trapped, None), soon),
            (OnFailure, end(Overran, None), soon),
            (OnFailure, end(Killed, None), soon),
            (OnFailure, end(Failed, None), soon),
            (OnFailure, end(MachineDown, None), at_once),
            (Always, end(Exited, Some(0)), soon),
            (Always, end(Asked, None), soon),
            (Always, end(MachineDown, None), at_once),
        ] {
            assert_eq!(decide(policy, &end, QUICK, 5), (next, 0), "{policy:?} {end:?}");
        }
    }

    #[test]
    fn pauses_double_and_a_crash_loop_is_parked() {
        let trapped = end(EndKind::Trapped, None);
        let mut quick_ends = 0;
        let mut pauses = Vec::new();
        loop {
            let next;
            (next, quick_ends) = decide(RestartPolicy::Always, &trapped, MS, quick_ends);
            match next {
                Next::Again(pause) => pauses.push(pause.as_millis()),
                next => break assert_eq!(next, Next::Park),
            }
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        assert_eq!(decide(RestartPolicy::Always, &trapped, QUICK, 9), (Next::Again(MS * 100), 0));
        assert_eq!(pause(u32::MAX), PAUSE_MAX);
    }
}
