//! How a guest ended: written by its worker, read by the daemon.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::ambient::now_ms;
use crate::api::{End, EndKind};
use crate::guest::Stopped;
use crate::net::{EdgeError, Overrun};
use crate::sentence::sentence;

/// Longest record, bytes.
const END_BYTES_MAX: u64 = 64 * 1024;
/// Longest reason, bytes: a trap's has the wasm stack.
const REASON_BYTES_MAX: usize = 4096;

/// The guest panicked or trapped: what Rust programs exit with after a panic.
const EXIT_TRAPPED: u8 = 101;
/// The guest overran its poll budget: what `timeout` exits with.
const EXIT_OVERRAN: u8 = 124;

/// Reads the record in that file; `None` if there is no whole one: the worker was killed. The file is the worker's, which
/// may have become hostile: the reason is as long as one may be, and has no control characters but line ends.
pub fn read_end(path: &Path) -> io::Result<Option<End>> {
    let mut text = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(END_BYTES_MAX).read_to_end(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(serde_json::from_slice(&text).ok().map(|end: End| End { reason: harmless(&end.reason), ..end }))
}

fn harmless(reason: &str) -> String {
    let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
    reason.chars().map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// Writes the record, whole or not at all, over what an earlier run left.
pub(super) fn write_end(file: &File, end: &End) {
    let text = serde_json::to_vec(end).unwrap_or_default();
    let _ = file.set_len(0);
    // On a full disk there is none: then the exit code has to do.
    if !matches!(file.write_at(&text, 0), Ok(written) if written == text.len()) {
        let _ = file.set_len(0);
    }
}

/// An operator asked.
pub(super) fn asked() -> (End, u8) {
    (end(EndKind::Asked, None, "stopped by an operator".into()), 0)
}

/// Its daemon has ended, and the worker was to end with it.
pub(super) fn leashed() -> (End, u8) {
    (end(EndKind::MachineDown, None, "the daemon that it was to end with has ended".into()), 0)
}

/// The guest, or its device, ended.
pub(super) fn of(error: &EdgeError) -> (End, u8) {
    match error {
        EdgeError::Stopped(stopped) => of_stopped(stopped),
        error => (end(EndKind::Failed, None, sentence(error)), 1),
    }
}

/// The guest ended.
pub(super) fn of_stopped(stopped: &Stopped) -> (End, u8) {
    match stopped {
        Stopped::Exited { code } => {
            (end(EndKind::Exited, Some(*code), sentence(stopped)), u8::try_from(*code).unwrap_or(1))
        }
        stopped => (end(EndKind::Trapped, None, trap_sentence(stopped)), EXIT_TRAPPED),
    }
}

/// A poll took too long.
pub(super) fn of_overrun(Overrun { budget }: Overrun) -> (End, u8) {
    let reason = format!("a poll took more than its budget of {budget:?} CPU time");
    (end(EndKind::Overran, None, reason), EXIT_OVERRAN)
}

/// It could not be started.
pub(super) fn failed(reason: String) -> End {
    end(EndKind::Failed, None, reason)
}

/// As [`sentence`], but what happened comes before where: a trap's outermost source is the wasm stack, in many lines.
fn trap_sentence(stopped: &Stopped) -> String {
    let (mut what, mut places) = (stopped.to_string(), String::new());
    let mut source = std::error::Error::source(stopped);
    while let Some(error) = source {
        let text = error.to_string();
        match text.split_once("wasm backtrace:") {
            Some((_, frames)) => {
                let frames: Vec<&str> = frames.split_whitespace().collect();
                places = format!("; at {}", frames.join(" "));
            }
            None => what = format!("{what}: {text}"),
        }
        source = error.source();
    }
    what + &places
}

fn end(kind: EndKind, exit_code: Option<i32>, mut reason: String) -> End {
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    End { kind, exit_code, reason, at_ms: now_ms() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_worker_wrote_is_an_end_or_none() {
        let path = std::env::temp_dir().join(format!("roam-end-{}", std::process::id()));
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read_end(&path).unwrap()
        };
        let record = |reason: &str| {
            let reason = serde_json::to_string(reason).unwrap();
            format!(r#"{{"kind":"exited","exit_code":3,"reason":{reason},"at_ms":18446744073709551615}}"#).into_bytes()
        };
        let bell = read(&record("one\ntwo\x1b[2J\u{7}")).unwrap();
        assert_eq!((bell.exit_code, bell.reason.as_str()), (Some(3), "one\ntwo\u{fffd}[2J\u{fffd}"));
        assert_eq!(read(&record(&"\u{e9}".repeat(9000))).unwrap().reason.len(), REASON_BYTES_MAX);
        let long = record(&"x".repeat(END_BYTES_MAX as usize));
        for garbage in [&b""[..], b"{", b"null", b"\xff\xfe", &[b'['; 60_000], &long, &[0; 100_000]] {
            assert_eq!(read(garbage), None, "{:?}", &garbage[..garbage.len().min(20)]);
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read_end(&path).unwrap(), None);
    }
}
