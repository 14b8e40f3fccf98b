//! What the tests with the real thing share.
#![allow(dead_code)]

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use roam_runtime::lab::{Lab, LabError, require};

/// How long anything may take before a test gives up on it. Far beyond what it takes.
pub const LIMIT: Duration = Duration::from_secs(30);

static SKIPPED: AtomicUsize = AtomicUsize::new(0);

/// Says that the running test checked nothing, and why. Not by `eprintln`, which the test harness swallows.
pub fn skip(reason: impl std::fmt::Display) {
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    let name = std::thread::current().name().unwrap_or("test").to_owned();
    let _ = writeln!(std::io::stderr(), "skipped: {name}: {reason} ({count} skipped so far)");
}

/// A lab, or `None` and a word on standard error when this machine cannot have one.
pub fn lab() -> Option<Lab> {
    match Lab::new() {
        Ok(lab) => Some(lab),
        Err(LabError::Missing(missing)) => {
            skip(missing);
            None
        }
        Err(error) => panic!("no lab: {error}"),
    }
}

/// Whether `tool` is there; else a word on standard error.
pub fn has(tool: &'static str, package: &'static str) -> bool {
    require(tool, package).map_err(skip).is_ok()
}
