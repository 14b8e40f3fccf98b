//! Images of format version 1, as they were written once. They load for ever, and what is written today is the same.
//!
//! A change that is meant to be one makes a new version with files of its own; these stay. Files that are not there yet
//! are made by `ROAM_GOLDEN=write cargo test --release -p roam-snapshot --test image golden`.

use std::io::Cursor;
use std::path::PathBuf;

use roam_snapshot::image::{Image, ImageDigest, ImageWriter, Merge, Meta};

use crate::model::{Model, Step, image, meta, range};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn base() -> (Vec<Step>, Meta) {
    (vec![Step { range: range(0, 2, 2), fill: 17 }, Step { range: range(2, 40, 4), fill: 255 }], meta())
}

fn next(parent: ImageDigest) -> (Vec<Step>, Meta) {
    let steps = vec![Step { range: range(0, 3, 1), fill: 99 }, Step { range: range(1, 0, 1), fill: 0 }];
    (steps, Meta { sequence: 8, parent: Some(parent), state: b"later".to_vec(), ..meta() })
}

fn frames() -> Vec<Vec<u8>> {
    vec![(0..64).collect(), b"the second".to_vec()]
}

/// The committed file; it must be what is written today.
fn golden(name: &str, written: &[u8]) -> Vec<u8> {
    let path = path(name);
    if !path.exists() && std::env::var_os("ROAM_GOLDEN").is_some_and(|value| value == "write") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, written).unwrap();
    }
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(bytes == written, "{name} is no longer what is written: that would be another format version");
    bytes
}

#[test]
fn golden_images_load_and_are_what_is_written_today() {
    let (steps, base_meta) = base();
    let full = golden("v1-full.snap", &image(&steps, &base_meta, &frames()).0);
    let mut full = Image::open(Cursor::new(full)).unwrap();
    assert_eq!((full.meta(), full.frames()), (&base_meta, &frames()[..]));
    assert_eq!(full.digest().to_string(), "aef5db282676098b8ea91dfbb8ded8d06c66af9da2121219dcb03ef87c09c0ee");
    let mut model = Model::default();
    steps.iter().for_each(|step| model.apply(step));
    model.check(&mut full);

    let (steps, next_meta) = next(full.digest());
    let increment = golden("v1-incremental.snap", &image(&steps, &next_meta, &[]).0);
    let mut increment = Image::open(Cursor::new(increment)).unwrap();
    assert_eq!((increment.meta(), increment.frames()), (&next_meta, &[][..]));

    let mut file = Cursor::new(Vec::new());
    let mut merge = Merge::begin(ImageWriter::begin(&mut file).unwrap());
    merge.add(&mut full).unwrap();
    merge.add(&mut increment).unwrap();
    merge.finish().unwrap();
    let mut merged = Image::open(Cursor::new(golden("v1-merged.snap", &file.into_inner()))).unwrap();
    steps.iter().for_each(|step| model.apply(step));
    model.check(&mut merged);
    assert_eq!(merged.meta().stands_for, Some(increment.digest()));
}
