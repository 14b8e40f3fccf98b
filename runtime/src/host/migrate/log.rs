//! A guest's log, which goes with it.

use std::io;
use std::path::Path;

use crate::worker::LogReader;

/// Lines of a log that were not taken yet.
pub(super) struct LogTail {
    reader: Option<LogReader>,
    /// Read and not taken, as they stand in the log.
    lines: Vec<u8>,
}

impl LogTail {
    /// From the log's beginning. A guest without one has none to take.
    pub(super) fn open(directory: &Path) -> Self {
        Self { reader: LogReader::open(directory, None).ok(), lines: Vec::new() }
    }

    /// Whole lines of at most so many bytes together; `None` if there are none for now.
    pub(super) fn take(&mut self, bytes_max: usize) -> io::Result<Option<Vec<u8>>> {
        if let Some(reader) = self.reader.as_mut().filter(|_| self.lines.len() < bytes_max) {
            for entry in reader.read()? {
                serde_json::to_writer(&mut self.lines, &entry)?;
                self.lines.push(b'\n');
            }
        }
        let within = &self.lines[..self.lines.len().min(bytes_max)];
        let Some(end) = within.iter().rposition(|byte| *byte == b'\n') else { return Ok(None) };
        let rest = self.lines.split_off(end + 1);
        Ok(Some(std::mem::replace(&mut self.lines, rest)))
    }
}
