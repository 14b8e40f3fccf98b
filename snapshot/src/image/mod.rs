//! The image of a guest in a file: what a checkpoint writes and a restore maps.
//!
//! ```text
//!  offset      what
//!  0           header, 4096 bytes      little endian, outside any codec
//!    0           magic                   89 "roamimg"
//!    8           format version          u32
//!    12          header bytes            u32, 4096
//!    16          flags                   u64; bit 0: incremental, the others are zero
//!    24          file bytes              u64
//!    32          sections                5 x (offset u64, bytes u64, blake3 32 bytes), in the order below
//!    272         zeros
//!    4064        blake3 of bytes 0 to 4063: the image's digest, as everything else hangs on it
//!  4096        pages                   4096 bytes each, as they are: a run of them can be mapped over a memory.
//!                                      Their blake3 in the header is zero: the checksums are theirs
//!  then        index                   16 bytes a range: memory u8, kind u8 (0 in the file, 1 zero), 0 u16, first u32,
//!                                      count u32, place u32 (its first page, counted from the first of the section)
//!  then        checksums               blake3 of each 64 KiB of pages, the last may be shorter
//!  then        frames                  those that waited in the TAP: bytes u32, then the frame with its virtio-net header
//!  to the end  meta                    postcard of Meta
//! ```
//!
//! Sections follow each other without a gap, every page in the file belongs to one range, and every byte is under some
//! checksum. Nothing is decoded before its checksum was compared, and no length is believed before it was compared
//! with its limit. The checksums tell damage, not forgery: who can write the file can write the guest.
//!
//! **What is not in the file.** A page that no range has is, in a full image, as a fresh instance of the module has it;
//! in an incremental one, as it is in the image it follows. A zero page is a range without data. So a sparse memory
//! makes a small file, and a restore maps what there is over a fresh instance.
//!
//! **Chains.** An incremental image names its parent by digest. [`Merge`] makes one full image of a base and what
//! follows it, and that one takes the place of the last it merged ([`Meta::stands_for`]): what follows that follows it
//! as well. So a restore always works from one file, and a chain can be cut at any link.
//!
//! In reading order: [`Meta`], [`ImageWriter`], [`Image`], [`chain`] and [`Merge`], [`retain`], [`mod@file`] (the only
//! part that knows of files).
//!
//! Deliberately absent: compression, because pages are mapped; what `guest` and `state` mean, because hosts and guests
//! know.

mod chain;
mod error;
pub mod file;
mod header;
mod index;
mod meta;
mod read;
mod retain;
mod write;

pub use chain::{ChainError, Link, Merge, chain};
pub use error::{EntryError, ImageError};
pub use header::Section;
pub use index::{Content, ImageRange};
pub use meta::{ImageDigest, Meta};
pub use read::{Image, Verified, peek, verify};
pub use retain::retain;
pub use write::ImageWriter;

use crate::page::{MEMORIES_MAX, PAGE_BYTES, PAGES_MAX};
use crate::protocol::{GUEST_BYTES_MAX, STATE_BYTES_MAX};

/// The format that is written, and the newest that is read.
pub const FORMAT_VERSION: u32 = 1;
/// Most pages in a file: all of all memories.
pub const FILE_PAGES_MAX: u32 = PAGES_MAX * MEMORIES_MAX as u32;
/// Pages under one checksum.
pub const CHECKSUM_PAGES: u32 = 16;
/// Most frames in a file; a TAP queues a thousand.
pub const FRAMES_MAX: usize = 4096;
/// Most bytes of the frames in a file, their lengths included.
pub const FRAMES_BYTES_MAX: usize = 96 << 20;
/// Most bytes of what describes an image: a guest, its state, and the rest.
pub const META_BYTES_MAX: usize = GUEST_BYTES_MAX + STATE_BYTES_MAX + 4096;

/// Writes what comes behind so many pages (index, checksums, frames, meta) and a header that fits: a door for the fuzz
/// targets, which get no further than a checksum otherwise.
#[cfg(fuzzing)]
pub fn seal<F: std::io::Write + std::io::Seek>(
    file: F,
    incremental: bool,
    pages: u32,
    sections: &[Vec<u8>; 4],
) -> Result<ImageDigest, ImageError> {
    write::seal(file, incremental, pages, sections)
}

/// A page that is all zero.
const ZERO_PAGE: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
