//! Reading an image: everything is checked before anything is used.

use std::io::{self, Read, Seek, SeekFrom};

use super::error::ImageError;
use super::header::{Extent, HEADER_BYTES, Header, SUM_BYTES, Section};
use super::index::{Content, ImageRange};
use super::meta::{ImageDigest, Meta, decode_frames};
use super::{CHECKSUM_PAGES, index};
use crate::page::{PAGE_BYTES, PageRange};

/// What an image says, all of it checked. Its pages stay where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// What describes it.
    pub meta: Meta,
    /// Frames that waited in the TAP, with their virtio-net headers, oldest first.
    pub frames: Vec<Vec<u8>>,
    /// Its pages, in order and apart from each other, each within its memory.
    pub ranges: Vec<ImageRange>,
    /// Which image it is.
    pub digest: ImageDigest,
    /// Its length.
    pub file_bytes: u64,
}

/// Reads an image from its first byte to its last, which must be the reader's, and checks all of it. Needs no seeking:
/// the reader may be what a peer sends.
pub fn verify(reader: impl Read) -> Result<Verified, ImageError> {
    let mut source = Source { reader, at: 0, needs: HEADER_BYTES as u64 };
    let (header, digest) = source.header()?;
    let sums = source.sums(header.pages())?;
    let ranges = index::decode(&source.section(&header, Section::Index)?, header.pages())?;
    compare(&sums, &source.section(&header, Section::Checksums)?, &ranges)?;
    let frames = decode_frames(&source.section(&header, Section::Frames)?)?;
    let meta = Meta::decode(&source.section(&header, Section::Meta)?)?;
    if header.incremental != meta.parent.is_some() {
        return Err(ImageError::Parent);
    }
    ranges.iter().try_for_each(|range| meta.shape.contains(range.range))?;
    source.end()?;
    Ok(Verified { meta, frames, ranges, digest, file_bytes: header.file_bytes() })
}

/// What describes an image, and its digest, without a look at its pages: for lists. Says nothing of the rest.
pub fn peek(mut reader: impl Read + Seek) -> Result<(Meta, ImageDigest), ImageError> {
    reader.seek(SeekFrom::Start(0))?;
    let mut source = Source { reader, at: 0, needs: HEADER_BYTES as u64 };
    let (header, digest) = source.header()?;
    source.at = header.offset(Section::Meta);
    source.reader.seek(SeekFrom::Start(source.at))?;
    let meta = Meta::decode(&source.section(&header, Section::Meta)?)?;
    Ok((meta, digest))
}

/// An image that was checked, and can be read from. Who maps its pages, or reads them later, relies on a file that
/// nobody writes to any more: [`super::file::create`] replaces files, and never changes one.
#[derive(Debug)]
pub struct Image<R> {
    reader: R,
    verified: Verified,
}

impl<R: Read + Seek> Image<R> {
    /// Checks all of an image.
    pub fn open(mut reader: R) -> Result<Self, ImageError> {
        reader.seek(SeekFrom::Start(0))?;
        let verified = verify(&mut reader)?;
        Ok(Self { reader, verified })
    }

    /// What describes it.
    pub fn meta(&self) -> &Meta {
        &self.verified.meta
    }

    /// Frames that waited in the TAP, with their virtio-net headers, oldest first.
    pub fn frames(&self) -> &[Vec<u8>] {
        &self.verified.frames
    }

    /// Its pages, in order. Where the content has an [offset](Content::offset), so many bytes from there on can be
    /// mapped; what is short is better read, as a process may have some ten thousand mappings only.
    pub fn ranges(&self) -> &[ImageRange] {
        &self.verified.ranges
    }

    /// Which image it is.
    pub fn digest(&self) -> ImageDigest {
        self.verified.digest
    }

    /// Its length.
    pub fn file_bytes(&self) -> u64 {
        self.verified.file_bytes
    }

    /// What it is read from.
    pub fn reader(&self) -> &R {
        &self.reader
    }

    /// Reads pages, all of which the image must have, zero or not.
    pub fn read_pages(&mut self, range: PageRange, mut bytes: &mut [u8]) -> Result<(), ImageError> {
        if bytes.len() as u64 != range.bytes() {
            return Err(ImageError::Length { expected: range.bytes(), found: bytes.len() as u64 });
        }
        let ranges = &self.verified.ranges;
        let before = |it: &ImageRange| (it.range.memory, it.range.end()) <= (range.memory, u64::from(range.first.0));
        let mut next = u64::from(range.first.0);
        for it in &ranges[ranges.partition_point(before)..] {
            if next == range.end() || it.range.memory != range.memory || u64::from(it.range.first.0) > next {
                break;
            }
            let end = it.range.end().min(range.end());
            let (now, rest) = bytes.split_at_mut((end - next) as usize * PAGE_BYTES);
            match it.content.offset() {
                Some(offset) => {
                    let within = (next - u64::from(it.range.first.0)) * PAGE_BYTES as u64;
                    self.reader.seek(SeekFrom::Start(offset + within))?;
                    self.reader.read_exact(now)?;
                }
                None => now.fill(0),
            }
            (bytes, next) = (rest, end);
        }
        if next == range.end() {
            return Ok(());
        }
        // Fits: it is less than the end of a range that has bytes.
        Err(ImageError::Absent { memory: range.memory.0, page: next as u32 })
    }
}

/// A reader that knows how far it is.
struct Source<R> {
    reader: R,
    at: u64,
    /// What the image needs in all, as far as that is known.
    needs: u64,
}

