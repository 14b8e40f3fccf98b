//! Builds what runs as WebAssembly (netstack and guests), which this crate embeds.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    let runtime = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let root = runtime.parent().expect("the crate is a folder of the workspace");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("wasm");
    for path in ["netstack", "guests", "scripts/build-wasm.sh", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(path).display());
    }
    println!("cargo::rustc-env=ROAM_WASM_DIR={}", out.display());
    let script = root.join("scripts/build-wasm.sh");
    let output = Command::new("sh").arg(&script).arg(&out).output();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            for line in String::from_utf8_lossy(&output.stderr).lines() {
                println!("cargo::error={line}");
            }
            std::process::exit(1);
        }
        Err(error) => {
            println!("cargo::error=cannot run {}: {error}", script.display());
            std::process::exit(1);
        }
    }
}
