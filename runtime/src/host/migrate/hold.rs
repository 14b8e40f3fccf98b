//! Where tests stop a migration, a checkpoint or a restore: before any of its steps, for as long as they like.
//!
//! Only where `ROAM_MIGRATION_HOLD` names a directory, which nothing but a test does. A step is named by its side and its
//! command, for a message that is sent by the message: `source-Freeze`, `target-Taken`. It is held if a file of that name is
//! in the directory: the file is renamed to `NAME.held`, and the step waits until that is gone. A file `free-memory` there
//! says how many bytes of memory the host is to believe to be free.

use std::fmt::Debug;
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

/// Between two looks whether the step may go on.
const PAUSE: Duration = Duration::from_millis(1);

static DIR: LazyLock<Option<PathBuf>> = LazyLock::new(|| std::env::var_os("ROAM_MIGRATION_HOLD").map(PathBuf::from));

/// Before a command is carried out.
pub(super) fn command(side: &str, command: &impl Debug) {
    if DIR.is_some() {
        let text = format!("{command:?}");
        let mut words = text.split(|letter: char| !letter.is_alphanumeric()).skip_while(|word| *word == "Send");
        at(side, words.next().unwrap_or_default());
    }
}

/// At a step that is no command of its own.
pub(in crate::host) fn at(side: &str, step: &str) {
    let Some(dir) = &*DIR else { return };
    let held = dir.join(format!("{side}-{step}.held"));
    if fs::rename(dir.join(format!("{side}-{step}")), &held).is_err() {
        return;
    }
    while held.exists() {
        thread::sleep(PAUSE);
    }
}

/// What a test has this host believe of its memory, bytes.
pub(super) fn free_memory_bytes() -> Option<u64> {
    fs::read_to_string(DIR.as_ref()?.join("free-memory")).ok()?.parse().ok()
}
