//! The file of migrations that are over: one JSON object a line, the oldest first.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::KEPT_MAX;
use crate::api::MigrationView;
use crate::host::layout;

/// Lines at which the file is written anew with those that are kept.
const LINES_MAX: usize = 2 * KEPT_MAX;
/// A larger file is none of ours, bytes.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The file. It is a record for people: what a crash takes of it is missed by nobody, so no line waits for the disk.
pub(super) struct History {
    path: PathBuf,
    lines: usize,
    /// Whether something in it is no whole line.
    damaged: bool,
}

impl History {
    /// And what is in it.
    pub(super) fn open(path: PathBuf) -> (Self, VecDeque<MigrationView>) {
        match read(&path) {
            Ok((over, lines, unreadable)) => {
                if unreadable > 0 {
                    tracing::warn!(path = %path.display(), unreadable, "some past migrations cannot be read");
                }
                (Self { path, lines, damaged: unreadable > 0 }, over)
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "past migrations cannot be read; none are known");
                (Self { path, lines: 0, damaged: true }, VecDeque::new())
            }
        }
    }

    /// Adds one. `all` are those that are kept, it included. What fails is said; the daemon knows it all the same.
    pub(super) fn add(&mut self, view: &MigrationView, all: impl FnOnce() -> Vec<MigrationView>) {
        let added = if self.damaged || self.lines >= LINES_MAX { self.renew(&all()) } else { self.append(view) };
        if let Err(error) = added {
            self.damaged = true;
            tracing::warn!(path = %self.path.display(), %error, "a migration that is over is not on disk");
        }
    }

    fn append(&mut self, view: &MigrationView) -> io::Result<()> {
        let mut file = File::options().append(true).create(true).mode(0o600).open(&self.path)?;
        file.write_all(&lines(std::slice::from_ref(view))?)?;
        self.lines += 1;
        Ok(())
    }

    fn renew(&mut self, all: &[MigrationView]) -> io::Result<()> {
        layout::write_whole(&self.path, &lines(all)?)?;
        (self.lines, self.damaged) = (all.len(), false);
        Ok(())
    }
}

fn lines(views: &[MigrationView]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for view in views {
        serde_json::to_writer(&mut bytes, view)?;
        bytes.push(b'\n');
    }
    Ok(bytes)
}

/// What can be read, how many lines there are, and how many of them cannot be.
fn read(path: &Path) -> io::Result<(VecDeque<MigrationView>, usize, usize)> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((VecDeque::new(), 0, 0)),
        file => file?,
    };
    let mut bytes = Vec::new();
    if file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)? as u64 > FILE_BYTES_MAX {
        fs::remove_file(path)?;
        return Err(io::Error::other(format!("it had over {FILE_BYTES_MAX} bytes, and was removed")));
    }
    let (mut over, mut count, mut unreadable) = (VecDeque::new(), 0, 0);
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        count += 1;
        // Cut off by a crash: it would swallow the next one.
        let whole = line.strip_suffix(b"\n");
        match whole.and_then(|line| serde_json::from_slice::<MigrationView>(line).ok()).filter(MigrationView::is_over) {
            Some(view) => over.push_back(view),
            None => unreadable += 1,
        }
    }
    over.drain(..over.len().saturating_sub(KEPT_MAX));
    Ok((over, count, unreadable))
}
