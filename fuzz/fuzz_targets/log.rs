//! A log whose files a hostile worker wrote: reading ends, gives no more than there is, and the last lines are the last
//! of all lines.
//!
//! Input: how many last lines, which of the files begin as a log does, where the first ends, and their bytes.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use roam_runtime::api::LogEntry;
use roam_runtime::worker::LogReader;

/// Shortest line of a log.
const LINE_BYTES_MIN: usize = r#"{"at_ms":0,"level":"","text":""}"#.len();

static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = std::env::temp_dir().join(format!("roam-fuzz-log-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    directory
});

fuzz_target!(|data: &[u8]| {
    let [tail, heads, split_low, split_high, content @ ..] = data else { return };
    let split = usize::from(u16::from_le_bytes([*split_low, *split_high])).min(content.len());
    let (first, second) = content.split_at(split);
    write("log.0", heads & 0x0f, first);
    write("log.1", heads >> 4, second);
    let all = read(None, content.len());
    let last = read(Some((*tail).into()), content.len());
    let expected = &all[all.len().saturating_sub((*tail).into())..];
    assert_eq!(last, expected);
});

/// Writes a half, behind a whole first line unless its number is 0.
fn write(name: &str, number: u8, content: &[u8]) {
    let mut bytes = Vec::new();
    if number > 0 {
        bytes.extend_from_slice(format!("{{\"half\":\"{number:016x}\"}}\n").as_bytes());
    }
    bytes.extend_from_slice(content);
    std::fs::write(DIRECTORY.join(name), bytes).expect("a file");
}

fn read(tail: Option<u64>, bytes: usize) -> Vec<LogEntry> {
    let mut reader = LogReader::open(&DIRECTORY, tail).expect("the files are there");
    let mut entries = Vec::new();
    loop {
        let next = reader.read().expect("files can be read");
        if next.is_empty() {
            return entries;
        }
        entries.extend(next);
        assert!(entries.len() <= bytes / LINE_BYTES_MIN + 1, "more lines than there are bytes for");
    }
}
