//! Compiled modules on disk, by what they were compiled from and for.
//!
//! A file is mapped and executed, so it is trusted only if nobody else could have written it: the directory belongs to
//! this user and is closed to others, and the artifact's own digest stands beside it. Whatever does not fit is
//! compiled again.

use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::ModuleHash;

/// A directory of compiled modules.
#[derive(Debug)]
pub struct Cache {
    dir: PathBuf,
}

/// Why the cache cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The directory cannot be made or looked at.
    #[error("the compile cache {dir} cannot be used")]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others could plant code in it.
    #[error(
        "the compile cache {dir} is writable by others or not yours; `chmod 700` it, or choose another with --cache-dir"
    )]
    Unsafe {
        /// The directory.
        dir: PathBuf,
    },
    /// The module cannot be turned into a file.
    #[error("the compiled module cannot be serialised")]
    Serialise(#[source] wasmtime::Error),
    /// Writing failed, for example on a full disk.
    #[error("the compiled module cannot be written to {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// blake3 over the module's hash and everything of the engine that shapes the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArtifactKey(blake3::Hash);

pub(super) fn key(module: ModuleHash, engine: &wasmtime::Engine) -> ArtifactKey {
    let mut hasher = Blake3(blake3::Hasher::new());
    hasher.0.update(b"roam compiled module 1");
    hasher.0.update(&module.0);
    engine.precompile_compatibility_hash().hash(&mut hasher);
    ArtifactKey(hasher.0.finalize())
}

/// blake3 as a [`Hasher`], so that what the engine feeds is all kept (64 bits would not do for a file name).
struct Blake3(blake3::Hasher);

impl Hasher for Blake3 {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        unreachable!("the digest is taken from the inner hasher")
    }
}

impl Cache {
    /// Makes the directory (mode 0700) if need be, and refuses one that others can write.
    pub fn open(dir: PathBuf) -> Result<Self, CacheError> {
        let failed = |source| CacheError::Directory { dir: dir.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed)?;
        let metadata = fs::metadata(&dir).map_err(failed)?;
        if metadata.uid() != nix::unistd::geteuid().as_raw() || metadata.mode() & 0o022 != 0 {
            return Err(CacheError::Unsafe { dir });
        }
        Ok(Self { dir })
    }

    /// The compiled module, if an intact one is there.
    pub(super) fn load(&self, engine: &wasmtime::Engine, key: ArtifactKey) -> Option<wasmtime::Module> {
        match crate::sys::module::map_open(engine, self.artifact(key)?) {
            Ok(module) => Some(module),
            Err(error) => {
                tracing::warn!(path = %self.path(key).display(), %error, "a cached module cannot be mapped and is compiled again");
                None
            }
        }
    }

    /// A compiled module, open for reading, if an intact one is there.
    pub fn artifact(&self, key: ArtifactKey) -> Option<File> {
        let digest = fs::read(self.digest(key)).ok()?;
        let mut file = File::open(self.path(key)).ok()?;
        let mut hasher = blake3::Hasher::new();
        let found = hasher.update_reader(&mut file).map(|hasher| hasher.finalize());
        if found.is_ok_and(|found| found.as_bytes().as_slice() == digest) && file.rewind().is_ok() {
            return Some(file);
        }
        tracing::warn!(path = %self.path(key).display(), "a cached module is damaged and is compiled again");
        None
    }

    /// Keeps a compiled module; several processes may do so at once.
    pub(super) fn store(&self, key: ArtifactKey, module: &wasmtime::Module) -> Result<(), CacheError> {
        let artifact = module.serialize().map_err(CacheError::Serialise)?;
        let pending = self.begin(key)?;
        let written = pending.file().write_all(&artifact);
        written.map_err(|source| CacheError::Write { path: self.path(key), source })?;
        pending.commit()
    }

    /// A file for a compiled module, to be kept by [`PendingArtifact::commit`].
    pub fn begin(&self, key: ArtifactKey) -> Result<PendingArtifact, CacheError> {
        let (artifact, digest) = (self.path(key), self.digest(key));
        let path = beside(&artifact);
        // What is there of that name is of a process that was killed and had the same id.
        let opened = File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = opened.map_err(|source| CacheError::Write { path: path.clone(), source })?;
        Ok(PendingArtifact { file, path, artifact, digest })
    }

