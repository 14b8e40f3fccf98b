//! Pages of linear memories, and sets of them.

use serde::{Deserialize, Serialize};

/// Bytes of a page: the unit that is tracked and sent. A page of WebAssembly has sixteen.
pub const PAGE_BYTES: usize = 4096;
/// Most memories of a guest, its netstack's included.
pub const MEMORIES_MAX: usize = 8;
/// Most pages of one memory: 4 GiB.
pub const PAGES_MAX: u32 = 1 << 20;

/// A linear memory of a guest: the guest's own first, in the order of its exports, the netstack's last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MemoryIndex(pub u8);

/// A page of one memory, counted from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PageIndex(pub u32);

/// Pages of one memory that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PageRange {
    /// Which memory.
    pub memory: MemoryIndex,
    /// The first of them.
    pub first: PageIndex,
    /// How many.
    pub count: u32,
}

impl PageRange {
    /// Their bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.count) * PAGE_BYTES as u64
    }

    /// Where they begin, bytes from the memory's start.
    pub fn offset(self) -> u64 {
        u64::from(self.first.0) * PAGE_BYTES as u64
    }

    /// The page after the last.
    pub fn end(self) -> u64 {
        u64::from(self.first.0) + u64::from(self.count)
    }
}

/// How many pages each memory has, by [`MemoryIndex`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape(pub Vec<u32>);

/// Why a shape or a range cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// More memories than a guest may have.
    #[error("{0} memories; the limit is {MEMORIES_MAX}")]
    Memories(usize),
    /// A memory over its limit.
    #[error("memory {memory} has {pages} pages; the limit is {pages_max}")]
    Pages {
        /// Which.
        memory: u8,
        /// How many it says.
        pages: u32,
        /// The limit.
        pages_max: u32,
    },
    /// A range that is not within its memory.
    #[error("pages {first}+{count} of memory {memory} are outside of it")]
    Outside {
        /// Which.
        memory: u8,
        /// The first.
        first: u32,
        /// How many.
        count: u32,
    },
}

impl Shape {
    /// Whether a guest can have such memories.
    pub fn check(&self) -> Result<(), PageError> {
        if self.0.len() > MEMORIES_MAX {
            return Err(PageError::Memories(self.0.len()));
        }
        match self.0.iter().enumerate().find(|(_, pages)| **pages > PAGES_MAX) {
            Some((memory, &pages)) => {
                Err(PageError::Pages { memory: u8::try_from(memory).unwrap_or(u8::MAX), pages, pages_max: PAGES_MAX })
            }
            None => Ok(()),
        }
    }

    /// Pages of all memories.
    pub fn pages(&self) -> u64 {
        self.0.iter().map(|pages| u64::from(*pages)).sum()
    }

    /// Whether memories of this shape can become such: as many, and none shrinks.
    pub fn grows_to(&self, later: &Self) -> bool {
        self.0.len() == later.0.len() && self.0.iter().zip(&later.0).all(|(pages, later)| pages <= later)
    }

    /// Whether a range lies within its memory and has a page.
    pub fn contains(&self, range: PageRange) -> Result<(), PageError> {
        let pages = self.0.get(usize::from(range.memory.0)).copied().unwrap_or(0);
        if range.count > 0 && range.end() <= u64::from(pages) {
            return Ok(());
        }
        Err(PageError::Outside { memory: range.memory.0, first: range.first.0, count: range.count })
    }
}

/// A set of pages: one bit each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageSet {
    /// By memory; 64 pages a word.
    memories: Vec<Vec<u64>>,
}

impl PageSet {
    /// Adds the pages of a range.
    pub fn insert(&mut self, range: PageRange) {
        self.each_word(range, |word, mask| *word |= mask);
    }

    /// Removes the pages of a range.
    pub fn remove(&mut self, range: PageRange) {
        self.each_word(range, |word, mask| *word &= !mask);
    }

    /// Whether a page is in it.
    pub fn contains(&self, memory: MemoryIndex, page: PageIndex) -> bool {
        let words = self.memories.get(usize::from(memory.0));
        let word = words.and_then(|words| words.get(page.0 as usize / 64)).copied().unwrap_or(0);
        word >> (page.0 % 64) & 1 == 1
    }

    /// Adds all of another set.
    pub fn union(&mut self, other: &Self) {
        self.memories.resize(self.memories.len().max(other.memories.len()), Vec::new());
        for (words, others) in self.memories.iter_mut().zip(&other.memories) {
            words.resize(words.len().max(others.len()), 0);
            words.iter_mut().zip(others).for_each(|(word, other)| *word |= other);
        }
    }

    /// Leaves only what another set has, too.
    pub fn intersect(&mut self, other: &Self) {
        self.memories.truncate(other.memories.len());
        for (words, others) in self.memories.iter_mut().zip(&other.memories) {
            words.truncate(others.len());
            words.iter_mut().zip(others).for_each(|(word, other)| *word &= other);
        }
    }

    /// How many pages it has.
    pub fn count(&self) -> u64 {
        self.memories.iter().flatten().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.memories.iter().flatten().all(|word| *word == 0)
    }

