//! Images as files.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use roam_snapshot::image::file::{self, FileError};
use roam_snapshot::image::{ChainError, ImageDigest, ImageError, ImageWriter, Meta};
use roam_snapshot::page::Shape;

use crate::model::{Model, Step, meta, range};

/// A directory that goes with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("roam-image-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(&self.0).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn write(path: &Path, steps: &[Step], meta: &Meta) -> Result<ImageDigest, FileError> {
    file::create(path, |mut writer: ImageWriter<&File>| {
        steps.iter().for_each(|step| step.write(&mut writer));
        writer.finish(meta, &[]).map_err(|source| FileError::Image { path: path.to_owned(), source })
    })
}

#[test]
fn a_few_pages_of_a_large_memory_make_a_small_file() {
    let directory = Directory::new("sparse");
    let path = directory.0.join("a.snap");
    let pages = (256 << 20) / 4096;
    let steps: Vec<_> = (0..8).map(|page| Step { range: range(0, page * (pages / 8), 1), fill: 1 }).collect();
    let mut all = file::create::<_, FileError>(&path, |mut writer| {
        writer.write_zero(range(0, 0, pages)).unwrap();
        steps.iter().for_each(|step| step.write(&mut writer));
        let meta = Meta { shape: Shape(vec![pages]), ..meta() };
        writer.finish(&meta, &[]).unwrap();
        Ok(file::open(&path).err())
    });
    assert!(matches!(all.as_mut().unwrap(), Some(FileError::Io { .. })), "it has no name before it is whole");
    let metadata = fs::metadata(&path).unwrap();
    assert!(metadata.blocks() * 512 <= 64 << 10, "{} blocks", metadata.blocks());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    let opened = file::open(&path).unwrap();
    assert_eq!(opened.ranges().iter().map(|it| it.range.count).sum::<u32>(), pages);
    assert_eq!(directory.names(), ["a.snap"]);
}

#[test]
fn what_fails_leaves_what_was_there() {
    let directory = Directory::new("fails");
    let path = directory.0.join("a.snap");
    let first = write(&path, &[Step { range: range(0, 0, 1), fill: 1 }], &meta()).unwrap();
    let failed = file::create::<(), _>(&path, |mut writer| {
        Step { range: range(0, 0, 1), fill: 2 }.write(&mut writer);
        Err(FileError::Image { path: path.clone(), source: ImageError::NotAnImage })
    });
    assert!(failed.is_err());
    assert_eq!(directory.names(), ["a.snap"]);
    assert_eq!(file::open(&path).unwrap().digest(), first);
    let second = write(&path, &[Step { range: range(0, 0, 1), fill: 3 }], &meta()).unwrap();
    assert_eq!(file::open(&path).unwrap().digest(), second);
    assert!(second != first);
    assert!(matches!(write(&directory.0.join("none/a.snap"), &[], &meta()), Err(FileError::Io { act: "create", .. })));
}

#[test]
fn what_a_killed_process_left_is_swept() {
    let directory = Directory::new("sweep");
    write(&directory.0.join("a.snap"), &[], &meta()).unwrap();
    let left = file::create::<_, FileError>(&directory.0.join("b.snap"), |_| Ok(directory.names())).unwrap();
    fs::write(directory.0.join(&left[0]), b"left").unwrap();
    assert_eq!(directory.names().len(), 3);
    file::sweep(&directory.0).unwrap();
    assert_eq!(directory.names(), ["a.snap", "b.snap"]);
}

#[test]
fn a_chain_in_a_directory_becomes_one_file() {
    let directory = Directory::new("chain");
    let (mut model, mut last, mut paths) = (Model::default(), meta(), Vec::new());
    for number in 0..4 {
        let steps = [Step { range: range(0, number * 2, 4), fill: 10 * (number as u8 + 1) }];
        steps.iter().for_each(|step| model.apply(step));
        let path = directory.0.join(format!("{number}.snap"));
        let digest = write(&path, &steps, &last).unwrap();
        last = Meta { sequence: last.sequence + 1, parent: Some(digest), ..last };
        paths.push(path);
    }
    fs::write(directory.0.join("notes.snap"), b"no image").unwrap();
    assert_eq!(file::links(&directory.0).unwrap().len(), 4);
    let whole = directory.0.join("whole");
    file::merge(&paths[3], &whole).unwrap();
    model.check(&mut file::open(&whole).unwrap());
    fs::remove_file(&paths[1]).unwrap();
    let refused = file::merge(&paths[3], &whole).unwrap_err();
    assert!(matches!(refused, FileError::Chain { source: ChainError::Missing { .. }, .. }), "{refused}");
    assert!(file::merge(&directory.0.join("notes.snap"), &whole).is_err());
    // In the place of one of its own chain.
    let cut = directory.0.join("cut.snap");
    fs::rename(&whole, &cut).unwrap();
    file::merge(&cut, &cut).unwrap();
    model.check(&mut file::open(&cut).unwrap());
}
