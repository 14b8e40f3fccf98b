//! The module's allocator: dlmalloc for small pieces, whole blocks of pages for large ones.
//!
//! A socket's buffers and the rings are large, start as zeros and are mostly never touched. Memory that `memory.grow`
//! has just added *is* zero, so a fresh large block is handed out without writing to it, and a guest's resident
//! memory grows with what it uses, not with what it asked for. (dlmalloc would clear it.)

use core::{
    alloc::{GlobalAlloc, Layout},
    arch::wasm32::memory_grow,
    ptr::{addr_of_mut, null_mut, write_bytes},
};

use dlmalloc::GlobalDlmalloc;

/// Requests of at least this many bytes get whole pages.
const LARGE_BYTES: usize = 32 * 1024;
const PAGE_BYTES: usize = 64 * 1024;
/// Sizes of large blocks: powers of two of pages, up to 2 GiB.
const CLASSES: usize = 16;

#[global_allocator]
static HEAP: Heap = Heap;

struct Heap;

/// The freed blocks of each size, linked through their first word. They are never split or joined: the sizes in use
/// are few, and what is freed is asked for again.
static mut FREE: [*mut Block; CLASSES] = [null_mut(); CLASSES];

struct Block {
    next: *mut Block,
}

// SAFETY: a block is handed out by one of `dlmalloc`, `memory.grow` or the free list of its size, is at least as large
// and as aligned as asked (pages are aligned to 64 KiB), and is not handed out again before it is given back.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match class(layout) {
            // SAFETY: the caller's promise about `layout` is passed on.
            None => unsafe { GlobalDlmalloc.alloc(layout) },
            Some(class) => recycled(class).unwrap_or_else(|| fresh(class)),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class(layout) else {
            // SAFETY: the caller's promise about `layout` is passed on.
            return unsafe { GlobalDlmalloc.alloc_zeroed(layout) };
        };
        match recycled(class) {
            Some(block) => {
                // SAFETY: the block is at least `layout.size()` bytes long and nobody else's.
                unsafe { write_bytes(block, 0, layout.size()) };
                block
            }
            None => fresh(class),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match class(layout) {
            // SAFETY: the caller's promise that `block` was allocated with `layout` is passed on.
            None => unsafe { GlobalDlmalloc.dealloc(block, layout) },
            Some(class) => recycle(class, block.cast()),
        }
    }
}

/// The size class of a large request; `None` for a small one. Sizes past the last class are its own refusal.
fn class(layout: Layout) -> Option<usize> {
    let pages = layout.size().div_ceil(PAGE_BYTES);
    (layout.size() >= LARGE_BYTES && layout.align() <= PAGE_BYTES).then(|| pages.next_power_of_two().ilog2() as usize)
}

fn fresh(class: usize) -> *mut u8 {
    if class >= CLASSES {
        return null_mut();
    }
    match memory_grow(0, 1 << class) {
        usize::MAX => null_mut(),
        page => (page * PAGE_BYTES) as *mut u8,
    }
}

fn recycled(class: usize) -> Option<*mut u8> {
    // SAFETY: the module has one thread, and no reference to the list outlives a function of this file.
    let free = unsafe { &mut *addr_of_mut!(FREE) };
    let head = free.get_mut(class).filter(|head| !head.is_null())?;
    let block = *head;
    // SAFETY: `recycle` wrote a `Block` there, and nobody has had the memory since.
    *head = unsafe { (*block).next };
    Some(block.cast())
}

fn recycle(class: usize, block: *mut Block) {
    // SAFETY: as in `recycled`.
    let free = unsafe { &mut *addr_of_mut!(FREE) };
    if let Some(head) = free.get_mut(class) {
        // SAFETY: the block was given back, is page-aligned and has at least one page.
        unsafe { block.write(Block { next: *head }) };
        *head = block;
    }
}
