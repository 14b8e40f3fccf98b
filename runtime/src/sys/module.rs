//! Mapping compiled modules.

use std::fs::File;

/// Maps a file that [`wasmtime::Module::serialize`] wrote.
///
/// The caller has checked that the file is what this user wrote (see [`crate::engine::Cache`]).
pub(crate) fn map_open(engine: &wasmtime::Engine, artifact: File) -> wasmtime::Result<wasmtime::Module> {
    // SAFETY: the cache hands out only files in a directory that no other user can write, whose content has the digest
    // recorded when this program serialised a module into it, and never changes a file in place. A jailed worker gets
    // such a file as a descriptor.
    unsafe { wasmtime::Module::deserialize_open_file(engine, artifact) }
}
