//! Writing an image.

use std::io::{Read, Seek, SeekFrom, Write};

use super::error::ImageError;
use super::header::{Extent, HEADER_BYTES, Header, SUM_BYTES, Section};
use super::index::{Content, ImageRange};
use super::meta::{ImageDigest, Meta, encode_frames};
use super::{CHECKSUM_PAGES, ZERO_PAGE, index};
use crate::page::{MEMORIES_MAX, MemoryIndex, PAGE_BYTES, PAGES_MAX, PageError, PageIndex, PageRange};

/// Writes an image into an empty file, or whatever can be read, written and sought like one. That and where it lies is
/// the caller's; [`super::file::create`] makes it durable.
///
/// Pages come in any order, while the guest runs if need be: what is written again takes the place of what was there.
/// The header is written last, so that a file that was not finished is no image.
pub struct ImageWriter<F> {
    file: F,
    /// By memory and page.
    places: Vec<Vec<Place>>,
    /// Pages in the file.
    pages: u32,
    sums: Sums,
}

/// What is known of a page. 0: nothing; 1: it is zero; else its place in the file, and 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place(u32);

impl Place {
    const ABSENT: Self = Self(0);
    const ZERO: Self = Self(1);

    fn at(place: u32) -> Self {
        Self(place + 2)
    }

    fn content(self) -> Option<Content> {
        match self {
            Self::ABSENT => None,
            Self::ZERO => Some(Content::Zero),
            Self(place) => Some(Content::At(place - 2)),
        }
    }
}

/// What is done with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// Note that it is zero.
    Zero,
    /// Write it behind all others.
    Append,
    /// Write it over what is at that place.
    Replace(u32),
}

impl Act {
    /// Whether one write does both, for pages that follow each other.
    fn goes_on(self, first: Self, pages: u32) -> bool {
        match first {
            Self::Replace(place) => self == Self::Replace(place + pages),
            _ => self == first,
        }
    }
}

impl<F: Read + Write + Seek> ImageWriter<F> {
    /// Begins an image.
    pub fn begin(mut file: F) -> Result<Self, ImageError> {
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&[0; HEADER_BYTES])?;
        Ok(Self { file, places: Vec::new(), pages: 0, sums: Sums::default() })
    }

    /// Whether a page was written, zero or not. One that was must be written again when it has changed, whatever it is
    /// equal to then; one that was not may be left out if it is as the parent, or a fresh instance, has it.
    pub fn contains(&self, memory: MemoryIndex, page: PageIndex) -> bool {
        self.place(memory, page.0) != Place::ABSENT
    }

    /// Writes pages, whose bytes these are. Zero pages take no room.
    pub fn write_pages(&mut self, range: PageRange, bytes: &[u8]) -> Result<(), ImageError> {
        if bytes.len() as u64 != range.bytes() {
            return Err(ImageError::Length { expected: range.bytes(), found: bytes.len() as u64 });
        }
        self.make_room(range)?;
        let mut pages = bytes.chunks_exact(PAGE_BYTES).zip(range.first.0..).peekable();
        let mut done = 0;
        while let Some((page, number)) = pages.next() {
            let act = self.act(range.memory, number, page);
            let mut count = 1;
            while pages.next_if(|(page, next)| self.act(range.memory, *next, page).goes_on(act, count)).is_some() {
                count += 1;
            }
            let run_bytes = count as usize * PAGE_BYTES;
            self.write_run(act, range.memory, number..number + count, &bytes[done..done + run_bytes])?;
            done += run_bytes;
        }
        Ok(())
    }

    /// Notes that pages are zero.
    pub fn write_zero(&mut self, range: PageRange) -> Result<(), ImageError> {
        self.make_room(range)?;
        for number in range.first.0..range.first.0 + range.count {
            let act = self.act(range.memory, number, &ZERO_PAGE);
            self.write_run(act, range.memory, number..number + 1, &ZERO_PAGE)?;
        }
        Ok(())
    }

    /// Ends the image: what belongs to the pages, and the frames that waited in the TAP. Nothing is durable until the
    /// caller has synced the file.
    pub fn finish(mut self, meta: &Meta, frames: &[Vec<u8>]) -> Result<ImageDigest, ImageError> {
        let meta_section = meta.encode()?;
        let frames_section = encode_frames(frames)?;
        let ranges = self.ranges();
        ranges.iter().try_for_each(|range| meta.shape.contains(range.range))?;
        let checksums = self.checksums()?;
        let sections = [index::encode(&ranges), checksums, frames_section, meta_section];
        seal(&mut self.file, meta.parent.is_some(), self.pages, &sections)
    }

    fn place(&self, memory: MemoryIndex, page: u32) -> Place {
        let places = self.places.get(usize::from(memory.0));
        places.and_then(|places| places.get(page as usize)).copied().unwrap_or(Place::ABSENT)
    }

    /// Checks that a guest can have these pages, and makes room to note them.
    fn make_room(&mut self, range: PageRange) -> Result<(), ImageError> {
        let memory = usize::from(range.memory.0);
        if memory >= MEMORIES_MAX || range.end() > u64::from(PAGES_MAX) {
            return Err(PageError::Outside { memory: range.memory.0, first: range.first.0, count: range.count }.into());
        }
        self.places.resize(self.places.len().max(memory + 1), Vec::new());
        let places = &mut self.places[memory];
        places.resize(places.len().max(range.end() as usize), Place::ABSENT);
        Ok(())
    }

    fn act(&self, memory: MemoryIndex, number: u32, page: &[u8]) -> Act {
        match self.place(memory, number).content() {
            Some(Content::At(place)) => Act::Replace(place),
            _ if page == ZERO_PAGE => Act::Zero,
            _ => Act::Append,
        }
    }

    fn write_run(
        &mut self,
        act: Act,
        memory: MemoryIndex,
        numbers: std::ops::Range<u32>,
        bytes: &[u8],
    ) -> Result<(), ImageError> {
        let places = &mut self.places[usize::from(memory.0)][numbers.start as usize..numbers.end as usize];
        match act {
            Act::Zero => places.fill(Place::ZERO),
            Act::Append => {
                write_at(&mut self.file, self.pages, bytes)?;
                self.sums.append(bytes);
                places.iter_mut().zip(self.pages..).for_each(|(place, number)| *place = Place::at(number));
                self.pages += places.len() as u32;
            }
            Act::Replace(place) => {
                self.sums.forget(place, places.len() as u32);
                write_at(&mut self.file, place, bytes)?;
            }
        }
        Ok(())
    }

    /// What was written, as ranges in order.
    fn ranges(&self) -> Vec<ImageRange> {
        let mut ranges: Vec<ImageRange> = Vec::new();
        for (memory, places) in (0..).map(MemoryIndex).zip(&self.places) {
            for (page, content) in (0..).zip(places).filter_map(|(page, place)| Some((page, place.content()?))) {
                match ranges.last_mut() {
                    Some(last) if goes_on(last, memory, page, content) => last.range.count += 1,
                    _ => {
                        let range = PageRange { memory, first: PageIndex(page), count: 1 };
                        ranges.push(ImageRange { range, content });
                    }
                }
            }
        }
        ranges
    }

    /// The checksums' section. Reads what was written over.
    fn checksums(&mut self) -> Result<Vec<u8>, ImageError> {
        let mut section = Vec::with_capacity((self.sums.sums.len() + 1) * SUM_BYTES);
        let mut bytes = vec![0; CHECKSUM_PAGES as usize * PAGE_BYTES];
        for (first, known) in (0..self.pages).step_by(CHECKSUM_PAGES as usize).zip(self.sums.all()) {
            let sum = match known {
                Some(sum) => sum,
                None => {
                    let pages = (self.pages - first).min(CHECKSUM_PAGES);
                    let bytes = &mut bytes[..pages as usize * PAGE_BYTES];
                    self.file.seek(SeekFrom::Start(offset(first)))?;
                    self.file.read_exact(bytes)?;
                    blake3::hash(bytes).into()
                }
            };
            section.extend_from_slice(&sum);
        }
        Ok(section)
    }
}

