//! Compiled modules on disk, by what they were compiled from and for.
//!
//! A file is mapped and executed, so it is trusted only if nobody else could have written it: the directory belongs to
//! this user and is closed to others, and the artifact's own digest stands beside it. Whatever does not fit is
//! compiled again.

use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

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
pub(super) fn key(module: ModuleHash, engine: &wasmtime::Engine) -> blake3::Hash {
    let mut hasher = Blake3(blake3::Hasher::new());
    hasher.0.update(b"roam compiled module 1");
    hasher.0.update(&module.0);
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.0.finalize()
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
    pub(super) fn load(&self, engine: &wasmtime::Engine, key: blake3::Hash) -> Option<wasmtime::Module> {
        let path = self.artifact(key);
        let digest = fs::read(self.digest(key)).ok()?;
        let artifact = fs::read(&path).ok()?;
        if blake3::hash(&artifact).as_bytes().as_slice() != digest {
            tracing::warn!(path = %path.display(), "a cached module is damaged and is compiled again");
            return None;
        }
        match crate::sys::module::map(engine, &path) {
            Ok(module) => Some(module),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a cached module cannot be mapped and is compiled again");
                None
            }
        }
    }

    /// Keeps a compiled module; several processes may do so at once.
    pub(super) fn store(&self, key: blake3::Hash, module: &wasmtime::Module) -> Result<(), CacheError> {
        let artifact = module.serialize().map_err(CacheError::Serialise)?;
        write_whole(&self.artifact(key), &artifact)?;
        write_whole(&self.digest(key), blake3::hash(&artifact).as_bytes())
    }

    fn artifact(&self, key: blake3::Hash) -> PathBuf {
        self.dir.join(format!("{}.cwasm", key.to_hex()))
    }

    fn digest(&self, key: blake3::Hash) -> PathBuf {
        self.dir.join(format!("{}.blake3", key.to_hex()))
    }
}

/// Writes beside and renames, so that a reader sees all or nothing; removes what a failure left.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), CacheError> {
    let failed = |source| CacheError::Write { path: path.to_path_buf(), source };
    let beside = path.with_extension(format!("tmp{}", std::process::id()));
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
        let path = cache.artifact(key);
        let mut bytes = fs::read(&path).expect("readable");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, &bytes).expect("writable");
        assert!(cache.load(&engine, key).is_none());
        fs::write(&path, &bytes[..10]).expect("writable");
        assert!(cache.load(&engine, key).is_none());
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
