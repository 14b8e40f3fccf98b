//! What the clients of one guest saw of its moves.

use serde::Serialize;

use super::load::Run;
use super::moves::Moved;

/// One guest's migrations and load. Names as in `roam migrate --json` and `roam load --json`.
#[derive(Debug, Default, Serialize)]
pub(super) struct Row {
    pub(super) guest: String,
    pub(super) migrations: usize,
    pub(super) blackout_us_p50: u64,
    pub(super) blackout_us_max: u64,
    /// Of all migrations together.
    pub(super) bytes_on_wire: u64,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    pub(super) corrupted: u64,
    pub(super) resets: u64,
    pub(super) rtt_us_p50: f64,
    pub(super) rtt_us_p99: f64,
    pub(super) rtt_us_max: f64,
    pub(super) silence_us_max: u64,
    /// The first few things that went wrong, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) problems: Vec<String>,
}

impl Row {
    pub(super) fn of(run: &Run, moves: &[Moved]) -> Self {
        let guest = run.offer.role.name;
        let its = moves.iter().filter(|moved| moved.guest == guest);
        let reports: Vec<_> = its.filter_map(|moved| moved.report).collect();
        let mut blackouts: Vec<u64> = reports.iter().map(|report| report.blackout_us).collect();
        blackouts.sort_unstable();
        let report = &run.report;
        Self {
            guest: guest.into(),
            migrations: reports.len(),
            blackout_us_p50: median(&blackouts),
            blackout_us_max: blackouts.last().copied().unwrap_or(0),
            bytes_on_wire: reports.iter().map(|report| report.bytes_on_wire).sum(),
            sent: report.sent,
            received: report.received,
            lost: report.lost,
            duplicated: report.duplicated,
            corrupted: report.corrupted,
            resets: report.resets,
            rtt_us_p50: report.rtt_us_p50,
            rtt_us_p99: report.rtt_us_p99,
            rtt_us_max: report.rtt_us_max,
            silence_us_max: report.silence_us_max,
            problems: report.problems.clone(),
        }
    }

    /// Whether something came back, and all of it, once and whole.
    pub(super) fn clean(&self) -> bool {
        self.received > 0 && [self.lost, self.duplicated, self.corrupted, self.resets].iter().all(|count| *count == 0)
    }
}

/// The lower one of two in the middle; 0 of none.
fn median(sorted: &[u64]) -> u64 {
    sorted.get(sorted.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clean_run_counts_as_one() {
        let row = Row { received: 5, ..Row::default() };
        assert!(row.clean());
        assert!(!Row { lost: 1, ..row }.clean());
        assert!(!Row::default().clean(), "nothing received is no success");
    }

    #[test]
    fn medians() {
        assert_eq!([median(&[]), median(&[7]), median(&[1, 2]), median(&[1, 5, 9])], [0, 7, 1, 5]);
    }
}
