//! What a daemon leaves to the next one in moments in which there is no time for a disk: a file of one byte, made before and
//! written in place, so that a full disk is no obstacle either. It outlives the daemon, not the machine; no worker outlives
//! that.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What says nothing.
const NOTHING: u8 = 0;

/// A file that says how far something is.
#[derive(Debug)]
pub(in crate::host) struct Mark(File);

impl Mark {
    /// Makes the file, which says nothing yet.
    pub(in crate::host) fn make(path: &Path) -> io::Result<Self> {
        let mark = Self(File::create(path)?);
        mark.set(NOTHING)?;
        Ok(mark)
    }

    /// Has it say that; 0 is nothing.
    pub(in crate::host) fn set(&self, byte: u8) -> io::Result<()> {
        self.0.write_all_at(&[byte], 0)
    }

    /// What it says; nothing if there is no file.
    pub(in crate::host) fn read(path: &Path) -> io::Result<Option<u8>> {
        let mut said = Vec::new();
        match File::open(path).and_then(|file| file.take(1).read_to_end(&mut said)) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            read => read.map(|_| said.first().copied().filter(|byte| *byte != NOTHING)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_it_was_set_to_last() {
        let path = std::env::temp_dir().join(format!("roam-mark-{}", std::process::id()));
        assert_eq!(Mark::read(&path).unwrap(), None);
        let mark = Mark::make(&path).unwrap();
        assert_eq!(Mark::read(&path).unwrap(), None);
        for byte in [1, 2] {
            mark.set(byte).unwrap();
            assert_eq!(Mark::read(&path).unwrap(), Some(byte));
        }
        Mark::make(&path).unwrap();
        assert_eq!(Mark::read(&path).unwrap(), None, "a new one says nothing");
        std::fs::remove_file(&path).unwrap();
    }
}
