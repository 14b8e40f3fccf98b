//! What a migration came to.

use std::fmt::Write as _;

use super::super::print;
use crate::api::{MigrationReport, MigrationView};

/// It failed, and the guest is where it was.
#[derive(Debug, thiserror::Error)]
#[error("guest `{guest}` stays at {host}: {reason}")]
pub(super) struct Stayed {
    guest: String,
    host: String,
    reason: String,
}

impl From<&MigrationView> for Stayed {
    fn from(view: &MigrationView) -> Self {
        let reason = view.reason.as_ref().map_or("no reason is given", |reason| reason.message.as_str());
        let [guest, host] = [view.guest.as_str(), &view.from].map(print::plain);
        Self { guest, host, reason: print::plain(reason) }
    }
}

/// Where the guest is, and what that took.
pub(super) fn report(view: &MigrationView) -> String {
    let mut text = format!("{} is at {}\n", view.guest, print::plain(&view.to));
    for (name, value) in view.report.iter().flat_map(rows) {
        let _ = writeln!(text, "{name:<14} {value}");
    }
    text
}

/// The same in one line.
pub(super) fn brief(view: &MigrationView) -> String {
    let mut text = format!("{} is at {}", view.guest, print::plain(&view.to));
    if let Some(report) = &view.report {
        let (blackout, total) = (took(report.blackout_us), took(report.total_us));
        text += &format!(": blackout {blackout}, {total} in all, {} sent", print::size(report.bytes_on_wire));
    }
    text
}

fn rows(report: &MigrationReport) -> [(&'static str, String); 13] {
    [
        ("total", took(report.total_us)),
        ("rounds", report.rounds.to_string()),
        ("pages", format!("{} sent, {} of them in the blackout", report.pages_sent, report.pages_last)),
        ("bytes", print::size(report.bytes_on_wire)),
        ("stop", took(report.stop_us)),
        ("blackout", took(report.blackout_us)),
        ("  scan", took(report.scan_us)),
        ("  send", took(report.send_us)),
        ("  apply", took(report.apply_us)),
        ("  grant", format!("{}, beside apply", took(report.grant_us))),
        ("  first poll", took(report.first_poll_us)),
        ("route", format!("{} after the first poll", took(report.route_us))),
        ("frames", format!("{} carried, {} forwarded", report.frames_carried, report.frames_forwarded)),
    ]
}

/// `1.5 ms`.
pub(in crate::cli) fn took(us: u64) -> String {
    print::nanoseconds(us.saturating_mul(1000))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::api::{Direction, MigrationProgress, MigrationReason, MigrationState};
    use roam_snapshot::plan::PlanName;
    use roam_snapshot::protocol::Phase;

    pub(in super::super) fn view() -> MigrationView {
        MigrationView {
            id: "0".repeat(32),
            guest: "kv".parse().unwrap(),
            direction: Direction::Outgoing,
            from: "host-a".into(),
            to: "host-b".into(),
            plan: PlanName::PreCopy,
            state: MigrationState::Done,
            phase: Phase::Complete,
            began_ms: 0,
            ended_ms: Some(1),
            progress: MigrationProgress::default(),
            reason: None,
            report: Some(MigrationReport { blackout_us: 412, total_us: 1_200_000, ..MigrationReport::default() }),
        }
    }

    #[test]
    fn the_blackout_is_told_with_its_parts() {
        let text = report(&view());
        assert!(text.starts_with("kv is at host-b\ntotal          1.2 s\n"), "{text}");
        for part in ["blackout       412 µs", "  scan", "  send", "  apply", "  grant", "  first poll", "route", "stop"]
        {
            assert!(text.contains(&format!("\n{part}")), "{part} in\n{text}");
        }
        assert_eq!(brief(&view()), "kv is at host-b: blackout 412 µs, 1.2 s in all, 0 B sent");
    }

    #[test]
    fn a_host_does_not_command_the_terminal() {
        let mut view = view();
        view.reason = Some(MigrationReason { code: "link".into(), message: "lost\x1b[2J".into() });
        assert_eq!(Stayed::from(&view).to_string(), "guest `kv` stays at host-a: lost\\u{1b}[2J");
    }
}
