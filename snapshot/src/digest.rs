//! One sum of all pages, kept as they change, so that both sides can compare a whole guest at the cost of its last
//! pages.
//!
//! ```text
//!  page ── PageDigest ──> table, one a page ──┐
//!                  sum of the table, kept ────┴─> seal: sum, shape, state
//! ```
//!
//! It finds what went wrong, not who means harm: the pages' hash is XXH3, quick and with no secret. Who could forge
//! pages could say any digest; that is what TLS is for.

use twox_hash::XxHash3_128;

use crate::page::{MemoryIndex, PAGE_BYTES, PageIndex, PageRange, Shape};

/// Digest of what a page holds and of where it is; 0 for a page of zeros wherever it is, and for no other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PageDigest(pub u128);

impl PageDigest {
    /// Of a page of zeros.
    pub const ZERO: Self = Self(0);

    /// Of these bytes at that place. The same bytes elsewhere have another, so that pages cannot change places unseen.
    pub fn of(memory: MemoryIndex, page: PageIndex, bytes: &[u8; PAGE_BYTES]) -> Self {
        if is_zero(bytes) {
            return Self::ZERO;
        }
        let place = u64::from(memory.0) << 32 | u64::from(page.0);
        Self(XxHash3_128::oneshot_with_seed(place, bytes).max(1))
    }
}

/// Whether a page is all zeros. Most others are found out by their first bytes.
pub fn is_zero(bytes: &[u8; PAGE_BYTES]) -> bool {
    let (blocks, _none_is_left) = bytes.as_chunks::<256>();
    blocks.iter().all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}

/// The digests of all pages of a guest, and their sum. Pages it was not told of are zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    memories: Vec<Vec<u128>>,
    /// Wraps; the order in which pages were set leaves no trace.
    sum: u128,
}

impl Digest {
    /// Makes room for memories that have grown. None shrinks.
    pub fn grow(&mut self, shape: &Shape) {
        let count = self.memories.len().max(shape.0.len());
        self.memories.resize(count, Vec::new());
        for (table, &pages) in self.memories.iter_mut().zip(&shape.0) {
            table.resize(table.len().max(pages as usize), 0);
        }
    }

    /// Replaces a page's digest.
    ///
    /// # Panics
    /// If there is no such page: whoever takes its place from a peer has looked whether the shape contains it.
    pub fn set(&mut self, memory: MemoryIndex, page: PageIndex, digest: PageDigest) {
        let table = self.memories.get_mut(usize::from(memory.0));
        let Some(old) = table.and_then(|table| table.get_mut(page.0 as usize)) else {
            panic!("page {} of memory {} is set, but there is none", page.0, memory.0);
        };
        self.sum = self.sum.wrapping_sub(*old).wrapping_add(digest.0);
        *old = digest.0;
    }

    /// Replaces the digests of a range by those of these bytes, and calls `changed` for each page whose digest is
    /// another now.
    ///
    /// # Panics
    /// As [`Self::set`], and if there are not as many bytes as the range has.
    pub fn set_range(&mut self, range: PageRange, bytes: &[u8], mut changed: impl FnMut(PageIndex)) {
        let (pages, rest) = bytes.as_chunks::<PAGE_BYTES>();
        assert!(rest.is_empty() && pages.len() == range.count as usize, "{} bytes for {range:?}", bytes.len());
        for (index, bytes) in (range.first.0..).map(PageIndex).zip(pages) {
            let digest = PageDigest::of(range.memory, index, bytes);
            if digest != self.get(range.memory, index) {
                self.set(range.memory, index, digest);
                changed(index);
            }
        }
    }

    /// A page's digest; that of zeros if there is no such page.
    pub fn get(&self, memory: MemoryIndex, page: PageIndex) -> PageDigest {
        let table = self.memories.get(usize::from(memory.0));
        PageDigest(table.and_then(|table| table.get(page.0 as usize)).copied().unwrap_or(0))
    }

