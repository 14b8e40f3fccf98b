//! Modules from anybody: what is accepted must still be valid once its hidden state is exported.
#![no_main]

use libfuzzer_sys::fuzz_target;
use roam_runtime::engine;

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    if kind % 2 == 0 {
        check(rest);
    } else {
        let mut input = arbitrary::Unstructured::new(rest);
        if let Ok(module) = wasm_smith::Module::new(wasm_smith::Config::default(), &mut input) {
            check(&module.to_bytes());
        }
    }
});

fn check(bytes: &[u8]) {
    let Ok(prepared) = engine::prepare(bytes) else { return };
    if let Err(error) = engine::prepare(&prepared) {
        // Its own exports are now reserved names; nothing else may be wrong with it.
        assert!(error.to_string().contains("names that start with"), "{error}");
    }
}
