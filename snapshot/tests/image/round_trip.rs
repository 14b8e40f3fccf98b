//! What is written is what is read.

use std::io::Cursor;

use proptest::prelude::*;
use roam_snapshot::image::{Content, Image, ImageError, ImageWriter, peek, verify};
use roam_snapshot::page::PAGE_BYTES;

use crate::model::{MEMORIES, Model, PAGES, Step, content, image, meta, range, steps};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// In any order, and whatever was written over.
    #[test]
    fn an_image_has_what_was_written_last(
        steps in steps(),
        frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..100), 0..4),
    ) {
        let (bytes, digest) = image(&steps, &meta(), &frames);
        let verified = verify(bytes.as_slice()).unwrap();
        prop_assert_eq!((&verified.meta, &verified.frames), (&meta(), &frames));
        prop_assert_eq!((verified.digest, verified.file_bytes), (digest, bytes.len() as u64));
        let mut opened = Image::open(Cursor::new(&bytes)).unwrap();
        prop_assert_eq!(opened.ranges(), &verified.ranges[..]);
        prop_assert_eq!(peek(Cursor::new(&bytes)).unwrap(), (meta(), digest));
        let mut model = Model::default();
        steps.iter().for_each(|step| model.apply(step));
        model.check(&mut opened);
        for it in opened.ranges() {
            if let Some(offset) = it.content.offset() {
                prop_assert_eq!(offset % PAGE_BYTES as u64, 0, "it can be mapped");
                let page = &bytes[offset as usize..][..PAGE_BYTES];
                prop_assert_eq!(page[0], model.0[&(it.range.memory.0, it.range.first.0)]);
            }
        }
    }

    /// Any run of pages that are there can be read, across ranges; any other names the first page that is missing.
    #[test]
    fn pages_are_read_across_ranges(steps in steps(), memory in 0..MEMORIES, first in 0..PAGES, count in 1u32..300) {
        let (bytes, _) = image(&steps, &meta(), &[]);
        let mut opened = Image::open(Cursor::new(&bytes)).unwrap();
        let mut model = Model::default();
        steps.iter().for_each(|step| model.apply(step));
        let wanted = range(memory, first, count);
        let mut read = vec![0xff; wanted.bytes() as usize];
        let result = opened.read_pages(wanted, &mut read);
        match (first..first + count).find(|page| !model.0.contains_key(&(memory, *page))) {
            None => {
                prop_assert!(result.is_ok());
                for (page, bytes) in (first..).zip(read.chunks(PAGE_BYTES)) {
                    prop_assert_eq!(bytes, content(model.0[&(memory, page)]));
                }
            }
            Some(missing) => {
                let named = matches!(result, Err(ImageError::Absent { memory: m, page }) if (m, page) == (memory, missing));
                prop_assert!(named, "{:?}", result);
            }
        }
    }
}

#[test]
fn what_is_zero_or_left_out_takes_no_room() {
    let empty = image(&[], &meta(), &[]).0.len();
    let mut file = Cursor::new(Vec::new());
    let mut writer = ImageWriter::begin(&mut file).unwrap();
    writer.write_zero(range(0, 0, PAGES)).unwrap();
    writer.write_pages(range(1, 8, 1), &content(1)).unwrap();
    assert!(writer.contains(range(0, 5, 1).memory, range(0, 5, 1).first));
    assert!(!writer.contains(range(1, 9, 1).memory, range(1, 9, 1).first));
    writer.finish(&meta(), &[]).unwrap();
    let opened = Image::open(file).unwrap();
    let contents: Vec<_> = opened.ranges().iter().map(|it| it.content).collect();
    assert_eq!(contents, [Content::Zero, Content::At(0)]);
    assert_eq!(opened.file_bytes() as usize, empty + PAGE_BYTES + 2 * 16 + 32);
}

#[test]
fn pages_written_in_order_are_one_range() {
    let steps: Vec<_> = (0..100).map(|page| Step { range: range(0, page, 1), fill: 1 }).collect();
    let opened = Image::open(Cursor::new(image(&steps, &meta(), &[]).0)).unwrap();
    assert_eq!(opened.ranges().len(), 1);
    assert_eq!(opened.ranges()[0].range, range(0, 0, 100));
}

#[test]
fn what_no_guest_has_is_not_written() {
    let mut writer = ImageWriter::begin(Cursor::new(Vec::new())).unwrap();
    assert!(matches!(writer.write_pages(range(0, 0, 2), &content(1)), Err(ImageError::Length { expected: 8192, .. })));
    assert!(matches!(writer.write_pages(range(8, 0, 1), &content(1)), Err(ImageError::Page(_))));
    assert!(matches!(writer.write_zero(range(0, 1 << 20, 1)), Err(ImageError::Page(_))));
    writer.write_pages(range(0, PAGES, 1), &content(1)).unwrap();
    assert!(matches!(writer.finish(&meta(), &[]), Err(ImageError::Page(_))), "outside of its memory");
    for frames in [vec![vec![]], vec![vec![0; 1 << 20]], vec![vec![0]; 4097]] {
        let writer = ImageWriter::begin(Cursor::new(Vec::new())).unwrap();
        assert!(matches!(writer.finish(&meta(), &frames), Err(ImageError::Frame { .. })));
    }
    let mut long = meta();
    long.state = vec![0; (1 << 20) + 1];
    let writer = ImageWriter::begin(Cursor::new(Vec::new())).unwrap();
    let refused = writer.finish(&long, &[]).unwrap_err();
    assert_eq!(refused.to_string(), "the image's state has 1048577 bytes; the limit is 1048576");
}

#[test]
fn an_image_is_for_its_own_code() {
    let meta = meta();
    assert!(meta.belongs_to([1; 32], [2; 32], 3).is_ok());
    let refused = meta.belongs_to([9; 32], [2; 32], 3).unwrap_err().to_string();
    assert_eq!(
        refused,
        format!(
            "the image belongs to module {}, not to {}; restore it with that one",
            "01".repeat(32),
            "09".repeat(32)
        )
    );
    assert!(matches!(meta.belongs_to([1; 32], [9; 32], 3), Err(ImageError::Code { what: "netstack", .. })));
    assert!(matches!(meta.belongs_to([1; 32], [2; 32], 4), Err(ImageError::Abi { expected: 3, found: 4 })));
}
