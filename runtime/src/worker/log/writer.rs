//! The worker's side of a log.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use roam_abi::LogLevel;

use super::{HEADER_BYTES, LEVELS, LINE_BYTES_MAX, header, sequence};
use crate::api::LogEntry;
use crate::guest::LogLine;

/// A log being written. A line that cannot be written is dropped and counted: a full disk is no reason for a guest to
/// wait or to end.
pub(crate) struct Log {
    newer: File,
    older: File,
    sequence: u64,
    /// Bytes of the newer half.
    bytes: u64,
    half_bytes: u64,
    epoch_ns: i64,
    /// Dropped since a line said so.
    dropped_unsaid: u64,
    dropped: u64,
}

impl Log {
    /// Goes on in the halves that there are. Guest time 0 is `epoch_ns`, nanoseconds since 1970.
    pub(crate) fn begin(newer: File, older: File, half_bytes: u64, epoch_ns: i64) -> io::Result<Self> {
        let mut log = Self { sequence: 0, bytes: 0, newer, older, half_bytes, epoch_ns, dropped_unsaid: 0, dropped: 0 };
        log.go_on(epoch_ns)?;
        Ok(log)
    }

    /// Goes on in the halves as they are now, after somebody else has written to them.
    pub(crate) fn go_on(&mut self, epoch_ns: i64) -> io::Result<()> {
        self.epoch_ns = epoch_ns;
        if let (Some(newer), Some(older)) = (sequence(&self.newer), sequence(&self.older))
            && older > newer
        {
            std::mem::swap(&mut self.newer, &mut self.older);
        }
        self.sequence = sequence(&self.newer).unwrap_or(0);
        self.bytes = self.newer.seek(SeekFrom::End(0))?;
        if self.sequence == 0 {
            // A new log; or the first line is not whole, and then no other is.
            std::mem::swap(&mut self.newer, &mut self.older);
            self.sequence = sequence(&self.newer).unwrap_or(0);
            self.change_over();
        }
        self.drop_torn_line()
    }

    /// Adds a line.
    pub(crate) fn write(&mut self, line: &LogLine) {
        if self.dropped_unsaid > 0 {
            let text = format!("{} log lines were lost: they could not be written", self.dropped_unsaid);
            if self.append(&self.entry(line.at_ns, LogLevel::Warn as u32, text)) {
                self.dropped_unsaid = 0;
            }
        }
        if self.dropped_unsaid > 0 || !self.append(&self.entry(line.at_ns, line.level, line.text.clone())) {
            self.dropped_unsaid += 1;
            self.dropped += 1;
        }
    }

    /// Adds a line as it stands in another log; whether it could be written.
    pub(super) fn add(&mut self, line: &[u8]) -> bool {
        self.append(line)
    }

    /// Lines that could not be kept.
    pub(crate) fn lines_dropped(&self) -> u64 {
        self.dropped
    }

    #[cfg(test)]
    pub(super) fn newer_for_test(&mut self) -> &mut File {
        &mut self.newer
    }

    fn entry(&self, at_ns: i64, level: u32, text: String) -> Vec<u8> {
        let at_ms = u64::try_from(self.epoch_ns.saturating_add(at_ns) / 1_000_000).unwrap_or(0);
        let level = match LogLevel::from_raw(level) {
            Some(LogLevel::Error) => LEVELS[0],
            Some(LogLevel::Warn) => LEVELS[1],
            Some(LogLevel::Info) | None => LEVELS[2],
            Some(LogLevel::Debug) => LEVELS[3],
        };
        let mut line = serde_json::to_vec(&LogEntry { at_ms, level: level.into(), text }).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// One line, in one write; nothing of it, if not all.
    fn append(&mut self, line: &[u8]) -> bool {
        let full = self.bytes + line.len() as u64 > self.half_bytes && self.bytes > HEADER_BYTES as u64;
        if self.bytes < HEADER_BYTES as u64 || full {
            self.change_over();
        }
        if self.bytes < HEADER_BYTES as u64 {
            return false;
        }
        let whole = write_whole(&self.newer, line, self.bytes);
        if whole {
            self.bytes += line.len() as u64;
        }
        whole
    }

    /// Begins a new half over the older one. Where that fails there is none: it is tried again with the next line.
    fn change_over(&mut self) {
        let next = self.sequence.saturating_add(1);
        let begun = self.older.set_len(0).is_ok() && write_whole(&self.older, header(next).as_bytes(), 0);
        self.bytes = 0;
        if begun {
            std::mem::swap(&mut self.newer, &mut self.older);
            self.sequence = next;
            self.bytes = HEADER_BYTES as u64;
        }
    }

    /// A line that the last worker was killed over.
    fn drop_torn_line(&mut self) -> io::Result<()> {
        let start = self.bytes.saturating_sub(LINE_BYTES_MAX as u64);
        let mut end = vec![0; (self.bytes - start) as usize];
        self.newer.read_exact_at(&mut end, start)?;
        if let Some(newline) = end.iter().rposition(|byte| *byte == b'\n')
            && newline + 1 < end.len()
        {
            self.bytes = start + newline as u64 + 1;
            self.newer.set_len(self.bytes)?;
        }
        Ok(())
    }
}

/// Whether all of it was written. What was written of the rest is taken back.
fn write_whole(file: &File, bytes: &[u8], offset: u64) -> bool {
    let whole = matches!(file.write_at(bytes, offset), Ok(written) if written == bytes.len());
    if !whole {
        // A reader skips what remains should this fail, too: it does not end as a line does.
        let _ = file.set_len(offset);
    }
    whole
}
