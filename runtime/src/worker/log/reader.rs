//! The daemon's side of a log.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{FILES, HEADER_BYTES, LEVELS, LINE_BYTES_MAX, sequence};
use crate::api::LogEntry;

/// Bytes read at once: at least one whole line.
const PIECE_BYTES: usize = 64 * 1024;
const _: () = assert!(PIECE_BYTES > LINE_BYTES_MAX);
/// Looks at the files before a reader says that nothing is new: a half may be overwritten while it is read, but not time
/// and again unless the worker means to keep us busy.
const LOOKS_MAX: usize = 8;

/// Reads a log from its oldest line or its last few, and goes on with lines as they come. What is overwritten before it
/// was read is skipped. The files are the worker's, which may have become hostile: nothing in them is trusted.
pub struct LogReader {
    files: [File; 2],
    /// Where to go on.
    position: Option<Position>,
}

/// Where a line begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    sequence: u64,
    offset: u64,
}

struct Line {
    position: Position,
    entry: LogEntry,
}

impl LogReader {
    /// Opens the log in that directory, at its oldest line or its last `tail` ones.
    pub fn open(directory: &Path, tail: Option<u64>) -> io::Result<Self> {
        let open = |name: &str| File::open(directory.join(name));
        let mut reader = Self { files: [open(FILES[0])?, open(FILES[1])?], position: None };
        if let Some(lines_max) = tail {
            reader.seek(usize::try_from(lines_max).unwrap_or(usize::MAX))?;
        }
        Ok(reader)
    }

    /// The next lines, as many as are read at once; none if there are none yet. Reads files: not for an async task.
    pub fn read(&mut self) -> io::Result<Vec<LogEntry>> {
        Ok(self.lines()?.into_iter().map(|line| line.entry).collect())
    }

    /// Goes to the last lines.
    fn seek(&mut self, lines_max: usize) -> io::Result<()> {
        let mut last = VecDeque::new();
        // As much as there is now: a worker that writes all the while does not keep us here.
        let mut pieces = 0;
        for file in &self.files {
            pieces += 2 + file.metadata()?.len() / LINE_BYTES_MAX as u64;
        }
        for _ in 0..pieces {
            let lines = self.lines()?;
            if lines.is_empty() {
                break;
            }
            for line in lines {
                if last.len() == lines_max {
                    last.pop_front();
                }
                if lines_max > 0 {
                    last.push_back(line.position);
                }
            }
        }
        self.position = last.front().copied().or(self.position);
        Ok(())
    }

    fn lines(&mut self) -> io::Result<Vec<Line>> {
        for _ in 0..LOOKS_MAX {
            let Some(position) = self.position.or_else(|| self.first_after(0)) else { return Ok(Vec::new()) };
            let Some(file) = self.half(position.sequence) else {
                self.position = self.first_after(position.sequence);
                continue;
            };
            // Seen before the read: then what is read reaches to this half's end.
            let next_half = position.sequence.checked_add(1).filter(|next| self.half(*next).is_some());
            let mut piece = vec![0; PIECE_BYTES];
            let read = file.read_at(&mut piece, position.offset)?;
            if sequence(file) != Some(position.sequence) {
                // Overwritten under our eyes.
                continue;
            }
            let (lines, next) = split(&piece[..read], position);
            self.position = Some(next);
            if !lines.is_empty() {
                return Ok(lines);
            }
            if next == position {
                let Some(next_half) = next_half else { return Ok(Vec::new()) };
                self.position = Some(start_of(next_half));
            }
        }
        Ok(Vec::new())
    }

    fn half(&self, number: u64) -> Option<&File> {
        self.files.iter().find(|file| sequence(file) == Some(number))
    }

    /// Where the oldest half after that one begins.
    fn first_after(&self, number: u64) -> Option<Position> {
        self.files.iter().filter_map(sequence).filter(|found| *found > number).min().map(start_of)
    }
}

fn start_of(sequence: u64) -> Position {
    Position { sequence, offset: HEADER_BYTES as u64 }
}

/// The whole lines of a piece, and where to go on. What is no entry is skipped.
fn split(piece: &[u8], start: Position) -> (Vec<Line>, Position) {
    let mut position = start;
    let mut lines = Vec::new();
    for line in piece.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
        if let Ok(entry) = serde_json::from_slice::<LogEntry>(line)
            && LEVELS.contains(&entry.level.as_str())
        {
            lines.push(Line { position, entry });
        }
        position.offset += line.len() as u64;
    }
    if position == start && piece.len() == PIECE_BYTES {
        // No worker of ours writes a line as long as that.
        position.offset += piece.len() as u64;
    }
    (lines, position)
}
