//! JSON of peers, and of files that a worker wrote or a crash cut short: it is refused or understood, and what is
//! understood says the same when it is written again.
//!
//! Input: a byte that chooses what it is taken for, then the text.
#![no_main]

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use roam_runtime::api::{ErrorBody, GuestSpec, GuestStats, GuestView, Health, HostView, LogEntry, ModuleView, sdn};
use roam_runtime::host::is_record;
use roam_runtime::worker::read_end;
use serde::Serialize;
use serde::de::DeserializeOwned;

static END: LazyLock<PathBuf> =
    LazyLock::new(|| std::env::temp_dir().join(format!("roam-fuzz-end-{}.json", std::process::id())));

fuzz_target!(|data: &[u8]| {
    let Some((kind, text)) = data.split_first() else { return };
    match kind % 17 {
        0 => {
            if let Some(spec) = again::<GuestSpec>(text) {
                let _ = spec.check();
            }
        }
        1 => drop(again::<GuestView>(text)),
        2 => drop(again::<GuestStats>(text)),
        3 => drop(again::<HostView>(text)),
        4 => drop(again::<ModuleView>(text)),
        5 => drop(again::<Health>(text)),
        6 => drop(again::<LogEntry>(text)),
        7 => drop(again::<ErrorBody>(text)),
        8 => drop(is_record(text)),
        9 => drop(again::<sdn::Claim>(text)),
        10 => drop(again::<sdn::Move>(text)),
        11 => drop(again::<sdn::Join>(text)),
        12 => drop(again::<sdn::Heartbeat>(text)),
        13 => drop(again::<sdn::Front>(text)),
        14 => {
            // A table that a controller sends is taken over whole.
            if let Some(table) = again::<sdn::TableView>(text) {
                let _ = table.into_table();
            }
        }
        15 => drop(again::<sdn::Update>(text)),
        _ => {
            std::fs::write(&*END, text).expect("a file");
            let _ = read_end(&END).expect("a file that is there can be read");
        }
    }
});

fn again<T: Serialize + DeserializeOwned + PartialEq + Debug>(text: &[u8]) -> Option<T> {
    let value: T = serde_json::from_slice(text).ok()?;
    let written = serde_json::to_vec(&value).expect("it is JSON");
    assert_eq!(serde_json::from_slice::<T>(&written).expect("what we wrote"), value);
    Some(value)
}
