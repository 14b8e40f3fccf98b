//! How messages and pages travel: a kind, a length, a body.
//!
//! ```text
//!  kind: u8   length: u32 LE   body
//!    1  message                postcard of Message
//!    2  pages                  postcard of PagesHeader behind a u16 LE length, then the data
//! ```
//!
//! A reader takes [`PREFIX_BYTES`], parses them as a [`Prefix`], takes so many bytes more, and decodes. No length is used
//! before it was held against its limit: a body's by [`Prefix::parse`], a message's own by [`decode`], the data's by
//! [`unpack`], which makes room for what the header says and not for what the data says.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::message::{
    BASE_PAGES_MAX, CHUNK_BYTES_MAX, FRAME_BYTES_MAX, GUEST_BYTES_MAX, MessageError, REASON_BYTES_MAX, STATE_BYTES_MAX,
};
use super::{Encoding, Message};
use crate::page::{MEMORIES_MAX, PAGE_BYTES, PAGES_MAX, PageRange};

/// Bytes of kind and length.
pub const PREFIX_BYTES: usize = 5;
/// Most pages of one batch.
pub const BATCH_PAGES_MAX: u32 = 64;
/// Most ranges of one batch.
pub const BATCH_RANGES_MAX: usize = 64;
/// Most bytes of a message's body.
pub const MESSAGE_BYTES_MAX: usize = STATE_BYTES_MAX + SMALL_BYTES_MAX;
/// Most bytes of a batch's body: pages that do not compress are a little longer than they were.
pub const PAGES_BYTES_MAX: usize = HEADER_LENGTH_BYTES + HEADER_BYTES_MAX + lz4_bytes_max(BATCH_BYTES_MAX);

const BATCH_BYTES_MAX: usize = BATCH_PAGES_MAX as usize * PAGE_BYTES;
const HEADER_LENGTH_BYTES: usize = 2;
/// A range is a byte and two numbers of at most five.
const HEADER_BYTES_MAX: usize = BATCH_RANGES_MAX * 11 + 16;
/// More than a message has beside what its own limits name.
const SMALL_BYTES_MAX: usize = 1024;
/// A byte, a number of at most five, one of at most nineteen.
const BASE_PAGE_BYTES_MAX: usize = 25;

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A [`Message`]: for [`decode`].
    Message,
    /// Pages: for [`decode_pages`].
    Pages,
}

/// What precedes a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// What follows.
    pub kind: Kind,
    /// How long it is; within its limit.
    pub body_bytes: usize,
}

/// What a batch of pages is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PagesHeader {
    /// Which pages, in the order of the data; at most [`BATCH_RANGES_MAX`] ranges and [`BATCH_PAGES_MAX`] pages.
    pub ranges: Vec<PageRange>,
    /// How the data is written.
    pub encoding: Encoding,
}

/// Why what came cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Neither a message nor pages.
    #[error("there is no kind {0}")]
    Kind(u8),
    /// A body over its limit.
    #[error("{bytes} bytes of {what}; the limit is {bytes_max}")]
    TooLong {
        /// What it is.
        what: &'static str,
        /// How long it says it is.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A body that ends too early.
    #[error("pages end within their header")]
    Short,
    /// Not what it should be.
    #[error("a {what} cannot be decoded")]
    Decode {
        /// What it should be.
        what: &'static str,
        /// What the codec says.
        #[source]
        source: postcard::Error,
    },
    /// Bytes behind the end.
    #[error("{bytes} bytes behind a {what}")]
    Behind {
        /// Behind what.
        what: &'static str,
        /// How many.
        bytes: usize,
    },
    /// A field over its limit.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A batch without a page, of too many, or of pages that cannot be.
    #[error("a batch of {ranges} ranges and {pages} pages; the limits are {BATCH_RANGES_MAX} and {BATCH_PAGES_MAX}")]
    Batch {
        /// Its ranges.
        ranges: usize,
        /// Their pages.
        pages: u64,
    },
    /// A range of no page, or outside of what a memory can be.
    #[error("pages {first}+{count} of memory {memory} cannot be")]
    Range {
        /// Which memory.
        memory: u8,
        /// The first.
        first: u32,
        /// How many.
        count: u32,
    },
    /// Data of another length than its pages.
    #[error("{bytes} bytes for pages of {bytes_expected}")]
    Length {
        /// How many there are.
        bytes: usize,
        /// How many there should be.
        bytes_expected: usize,
    },
    /// Data that is not what was packed.
    #[error("pages cannot be decompressed")]
    Decompress(#[source] lz4_flex::block::DecompressError),
}

impl Prefix {
    /// What follows, if that may be.
    pub fn parse(bytes: [u8; PREFIX_BYTES]) -> Result<Self, WireError> {
        let [kind, length @ ..] = bytes;
        let (kind, what, bytes_max) = match kind {
            1 => (Kind::Message, "message", MESSAGE_BYTES_MAX),
            2 => (Kind::Pages, "pages", PAGES_BYTES_MAX),
            other => return Err(WireError::Kind(other)),
        };
        let body_bytes = u32::from_le_bytes(length) as usize;
        within(what, body_bytes, bytes_max)?;
        Ok(Self { kind, body_bytes })
    }

    fn bytes(self) -> [u8; PREFIX_BYTES] {
        let kind = match self.kind {
            Kind::Message => 1,
            Kind::Pages => 2,
        };
        let length = u32::try_from(self.body_bytes).expect("every limit of a body is far below 4 GiB").to_le_bytes();
        [kind, length[0], length[1], length[2], length[3]]
    }
}

/// A message with its prefix. Who makes one of what others gave checks it first ([`Message::check`]): nobody would take
/// it.
pub fn encode(message: &Message) -> Vec<u8> {
    let encoded = postcard::to_extend(message, vec![0; PREFIX_BYTES]).expect("a vector takes everything");
    prefixed(Kind::Message, encoded, 0)
}

/// The message of a body.
pub fn decode(body: &[u8]) -> Result<Message, WireError> {
    within("message", body.len(), body.first().map_or(0, |number| message_bytes_max(*number)))?;
    let (message, behind) =
        postcard::take_from_bytes::<Message>(body).map_err(|source| WireError::Decode { what: "message", source })?;
    if !behind.is_empty() {
        return Err(WireError::Behind { what: "message", bytes: behind.len() });
    }
    message.check()?;
    Ok(message)
}

/// What precedes so many bytes of packed pages: prefix, header's length, header.
///
/// # Panics
///
/// If the batch is over its limits ([`PagesHeader::check`]).
pub fn encode_pages(header: &PagesHeader, data_bytes: usize) -> Vec<u8> {
    header.check().expect("batches are made within their limits");
    let begin = PREFIX_BYTES + HEADER_LENGTH_BYTES;
    let mut encoded = postcard::to_extend(header, vec![0; begin]).expect("a vector takes everything");
    let length = u16::try_from(encoded.len() - begin).expect("a header has at most BATCH_RANGES_MAX ranges");
    encoded[PREFIX_BYTES..begin].copy_from_slice(&length.to_le_bytes());
    prefixed(Kind::Pages, encoded, data_bytes)
}

/// The header and the data of a body. The header is checked, but not against the guest's memories.
pub fn decode_pages(body: &[u8]) -> Result<(PagesHeader, &[u8]), WireError> {
    let (length, rest) = body.split_first_chunk().ok_or(WireError::Short)?;
    let length = usize::from(u16::from_le_bytes(*length));
    within("a header of pages", length, HEADER_BYTES_MAX)?;
    let (header, data) = rest.split_at_checked(length).ok_or(WireError::Short)?;
    let (header, behind) = postcard::take_from_bytes::<PagesHeader>(header)
        .map_err(|source| WireError::Decode { what: "header of pages", source })?;
    if !behind.is_empty() {
        return Err(WireError::Behind { what: "header of pages", bytes: behind.len() });
    }
    header.check()?;
    Ok((header, data))
}

/// The bytes of pages as they travel.
pub fn pack(encoding: Encoding, pages: &[u8]) -> Cow<'_, [u8]> {
    match encoding {
        Encoding::Raw => Cow::Borrowed(pages),
        Encoding::Lz4 => Cow::Owned(lz4_flex::block::compress(pages)),
    }
}

