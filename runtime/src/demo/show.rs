//! How the demo is told: one line a step, commands dim, one table.

use std::io::{self, IsTerminal, Write};

use super::Report;
use super::checks::Outcome;
use super::load::Row;

/// How to tell what happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// For people, in colour where standard output is a terminal that wants it (`NO_COLOR`).
    Text,
    /// Nothing but the report as one line of JSON at the end.
    Json,
}

/// Tells on standard output what happens. A reader who has gone away ends nothing.
pub(super) struct Show {
    style: Style,
    colour: bool,
}

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";

impl Show {
    pub(super) fn new(style: Style) -> Self {
        Self { style, colour: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() }
    }

    pub(super) fn title(&mut self, text: &str) {
        let text = self.paint(BOLD, text);
        self.line(&text);
    }

    pub(super) fn heading(&mut self, text: &str) {
        let text = self.paint(BOLD, text);
        self.line(&format!("\n{text}"));
    }

    /// A command line, before it runs.
    pub(super) fn command(&mut self, line: &str) {
        let line = self.paint(DIM, &format!("    $ {line}"));
        self.line(&line);
    }

    pub(super) fn item(&mut self, name: &str, text: &str) {
        self.line(&format!("  {name:<8} {text}"));
    }

    pub(super) fn note(&mut self, text: &str) {
        self.line(&format!("  {text}"));
    }

    pub(super) fn warning(&mut self, text: &str) {
        let text = self.paint(YELLOW, text);
        self.line(&format!("  {text}"));
    }

    pub(super) fn outcome(&mut self, outcome: &Outcome) {
        let word = match outcome.passed {
            Some(true) => self.paint(GREEN, "ok  "),
            Some(false) => self.paint(RED, "FAIL"),
            None => self.paint(YELLOW, "skip"),
        };
        self.line(&format!("  {word} {}: {}", outcome.name, outcome.detail.trim()));
    }

    pub(super) fn table(&mut self, rows: &[Row]) {
        for (index, line) in table(rows).into_iter().enumerate() {
            let bad = index > 0 && !rows[index - 1].clean();
            let line = if bad { self.paint(RED, &line) } else { line };
            self.line(&format!("  {line}"));
        }
    }

    pub(super) fn verdict(&mut self, report: &Report) {
        if self.style == Style::Json {
            let line = serde_json::to_string(report).expect("a report has string keys only");
            let _ = writeln!(io::stdout(), "{line}");
            return;
        }
        let skipped = report.checks.iter().filter(|check| check.passed.is_none()).count();
        let text = match (report.passed(), skipped) {
            (true, 0) => self.paint(GREEN, "All well: nothing lost, nothing changed on the way."),
            (true, _) => self.paint(YELLOW, &format!("All well, but {skipped} not tried: see above what to install.")),
            (false, _) => self.paint(RED, "Something went wrong: see the lines above in red."),
        };
        self.line(&format!("\n{text} The namespaces are gone when this command ends."));
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.into() }
    }

    fn line(&mut self, text: &str) {
        if self.style == Style::Text {
            let _ = writeln!(io::stdout(), "{text}");
        }
    }
}

const COLUMNS: [&str; 12] =
    ["", "sent", "received", "lost", "dup", "corrupted", "resets", "p50", "p99", "p99.9", "max", "longest silence"];

/// The head and one line a row, columns aligned.
fn table(rows: &[Row]) -> Vec<String> {
    let mut cells = vec![COLUMNS.map(str::to_owned).to_vec()];
    cells.extend(rows.iter().map(|row| match &row.failure {
        Some(failure) => vec![row.name.clone(), failure.clone()],
        None => {
            let counts = [row.sent, row.received, row.lost, row.duplicated, row.corrupted, row.resets];
            let times = [row.rtt_us_p50, row.rtt_us_p99, row.rtt_us_p999, row.rtt_us_max, row.silence_us_max];
            let words = counts.iter().map(u64::to_string).chain(times.iter().map(|us| time(*us)));
            std::iter::once(row.name.clone()).chain(words).collect()
        }
    }));
    // A failure is a sentence, which no column can hold.
    let complete = cells.iter().filter(|line| line.len() == COLUMNS.len());
    let width = |column: usize| complete.clone().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    let name_width = cells.iter().map(|line| line[0].chars().count()).max().unwrap_or(0);
    let render = |line: &Vec<String>| {
        let rest = line[1..].iter().zip(&widths[1..]).map(|(cell, width)| format!("  {cell:>width$}"));
        format!("{:<name_width$}{}", line[0], rest.collect::<String>())
    };
    cells.iter().map(render).collect()
}

/// Microseconds as people read them: 87 µs, 1.2 ms, 3.4 s.
fn time(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us:.0} µs"),
        us if us < 1e6 => format!("{:.1} ms", us / 1e3),
        us => format!("{:.1} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_readable() {
        assert_eq!([87.4, 1234.0, 3.4e6].map(time), ["87 µs", "1.2 ms", "3.4 s"]);
    }

    #[test]
    fn columns_are_aligned_and_failures_are_said() {
        let good = Row { name: "udp".into(), sent: 100_000, rtt_us_max: 5.0, ..Row::default() };
        let bad = Row { name: "http-stream".into(), failure: Some("no report".into()), ..Row::default() };
        let lines = table(&[good, bad]);
        assert_eq!(lines[0].chars().count(), lines[1].chars().count());
        assert!(lines[1].starts_with("udp          100000"), "{lines:?}");
        assert!(lines[2].contains("no report"));
    }
}
