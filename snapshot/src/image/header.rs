//! The header: fixed bytes outside any codec. See [`super`] for its layout.

use std::fmt;

use super::error::ImageError;
use super::meta::ImageDigest;
use super::{CHECKSUM_PAGES, FILE_PAGES_MAX, FORMAT_VERSION, FRAMES_BYTES_MAX, META_BYTES_MAX};
use crate::page::PAGE_BYTES;

/// Bytes of the header. One page, so that what follows can be mapped.
pub(super) const HEADER_BYTES: usize = PAGE_BYTES;
/// Bytes of a range in the index.
pub(super) const ENTRY_BYTES: usize = 16;
/// Bytes of a checksum.
pub(super) const SUM_BYTES: usize = blake3::OUT_LEN;

/// The first byte is in no text, and becomes another where eight bits become seven.
const MAGIC: [u8; 8] = *b"\x89roamimg";
const INCREMENTAL: u64 = 1;
const TABLE: usize = 32;
const EXTENT_BYTES: usize = 16 + SUM_BYTES;
const TABLE_END: usize = TABLE + Section::ALL.len() * EXTENT_BYTES;
const DIGEST: usize = HEADER_BYTES - SUM_BYTES;

/// A part of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// The data of pages.
    Pages,
    /// Which pages these are.
    Index,
    /// Over the pages.
    Checksums,
    /// What waited in the TAP.
    Frames,
    /// The rest.
    Meta,
}

impl Section {
    /// As they are in the file.
    const ALL: [Self; 5] = [Self::Pages, Self::Index, Self::Checksums, Self::Frames, Self::Meta];

    fn name(self) -> &'static str {
        match self {
            Self::Pages => "pages",
            Self::Index => "index",
            Self::Checksums => "checksums",
            Self::Frames => "frames",
            Self::Meta => "meta",
        }
    }

    /// The longest it may be, and what its length is a multiple of.
    fn limit(self) -> (u64, u64) {
        let (bytes_max, unit) = match self {
            Self::Pages => (FILE_PAGES_MAX as usize * PAGE_BYTES, PAGE_BYTES),
            Self::Index => (FILE_PAGES_MAX as usize * ENTRY_BYTES, ENTRY_BYTES),
            Self::Checksums => ((FILE_PAGES_MAX / CHECKSUM_PAGES) as usize * SUM_BYTES, SUM_BYTES),
            Self::Frames => (FRAMES_BYTES_MAX, 1),
            Self::Meta => (META_BYTES_MAX, 1),
        };
        (bytes_max as u64, unit as u64)
    }

    fn check(self, bytes: u64) -> Result<(), ImageError> {
        let (bytes_max, unit) = self.limit();
        if bytes > bytes_max || !bytes.is_multiple_of(unit) {
            return Err(ImageError::SectionBytes { section: self, bytes, bytes_max, unit });
        }
        Ok(())
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A section's length and checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) bytes: u64,
    pub(super) sum: [u8; SUM_BYTES],
}

impl Extent {
    pub(super) fn of(section: &[u8]) -> Self {
        Self { bytes: section.len() as u64, sum: blake3::hash(section).into() }
    }
}

/// What the header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) incremental: bool,
    pub(super) extents: [Extent; Section::ALL.len()],
}

impl Header {
    pub(super) fn extent(&self, section: Section) -> Extent {
        self.extents[section as usize]
    }

    /// Where a section begins, bytes from the file's start.
    pub(super) fn offset(&self, section: Section) -> u64 {
        HEADER_BYTES as u64 + self.extents[..section as usize].iter().map(|extent| extent.bytes).sum::<u64>()
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.offset(Section::Meta) + self.extent(Section::Meta).bytes
    }

    /// Pages in the file.
    pub(super) fn pages(&self) -> u32 {
        (self.extent(Section::Pages).bytes / PAGE_BYTES as u64) as u32
    }

    /// Whether an image begins like that.
    pub(super) fn begins(bytes: &[u8; HEADER_BYTES]) -> bool {
        bytes[..MAGIC.len()] == MAGIC
    }

