//! Records which commit the benchmark was built from: results are worth little without it.

use std::process::Command;

fn main() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    for path in [".git/HEAD", ".git/index", ".git/logs/HEAD"] {
        println!("cargo::rerun-if-changed={root}/{path}");
    }
    let described = Command::new("git").args(["-C", root, "describe", "--always", "--dirty", "--abbrev=12"]).output();
    // A source tree without git is no reason not to build.
    let commit = described
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .unwrap_or_else(|| "unknown".into());
    println!("cargo::rustc-env=ROAM_COMMIT={}", commit.trim());
}