    /// One digest of all pages, of how many each memory has, and of the state beside them.
    pub fn seal(&self, shape: &Shape, state: &[u8]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.sum.to_le_bytes());
        hasher.update(&(shape.0.len() as u64).to_le_bytes());
        for pages in &shape.0 {
            hasher.update(&pages.to_le_bytes());
        }
        hasher.update(state);
        *hasher.finalize().as_bytes().first_chunk().expect("a hash has 32 bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MEMORY: MemoryIndex = MemoryIndex(1);

    /// Few different pages, so that equal ones meet.
    fn page(kind: u8) -> [u8; PAGE_BYTES] {
        let mut bytes = [0; PAGE_BYTES];
        // The first and the last byte are those a careless check would miss.
        bytes[if kind.is_multiple_of(2) { PAGE_BYTES - 1 } else { 0 }] = kind;
        bytes
    }

    fn digest_of(pages: &[(u8, u32, u8)]) -> Digest {
        let mut digest = Digest::default();
        digest.grow(&Shape(vec![8, 8]));
        for &(memory, index, kind) in pages {
            let (memory, index) = (MemoryIndex(memory), PageIndex(index));
            digest.set(memory, index, PageDigest::of(memory, index, &page(kind)));
        }
        digest
    }

    fn memories_of(pages: &[(u8, u32, u8)]) -> [[u8; 8]; 2] {
        let mut memories = [[0; 8]; 2];
        pages.iter().for_each(|&(memory, page, kind)| memories[usize::from(memory)][page as usize] = kind);
        memories
    }

    #[test]
    fn only_zeros_are_zero() {
        assert_eq!(PageDigest::of(MEMORY, PageIndex(3), &[0; PAGE_BYTES]), PageDigest::ZERO);
        for at in [0, 255, 256, 2047, PAGE_BYTES - 1] {
            let mut bytes = [0; PAGE_BYTES];
            bytes[at] = 1;
            assert!(!is_zero(&bytes));
            assert_ne!(PageDigest::of(MEMORY, PageIndex(3), &bytes), PageDigest::ZERO);
        }
    }

    /// Both ends of a migration have to agree, whatever versions of a library they were built with.
    #[test]
    fn digests_are_what_they_always_were() {
        let one = PageDigest::of(MemoryIndex(1), PageIndex(2), &page(3));
        assert_eq!(one.0, 305_272_960_731_276_529_297_386_973_878_283_893_761);
        let mut digest = Digest::default();
        digest.grow(&Shape(vec![1, 3]));
        digest.set(MemoryIndex(1), PageIndex(2), one);
        let sealed = [252, 57, 110, 190, 196, 128, 3, 220, 96, 201, 175, 96, 91, 5, 49, 63];
        assert_eq!(digest.seal(&Shape(vec![1, 3]), b"state"), sealed);
    }

    #[test]
    fn a_range_is_set_page_by_page() {
        let mut digest = digest_of(&[(1, 3, 9)]);
        let range = PageRange { memory: MEMORY, first: PageIndex(2), count: 3 };
        let mut changed = Vec::new();
        digest.set_range(range, &[page(7), page(9), page(0)].concat(), |page| changed.push(page.0));
        assert_eq!(changed, [2], "page 3 was the same, page 4 is zero still");
        assert_eq!(digest, digest_of(&[(1, 2, 7), (1, 3, 9)]));
    }

    #[test]
    #[should_panic(expected = "page 8 of memory 0 is set, but there is none")]
    fn a_page_that_is_not_there_is_not_set() {
        digest_of(&[(0, 8, 1)]);
    }

    proptest! {
        /// Two guests have the same seal if their memories are equal, however they came to be so, and only then.
        #[test]
        fn equal_memories_have_equal_digests(
            steps in proptest::collection::vec((0u8..2, 0u32..8, 0u8..3), 0..12),
            others in proptest::collection::vec((0u8..2, 0u32..8, 0u8..3), 0..12),
        ) {
            let shape = Shape(vec![8, 8]);
            let (one, other) = (digest_of(&steps), digest_of(&others));
            let equal = memories_of(&steps) == memories_of(&others);
            prop_assert_eq!(one.seal(&shape, b"") == other.seal(&shape, b""), equal);
            // Each page once, from the last to the first.
            let mut pages = Vec::new();
            for (memory, kinds) in (0..).zip(memories_of(&steps)) {
                pages.extend((0..).zip(kinds).map(|(page, kind)| (memory, page, kind)));
            }
            pages.reverse();
            prop_assert_eq!(&digest_of(&pages), &one);
            prop_assert_ne!(one.seal(&shape, b"1"), one.seal(&shape, b""));
            prop_assert_ne!(one.seal(&Shape(vec![8, 9]), b""), one.seal(&shape, b""));
        }
    }
}
