//! Linker arguments of the wasm module: a stack of 104 KiB keeps its initial memory at two pages, and no
//! names: a panic says by itself what and where.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("wasm32") {
        println!("cargo:rustc-link-arg-cdylib=-zstack-size=106496");
        println!("cargo:rustc-link-arg-cdylib=--strip-all");
    }
}