impl<R: Read> Source<R> {
    fn header(&mut self) -> Result<(Header, ImageDigest), ImageError> {
        let mut bytes = [0; HEADER_BYTES];
        match self.fill(&mut bytes) {
            // A short file that does not even begin like one is none.
            Err(ImageError::Truncated { has, .. }) if has < 8 || !Header::begins(&bytes) => {
                return Err(ImageError::NotAnImage);
            }
            filled => filled?,
        }
        let (header, digest) = Header::decode(&bytes)?;
        self.needs = header.file_bytes();
        Ok((header, digest))
    }

    /// The checksums of so many pages.
    fn sums(&mut self, pages: u32) -> Result<Vec<[u8; SUM_BYTES]>, ImageError> {
        let mut sums = Vec::new();
        let mut bytes = vec![0; CHECKSUM_PAGES as usize * PAGE_BYTES];
        for first in (0..pages).step_by(CHECKSUM_PAGES as usize) {
            let bytes = &mut bytes[..(pages - first).min(CHECKSUM_PAGES) as usize * PAGE_BYTES];
            self.fill(bytes)?;
            sums.push(blake3::hash(bytes).into());
        }
        Ok(sums)
    }

    /// A section that is whole.
    fn section(&mut self, header: &Header, section: Section) -> Result<Vec<u8>, ImageError> {
        let extent = header.extent(section);
        let mut bytes = Vec::new();
        // Grows with what is there, not with what was promised.
        self.reader.by_ref().take(extent.bytes).read_to_end(&mut bytes)?;
        self.at += bytes.len() as u64;
        if (bytes.len() as u64) < extent.bytes {
            return Err(self.truncated());
        }
        if Extent::of(&bytes) != extent {
            return Err(ImageError::Section(section));
        }
        Ok(bytes)
    }

    fn fill(&mut self, mut bytes: &mut [u8]) -> Result<(), ImageError> {
        while !bytes.is_empty() {
            match self.reader.read(bytes) {
                Ok(0) => return Err(self.truncated()),
                Ok(count) => {
                    self.at += count as u64;
                    bytes = &mut bytes[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), ImageError> {
        let more = self.reader.by_ref().take(1).read_to_end(&mut Vec::new())?;
        if more == 0 { Ok(()) } else { Err(ImageError::Longer(self.needs)) }
    }

    fn truncated(&self) -> ImageError {
        ImageError::Truncated { needs: self.needs, has: self.at }
    }
}

/// Whether pages have the checksums that they should have.
fn compare(found: &[[u8; SUM_BYTES]], expected: &[u8], ranges: &[ImageRange]) -> Result<(), ImageError> {
    let differs = found.iter().zip(expected.chunks_exact(SUM_BYTES)).position(|(found, expected)| found != expected);
    let Some(number) = differs else { return Ok(()) };
    let first = number as u32 * CHECKSUM_PAGES;
    let damaged = ranges.iter().find_map(|it| match it.content {
        Content::At(place) if (place..place + it.range.count).contains(&first) => Some((it.range, first - place)),
        _ => None,
    });
    let (range, skip) = damaged.expect("every page in the file is in a range: the index was checked");
    let count = CHECKSUM_PAGES.min(range.count - skip);
    let first = range.first.0 + skip;
    Err(ImageError::Pages { memory: range.memory.0, first, last: first + count - 1 })
}

#[cfg(test)]
mod tests {
    use super::super::write::seal;
    use super::*;
    use crate::page::Shape;
    use std::io::Cursor;

    fn meta() -> Meta {
        let (guest, state, shape) = (Vec::new(), Vec::new(), Shape(vec![4]));
        let [module, netstack] = [[1; 32], [2; 32]];
        let (parent, stands_for) = (None, None);
        Meta { guest, module, netstack, abi: 1, shape, created_ms: 0, sequence: 0, parent, stands_for, state }
    }

    /// What is read of a file whose checksums fit, whatever its sections say.
    fn sealed(incremental: bool, frames: &[u8], meta: &[u8]) -> Result<Verified, ImageError> {
        let mut file = Cursor::new(Vec::new());
        seal(&mut file, incremental, 0, &[Vec::new(), Vec::new(), frames.to_vec(), meta.to_vec()]).unwrap();
        let found = verify(file.get_ref().as_slice());
        assert_eq!(peek(&mut file).is_ok(), Meta::decode(meta).is_ok());
        found
    }

    #[test]
    fn what_checksums_cannot_tell_is_refused() {
        let whole = meta().encode().unwrap();
        assert!(sealed(false, &[], &whole).is_ok());
        assert!(matches!(sealed(true, &[], &whole), Err(ImageError::Parent)));
        assert!(matches!(sealed(false, &[], &[&whole[..], &[0]].concat()), Err(ImageError::MetaRest(1))));
        assert!(matches!(sealed(false, &[], &whole[..whole.len() - 1]), Err(ImageError::Meta(_))));
        let child = Meta { parent: Some(ImageDigest([0; 32])), ..meta() };
        assert!(matches!(sealed(false, &[], &child.encode().unwrap()), Err(ImageError::Parent)));
        let large = Meta { shape: Shape(vec![u32::MAX]), ..meta() };
        let large = postcard::to_allocvec(&large).unwrap();
        assert!(matches!(sealed(false, &[], &large), Err(ImageError::Page(_))));
    }

    #[test]
    fn a_frame_is_whole_and_has_a_byte() {
        let whole = meta().encode().unwrap();
        assert_eq!(sealed(false, &[2, 0, 0, 0, 8, 9], &whole).unwrap().frames, [[8, 9]]);
        for frames in [&[1][..], &[0, 0, 0, 0], &[2, 0, 0, 0, 8], &[0xff, 0xff, 0xff, 0xff, 8], &[1, 0, 0, 0, 8, 1, 0]]
        {
            assert!(matches!(sealed(false, frames, &whole), Err(ImageError::Frame { .. })), "{frames:?}");
        }
    }
}
