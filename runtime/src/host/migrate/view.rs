//! A migration as others see it.

use roam_snapshot::page::PAGE_BYTES;
use roam_snapshot::plan::Progress;
use roam_snapshot::protocol::{Phase, Reason};

use super::{Going, sessions};
use crate::ambient::now_ms;
use crate::api::{Direction, MigrationProgress, MigrationReason, MigrationReport, MigrationState, MigrationView};

/// Of a migration that begins.
pub(super) fn begun(what: &Going<'_>, direction: Direction) -> MigrationView {
    MigrationView {
        id: sessions::text(what.session),
        guest: what.guest.clone(),
        direction,
        from: what.from.to_owned(),
        to: what.to.to_owned(),
        plan: what.plan,
        state: MigrationState::Running,
        phase: Phase::Initiate,
        began_ms: now_ms(),
        ended_ms: None,
        progress: MigrationProgress::default(),
        reason: None,
        report: None,
    }
}

/// Brings a view up to date.
pub(super) fn show(
    view: &mut MigrationView,
    phase: Phase,
    in_doubt: bool,
    progress: &Progress,
    report: &MigrationReport,
    memory_bytes: u64,
) {
    // What it failed in says more than that it failed.
    if phase != Phase::Failed {
        view.phase = phase;
    }
    view.state = if in_doubt { MigrationState::InDoubt } else { MigrationState::Running };
    let shown = &mut view.progress;
    shown.round = report.rounds;
    shown.bytes_on_wire = report.bytes_on_wire;
    shown.memory_bytes = memory_bytes;
    shown.throttle_percent = progress.throttle_percent;
    if let Some(round) = progress.last {
        let per_s = |amount: u64| amount.saturating_mul(1_000_000) / round.took_us.max(1);
        shown.dirty_pages = round.dirty_after;
        shown.dirty_pages_per_s = per_s(round.dirty_after);
        shown.link_bytes_per_s = per_s(round.bytes);
        let left_bytes = round.dirty_after * PAGE_BYTES as u64;
        shown.downtime_us_estimate =
            progress.round_trip_us + left_bytes.saturating_mul(1_000_000) / shown.link_bytes_per_s.max(1);
    }
}

/// A reason as programs and people read it.
pub(super) fn reason(reason: &Reason) -> MigrationReason {
    let code = serde_json::to_value(reason.code).ok().and_then(|code| Some(code.as_str()?.to_owned()));
    MigrationReason { code: code.unwrap_or_default(), message: reason.message.clone() }
}
