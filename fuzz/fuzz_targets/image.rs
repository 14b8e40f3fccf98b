//! Images from anybody: what is accepted can be read, all of it, and is the same when it is written again; what is not is
//! refused with a sentence.
//!
//! Input: a byte that chooses. 0: the file as it is. Else the sections of one whose checksums fit, as no fuzzer gets past
//! those: a byte for its flag and pages, then index, frames and meta, each behind two bytes of length (little-endian).
#![no_main]

use std::io::Cursor;

use libfuzzer_sys::fuzz_target;
use roam_snapshot::image::{Image, ImageError, ImageRange, ImageWriter, peek, seal, verify};
use roam_snapshot::page::PAGE_BYTES;

/// Pages that are read at once.
const READ_PAGES: u32 = 64;
/// Pages that an image may say it has, zero pages included, to be written again.
const PAGES_MAX: u64 = 1 << 14;

fuzz_target!(|data: &[u8]| {
    let Some((kind, rest)) = data.split_first() else { return };
    let file = if *kind == 0 { rest.to_vec() } else { sealed(rest) };
    match verify(file.as_slice()) {
        Ok(_) => again(&file),
        Err(error) => {
            assert!(!error.to_string().is_empty(), "a refusal without a reason");
            assert!(Image::open(Cursor::new(&file)).is_err(), "refused and opened");
        }
    }
});

/// A file whose checksums fit.
fn sealed(data: &[u8]) -> Vec<u8> {
    let Some((first, rest)) = data.split_first() else { return Vec::new() };
    let (incremental, pages) = (first & 0x80 != 0, u32::from(first & 0x1f));
    let (index, rest) = section(rest);
    let (frames, rest) = section(rest);
    let (meta, _) = section(rest);
    let mut file = vec![0x5a; PAGE_BYTES * (1 + pages as usize)];
    let sums = file[PAGE_BYTES..].chunks(16 * PAGE_BYTES).flat_map(|pages| *blake3::hash(pages).as_bytes()).collect();
    let mut writer = Cursor::new(&mut file);
    match seal(&mut writer, incremental, pages, &[index, sums, frames, meta]) {
        Ok(_) => file,
        Err(ImageError::SectionBytes { .. }) => Vec::new(),
        Err(error) => panic!("{error}"),
    }
}

fn section(data: &[u8]) -> (Vec<u8>, &[u8]) {
    let [low, high, rest @ ..] = data else { return (Vec::new(), &[]) };
    let (section, rest) = rest.split_at(usize::from(u16::from_le_bytes([*low, *high])).min(rest.len()));
    (section.to_vec(), rest)
}

/// Reads all of an image, writes it again, and compares.
fn again(file: &[u8]) {
    let mut image = Image::open(Cursor::new(file)).expect("it was verified");
    assert_eq!(peek(Cursor::new(file)).expect("it was verified"), (image.meta().clone(), image.digest()));
    let ranges = image.ranges().to_vec();
    if ranges.iter().map(|it| u64::from(it.range.count)).sum::<u64>() > PAGES_MAX {
        return;
    }
    let mut file = Cursor::new(Vec::new());
    let mut writer = ImageWriter::begin(&mut file).expect("memory to write to");
    let mut bytes = vec![0; READ_PAGES as usize * PAGE_BYTES];
    for it in &ranges {
        for skip in (0..it.range.count).step_by(READ_PAGES as usize) {
            let mut part = it.range;
            part.first.0 += skip;
            part.count = READ_PAGES.min(it.range.count - skip);
            let bytes = &mut bytes[..part.bytes() as usize];
            image.read_pages(part, bytes).expect("pages that it has");
            writer.write_pages(part, bytes).expect("pages of a guest");
        }
    }
    writer.finish(image.meta(), image.frames()).expect("what was read can be written");
    let written = verify(file.get_ref().as_slice()).expect("what we wrote");
    assert_eq!((&written.meta, &written.frames[..]), (image.meta(), image.frames()));
    let pages = |ranges: &[ImageRange]| ranges.iter().map(|it| it.range.count).sum::<u32>();
    assert_eq!(pages(&written.ranges), pages(&ranges));
}
