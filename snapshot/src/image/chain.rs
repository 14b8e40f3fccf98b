//! Chains: an incremental image follows another, and all of them together make one.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Seek, Write};

use super::error::ImageError;
use super::meta::{ImageDigest, Meta};
use super::read::Image;
use super::write::ImageWriter;
use crate::page::{PAGE_BYTES, PageIndex, PageRange};

/// Pages that are copied at once.
const COPY_PAGES: u32 = 256;

/// How an image hangs together with others. [`Meta::link`] gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Of the image.
    pub digest: ImageDigest,
    /// See [`Meta::stands_for`].
    pub stands_for: Option<ImageDigest>,
    /// See [`Meta::parent`].
    pub parent: Option<ImageDigest>,
    /// See [`Meta::sequence`].
    pub sequence: u64,
}

impl Link {
    /// What those that follow it call it.
    pub fn id(&self) -> ImageDigest {
        self.stands_for.unwrap_or(self.digest)
    }
}

/// Why images are no chain.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// An image that is asked for is not there.
    #[error("there is no image {0}")]
    Unknown(ImageDigest),
    /// An image that another follows is not there.
    #[error("image {image} has only what changed since image {parent}, which is missing")]
    Missing {
        /// The one that follows.
        image: ImageDigest,
        /// The one that is missing.
        parent: ImageDigest,
    },
    /// They follow each other in a ring.
    #[error("image {0} follows itself")]
    Cycle(ImageDigest),
    /// A number between them is missing.
    #[error("image {image} is number {found} and follows one that is number {parent}: it must be the next")]
    Gap {
        /// The one that follows.
        image: ImageDigest,
        /// Its number.
        found: u64,
        /// Its parent's.
        parent: u64,
    },
    /// The first is none that has everything.
    #[error("image {0} has only what changed: a chain begins with one that has everything")]
    NoBase(ImageDigest),
    /// It follows another one.
    #[error("image {image} does not follow image {expected}")]
    Parent {
        /// The one that should follow.
        image: ImageDigest,
        /// The one it should follow.
        expected: ImageDigest,
    },
    /// It is of another guest's code.
    #[error("image {image} belongs to other code than the one it follows")]
    Code {
        /// Which.
        image: ImageDigest,
        /// What differs.
        #[source]
        source: Box<ImageError>,
    },
    /// Its memories are smaller.
    #[error("image {0} has less memory than the one it follows; memories never shrink")]
    Shrinks(ImageDigest),
    /// There is nothing to merge.
    #[error("no image to merge")]
    Empty,
    /// An image cannot be read or written.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// The chain that ends with an image: where its images are among these, the one that has everything first. If an image
/// is there twice, once merged, the merged one is taken.
pub fn chain(links: &[Link], newest: ImageDigest) -> Result<Vec<usize>, ChainError> {
    let by_id = by_id(links);
    let newest = links.iter().position(|link| link.digest == newest).ok_or(ChainError::Unknown(newest))?;
    follow(links, &by_id, newest)
}

/// For every name that others call an image by, where it is; of two, the one that has everything.
pub(super) fn by_id(links: &[Link]) -> HashMap<ImageDigest, usize> {
    let mut by_id = HashMap::new();
    for (index, link) in links.iter().enumerate() {
        let known = by_id.entry(link.id()).or_insert(index);
        if links[*known].parent.is_some() && link.parent.is_none() {
            *known = index;
        }
    }
    by_id
}

pub(super) fn follow(
    links: &[Link],
    by_id: &HashMap<ImageDigest, usize>,
    newest: usize,
) -> Result<Vec<usize>, ChainError> {
    let (mut found, mut seen) = (vec![newest], HashSet::from([newest]));
    let mut link = &links[newest];
    while let Some(parent) = link.parent {
        let index = *by_id.get(&parent).ok_or(ChainError::Missing { image: link.digest, parent })?;
        if !seen.insert(index) {
            return Err(ChainError::Cycle(links[index].digest));
        }
        check_sequence(link.digest, link.sequence, links[index].sequence)?;
        found.push(index);
        link = &links[index];
    }
    found.reverse();
    Ok(found)
}

fn check_sequence(image: ImageDigest, found: u64, parent: u64) -> Result<(), ChainError> {
    if parent.checked_add(1) == Some(found) { Ok(()) } else { Err(ChainError::Gap { image, found, parent }) }
}

/// Makes one image of a chain, an image at a time: the one that has everything first. The result has everything, lies in
/// the file in the order of the base, and takes the place of the last that was added.
pub struct Merge<F> {
    writer: ImageWriter<F>,
    last: Option<Last>,
    buffer: Vec<u8>,
}

struct Last {
    meta: Meta,
    frames: Vec<Vec<u8>>,
    link: Link,
}

impl<F: Read + Write + Seek> Merge<F> {
    /// Begins an image.
    pub fn begin(writer: ImageWriter<F>) -> Self {
        Self { writer, last: None, buffer: vec![0; COPY_PAGES as usize * PAGE_BYTES] }
    }

    /// Adds the next.
    pub fn add<R: Read + Seek>(&mut self, image: &mut Image<R>) -> Result<(), ChainError> {
        self.check(image.meta(), image.digest())?;
        for index in 0..image.ranges().len() {
            let it = image.ranges()[index];
            match it.content.offset() {
                None => self.writer.write_zero(it.range)?,
                Some(_) => self.copy(image, it.range)?,
            }
        }
        let (meta, frames) = (image.meta().clone(), image.frames().to_vec());
        let link = meta.link(image.digest());
        self.last = Some(Last { meta, frames, link });
        Ok(())
    }

    /// Ends the image.
    pub fn finish(self) -> Result<ImageDigest, ChainError> {
        let last = self.last.ok_or(ChainError::Empty)?;
        let meta = Meta { parent: None, stands_for: Some(last.link.id()), ..last.meta };
        Ok(self.writer.finish(&meta, &last.frames)?)
    }

    fn check(&self, meta: &Meta, image: ImageDigest) -> Result<(), ChainError> {
        let Some(last) = &self.last else {
            return if meta.parent.is_none() { Ok(()) } else { Err(ChainError::NoBase(image)) };
        };
        if meta.parent != Some(last.link.id()) {
            return Err(ChainError::Parent { image, expected: last.link.id() });
        }
        check_sequence(image, meta.sequence, last.link.sequence)?;
        let code = last.meta.belongs_to(meta.module, meta.netstack, meta.abi);
        code.map_err(|source| ChainError::Code { image, source: Box::new(source) })?;
        let (before, now) = (&last.meta.shape.0, &meta.shape.0);
        if before.len() != now.len() || before.iter().zip(now).any(|(before, now)| before > now) {
            return Err(ChainError::Shrinks(image));
        }
        Ok(())
    }

    fn copy<R: Read + Seek>(&mut self, image: &mut Image<R>, range: PageRange) -> Result<(), ChainError> {
        for skip in (0..range.count).step_by(COPY_PAGES as usize) {
            let count = COPY_PAGES.min(range.count - skip);
            let part = PageRange { first: PageIndex(range.first.0 + skip), count, ..range };
            let bytes = &mut self.buffer[..count as usize * PAGE_BYTES];
            image.read_pages(part, bytes)?;
            self.writer.write_pages(part, bytes)?;
        }
        Ok(())
    }
}
