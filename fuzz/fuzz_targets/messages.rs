//! Messages between daemon and worker, either of which may have become hostile, and the state of a guest: what is understood can be worked with,
//! and is the same when it goes on as JSON.
//!
//! Input: a byte that chooses the message, then its body.
#![no_main]

use libfuzzer_sys::fuzz_target;
use roam_runtime::api::GuestStats;
use roam_runtime::guest::SavedGuest;
use roam_runtime::worker::{Ask, Launch, Launched, Reply, Request, Told, decode};

fuzz_target!(|data: &[u8]| {
    let Some((kind, body)) = data.split_first() else { return };
    match kind % 7 {
        0 => drop(decode::<Request>(body)),
        1 => drop(decode::<Launched>(body)),
        2 => drop(decode::<Launch>(body)),
        4 => drop(decode::<Ask>(body)),
        5 => drop(decode::<Told>(body)),
        6 => {
            if let Ok(saved) = SavedGuest::from_bytes(body) {
                assert_eq!(SavedGuest::from_bytes(&saved.to_bytes()).expect("what we wrote"), saved);
            }
        }
        _ => {
            if let Ok(Reply::Stats(stats)) = decode(body) {
                show(&stats);
            }
        }
    }
});

fn show(stats: &GuestStats) {
    for quantile in [0.5, 0.99, 1.0] {
        if let Some(time_ns) = stats.poll_times.quantile_ns(quantile) {
            assert!(time_ns <= stats.poll_times.max_ns);
        }
    }
    let text = serde_json::to_vec(stats).expect("counters are JSON");
    assert_eq!(&serde_json::from_slice::<GuestStats>(&text).expect("what we wrote"), stats);
}