/// Writes what comes behind so many pages (index, checksums, frames, meta) and then the header.
pub(super) fn seal<F: Write + Seek>(
    mut file: F,
    incremental: bool,
    pages: u32,
    sections: &[Vec<u8>; 4],
) -> Result<ImageDigest, ImageError> {
    let data = Extent { bytes: u64::from(pages) * PAGE_BYTES as u64, sum: [0; SUM_BYTES] };
    let [index, checksums, frames, meta] = sections.each_ref().map(|section| Extent::of(section));
    let header = Header { incremental, extents: [data, index, checksums, frames, meta] };
    let (bytes, digest) = header.encode()?;
    file.seek(SeekFrom::Start(header.offset(Section::Index)))?;
    sections.iter().try_for_each(|section| file.write_all(section))?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&bytes)?;
    file.flush()?;
    Ok(digest)
}

/// Whether a page belongs to the range before it.
fn goes_on(last: &ImageRange, memory: MemoryIndex, page: u32, content: Content) -> bool {
    let follows = last.range.memory == memory && last.range.end() == u64::from(page);
    follows
        && match content {
            Content::At(place) => last.place(last.range.count) == Some(place),
            Content::Zero => last.content == Content::Zero,
        }
}

fn offset(place: u32) -> u64 {
    (HEADER_BYTES + place as usize * PAGE_BYTES) as u64
}

fn write_at(file: &mut (impl Write + Seek), place: u32, bytes: &[u8]) -> Result<(), ImageError> {
    file.seek(SeekFrom::Start(offset(place)))?;
    Ok(file.write_all(bytes)?)
}

/// Checksums of what was written, as far as nothing was written over it since.
#[derive(Default)]
struct Sums {
    sums: Vec<Option<[u8; SUM_BYTES]>>,
    /// Of the pages behind those, fewer than [`CHECKSUM_PAGES`].
    tail: blake3::Hasher,
    tail_bytes: usize,
    tail_forgotten: bool,
}

impl Sums {
    fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = CHECKSUM_PAGES as usize * PAGE_BYTES - self.tail_bytes;
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.tail.update(now);
            self.tail_bytes += now.len();
            if now.len() == room {
                self.sums.push(self.tail_sum());
                self.tail.reset();
                (self.tail_bytes, self.tail_forgotten) = (0, false);
            }
            bytes = rest;
        }
    }

    /// Pages from this place on are no longer what they were.
    fn forget(&mut self, place: u32, count: u32) {
        for index in place / CHECKSUM_PAGES..=(place + count - 1) / CHECKSUM_PAGES {
            match self.sums.get_mut(index as usize) {
                Some(sum) => *sum = None,
                None => self.tail_forgotten = true,
            }
        }
    }

    fn all(&self) -> Vec<Option<[u8; SUM_BYTES]>> {
        self.sums.iter().copied().chain([self.tail_sum()]).collect()
    }

    fn tail_sum(&self) -> Option<[u8; SUM_BYTES]> {
        (!self.tail_forgotten).then(|| self.tail.finalize().into())
    }
}