/// The bytes of pages as they are in memory: exactly those of the header's pages.
pub fn unpack<'a>(header: &PagesHeader, data: &'a [u8]) -> Result<Cow<'a, [u8]>, WireError> {
    header.check()?;
    let bytes_expected = header.pages() as usize * PAGE_BYTES;
    let pages = match header.encoding {
        Encoding::Raw => Cow::Borrowed(data),
        Encoding::Lz4 => {
            let mut pages = vec![0; bytes_expected];
            let bytes = lz4_flex::block::decompress_into(data, &mut pages).map_err(WireError::Decompress)?;
            pages.truncate(bytes);
            Cow::Owned(pages)
        }
    };
    if pages.len() == bytes_expected {
        return Ok(pages);
    }
    Err(WireError::Length { bytes: pages.len(), bytes_expected })
}

impl PagesHeader {
    /// How many pages they are.
    pub fn pages(&self) -> u64 {
        self.ranges.iter().map(|range| u64::from(range.count)).sum()
    }

    /// Whether there can be such a batch.
    pub fn check(&self) -> Result<(), WireError> {
        let (ranges, pages) = (self.ranges.len(), self.pages());
        if ranges > BATCH_RANGES_MAX || !(1..=u64::from(BATCH_PAGES_MAX)).contains(&pages) {
            return Err(WireError::Batch { ranges, pages });
        }
        let impossible = |range: &&PageRange| {
            usize::from(range.memory.0) >= MEMORIES_MAX || range.count == 0 || range.end() > u64::from(PAGES_MAX)
        };
        match self.ranges.iter().find(impossible) {
            Some(range) => Err(WireError::Range { memory: range.memory.0, first: range.first.0, count: range.count }),
            None => Ok(()),
        }
    }
}

fn within(what: &'static str, bytes: usize, bytes_max: usize) -> Result<(), WireError> {
    if bytes > bytes_max { Err(WireError::TooLong { what, bytes, bytes_max }) } else { Ok(()) }
}

/// Writes the prefix into the room that was left for it.
fn prefixed(kind: Kind, mut encoded: Vec<u8>, data_bytes: usize) -> Vec<u8> {
    let prefix = Prefix { kind, body_bytes: encoded.len() - PREFIX_BYTES + data_bytes };
    encoded[..PREFIX_BYTES].copy_from_slice(&prefix.bytes());
    encoded
}

/// The longest body of a message, by its number: the body's first byte.
fn message_bytes_max(number: u8) -> usize {
    let fields_bytes_max = match number {
        2 => GUEST_BYTES_MAX,
        4 | 15 | 18 => REASON_BYTES_MAX,
        5 | 10 => CHUNK_BYTES_MAX,
        6 => BASE_PAGES_MAX * BASE_PAGE_BYTES_MAX,
        12 => FRAME_BYTES_MAX,
        13 => STATE_BYTES_MAX,
        _ => 0,
    };
    fields_bytes_max + SMALL_BYTES_MAX
}

/// What LZ4 makes of bytes at worst.
const fn lz4_bytes_max(bytes: usize) -> usize {
    bytes + bytes / 255 + 16
}

#[cfg(test)]
mod tests;
