//! What an image should hold, kept page by page, and small images to test with.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Seek, Write};

use proptest::prelude::*;
use roam_snapshot::image::{Image, ImageDigest, ImageWriter, Meta};
use roam_snapshot::page::{MemoryIndex, PAGE_BYTES, PageIndex, PageRange, Shape};

/// Pages of each memory of the models.
pub(crate) const PAGES: u32 = 1024;
pub(crate) const MEMORIES: u8 = 3;

/// Content of pages, by memory and page. 0 is a zero page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model(pub(crate) BTreeMap<(u8, u32), u8>);

/// Pages that are written, with that content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) range: PageRange,
    pub(crate) fill: u8,
}

impl Model {
    pub(crate) fn apply(&mut self, step: &Step) {
        for page in 0..step.range.count {
            self.0.insert((step.range.memory.0, step.range.first.0 + page), step.content(page));
        }
    }

    /// Fails unless the image has these pages, and no others.
    pub(crate) fn check<R: Read + Seek>(&self, image: &mut Image<R>) {
        let mut found = Self::default();
        for it in image.ranges().to_vec() {
            let mut bytes = vec![0xff; it.range.bytes() as usize];
            image.read_pages(it.range, &mut bytes).unwrap();
            for (page, bytes) in (it.range.first.0..).zip(bytes.chunks(PAGE_BYTES)) {
                assert_eq!(bytes, content(bytes[0]), "page {page}");
                found.0.insert((it.range.memory.0, page), bytes[0]);
            }
        }
        assert_eq!(&found, self);
    }
}

impl Step {
    fn content(&self, page: u32) -> u8 {
        // Zero pages among others, and not only apart from them.
        self.fill.wrapping_add((page / 3) as u8)
    }

    pub(crate) fn write<F: Read + Write + Seek>(&self, writer: &mut ImageWriter<F>) {
        let bytes: Vec<u8> = (0..self.range.count).flat_map(|page| content(self.content(page))).collect();
        writer.write_pages(self.range, &bytes).unwrap();
    }
}

pub(crate) fn content(fill: u8) -> [u8; PAGE_BYTES] {
    let mut page = [fill; PAGE_BYTES];
    page[PAGE_BYTES - 1] = fill.reverse_bits();
    page
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let fill = prop_oneof![Just(0), 250u8..=255, any::<u8>()];
    let step = (0..MEMORIES, 0..PAGES, 1u32..200, fill).prop_map(|(memory, first, count, fill)| {
        let count = count.min(PAGES - first);
        Step { range: range(memory, first, count), fill }
    });
    proptest::collection::vec(step, 0..12)
}

pub(crate) fn range(memory: u8, first: u32, count: u32) -> PageRange {
    PageRange { memory: MemoryIndex(memory), first: PageIndex(first), count }
}

pub(crate) fn meta() -> Meta {
    Meta {
        guest: b"a guest".to_vec(),
        module: [1; 32],
        netstack: [2; 32],
        abi: 3,
        shape: Shape(vec![PAGES; MEMORIES.into()]),
        created_ms: 1_700_000_000_000,
        sequence: 7,
        parent: None,
        stands_for: None,
        state: b"globals, clock, random generator".to_vec(),
    }
}

/// An image of what was written, as its bytes.
pub(crate) fn image(steps: &[Step], meta: &Meta, frames: &[Vec<u8>]) -> (Vec<u8>, ImageDigest) {
    let mut file = Cursor::new(Vec::new());
    let mut writer = ImageWriter::begin(&mut file).unwrap();
    steps.iter().for_each(|step| step.write(&mut writer));
    let digest = writer.finish(meta, frames).unwrap();
    (file.into_inner(), digest)
}

/// An image with all there can be in one, of a few pages.
pub(crate) fn small() -> Vec<u8> {
    let steps = [Step { range: range(0, 3, 2), fill: 5 }, Step { range: range(0, 9, 4), fill: 255 }];
    image(&steps, &meta(), &[b"a frame".to_vec(), b"another".to_vec()]).0
}