    /// Removes all.
    pub fn clear(&mut self) {
        self.memories.clear();
    }

    /// Its pages as ranges, in order, none longer than `count_max` pages and none next to another unless for that.
    pub fn ranges(&self, count_max: u32) -> impl Iterator<Item = PageRange> + '_ {
        assert!(count_max > 0, "a range has a page");
        let memories = (0..).map(MemoryIndex).zip(&self.memories);
        memories.flat_map(move |(memory, words)| Ranges { memory, words, next: 0, count_max })
    }

    fn each_word(&mut self, range: PageRange, mut change: impl FnMut(&mut u64, u64)) {
        let (first, end) = (u64::from(range.first.0), range.end());
        if range.count == 0 {
            return;
        }
        let memory = usize::from(range.memory.0);
        if self.memories.len() <= memory {
            self.memories.resize(memory + 1, Vec::new());
        }
        let words = &mut self.memories[memory];
        let words_needed = end.div_ceil(64) as usize;
        if words.len() < words_needed {
            words.resize(words_needed, 0);
        }
        for index in first / 64..end.div_ceil(64) {
            let low = first.max(index * 64) - index * 64;
            let high = end.min(index * 64 + 64) - index * 64;
            let mask = (u64::MAX >> (64 - (high - low))) << low;
            change(&mut words[index as usize], mask);
        }
    }
}

struct Ranges<'a> {
    memory: MemoryIndex,
    words: &'a [u64],
    next: u32,
    count_max: u32,
}

impl Ranges<'_> {
    /// The first page from `from` on whose bit is `set`; the end if there is none.
    fn seek(&self, from: u32, set: bool) -> u32 {
        let end = self.words.len() as u32 * 64;
        let mut page = from;
        while page < end {
            let word = self.words[page as usize / 64];
            let word = (if set { word } else { !word }) >> (page % 64);
            if word != 0 {
                return page + word.trailing_zeros();
            }
            page = (page / 64 + 1) * 64;
        }
        end
    }
}

impl Iterator for Ranges<'_> {
    type Item = PageRange;

    fn next(&mut self) -> Option<PageRange> {
        let first = self.seek(self.next, true);
        if first as usize >= self.words.len() * 64 {
            return None;
        }
        let end = self.seek(first, false).min(first.saturating_add(self.count_max));
        self.next = end;
        Some(PageRange { memory: self.memory, first: PageIndex(first), count: end - first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn range(memory: u8, first: u32, count: u32) -> PageRange {
        PageRange { memory: MemoryIndex(memory), first: PageIndex(first), count }
    }

    fn pages_within(set: &PageSet, memory: u8, pages: std::ops::Range<u32>) -> Vec<u32> {
        pages.filter(|&page| set.contains(MemoryIndex(memory), PageIndex(page))).collect()
    }

    #[test]
    fn a_range_lies_within_its_memory() {
        let shape = Shape(vec![16, 0, 32]);
        assert_eq!(shape.check(), Ok(()));
        assert_eq!(shape.contains(range(0, 15, 1)), Ok(()));
        for outside in [range(0, 15, 2), range(1, 0, 1), range(3, 0, 1), range(0, 0, 0), range(0, u32::MAX, u32::MAX)] {
            assert!(shape.contains(outside).is_err(), "{outside:?}");
        }
        assert!(Shape(vec![PAGES_MAX + 1]).check().is_err());
        assert!(Shape(vec![0; MEMORIES_MAX + 1]).check().is_err());
    }

    proptest! {
        /// A set is what a list of pages would be.
        #[test]
        fn a_set_is_its_pages(steps in proptest::collection::vec((any::<bool>(), 0u8..3, 0u32..300, 0u32..200), 0..30), most in 1u32..100) {
            let (mut set, mut pages) = (PageSet::default(), BTreeSet::new());
            for (insert, memory, first, count) in steps {
                let one = range(memory, first, count);
                let all = (first..first + count).map(|page| (memory, page));
                if insert {
                    set.insert(one);
                    pages.extend(all);
                } else {
                    set.remove(one);
                    all.for_each(|page| _ = pages.remove(&page));
                }
            }
            prop_assert_eq!(set.count(), pages.len() as u64);
            prop_assert_eq!(set.is_empty(), pages.is_empty());
            let mut found = BTreeSet::new();
            for one in set.ranges(most) {
                prop_assert!(one.count <= most);
                found.extend((one.first.0..one.first.0 + one.count).map(|page| (one.memory.0, page)));
            }
            prop_assert_eq!(&found, &pages);
            for (memory, page) in pages {
                prop_assert!(set.contains(MemoryIndex(memory), PageIndex(page)));
            }
            let mut twice = set.clone();
            twice.union(&set);
            prop_assert_eq!(twice.count(), set.count());
            let mut cut = PageSet::default();
            cut.insert(range(0, 50, 100));
            let within = pages_within(&set, 0, 50..150);
            cut.intersect(&set);
            prop_assert_eq!(pages_within(&cut, 0, 0..1000), within);
            prop_assert_eq!(pages_within(&cut, 1, 0..1000), []);
        }
    }
}
