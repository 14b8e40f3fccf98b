//! What clients have noticed. Pure: what was sent, what came back and when owners changed, all on one clock.

use serde_json::json;

use super::client::Log;
use crate::output::Results;

/// One change of owner.
#[derive(Clone, Copy, Debug)]
pub(super) struct Switch {
    /// The owner before: 0 or 1.
    pub(super) from: u8,
    /// The owner from now on.
    pub(super) to: u8,
    /// When the controller was called.
    pub(super) called_ns: u64,
    /// When it had answered.
    pub(super) answered_ns: u64,
    /// From the call to the changed plane.
    pub(super) plane_us: u64,
    /// From the call until it was on disk.
    pub(super) durable_us: u64,
}

impl Switch {
    /// When the plane had changed, at the latest.
    fn plane_ns(&self) -> u64 {
        // Microseconds are rounded down.
        self.called_ns + (self.plane_us + 1) * 1000
    }
}

/// What it all comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    switches: u64,
    sent: u64,
    received: u64,
    lost: u64,
    duplicated: u64,
    late_sends: u64,
    stale_replies: u64,
    stale_ns_max: u64,
    stale_replies_plane: u64,
    stale_plane_ns_max: u64,
}

impl Verdict {
    pub(super) fn into_results(self) -> Results {
        let us = |ns: u64| json!(ns as f64 / 1000.0);
        Results::from_iter([
            ("switches".into(), json!(self.switches)),
            ("sent".into(), json!(self.sent)),
            ("received".into(), json!(self.received)),
            ("lost".into(), json!(self.lost)),
            ("duplicated".into(), json!(self.duplicated)),
            ("late_sends".into(), json!(self.late_sends)),
            // The owner before answered what was sent after the switch was acknowledged.
            ("stale_replies".into(), json!(self.stale_replies)),
            // How long after that its last reply arrived, to whatever was sent before.
            ("stale_us_max".into(), us(self.stale_ns_max)),
            // Both the same, but counted from when the plane had changed.
            ("stale_replies_plane".into(), json!(self.stale_replies_plane)),
            ("stale_plane_us_max".into(), us(self.stale_plane_ns_max)),
        ])
    }
}

/// Judges each reply by the switches before and after it.
pub(super) fn verdict(log: &Log, switches: &[Switch]) -> Verdict {
    let mut times = vec![0_u32; log.sent_ns.len()];
    let mut verdict = Verdict {
        switches: switches.len() as u64,
        sent: log.sent_ns.len() as u64,
        late_sends: log.late_sends,
        ..Verdict::default()
    };
    for reply in &log.replies {
        let Some(count) = times.get_mut(reply.sequence as usize) else { continue };
        *count += 1;
        let sent_ns = log.sent_ns[reply.sequence as usize];
        let (host, received_ns) = (reply.host, reply.received_ns);
        verdict.stale_replies += u64::from(is_stale(switches, Since::Answer, host, sent_ns, received_ns));
        verdict.stale_replies_plane += u64::from(is_stale(switches, Since::Plane, host, sent_ns, received_ns));
        let late = |since| late_ns(switches, since, host, received_ns);
        verdict.stale_ns_max = verdict.stale_ns_max.max(late(Since::Answer));
        verdict.stale_plane_ns_max = verdict.stale_plane_ns_max.max(late(Since::Plane));
    }
    verdict.received = times.iter().filter(|count| **count > 0).count() as u64;
    verdict.lost = verdict.sent - verdict.received;
    verdict.duplicated = times.iter().map(|count| u64::from(count.saturating_sub(1))).sum();
    verdict
}

/// From when on a switch counts.
#[derive(Clone, Copy)]
enum Since {
    Plane,
    Answer,
}

impl Since {
    fn of(self, switch: &Switch) -> u64 {
        match self {
            Self::Plane => switch.plane_ns(),
            Self::Answer => switch.answered_ns,
        }
    }
}

/// The last switch that counted at that time, and the one after it unless that was called only after `until_ns`.
fn around(switches: &[Switch], since: Since, at_ns: u64, until_ns: u64) -> Option<(Switch, bool)> {
    let next = switches.partition_point(|switch| since.of(switch) <= at_ns);
    let last = switches.get(next.checked_sub(1)?)?;
    Some((*last, switches.get(next).is_some_and(|next| next.called_ns <= until_ns)))
}

/// Whether a request was answered by who had not been the owner any more when it was sent. While the next switch is
/// under way either may answer.
fn is_stale(switches: &[Switch], since: Since, host: u8, sent_ns: u64, received_ns: u64) -> bool {
    around(switches, since, sent_ns, received_ns).is_some_and(|(last, next)| host != last.to && !next)
}

/// How long after a switch this reply of the owner before has come; 0 for the new owner's.
fn late_ns(switches: &[Switch], since: Since, host: u8, received_ns: u64) -> u64 {
    match around(switches, since, received_ns, received_ns) {
        Some((last, false)) if host == last.from => received_ns - since.of(&last),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::client::Reply;
    use super::*;

    fn switch(from: u8, called_us: u64) -> Switch {
        let (called_ns, answered_ns) = (called_us * 1000, called_us * 1000 + 100_000);
        Switch { from, to: 1 - from, called_ns, answered_ns, plane_us: 9, durable_us: 90 }
    }

    /// Each request's time sent, who answered, and when (µs).
    fn judge(requests: &[(u64, &[(u8, u64)])]) -> Verdict {
        let mut log = Log::default();
        for (sequence, (sent_us, replies)) in requests.iter().enumerate() {
            log.sent_ns.push(sent_us * 1000);
            let sequence = sequence as u32;
            log.replies.extend(replies.iter().map(|(host, us)| Reply {
                sequence,
                host: *host,
                received_ns: us * 1000,
            }));
        }
        verdict(&log, &[switch(0, 1000), switch(1, 2000)])
    }

    #[test]
    fn replies_are_counted() {
        let verdict = judge(&[(0, &[(0, 5)]), (1, &[]), (2, &[(0, 7), (0, 8)])]);
        assert_eq!((verdict.sent, verdict.received, verdict.lost, verdict.duplicated), (3, 2, 1, 1));
        assert_eq!((verdict.stale_replies, verdict.stale_replies_plane), (0, 0));
    }

    #[test]
    fn who_answers_too_late_is_found() {
        // Sent before the plane changed, answered by the old owner: in flight.
        let verdict = judge(&[(1005, &[(0, 1050)])]);
        assert_eq!((verdict.stale_replies, verdict.stale_replies_plane), (0, 0));
        assert_eq!((verdict.stale_ns_max, verdict.stale_plane_ns_max), (0, 40_000));
        // Sent after the plane had changed, before the answer.
        let verdict = judge(&[(1020, &[(0, 1130)])]);
        assert_eq!((verdict.stale_replies, verdict.stale_replies_plane), (0, 1));
        assert_eq!(verdict.stale_ns_max, 30_000);
        // Sent after the answer.
        assert_eq!(judge(&[(1101, &[(0, 1200)])]).stale_replies, 1);
        assert_eq!(judge(&[(1101, &[(1, 1200)])]).stale_replies, 0);
        // The next switch has begun.
        assert_eq!(judge(&[(1999, &[(0, 2003)])]).stale_replies, 0);
    }
}
