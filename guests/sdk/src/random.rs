//! Random bytes from the guest's own generator, which is part of its state: a migrated guest goes on where it was.

use roam_abi::limits::RANDOM_BYTES_MAX;

use crate::{Result, sys};

/// Fills `bytes`.
pub fn fill(bytes: &mut [u8]) -> Result<()> {
    for chunk in bytes.chunks_mut(RANDOM_BYTES_MAX) {
        sys::random(chunk)?;
    }
    Ok(())
}

/// A random number of the whole range.
pub fn u64() -> Result<u64> {
    let mut bytes = [0; 8];
    fill(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
