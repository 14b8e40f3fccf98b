//! The door to the host: the only unsafe code of a guest.

#[cfg(not(target_arch = "wasm32"))]
mod native;
#[cfg(target_os = "wasi")]
#[allow(unsafe_code)]
mod wasi;
#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code)]
mod wasm;

#[cfg(not(target_arch = "wasm32"))]
pub(crate) use native::*;
#[cfg(target_arch = "wasm32")]
pub(crate) use wasm::*;
