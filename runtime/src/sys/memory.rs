//! Linear memories: copying from one to another of the same store, and forgetting what was written to one.

use nix::errno::Errno;
use nix::libc;
use wasmtime::{AsContext, AsContextMut, Memory};

/// Copies `len` bytes from `source` to `target`, each a memory and an offset into it. `None`, and nothing copied, if a
/// range is outside its memory.
///
/// wasmtime's safe interface borrows the whole store for each memory, so that two cannot be open at once; this saves
/// a detour through a buffer on every payload.
pub(crate) fn copy(store: impl AsContext, source: (Memory, u32), target: (Memory, u32), len: usize) -> Option<()> {
    let fits = |(memory, offset): (Memory, u32)| {
        (offset as usize).checked_add(len).is_some_and(|end| end <= memory.data_size(&store))
    };
    if !fits(source) || !fits(target) {
        return None;
    }
    // SAFETY: the offset is within the memory, which was checked above.
    let from = unsafe { source.0.data_ptr(&store).add(source.1 as usize) };
    // SAFETY: as above.
    let to = unsafe { target.0.data_ptr(&store).add(target.1 as usize) };
    // SAFETY: both ranges are inside live memories of this store, whose wasm is not running and of which no Rust
    // reference exists (the caller holds the store); `copy` allows overlap, should both be the same memory.
    unsafe { std::ptr::copy(from, to, len) };
    Some(())
}

/// Gives the pages of a memory back to the kernel (`MADV_DONTNEED`, madvise(2)): it reads as what is mapped there, a
/// private image of the module's data at its start, zeros elsewhere.
pub(crate) fn forget(store: impl AsContextMut, memory: Memory) -> nix::Result<()> {
    // SAFETY: the range is that of a live memory of this store, a private mapping that begins on a page; its wasm is not
    // running and no Rust reference to it exists (the caller holds the store). Any content is a valid one.
    let result =
        unsafe { libc::madvise(memory.data_ptr(&store).cast(), memory.data_size(&store), libc::MADV_DONTNEED) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmtime::{Engine, MemoryType, Store};

    #[test]
    fn copies_inside_and_refuses_outside() {
        let engine = Engine::default();
        let mut store = Store::new(&engine, ());
        let a = Memory::new(&mut store, MemoryType::new(1, Some(1))).expect("a page");
        let b = Memory::new(&mut store, MemoryType::new(1, Some(1))).expect("a page");
        a.write(&mut store, 65_533, b"abc").expect("in bounds");
        assert_eq!(copy(&store, (a, 65_533), (b, 0), 3), Some(()));
        assert_eq!(&b.data(&store)[..4], b"abc\0");
        assert_eq!(copy(&store, (a, 65_534), (b, 0), 3), None);
        assert_eq!(copy(&store, (a, 0), (b, 65_536), 1), None);
        assert_eq!(copy(&store, (a, u32::MAX), (b, 0), usize::MAX), None);
        assert_eq!(copy(&store, (a, 65_536), (b, 65_536), 0), Some(()));
    }
}
