//! How the demo is told: one line a step, commands dim, one table.

use std::io::{self, IsTerminal, Write};

use super::Report;
use super::checks::Outcome;
use super::moves::Moved;
use super::row::Row;

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

    /// A migration that is over.
    pub(super) fn moved(&mut self, moved: &Moved) {
        let Moved { guest, from, to, .. } = moved;
        self.command(&format!("roam migrate {guest} --from {from} --to {to}"));
        match (&moved.report, &moved.failure) {
            (_, Some(failure)) => {
                let text = self.paint(RED, &format!("FAIL {guest} stays at {from}: {failure}"));
                self.line(&format!("  {text}"));
            }
            (Some(report), None) => {
                let [blackout, total] = [report.blackout_us, report.total_us].map(|us| time(us as f64));
                let (sent, carried) = (size(report.bytes_on_wire), report.frames_carried + report.frames_forwarded);
                self.note(&format!(
                    "blackout {blackout:>7}, {total} in all, {sent} sent, frames brought along: {carried}"
                ));
            }
            (None, None) => self.note(&format!("{guest} is at {to}")),
        }
    }

    pub(super) fn table(&mut self, rows: &[Row]) {
        for (index, line) in table(rows).into_iter().enumerate() {
            let bad = index > 0 && !rows[index - 1].clean();
            let line = if bad { self.paint(RED, &line) } else { line };
            self.line(&format!("  {line}"));
        }
        for (row, problem) in rows.iter().flat_map(|row| row.problems.iter().map(move |problem| (row, problem))) {
            self.warning(&format!("{}: {problem}", row.guest));
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
            (true, 0) => self.paint(GREEN, "All well: nothing lost, doubled or changed, and no connection broke."),
            (true, _) => self.paint(YELLOW, &format!("All well, but {skipped} not tried: see above what to install.")),
            (false, _) => self.paint(RED, "Something went wrong: see the lines above in red."),
        };
        self.line(&format!("\n{text} The hosts are gone when this command ends."));
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

const COLUMNS: [&str; 12] = [
    "",
    "migrations",
    "blackout p50",
    "max",
    "longest silence",
    "sent",
    "lost",
    "dup",
    "corrupted",
    "resets",
    "latency p50",
    "bytes moved",
];

/// The head and one line a row, columns aligned.
fn table(rows: &[Row]) -> Vec<String> {
    let mut cells = vec![COLUMNS.map(str::to_owned)];
    cells.extend(rows.iter().map(|row| {
        let [p50, max, silence] =
            [row.blackout_us_p50, row.blackout_us_max, row.silence_us_max].map(|us| time(us as f64));
        let counts = [row.sent, row.lost, row.duplicated, row.corrupted, row.resets];
        let [sent, lost, duplicated, corrupted, resets] = counts.map(|count| count.to_string());
        let (guest, migrations) = (row.guest.clone(), row.migrations.to_string());
        let (reply, bytes) = (time(row.rtt_us_p50), size(row.bytes_on_wire));
        [guest, migrations, p50, max, silence, sent, lost, duplicated, corrupted, resets, reply, bytes]
    }));
    let width = |column: usize| cells.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    let render = |line: &[String; COLUMNS.len()]| {
        let rest = line[1..].iter().zip(&widths[1..]).map(|(cell, width)| format!("  {cell:>width$}"));
        format!("{:<width$}{}", line[0], rest.collect::<String>(), width = widths[0])
    };
    cells.iter().map(render).collect()
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    match bytes {
        bytes if bytes < 1 << 10 => format!("{bytes} B"),
        bytes if bytes < 1 << 20 => format!("{:.0} KiB", bytes as f64 / 1024.0),
        bytes => format!("{:.1} MiB", bytes as f64 / 1048576.0),
    }
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
    fn columns_are_aligned() {
        let small = Row { guest: "kv".into(), sent: 1, ..Row::default() };
        let large = Row {
            guest: "square".into(),
            sent: 100_000,
            blackout_us_max: 1234,
            bytes_on_wire: 5 << 20,
            ..Row::default()
        };
        let lines = table(&[small, large]);
        assert!(lines.iter().all(|line| line.chars().count() == lines[0].chars().count()), "{lines:?}");
        assert!(lines[2].starts_with("square ") && lines[2].ends_with("5.0 MiB"), "{lines:?}");
    }
}
