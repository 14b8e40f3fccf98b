//! A directory of a guest's images.

use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use roam_snapshot::image::file::{EXTENSION, links, merge};
use roam_snapshot::image::{Link, Meta, chain, peek, retain};

use super::super::exit::Usage;
use crate::api::GuestName;
use crate::host::guest_of;

/// The newest image that can be restored, and those it rests on, the one that has everything first.
pub(in crate::cli) struct Chain {
    pub(in crate::cli) files: Vec<PathBuf>,
    links: Vec<Link>,
}

impl Chain {
    /// The newest of them.
    pub(in crate::cli) fn newest(&self) -> &Path {
        self.files.last().expect("a chain has an image")
    }
}

/// `None` if there is none.
pub(in crate::cli) fn newest(directory: &Path) -> Result<Option<Chain>> {
    let (files, links): (Vec<_>, Vec<_>) = links(directory)?.into_iter().unzip();
    let mut by_age: Vec<&Link> = links.iter().collect();
    by_age.sort_by_key(|link| std::cmp::Reverse(link.sequence));
    let whole = by_age.into_iter().find_map(|link| chain(&links, link.digest).ok());
    Ok(whole.map(|indices| {
        let take = |index: &usize| (files[*index].clone(), links[*index]);
        let (files, links) = indices.iter().map(take).unzip();
        Chain { files, links }
    }))
}

/// What describes the newest image, which must be one of this guest, and its number; `None` if there is none yet.
pub(super) fn last(directory: &Path, name: &GuestName) -> Result<Option<Meta>> {
    let Some(chain) = newest(directory)? else { return Ok(None) };
    let path = chain.newest();
    let shown = || format!("cannot read {}", path.display());
    let (meta, _) =
        File::open(path).map_err(anyhow::Error::from).and_then(|file| Ok(peek(file)?)).with_context(shown)?;
    match guest_of(&meta) {
        Ok(spec) if spec.name != *name => {
            let directory = directory.display();
            let found = spec.name;
            Err(Usage(format!("{directory} has images of guest `{found}`; give `{name}` a directory of its own"))
                .into())
        }
        _ => Ok(Some(meta)),
    }
}

/// What the image of that number is called.
pub(super) fn path(directory: &Path, sequence: u64) -> PathBuf {
    directory.join(format!("{sequence:010}.{EXTENSION}"))
}

/// Deletes what is not needed to restore the newest `keep`. When there are half as many more, the oldest that is kept is
/// merged with what it rests on: to do that each time would write all of the guest each time.
pub(super) fn tidy(directory: &Path, keep: NonZeroUsize) -> Result<()> {
    if let Some(chain) = newest(directory)?
        && chain.links.len() > keep.get() + keep.get() / 2
    {
        let oldest = &chain.files[chain.files.len() - keep.get()];
        // It takes its own place: what follows it follows the merged one as well.
        merge(oldest, oldest)?;
    }
    let (files, links): (Vec<_>, Vec<_>) = links(directory)?.into_iter().unzip();
    for index in retain(&links, keep) {
        let path = &files[index];
        fs::remove_file(path).with_context(|| format!("cannot delete {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use roam_snapshot::image::ImageDigest;
    use roam_snapshot::image::file::{create, open};
    use roam_snapshot::page::{MemoryIndex, PAGE_BYTES, PageIndex, PageRange, Shape};

    /// An image of one page, which is another in each.
    fn take(directory: &Path, sequence: u64, parent: Option<ImageDigest>) -> ImageDigest {
        let meta = Meta {
            guest: Vec::new(),
            module: [1; 32],
            netstack: [2; 32],
            abi: 1,
            shape: Shape(vec![64]),
            created_ms: 0,
            sequence,
            parent,
            stands_for: None,
            state: Vec::new(),
        };
        let page = PageRange { memory: MemoryIndex(0), first: PageIndex(sequence as u32), count: 1 };
        let written = create(&path(directory, sequence), |mut writer| -> Result<ImageDigest> {
            writer.write_pages(page, &[sequence as u8 + 1; PAGE_BYTES])?;
            Ok(writer.finish(&meta, &[])?)
        });
        written.unwrap()
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_newest_stay_and_can_be_restored() {
        let directory = std::env::temp_dir().join(format!("roam-images-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        assert!(newest(&directory).unwrap().is_none());
        let keep = NonZeroUsize::new(4).unwrap();
        let mut parent = None;
        for sequence in 0..20 {
            // Now and then the host has forgotten.
            let follows = parent.filter(|_| sequence != 13);
            parent = Some(take(&directory, sequence, follows));
            tidy(&directory, keep).unwrap();
            let chain = newest(&directory).unwrap().unwrap();
            assert_eq!(chain.newest(), path(&directory, sequence));
            assert!(names(&directory).len() <= 6 + 6, "{:?}", names(&directory));
            let whole = directory.join("whole.snap");
            merge(chain.newest(), &whole).unwrap();
            let pages: u32 = open(&whole).unwrap().ranges().iter().map(|it| it.range.count).sum();
            assert_eq!(u64::from(pages), if sequence < 13 { sequence + 1 } else { sequence - 12 });
            fs::remove_file(whole).unwrap();
        }
        let last: Vec<String> = (15..20).map(|sequence| format!("{sequence:010}.snap")).collect();
        assert!(names(&directory).ends_with(&last[1..]), "{:?}", names(&directory));
        assert!(names(&directory).len() <= 6);
        fs::remove_dir_all(directory).unwrap();
    }
}
