//! The index: which pages an image has, and where.

use super::error::{EntryError, ImageError};
use super::header::{ENTRY_BYTES, HEADER_BYTES, word32};
use crate::page::{MEMORIES_MAX, MemoryIndex, PAGE_BYTES, PAGES_MAX, PageIndex, PageRange};

const IN_FILE: u8 = 0;
const ZERO: u8 = 1;

/// Pages of an image that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageRange {
    /// Which.
    pub range: PageRange,
    /// What they are.
    pub content: Content,
}

/// What pages of an image are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// In the file, from this page on, counted from the first page in it. See [`Content::offset`].
    At(u32),
    /// All zero.
    Zero,
}

impl Content {
    /// Where the pages are in the file, bytes from its start: a multiple of [`PAGE_BYTES`]. `None` if they are zero.
    pub fn offset(self) -> Option<u64> {
        match self {
            Self::At(place) => Some(HEADER_BYTES as u64 + u64::from(place) * PAGE_BYTES as u64),
            Self::Zero => None,
        }
    }
}

impl ImageRange {
    /// The place of a page within the range, counted from the range's first.
    pub(super) fn place(&self, page: u32) -> Option<u32> {
        match self.content {
            Content::At(place) => Some(place + page),
            Content::Zero => None,
        }
    }
}

pub(super) fn encode(ranges: &[ImageRange]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ranges.len() * ENTRY_BYTES);
    for ImageRange { range, content } in ranges {
        let (kind, place) = match content {
            Content::At(place) => (IN_FILE, *place),
            Content::Zero => (ZERO, 0),
        };
        bytes.extend_from_slice(&[range.memory.0, kind, 0, 0]);
        for word in [range.first.0, range.count, place] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
    }
    bytes
}

/// The ranges that these bytes say, of a file that has so many pages: in order, apart from each other, each page in the
/// file used once.
pub(super) fn decode(bytes: &[u8], pages: u32) -> Result<Vec<ImageRange>, ImageError> {
    let mut ranges: Vec<ImageRange> = Vec::with_capacity(bytes.len() / ENTRY_BYTES);
    for (number, entry) in bytes.chunks_exact(ENTRY_BYTES).enumerate() {
        let range = decode_entry(entry).map_err(|problem| ImageError::Entry { number, problem })?;
        let follows = ranges.last().is_none_or(|last| {
            let (last, next) = (last.range, range.range);
            last.memory < next.memory || last.memory == next.memory && last.end() <= u64::from(next.first.0)
        });
        if !follows {
            return Err(ImageError::Entry { number, problem: EntryError::Order });
        }
        ranges.push(range);
    }
    check_places(&ranges, pages)?;
    Ok(ranges)
}

fn decode_entry(entry: &[u8]) -> Result<ImageRange, EntryError> {
    let (memory, kind, place) = (entry[0], entry[1], word32(entry, 12));
    let range = PageRange { memory: MemoryIndex(memory), first: PageIndex(word32(entry, 4)), count: word32(entry, 8) };
    let content = match kind {
        IN_FILE => Content::At(place),
        ZERO => Content::Zero,
        _ => return Err(EntryError::Kind),
    };
    if entry[2..4] != [0; 2] || kind == ZERO && place != 0 {
        return Err(EntryError::Spare);
    }
    if usize::from(memory) >= MEMORIES_MAX || range.count == 0 || range.end() > u64::from(PAGES_MAX) {
        return Err(EntryError::Outside);
    }
    Ok(ImageRange { range, content })
}

/// Whether the ranges share out the file's pages.
fn check_places(ranges: &[ImageRange], pages: u32) -> Result<(), ImageError> {
    let mut places: Vec<(u32, u32, usize)> = Vec::new();
    for (number, range) in ranges.iter().enumerate() {
        places.extend(range.place(0).map(|place| (place, range.range.count, number)));
    }
    places.sort_unstable();
    let mut next = 0;
    for &(place, count, number) in &places {
        // `next` is at most `pages`, and a count at most a memory's pages: their sum is far from overflow.
        if place != next || count > pages - next {
            return Err(ImageError::Entry { number, problem: EntryError::Place });
        }
        next += count;
    }
    if next != pages {
        return Err(ImageError::Entry { number: ranges.len(), problem: EntryError::Place });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn it(memory: u8, first: u32, count: u32, content: Content) -> ImageRange {
        let range = PageRange { memory: MemoryIndex(memory), first: PageIndex(first), count };
        ImageRange { range, content }
    }

    fn problem(ranges: &[ImageRange], pages: u32) -> Option<(usize, EntryError)> {
        match decode(&encode(ranges), pages) {
            Ok(found) => {
                assert_eq!(found, ranges);
                None
            }
            Err(ImageError::Entry { number, problem }) => Some((number, problem)),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn ranges_are_in_order_and_share_out_the_file() {
        use Content::{At, Zero};
        use EntryError::{Order, Outside, Place};
        let whole = [it(0, 0, 2, At(3)), it(0, 2, 9, Zero), it(0, 11, 1, At(5)), it(1, 0, 3, At(0))];
        assert_eq!(problem(&whole, 6), None);
        assert_eq!(problem(&[], 0), None);
        for (ranges, pages, expected) in [
            (vec![it(0, 0, 2, At(0)), it(0, 1, 1, Zero)], 2, (1, Order)),
            (vec![it(1, 0, 1, Zero), it(0, 5, 1, Zero)], 0, (1, Order)),
            (vec![it(0, 0, 1, Zero), it(0, 0, 1, Zero)], 0, (1, Order)),
            (vec![it(0, 0, 0, Zero)], 0, (0, Outside)),
            (vec![it(8, 0, 1, Zero)], 0, (0, Outside)),
            (vec![it(0, 1, PAGES_MAX, Zero)], 0, (0, Outside)),
            (vec![it(0, u32::MAX, u32::MAX, At(u32::MAX))], 0, (0, Outside)),
            (vec![it(0, 0, 2, At(0)), it(0, 2, 1, At(1))], 2, (1, Place)),
            (vec![it(0, 0, 1, At(0)), it(0, 1, 1, At(2))], 3, (1, Place)),
            (vec![it(0, 0, 2, At(0))], 1, (0, Place)),
            (vec![it(0, 0, 1, At(0))], 2, (1, Place)),
            (vec![it(0, 0, 1, At(u32::MAX))], 1, (0, Place)),
            (vec![], 1, (0, Place)),
        ] {
            assert_eq!(problem(&ranges, pages), Some(expected), "{ranges:?}");
        }
    }

    #[test]
    fn what_is_not_used_is_zero() {
        let whole = encode(&[it(0, 4, 2, Content::Zero)]);
        for (at, expected) in
            [(1, EntryError::Kind), (2, EntryError::Spare), (3, EntryError::Spare), (12, EntryError::Spare)]
        {
            let mut bytes = whole.clone();
            bytes[at] = 2;
            let found = decode(&bytes, 0);
            assert!(matches!(found, Err(ImageError::Entry { number: 0, problem }) if problem == expected), "{found:?}");
        }
    }
}
