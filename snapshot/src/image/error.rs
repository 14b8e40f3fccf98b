//! What can be wrong with an image, and where.

use std::io;

use super::header::Section;
use super::meta::ImageDigest;
use super::{FORMAT_VERSION, FRAMES_BYTES_MAX, FRAMES_MAX};
use crate::page::PageError;

/// Why an image cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Something else.
    #[error("not an image of a guest")]
    NotAnImage,
    /// The header comes last, and did not.
    #[error("the image was never finished: whoever wrote it ended before; take another checkpoint")]
    Unfinished,
    /// Another format.
    #[error("the image has format version {0}; this program reads up to {FORMAT_VERSION}")]
    Version(u32),
    /// Its end is missing.
    #[error("the image is truncated: it needs {needs} bytes and has {has}")]
    Truncated {
        /// Bytes it needs; of the header if that is not whole.
        needs: u64,
        /// Bytes it has.
        has: u64,
    },
    /// Something follows its end.
    #[error("something follows the image: it ends at byte {0}")]
    Longer(u64),
    /// The header's checksum differs.
    #[error("the image's header is damaged: its checksum differs")]
    Header,
    /// A value in the header that cannot be.
    #[error("the image's header says {found} for {field}; it must be {expected}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it says.
        found: u64,
        /// What it must be.
        expected: u64,
    },
    /// A section over its limit, or not of whole entries.
    #[error("the image's section {section} has {bytes} bytes; it may have {bytes_max}, in units of {unit}")]
    SectionBytes {
        /// Which.
        section: Section,
        /// How long it says it is.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
        /// What it must be a multiple of.
        unit: u64,
    },
    /// A section's checksum differs.
    #[error("the image's section {0} is damaged: its checksum differs")]
    Section(Section),
    /// Pages' checksum differs.
    #[error("the image is damaged: the checksum over pages {first} to {last} of memory {memory} differs")]
    Pages {
        /// Of which memory.
        memory: u8,
        /// The first page under that checksum.
        first: u32,
        /// The last of the pages that follow the first and are under that checksum; others may be too.
        last: u32,
    },
    /// A range in the index that cannot be.
    #[error("range {number} of the image's index {problem}")]
    Entry {
        /// Which, from 0.
        number: usize,
        /// What is wrong with it.
        problem: EntryError,
    },
    /// What describes the image cannot be decoded.
    #[error("what describes the image cannot be decoded")]
    Meta(#[source] postcard::Error),
    /// It decodes, and bytes are left.
    #[error("{0} bytes follow what describes the image")]
    MetaRest(usize),
    /// Something of it is too long.
    #[error("the image's {what} has {bytes} bytes; the limit is {bytes_max}")]
    TooLong {
        /// What.
        what: &'static str,
        /// How many it has.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The header says incremental and no parent is named, or the other way round.
    #[error("the image says that it is incremental and names no parent, or names one and does not say so")]
    Parent,
    /// Too many frames, or a frame that cannot be.
    #[error(
        "frame {number} of the image has {bytes} bytes; there may be {FRAMES_MAX} of 1 to {bytes_max} bytes, together {FRAMES_BYTES_MAX}"
    )]
    Frame {
        /// Which, from 0.
        number: usize,
        /// Its length.
        bytes: u64,
        /// A frame's limit.
        bytes_max: usize,
    },
    /// Memories or pages that cannot be.
    #[error("the image's pages cannot be")]
    Page(#[from] PageError),
    /// It belongs to other code.
    #[error("the image belongs to {what} {expected}, not to {found}; restore it with that one")]
    Code {
        /// The module or the netstack.
        what: &'static str,
        /// The one it belongs to.
        expected: ImageDigest,
        /// The one there is.
        found: ImageDigest,
    },
    /// It belongs to another interface between guest and host.
    #[error("the image belongs to version {expected} of the guests' interface; this host has {found}")]
    Abi {
        /// The one it belongs to.
        expected: u32,
        /// The one there is.
        found: u32,
    },
    /// Bytes that are not those of the pages.
    #[error("{found} bytes for pages of {expected} bytes")]
    Length {
        /// The pages' bytes.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// A page that no range of the image has.
    #[error("page {page} of memory {memory} is not in the image")]
    Absent {
        /// Of which memory.
        memory: u8,
        /// Which.
        page: u32,
    },
    /// It cannot be read or written.
    #[error("the image cannot be read or written")]
    Io(#[from] io::Error),
}

/// What is wrong with a range of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Its kind is not known.
    #[error("is of no known kind")]
    Kind,
    /// What is not used is not zero.
    #[error("says something where zeros belong")]
    Spare,
    /// It has no page, or more than a memory can have.
    #[error("is not within a memory")]
    Outside,
    /// It does not come after the one before it.
    #[error("does not follow the one before it")]
    Order,
    /// Its pages in the file are not there, are another's too, or leave some out.
    #[error("takes pages of the file that are not there or another range's, or leaves some to none")]
    Place,
}
