//! Linear memories: copying from one to another of the same store, forgetting what was written to one, and mapping a file
//! over one.

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;
use roam_snapshot::page::PAGE_BYTES;
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

/// Has the kernel back what lies behind the first `from` bytes, up to `reserved`, with huge pages where it can
/// (`MADV_HUGEPAGE`, madvise(2)), now and once the memory has grown: they are scanned for writes and copied many times quicker.
/// A kernel that has none says so, which changes nothing.
pub(crate) fn prefer_huge(store: impl AsContextMut, memory: Memory, from: usize, reserved: usize) {
    let bytes = reserved.saturating_sub(from);
    let address = memory.data_ptr(&store).wrapping_add(from);
    // SAFETY: the whole reservation belongs to the memory and stays mapped while the store lives; advice about the size of
    // pages changes no content.
    let _ = unsafe { libc::madvise(address.cast(), bytes, libc::MADV_HUGEPAGE) };
}

/// Maps `bytes` of a file from `place` on over a memory from `offset` on, all of them whole pages: it reads as the file
/// there, and what is written to it stays its own. `EINVAL`, and nothing mapped, if that is outside of the memory.
///
/// The file must have these bytes for as long as the memory lives, or reading them ends the process.
pub(crate) fn map_file(
    store: impl AsContextMut,
    (memory, offset): (Memory, u64),
    (file, place): (&File, u64),
    bytes: u64,
) -> nix::Result<()> {
    let size = memory.data_size(&store) as u64;
    let is_within = offset.checked_add(bytes).is_some_and(|end| end <= size);
    if bytes == 0 || !is_within || ![offset, place, bytes].iter().all(|it| it.is_multiple_of(PAGE_BYTES as u64)) {
        return Err(Errno::EINVAL);
    }
    let (offset, length) = (usize::try_from(offset), usize::try_from(bytes));
    let (Ok(offset), Ok(length), Ok(place)) = (offset, length, libc::off_t::try_from(place)) else {
        return Err(Errno::EINVAL);
    };
    // SAFETY: the offset is within the memory, which was checked above.
    let address = unsafe { memory.data_ptr(&store).add(offset) };
    let (rights, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_FIXED);
    // SAFETY: the range lies within a live memory of this store, which begins on a page and is never moved; its wasm is
    // not running and no Rust reference to it exists (the caller holds the store). Its rights stay as they are, and any
    // content is a valid one. When the memory goes, all that is mapped there goes.
    let mapped = unsafe { libc::mmap(address.cast(), length, rights, flags, file.as_raw_fd(), place) };
    if mapped == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(()) }
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