    /// Forgets a compiled module. Who has it mapped keeps it.
    pub fn remove(&self, key: ArtifactKey) -> Result<(), CacheError> {
        for path in [self.digest(key), self.path(key)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(CacheError::Write { path, source: error });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn path(&self, key: ArtifactKey) -> PathBuf {
        self.dir.join(format!("{}.cwasm", key.0.to_hex()))
    }

    fn digest(&self, key: ArtifactKey) -> PathBuf {
        self.dir.join(format!("{}.blake3", key.0.to_hex()))
    }
}

/// A compiled module on its way into the cache; dropped, it is gone.
#[derive(Debug)]
pub struct PendingArtifact {
    file: File,
    path: PathBuf,
    artifact: PathBuf,
    digest: PathBuf,
}

impl PendingArtifact {
    /// Where it is to be written.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Keeps what was written, its digest beside it.
    pub fn commit(mut self) -> Result<(), CacheError> {
        let path = self.path.clone();
        let failed = |source| CacheError::Write { path, source };
        let digest = self.seal().map_err(failed)?;
        write_whole(&self.digest, digest.as_bytes())
    }

    /// On disk before it has its name, so that no crash leaves half of it under that.
    fn seal(&mut self) -> io::Result<blake3::Hash> {
        self.file.rewind()?;
        let mut hasher = blake3::Hasher::new();
        let digest = hasher.update_reader(&mut self.file)?.finalize();
        self.file.sync_all()?;
        fs::rename(&self.path, &self.artifact)?;
        Ok(digest)
    }
}

impl Drop for PendingArtifact {
    fn drop(&mut self) {
        // Gone already when it was committed.
        let _ = fs::remove_file(&self.path);
    }
}

/// A name in the same directory that no other writer has.
fn beside(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    path.with_extension(format!("tmp{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)))
}

/// Writes beside and renames, so that a reader sees all or nothing; removes what a failure left.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), CacheError> {
    let failed = |source| CacheError::Write { path: path.to_path_buf(), source };
    let beside = beside(path);
    let written =
        File::create(&beside).and_then(|mut file| file.write_all(bytes)).and_then(|()| fs::rename(&beside, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&beside);
        failed(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("roam-cache-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    fn module(engine: &wasmtime::Engine) -> wasmtime::Module {
        wasmtime::Module::new(engine, wat::parse_str("(module)").expect("valid text")).expect("compiles")
    }

    #[test]
    fn a_damaged_artifact_is_not_used() {
        let dir = scratch("damaged");
        let cache = Cache::open(dir.clone()).expect("a cache");
        let engine = wasmtime::Engine::default();
        let key = key(ModuleHash::of(b"x"), &engine);
        assert!(cache.load(&engine, key).is_none());
        cache.store(key, &module(&engine)).expect("stored");
        assert!(cache.load(&engine, key).is_some());
        let path = cache.path(key);
        let mut bytes = fs::read(&path).expect("readable");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, &bytes).expect("writable");
        assert!(cache.load(&engine, key).is_none());
        fs::write(&path, &bytes[..10]).expect("writable");
        assert!(cache.load(&engine, key).is_none());
        cache.remove(key).expect("removed");
        cache.remove(key).expect("nothing to remove");
        assert_eq!(fs::read_dir(&dir).expect("ours").count(), 0);
        fs::remove_dir_all(dir).expect("ours");
    }

    #[test]
    fn an_artifact_that_is_given_up_leaves_nothing() {
        let dir = scratch("given-up");
        let cache = Cache::open(dir.clone()).expect("a cache");
        let key = key(ModuleHash::of(b"x"), &wasmtime::Engine::default());
        let pending = cache.begin(key).expect("a file");
        pending.file().write_all(b"half").expect("written");
        drop(pending);
        assert_eq!(fs::read_dir(&dir).expect("ours").count(), 0);
        assert!(cache.artifact(key).is_none());
        fs::remove_dir_all(dir).expect("ours");
    }

    #[test]
    fn a_directory_open_to_others_is_refused() {
        let dir = scratch("open");
        fs::create_dir_all(&dir).expect("made");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("ours");
        assert!(matches!(Cache::open(dir.clone()), Err(CacheError::Unsafe { .. })));
        fs::remove_dir_all(dir).expect("ours");
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let dir = scratch("missing");
        let error = write_whole(&dir.join("a").join("b.cwasm"), b"x").expect_err("no such directory");
        assert!(matches!(error, CacheError::Write { .. }));
        assert!(!dir.exists());
    }

    #[test]
    fn the_key_names_module_and_engine() {
        let fast = wasmtime::Engine::default();
        let slow = wasmtime::Engine::new(wasmtime::Config::new().cranelift_opt_level(wasmtime::OptLevel::None))
            .expect("an engine");
        let module = ModuleHash::of(b"x");
        assert_eq!(key(module, &fast), key(module, &fast));
        assert_ne!(key(module, &fast), key(module, &slow));
        assert_ne!(key(module, &fast), key(ModuleHash::of(b"y"), &fast));
    }
}
