//! How a migration that is under way is shown.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};

use super::super::{print, ps};
use super::took;
use crate::api::{MigrationState, MigrationView};

/// How often the bar moves while nothing is heard.
const TICK: Duration = Duration::from_millis(100);

/// One way to show what comes.
pub(super) trait View {
    /// How it is now.
    fn seen(&mut self, view: &MigrationView) -> Result<()>;
    /// Something else the user should know.
    fn notice(&mut self, words: &str);
    /// Takes away what was shown in passing.
    fn clear(&mut self);
}

/// For JSON, for a terminal, or for whatever else reads it.
pub(super) fn new(json: bool) -> Box<dyn View> {
    if json {
        return Box::new(Json);
    }
    if !print::to_terminal() || !std::io::stderr().is_terminal() {
        return Box::<Lines>::default();
    }
    let style = ProgressStyle::with_template("{spinner} {prefix} {elapsed} {msg}").expect("a valid template");
    let bar = ProgressBar::new_spinner().with_style(style);
    bar.enable_steady_tick(TICK);
    Box::new(Bar(bar))
}

/// One line a change.
pub(super) struct Json;

impl View for Json {
    fn seen(&mut self, view: &MigrationView) -> Result<()> {
        print::json_line(view)
    }

    fn notice(&mut self, words: &str) {
        eprintln!("roam: {words}");
    }

    fn clear(&mut self) {}
}

/// One line a round, and one a phase.
#[derive(Default)]
struct Lines {
    last: Option<(MigrationState, &'static str, u32)>,
}

impl View for Lines {
    fn seen(&mut self, view: &MigrationView) -> Result<()> {
        self.next(view).map_or(Ok(()), |line| print::line(&line))
    }

    fn notice(&mut self, words: &str) {
        Json.notice(words);
    }

    fn clear(&mut self) {}
}

impl Lines {
    /// `None` if that was said, or is for the report to say.
    fn next(&mut self, view: &MigrationView) -> Option<String> {
        let now = (view.state, ps::phase(view.phase), view.progress.round);
        let said = self.last.replace(now) == Some(now);
        (!said && !view.is_over()).then(|| format!("{}: {}", view.guest, stage(view).join(", ")))
    }
}

/// A few lines that are redrawn.
struct Bar(ProgressBar);

impl View for Bar {
    fn seen(&mut self, view: &MigrationView) -> Result<()> {
        self.0.set_prefix(format!("{} to {}", view.guest, print::plain(&view.to)));
        self.0.set_message(stage(view).join("\n  "));
        Ok(())
    }

    fn notice(&mut self, words: &str) {
        self.0.suspend(|| Json.notice(words));
    }

    fn clear(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Shows nothing until it is over.
pub(super) struct Nothing;

impl View for Nothing {
    fn seen(&mut self, _view: &MigrationView) -> Result<()> {
        Ok(())
    }

    fn notice(&mut self, _words: &str) {}

    fn clear(&mut self) {}
}

/// What it is at, in words: three lines at most, the first of which says how far it is.
fn stage(view: &MigrationView) -> Vec<String> {
    if view.state == MigrationState::InDoubt {
        return vec!["in doubt: it is being settled which host has the guest".to_owned()];
    }
    let (phase, progress) = (ps::phase(view.phase), &view.progress);
    if progress.round == 0 {
        return vec![phase.to_owned()];
    }
    let mut far = format!("{phase}, round {}", progress.round);
    let mut sent = format!("{} sent of {}", print::size(progress.bytes_on_wire), print::size(progress.memory_bytes));
    let mut dirty = format!("{} pages dirty", progress.dirty_pages);
    if progress.throttle_percent > 0 {
        far += &format!(", throttled {} %", progress.throttle_percent);
    }
    // Known after the first round.
    if progress.link_bytes_per_s > 0 {
        sent += &format!(" at {}", print::bit_rate(progress.link_bytes_per_s as f64 * 8.0));
        let (rate, blackout) = (print::rate(progress.dirty_pages_per_s as f64), took(progress.downtime_us_estimate));
        dirty += &format!(" and {rate} more a second, blackout now {blackout}");
    }
    vec![far, sent, dirty]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::MigrationProgress;
    use roam_snapshot::protocol::Phase;

    #[test]
    fn a_stage_says_what_is_known() {
        let mut view = super::super::report::tests::view();
        (view.state, view.report) = (MigrationState::Running, None);
        view.phase = Phase::Validate;
        assert_eq!(stage(&view), ["validate"]);
        view.phase = Phase::Execute;
        view.progress = MigrationProgress { round: 1, memory_bytes: 64 << 20, ..MigrationProgress::default() };
        assert_eq!(stage(&view), ["execute, round 1", "0 B sent of 64 MiB", "0 pages dirty"]);
        let known = MigrationProgress { link_bytes_per_s: 125_000_000, dirty_pages_per_s: 10_000, ..view.progress };
        view.progress = MigrationProgress { round: 2, throttle_percent: 20, downtime_us_estimate: 400, ..known };
        let lines = stage(&view);
        assert_eq!(lines[0], "execute, round 2, throttled 20 %");
        assert_eq!(lines[1], "0 B sent of 64 MiB at 1 Gbit/s");
        assert_eq!(lines[2], "0 pages dirty and 10 k more a second, blackout now 400 µs");
        view.state = MigrationState::InDoubt;
        assert!(stage(&view)[0].contains("in doubt"));
    }

    #[test]
    fn each_round_has_one_line() {
        let mut view = super::super::report::tests::view();
        view.state = MigrationState::Running;
        let mut lines = Lines::default();
        assert_eq!(lines.next(&view).as_deref(), Some("kv: complete"));
        view.progress.dirty_pages = 7;
        assert_eq!(lines.next(&view), None);
        view.progress.round += 1;
        assert!(lines.next(&view).is_some());
        view.state = MigrationState::Done;
        assert_eq!(lines.next(&view), None, "the report says the rest");
    }
}
