//! Manifests and configuration files: whatever somebody wrote is a setting or a sentence.
#![no_main]

use libfuzzer_sys::fuzz_target;
use roam_runtime::cli;

fuzz_target!(|text: &str| {
    let (manifest, config) = cli::settings(text);
    if let Ok(guests) = manifest {
        assert!(guests > 0, "a manifest without guests is refused");
    }
    for error in [manifest.err(), config.err()].into_iter().flatten() {
        assert!(!error.to_string().is_empty(), "a refusal without a reason");
    }
});
