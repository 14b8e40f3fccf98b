//! Images as files: made whole or not at all.
//!
//! A file is written under another name, synced, renamed, and its directory synced: when [`create`] returns, the image
//! survives a crash of the machine; before, whatever had the name has it still. A file that has its name is never
//! changed, so that it can be mapped. Only its owner may read it: it holds the guest's secrets.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::chain::{ChainError, Link, Merge, chain};
use super::error::ImageError;
use super::meta::ImageDigest;
use super::read::{Image, peek};
use super::write::ImageWriter;

/// What images' names end with, where they are looked for.
pub const EXTENSION: &str = "snap";
/// What names of unfinished ones end with.
const UNFINISHED: &[u8] = b".unfinished";

/// Why a file is no image, or did not become one.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system said no.
    #[error("cannot {act} {path}")]
    Io {
        /// What was to be done.
        act: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is no image, or cannot be made one.
    #[error("{path}")]
    Image {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: ImageError,
    },
    /// It and the images it follows are no chain.
    #[error("{path}")]
    Chain {
        /// Which.
        path: PathBuf,
        /// What is wrong with them.
        #[source]
        source: ChainError,
    },
}

impl FileError {
    fn io<'a>(act: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self::Io { act, path: path.to_owned(), source }
    }

    fn image(path: &Path) -> impl FnOnce(ImageError) -> Self + '_ {
        |source| Self::Image { path: path.to_owned(), source }
    }

    fn chain(path: &Path) -> impl FnOnce(ChainError) -> Self + '_ {
        |source| Self::Chain { path: path.to_owned(), source }
    }
}

/// Makes a file of what `write` writes, durable when this returns; it takes the place of one that has its name. Nothing
/// is left of it if it cannot be written. Blocks: it waits for the disk.
pub fn create<T, E: From<FileError>>(
    path: &Path,
    write: impl FnOnce(ImageWriter<&File>) -> Result<T, E>,
) -> Result<T, E> {
    let unfinished = Unfinished::begin(path)?;
    let written = write(ImageWriter::begin(unfinished.file()).map_err(FileError::image(path))?)?;
    unfinished.keep()?;
    Ok(written)
}

/// Opens an image and checks all of it.
pub fn open(path: &Path) -> Result<Image<File>, FileError> {
    let file = File::open(path).map_err(FileError::io("open", path))?;
    Image::open(file).map_err(FileError::image(path))
}

/// The images of a directory, by name, that say what they are. Whether they are whole is not looked at; what is none is
/// left out.
pub fn links(directory: &Path) -> Result<Vec<(PathBuf, Link)>, FileError> {
    let mut links = Vec::new();
    for path in files(directory)? {
        if path.extension() != Some(OsStr::new(EXTENSION)) {
            continue;
        }
        let file = match File::open(&path) {
            // Deleted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened.map_err(FileError::io("open", &path))?,
        };
        if let Ok((meta, digest)) = peek(file) {
            links.push((path, meta.link(digest)));
        }
    }
    links.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(links)
}

/// Makes one image that has everything, at `path`, of an image and those in its directory that it follows. The result
/// can be restored, and what follows `newest` follows it as well.
pub fn merge(newest: &Path, path: &Path) -> Result<ImageDigest, FileError> {
    let (_, digest) =
        peek(File::open(newest).map_err(FileError::io("open", newest))?).map_err(FileError::image(newest))?;
    let mut links = links(directory(newest))?;
    // Under whatever name it is there.
    if !links.iter().any(|(_, link)| link.digest == digest) {
        let image = open(newest)?;
        links.push((newest.to_owned(), image.meta().link(digest)));
    }
    let (paths, links): (Vec<_>, Vec<_>) = links.into_iter().unzip();
    let chain = chain(&links, digest).map_err(FileError::chain(newest))?;
    create(path, |writer| {
        let mut merge = Merge::begin(writer);
        for index in chain {
            let path = &paths[index];
            merge.add(&mut open(path)?).map_err(FileError::chain(path))?;
        }
        merge.finish().map_err(FileError::chain(path))
    })
}

/// Deletes what [`create`] left in a directory when its process was killed. To be called while nobody creates there.
pub fn sweep(directory: &Path) -> Result<(), FileError> {
    for path in files(directory)? {
        let name = path.file_name().map_or(&[][..], OsStr::as_bytes);
        if name.starts_with(b".") && name.ends_with(UNFINISHED) {
            fs::remove_file(&path).map_err(FileError::io("delete", &path))?;
        }
    }
    Ok(())
}

/// A file on its way to a name: beside it under another, and gone when this is dropped.
#[derive(Debug)]
pub struct Unfinished {
    file: File,
    beside: PathBuf,
    path: PathBuf,
}

impl Unfinished {
    /// An empty file, which only its owner may read.
    pub fn begin(path: &Path) -> Result<Self, FileError> {
        let beside = beside(path);
        let open = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&beside);
        let file = open.map_err(FileError::io("create", &beside))?;
        Ok(Self { file, beside, path: path.to_owned() })
    }

    /// To write to, and to read what was written.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives it its name, durable when this returns; it takes the place of one that has it. Blocks: it waits for the
    /// disk.
    pub fn keep(self) -> Result<(), FileError> {
        self.file.sync_all().map_err(FileError::io("sync", &self.beside))?;
        fs::rename(&self.beside, &self.path).map_err(FileError::io("rename a file to", &self.path))?;
        let directory = directory(&self.path);
        File::open(directory).and_then(|file| file.sync_all()).map_err(FileError::io("sync", directory))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // It is not there if it was renamed; and sweep tries again.
        let _ = fs::remove_file(&self.beside);
    }
}

/// A name of its own in the same directory.
fn beside(path: &Path) -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut name = OsStr::new(".").to_owned();
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.{number}", std::process::id()));
    name.push(OsStr::from_bytes(UNFINISHED));
    path.with_file_name(name)
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn files(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let failed = |source| FileError::Io { act: "list", path: directory.to_owned(), source };
    let entries = fs::read_dir(directory).map_err(failed)?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
}
