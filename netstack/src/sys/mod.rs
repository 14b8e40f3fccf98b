//! What touches raw memory: the exports of the wasm module and its allocator. The only unsafe code of this crate.
#![cfg(target_arch = "wasm32")]
#![allow(unsafe_code)]

mod heap;
mod panic;
mod wasm;
