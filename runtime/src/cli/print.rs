//! What commands print: text, tables and JSON, on a standard output that may be closed; and what they show in passing.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Nobody reads our output any more.
#[derive(Debug, thiserror::Error)]
#[error("standard output is closed")]
pub(super) struct Unread(#[source] io::Error);

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("writing to standard output")]
struct Unwritable(#[source] io::Error);

/// Writes text as it is.
pub(super) fn text(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Unread(error).into(),
        _ => Unwritable(error).into(),
    })
}

/// Writes a line.
pub(super) fn line(line: &str) -> Result<()> {
    text(&format!("{line}\n"))
}

/// Writes one JSON document.
pub(super) fn json(value: &impl Serialize) -> Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Writes one of many JSON values, on one line.
pub(super) fn json_line(value: &impl Serialize) -> Result<()> {
    line(&serde_json::to_string(value)?)
}

/// Whether standard output is a terminal.
pub(super) fn to_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Columns as wide as their widest cell; the last one is not padded.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    std::iter::once(&head).chain(rows).map(|row| table_line(row, &widths)).collect()
}

fn table_line(row: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in row.iter().zip(widths) {
        // By characters: what a terminal shows, not what `{:width$}` of bytes would be.
        let pad = width.saturating_sub(cell.chars().count()) + 2;
        line.push_str(cell);
        line.extend(std::iter::repeat_n(' ', pad));
    }
    line.truncate(line.trim_end().len());
    line.push('\n');
    line
}

/// `1.5 MiB`.
pub(super) fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    scaled(bytes as f64, 1024.0, &units)
}

/// `1.5 M`, of something a second.
pub(super) fn rate(per_s: f64) -> String {
    scaled(per_s, 1000.0, &["", "k", "M", "G", "T"]).trim_end().to_owned()
}

/// `1.5 Mbit/s`.
pub(super) fn bit_rate(bits_per_s: f64) -> String {
    scaled(bits_per_s, 1000.0, &["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"])
}

/// `1.5 µs`.
pub(super) fn nanoseconds(ns: u64) -> String {
    scaled(ns as f64, 1000.0, &["ns", "µs", "ms", "s"])
}

fn scaled(mut value: f64, step: f64, units: &[&str]) -> String {
    let mut index = 0;
    while value >= step && index + 1 < units.len() {
        value /= step;
        index += 1;
    }
    let digits = usize::from(value < 10.0 && value.fract() > 0.0);
    format!("{value:.digits$} {}", units[index])
}

/// `3 s`, `5 min`, `2 h`, `9 d`: how long ago.
pub(super) fn age(since_ms: u64) -> String {
    let now_ms = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    let seconds = (now_ms - i128::from(since_ms)).max(0) / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A time as RFC 3339 has it, to the millisecond.
pub(super) fn moment(unix_ms: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000);
    let text = time.ok().and_then(|time| time.format(&Rfc3339).ok());
    text.unwrap_or_else(|| format!("{unix_ms} ms"))
}

/// Text of a guest's making, safe for a terminal: control characters are shown, not obeyed.
pub(super) fn plain(text: &str) -> String {
    let show = |c: char| if c.is_control() && c != '\t' { c.escape_default().collect() } else { c.to_string() };
    text.chars().map(show).collect()
}

/// The beginning of such a text, in one line of at most so many characters.
pub(super) fn brief(text: &str, chars_max: usize) -> String {
    let text = plain(text);
    match text.char_indices().nth(chars_max) {
        None => text,
        Some(_) => text.chars().take(chars_max.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// How far a transfer is, on standard error where that is a terminal.
pub(super) struct Bar(ProgressBar);

/// Begins to show a transfer of so many bytes.
pub(super) fn bar(what: String, size_bytes: u64) -> Bar {
    let bar = ProgressBar::with_draw_target(Some(size_bytes), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{msg} {bar:30} {binary_bytes}/{binary_total_bytes}") {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    Bar(bar)
}

impl Bar {
    /// To be told the bytes so far.
    pub(super) fn position(&self) -> impl FnMut(u64) + Send + 'static + use<> {
        let bar = self.0.clone();
        move |bytes| bar.set_position(bytes)
    }

    /// Takes it away.
    pub(super) fn clear(&self) {
        self.0.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let rows = vec![vec!["kv".into(), "µs".into(), "x".into()], vec!["echo".into(), String::new(), "y".into()]];
        assert_eq!(table(&["NAME", "T", "Z"], &rows), "NAME  T   Z\nkv    µs  x\necho      y\n");
    }

    #[test]
    fn quantities() {
        assert_eq!((size(0), size(1536), size(256 << 20)), ("0 B".into(), "1.5 KiB".into(), "256 MiB".into()));
        assert_eq!((rate(12.0), rate(2_500_000.0)), ("12".into(), "2.5 M".into()));
        assert_eq!((bit_rate(0.0), bit_rate(1e9)), ("0 bit/s".into(), "1 Gbit/s".into()));
        assert_eq!((nanoseconds(1024), nanoseconds(8_000_000_000)), ("1.0 µs".into(), "8 s".into()));
        assert_eq!(moment(0), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn a_guest_does_not_command_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\tc"), "a\\u{1b}[2Jb\tc");
        assert_eq!((brief("äöü", 3), brief("äöüß", 3)), ("äöü".into(), "äö…".into()));
        assert_eq!(brief("a\nb", 9), "a\\nb");
    }
}
