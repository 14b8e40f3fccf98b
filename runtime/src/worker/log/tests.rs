#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::guest::LogLine;

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("roam-log-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn log(&self, half_bytes: u64) -> Log {
        let [newer, older] = open_log(&self.0).unwrap();
        Log::begin(newer, older, half_bytes, 1_000_000_000).unwrap()
    }

    fn read(&self, tail: Option<u64>) -> Vec<u64> {
        numbers(&mut LogReader::open(&self.0, tail).unwrap())
    }

    /// Newer and older file, by content.
    fn files(&self) -> [File; 2] {
        open_log(&self.0).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn line(number: u64, bytes: usize) -> LogLine {
    LogLine { at_ns: 5_000_000, level: 2, text: format!("{number} {}", "\n".repeat(bytes)) }
}

/// All that is to be read, by the number each line begins with.
fn numbers(reader: &mut LogReader) -> Vec<u64> {
    let mut numbers = Vec::new();
    loop {
        let entries = reader.read().unwrap();
        if entries.is_empty() {
            return numbers;
        }
        numbers.extend(entries.iter().map(|entry| entry.text.split(' ').next().unwrap().parse::<u64>().unwrap()));
    }
}

#[test]
fn lines_are_entries_and_go_on_after_a_restart() {
    let scratch = Scratch::new();
    scratch.log(1 << 20).write(&line(1, 0));
    scratch.log(1 << 20).write(&line(2, 0));
    assert_eq!(scratch.read(None), [1, 2]);
    assert_eq!(scratch.read(Some(1)), [2]);
    assert_eq!(scratch.read(Some(0)), [] as [u64; 0]);
    let entry = LogReader::open(&scratch.0, None).unwrap().read().unwrap().remove(0);
    assert_eq!((entry.at_ms, entry.level.as_str()), (1005, "warn"));
    let mut follower = LogReader::open(&scratch.0, Some(0)).unwrap();
    scratch.log(1 << 20).write(&line(3, 0));
    assert_eq!(numbers(&mut follower), [3]);
}

#[test]
fn what_is_no_line_is_skipped() {
    let scratch = Scratch::new();
    let mut log = scratch.log(1 << 20);
    log.write(&line(1, 0));
    let garbage = [b"garbage\n{}\n".as_slice(), &[b'x'; 200_000], b"\n\xFF\n"].concat();
    let [newer, _] = scratch.files();
    newer.write_at(&garbage, newer.metadata().unwrap().len()).unwrap();
    scratch.log(1 << 20).write(&line(2, 0));
    assert_eq!(scratch.read(None), [1, 2]);
    // Numbers that lie.
    let [newer, older] = scratch.files();
    older.write_at(header(u64::MAX).as_bytes(), 0).unwrap();
    newer.write_at(header(u64::MAX - 1).as_bytes(), 0).unwrap();
    assert_eq!(scratch.read(None), [1, 2]);
}

#[test]
fn lines_that_cannot_be_written_are_counted_and_told() {
    let scratch = Scratch::new();
    // A file that takes nothing.
    let full = || OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
    let [newer, older] = scratch.files();
    let mut log = Log::begin(newer, older, 1 << 20, 0).unwrap();
    log.write(&line(1, 0));
    let file = std::mem::replace(log.newer_for_test(), full());
    log.write(&line(2, 0));
    log.write(&line(3, 0));
    assert_eq!(log.lines_dropped(), 2);
    *log.newer_for_test() = file;
    log.write(&line(4, 0));
    let said: Vec<_> = LogReader::open(&scratch.0, None).unwrap().read().unwrap();
    let said: Vec<_> = said.iter().map(|entry| entry.text.as_str()).collect();
    assert_eq!(said, ["1 ", "2 log lines were lost: they could not be written", "4 "]);
}

/// What happens to a log.
#[derive(Clone, Debug)]
enum Event {
    Write {
        bytes: usize,
    },
    /// Killed while the last line was written: so much of it is there.
    TornLine {
        bytes: usize,
        kept: usize,
    },
    /// Killed while changing over: so much of the first line is there.
    TornHeader {
        kept: usize,
    },
    Restart,
    /// A reader that is slow looks.
    Look,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        8 => (0usize..200).prop_map(|bytes| Event::Write { bytes }),
        1 => (0usize..200, 0usize..400).prop_map(|(bytes, kept)| Event::TornLine { bytes, kept }),
        1 => (0usize..HEADER_BYTES).prop_map(|kept| Event::TornHeader { kept }),
        1 => Just(Event::Restart),
        1 => Just(Event::Look),
    ];
    proptest::collection::vec(event, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Readers see each line once and in order: one that keeps up sees all; one that is slow misses only what was
    /// overwritten; a new one sees a whole end of the log.
    #[test]
    fn no_reader_repeats_reorders_or_loses(events in events(), half_bytes in 100u64..2000) {
        let scratch = Scratch::new();
        let mut log = scratch.log(half_bytes);
        let mut quick = LogReader::open(&scratch.0, None).unwrap();
        let mut slow = LogReader::open(&scratch.0, None).unwrap();
        let (mut written, mut seen, mut seen_slowly) = (0, Vec::new(), Vec::new());
        for event in events {
            match event {
                Event::Write { bytes } => {
                    written += 1;
                    log.write(&line(written, bytes));
                }
                Event::TornLine { bytes, kept } => {
                    let before: Vec<_> = scratch.files().iter().map(sequence).collect();
                    let start = scratch.files()[0].metadata().unwrap().len();
                    log.write(&line(written + 1, bytes));
                    let [newer, _] = scratch.files();
                    let whole = newer.metadata().unwrap().len();
                    // Changing over has moved the start.
                    let start = if sequence(&newer) == before[0] { start } else { HEADER_BYTES as u64 };
                    let end = start + (kept as u64).min(whole - start);
                    newer.set_len(end).unwrap();
                    written += u64::from(end == whole);
                    log = scratch.log(half_bytes);
                }
                Event::TornHeader { kept } => {
                    let [newer, older] = scratch.files();
                    // A half without a line is not changed over from.
                    if newer.metadata().unwrap().len() > HEADER_BYTES as u64 {
                        older.set_len(0).unwrap();
                        older.write_at(&header(sequence(&newer).unwrap() + 1).as_bytes()[..kept], 0).unwrap();
                    }
                    log = scratch.log(half_bytes);
                }
                Event::Restart => log = scratch.log(half_bytes),
                Event::Look => seen_slowly.extend(numbers(&mut slow)),
            }
            seen.extend(numbers(&mut quick));
        }
        prop_assert_eq!(&seen, &(1..=written).collect::<Vec<_>>());
        seen_slowly.extend(numbers(&mut slow));
        prop_assert!(seen_slowly.is_sorted_by(|a, b| a < b), "{:?}", seen_slowly);
        let kept = scratch.read(None);
        prop_assert_eq!(&kept, &(written + 1 - kept.len() as u64..=written).collect::<Vec<_>>());
        prop_assert!(seen_slowly.ends_with(&kept), "{:?} {:?}", seen_slowly, kept);
        prop_assert!(written == 0 || !kept.is_empty());
        for tail in 0..kept.len() + 1 {
            prop_assert_eq!(&scratch.read(Some(tail as u64)), &kept[kept.len() - tail..]);
        }
        for file in scratch.files() {
            prop_assert!(file.metadata().unwrap().len() <= half_bytes.max(HEADER_BYTES as u64 + LINE_BYTES_MAX as u64));
        }
    }
}
