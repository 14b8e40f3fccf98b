//! A guest's log: two files, of which the older is overwritten when the newer is full.
//!
//! ```text
//!  log.0  {"half":"0000000000000004"}     older: overwritten from its start when the newer is full
//!         {"at_ms":…,"level":"info","text":"…"}
//!  log.1  {"half":"0000000000000005"}     newer: lines are added here
//!         {"at_ms":…,"level":"info","text":"…"}
//! ```
//!
//! Each file begins with a number that grows with every change over; the greater is the newer. So whatever a file is
//! called, and whenever the worker was killed, content says what is what: a file without a whole first line is empty,
//! and a last line without its end was not written. Lines of a half are never changed while its number stands, which is
//! what lets a reader follow without a lock: it looks at the number again after it has read.
//!
//! A worker ([`Log`]) and any number of readers ([`LogReader`]) may have the files open at once.

mod reader;
mod writer;

pub use reader::LogReader;
pub(super) use writer::Log;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;

use crate::api::LogEntry;

/// The two files of a log, in its directory.
const FILES: [&str; 2] = ["log.0", "log.1"];
/// Bytes of a file's first line.
const HEADER_BYTES: usize = 28;
const HEADER_START: &str = "{\"half\":\"";
const HEADER_END: &str = "\"}\n";
/// The levels, most severe first.
const LEVELS: [&str; 4] = ["error", "warn", "info", "debug"];
/// Longest line, bytes: a longest log line whose every byte takes six to write, and the rest of an entry.
const LINE_BYTES_MAX: usize = 6 * roam_abi::limits::LOG_LINE_BYTES_MAX + 256;

/// Opens a guest's log, made if there is none: the newer and the older half, as [`super::Descriptor::Log`] and
/// [`super::Descriptor::LogOld`] want them.
pub fn open_log(directory: &Path) -> io::Result<[File; 2]> {
    let open = |name: &str| {
        let path = directory.join(name);
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
    };
    let files = [open(FILES[0])?, open(FILES[1])?];
    let [first, second] = files.each_ref().map(sequence);
    let [a, b] = files;
    Ok(if second > first { [b, a] } else { [a, b] })
}

/// Adds lines that another worker wrote, of a log with halves of that size, which no worker has open. What is no line of a
/// log is left out; lines that there is no room for are an error.
pub fn append_log(directory: &Path, half_bytes: u64, lines: &[u8]) -> io::Result<()> {
    let [newer, older] = open_log(directory)?;
    let mut log = Log::begin(newer, older, half_bytes, 0)?;
    for line in lines.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
        let is_entry =
            serde_json::from_slice::<LogEntry>(line).is_ok_and(|entry| LEVELS.contains(&entry.level.as_str()));
        if is_entry && line.len() <= LINE_BYTES_MAX && !log.add(line) {
            return Err(Errno::ENOSPC.into());
        }
    }
    Ok(())
}

/// A half's first line.
fn header(sequence: u64) -> String {
    format!("{HEADER_START}{sequence:016x}{HEADER_END}")
}

/// The number a file begins with; `None` if it has no whole first line.
fn sequence(file: &File) -> Option<u64> {
    let mut bytes = [0; HEADER_BYTES];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let digits = std::str::from_utf8(&bytes).ok()?.strip_prefix(HEADER_START)?.strip_suffix(HEADER_END)?;
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests;