    /// Its bytes, and the image's digest.
    pub(super) fn encode(&self) -> Result<([u8; HEADER_BYTES], ImageDigest), ImageError> {
        Section::ALL.into_iter().try_for_each(|section| section.check(self.extent(section).bytes))?;
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&(u64::from(self.incremental) * INCREMENTAL).to_le_bytes());
        bytes[24..32].copy_from_slice(&self.file_bytes().to_le_bytes());
        for (section, entry) in Section::ALL.into_iter().zip(bytes[TABLE..TABLE_END].chunks_exact_mut(EXTENT_BYTES)) {
            let extent = self.extent(section);
            entry[..8].copy_from_slice(&self.offset(section).to_le_bytes());
            entry[8..16].copy_from_slice(&extent.bytes.to_le_bytes());
            entry[16..].copy_from_slice(&extent.sum);
        }
        let digest: [u8; SUM_BYTES] = blake3::hash(&bytes[..DIGEST]).into();
        bytes[DIGEST..].copy_from_slice(&digest);
        Ok((bytes, ImageDigest(digest)))
    }

    /// What these bytes say, and the image's digest. All of them are checked.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<(Self, ImageDigest), ImageError> {
        if !Self::begins(bytes) {
            let blank = bytes.iter().all(|byte| *byte == 0);
            return Err(if blank { ImageError::Unfinished } else { ImageError::NotAnImage });
        }
        let version = word32(bytes, 8);
        // Before the checksum: another version may have it elsewhere.
        if version != FORMAT_VERSION {
            return Err(ImageError::Version(version));
        }
        let digest: [u8; SUM_BYTES] = blake3::hash(&bytes[..DIGEST]).into();
        if bytes[DIGEST..] != digest {
            return Err(ImageError::Header);
        }
        let flags = word64(bytes, 16);
        must_be("the header's length", word32(bytes, 12).into(), HEADER_BYTES as u64)?;
        must_be("unknown flags", flags & !INCREMENTAL, 0)?;
        must_be("what it does not use", bytes[TABLE_END..DIGEST].iter().map(|byte| u64::from(*byte)).sum(), 0)?;
        let header = Self { incremental: flags == INCREMENTAL, extents: decode_table(&bytes[TABLE..TABLE_END])? };
        must_be("the file's length", word64(bytes, 24), header.file_bytes())?;
        for (section, entry) in Section::ALL.into_iter().zip(bytes[TABLE..TABLE_END].chunks_exact(EXTENT_BYTES)) {
            must_be("a section's offset", word64(entry, 0), header.offset(section))?;
        }
        let checksums = u64::from(header.pages().div_ceil(CHECKSUM_PAGES)) * SUM_BYTES as u64;
        must_be("the checksums' length", header.extent(Section::Checksums).bytes, checksums)?;
        let unused = header.extent(Section::Pages).sum.iter().map(|byte| u64::from(*byte)).sum();
        must_be("the pages' own checksum", unused, 0)?;
        Ok((header, ImageDigest(digest)))
    }
}

/// The sections' lengths, each within its limit, so that no sum of them overflows.
fn decode_table(table: &[u8]) -> Result<[Extent; Section::ALL.len()], ImageError> {
    let mut extents = [Extent::default(); Section::ALL.len()];
    for ((section, entry), extent) in Section::ALL.into_iter().zip(table.chunks_exact(EXTENT_BYTES)).zip(&mut extents) {
        extent.bytes = word64(entry, 8);
        extent.sum.copy_from_slice(&entry[16..]);
        section.check(extent.bytes)?;
    }
    Ok(extents)
}

fn must_be(field: &'static str, found: u64, expected: u64) -> Result<(), ImageError> {
    if found == expected { Ok(()) } else { Err(ImageError::Field { field, found, expected }) }
}

pub(super) fn word32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn word64(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        let mut extents = [Extent::default(); 5];
        for (extent, bytes) in extents.iter_mut().zip([17 * PAGE_BYTES, 32, 2 * SUM_BYTES, 5, 9]) {
            extent.bytes = bytes as u64;
        }
        Header { incremental: true, extents }
    }

    /// What the header says with other bytes at some place, and a checksum that fits.
    fn with(at: usize, other: &[u8]) -> Result<(Header, ImageDigest), ImageError> {
        let (mut bytes, _) = header().encode().unwrap();
        bytes[at..at + other.len()].copy_from_slice(other);
        let digest: [u8; SUM_BYTES] = blake3::hash(&bytes[..DIGEST]).into();
        bytes[DIGEST..].copy_from_slice(&digest);
        Header::decode(&bytes)
    }

    #[test]
    fn a_header_says_what_was_put_in() {
        let (bytes, digest) = header().encode().unwrap();
        assert_eq!(Header::decode(&bytes).unwrap(), (header(), digest));
        assert_eq!(header().pages(), 17);
        assert_eq!(header().offset(Section::Index), 18 * PAGE_BYTES as u64);
        assert_eq!(header().file_bytes(), 18 * PAGE_BYTES as u64 + 32 + 64 + 5 + 9);
    }

    #[test]
    fn what_cannot_be_is_named_though_its_checksum_fits() {
        for (at, other, named) in [
            (13, &[0][..], "the header's length"),
            (16, &[2], "unknown flags"),
            (23, &[0x80], "unknown flags"),
            (24, &[0], "the file's length"),
            (TABLE + EXTENT_BYTES, &[1], "a section's offset"),
            (TABLE + 16, &[1], "the pages' own checksum"),
            (TABLE_END, &[1], "what it does not use"),
            (DIGEST - 1, &[1], "what it does not use"),
        ] {
            let found = with(at, other);
            assert!(matches!(found, Err(ImageError::Field { field, .. }) if field == named), "{named}: {found:?}");
        }
    }

    #[test]
    fn every_length_has_its_limit() {
        for (number, section) in Section::ALL.into_iter().enumerate() {
            let (bytes_max, unit) = section.limit();
            for bytes in [bytes_max + unit, u64::MAX, 1] {
                let found = with(TABLE + number * EXTENT_BYTES + 8, &bytes.to_le_bytes());
                match found {
                    Err(ImageError::SectionBytes { section: named, .. }) => assert_eq!(named, section),
                    Err(ImageError::Field { .. }) if bytes == 1 && unit == 1 => {}
                    other => panic!("{section} of {bytes} bytes: {other:?}"),
                }
            }
        }
        let mut wrong = header();
        wrong.extents[2].bytes = 0;
        let (bytes, _) = wrong.encode().unwrap();
        let found = Header::decode(&bytes);
        assert!(matches!(found, Err(ImageError::Field { field: "the checksums' length", .. })), "{found:?}");
    }
}
