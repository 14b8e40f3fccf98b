//! The module's allocator: blocks of fixed sizes, never split or joined.
//!
//! A socket's buffers and the rings are large, start as zeros and are mostly never touched. Memory that `memory.grow`
//! has just added *is* zero, so a fresh large block is handed out without writing to it, and a guest's resident
//! memory grows with what it uses, not with what it asked for. (dlmalloc would clear it, and is 6 KB of code.) The
//! sizes in use are few and come back again and again, so freed blocks wait in a list for each size.

use core::{
    alloc::{GlobalAlloc, Layout},
    arch::wasm32::memory_grow,
    ptr::{addr_of_mut, null_mut, write_bytes},
};

const PAGE_BYTES: usize = 64 * 1024;
/// The smallest block.
const BLOCK_BYTES_MIN: usize = 16;
/// Sizes are 2 a doubling: 16, 24, 32, 48, … up to 1.5 GiB.
const CLASSES: usize = 2 * 27;
/// Blocks of at least this many bytes are whole pages.
const LARGE_BYTES: usize = PAGE_BYTES / 2;

#[global_allocator]
static HEAP: Heap = Heap;

struct Heap;

struct State {
    /// The freed blocks of each size, linked through their first word.
    free: [*mut Block; CLASSES],
    /// The rest of the pages that small blocks are cut from.
    small: usize,
    small_end: usize,
}

struct Block {
    next: *mut Block,
}

static mut STATE: State = State { free: [null_mut(); CLASSES], small: 0, small_end: 0 };

fn state() -> &'static mut State {
    // SAFETY: the module has one thread, and each call of the allocator takes this reference once.
    unsafe { &mut *addr_of_mut!(STATE) }
}

// SAFETY: a block is at least as large and as aligned as asked (see `class`), comes from memory that is nobody else's,
// and is not handed out again before it is given back.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (state, class) = (state(), class(layout));
        state.recycled(class).unwrap_or_else(|| state.fresh(class))
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (state, class) = (state(), class(layout));
        let (block, is_zero) = match state.recycled(class) {
            Some(block) => (block, false),
            None => (state.fresh(class), bytes(class) >= LARGE_BYTES),
        };
        if !is_zero && !block.is_null() {
            // SAFETY: the block is at least `layout.size()` bytes long and nobody else's.
            unsafe { write_bytes(block, 0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        state().recycle(class(layout), block.cast());
    }
}

impl State {
    fn fresh(&mut self, class: usize) -> *mut u8 {
        let size = bytes(class);
        if class >= CLASSES {
            return null_mut();
        }
        if size >= LARGE_BYTES {
            return grow(size.div_ceil(PAGE_BYTES)).map_or(null_mut(), |start| start as *mut u8);
        }
        let mut start = self.small.next_multiple_of(alignment(size));
        if start + size > self.small_end {
            let Some(page) = grow(1) else { return null_mut() };
            // Where nothing else has grown the memory, the new page continues the last.
            if page != self.small_end {
                start = page;
            }
            self.small_end = page + PAGE_BYTES;
        }
        self.small = start + size;
        start as *mut u8
    }

    fn recycled(&mut self, class: usize) -> Option<*mut u8> {
        let head = self.free.get_mut(class).filter(|head| !head.is_null())?;
        let block = *head;
        // SAFETY: `recycle` wrote a `Block` there, and nobody has had the memory since.
        *head = unsafe { (*block).next };
        Some(block.cast())
    }

    fn recycle(&mut self, class: usize, block: *mut Block) {
        if let Some(head) = self.free.get_mut(class) {
            // SAFETY: the block was given back, and every block is aligned and large enough for a pointer.
            unsafe { block.write(Block { next: *head }) };
            *head = block;
        }
    }
}

/// The smallest class whose blocks are as large and as aligned as asked. Sizes past the last are [`CLASSES`].
fn class(layout: Layout) -> usize {
    // A block is aligned to the largest power of two that divides its size, as far as that of a page.
    let size = layout.size().max(layout.align()).max(BLOCK_BYTES_MIN);
    if layout.align() > PAGE_BYTES || size > 1 << 30 {
        return CLASSES;
    }
    let doublings = (size / BLOCK_BYTES_MIN).ilog2() as usize;
    let power = BLOCK_BYTES_MIN << doublings;
    let half = match size {
        size if size == power => 0,
        size if size <= power + power / 2 && layout.align() <= power / 2 => 1,
        _ => 2,
    };
    2 * doublings + half
}

/// The size of a class's blocks.
fn bytes(class: usize) -> usize {
    let power = BLOCK_BYTES_MIN << (class / 2);
    if class % 2 == 0 { power } else { power + power / 2 }
}

fn alignment(size: usize) -> usize {
    1 << size.trailing_zeros()
}

/// Adds pages to the memory; where they begin.
fn grow(pages: usize) -> Option<usize> {
    match memory_grow(0, pages) {
        usize::MAX => None,
        page => Some(page * PAGE_BYTES),
    }
}
