//! The modules a host has, and what they are compiled to.
//!
//! A module is `modules/DIGEST.wasm`; it gets that name when all of it is there, its digest is right, and it was
//! compiled (in a jail) into the cache. What the cache has lost, or has for another engine, is compiled at need.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;

use super::layout::{self, Layout};
use super::record::GuestId;
use super::{HostError, ModuleBytes};
use crate::engine::{Cache, Engine, LoadError, MODULE_BYTES_MAX, ModuleHash};
use crate::jail::{Cgroup, CgroupLimits};
use crate::worker::{self, Launch, LaunchError, Spawn, SpawnError, Task};

/// How long a compilation may take; its CPU time is limited besides.
const COMPILE_LIMIT: Duration = Duration::from_secs(120);

/// The modules of a host.
pub(super) struct Modules {
    layout: Layout,
    engine: Engine,
    cache: Cache,
    netstack: ModuleHash,
    worker: Compiler,
    /// One holder at a time for each module: what two want is compiled once.
    busy: Mutex<HashMap<ModuleHash, Arc<tokio::sync::Mutex<()>>>>,
}

/// How to run a compiling worker.
pub(super) struct Compiler {
    pub(super) program: PathBuf,
    /// Name of the host's control groups.
    pub(super) group: String,
    /// Whether it can have a uid of its own.
    pub(super) own_uid: bool,
}

impl Modules {
    /// Opens the store, removes what was not finished, and sees to it that the netstack is compiled.
    pub(super) async fn open(layout: Layout, worker: Compiler) -> Result<Self, HostError> {
        layout::remove_unfinished(&layout.modules());
        remove_stale(&layout.cache());
        let engine = Engine::new(None)?;
        let cache = Cache::open(layout.cache()).map_err(LoadError::from)?;
        let netstack = ModuleHash::of(crate::modules::NETSTACK);
        let modules = Self { layout, engine, cache, netstack, worker, busy: Mutex::default() };
        modules.compiled_netstack().await?;
        Ok(modules)
    }

    /// What the guests' TCP/IP stack is.
    pub(super) fn netstack(&self) -> ModuleHash {
        self.netstack
    }

    /// Size of a module that is here.
    pub(super) fn size(&self, digest: ModuleHash) -> Result<u64, HostError> {
        match fs::metadata(self.layout.module(digest)) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(HostError::NoModule(digest)),
            Err(error) => Err(HostError::io("looking at a module")(error)),
        }
    }

    /// Whether a module is here, and is what it is called.
    pub(super) fn has(&self, digest: ModuleHash) -> bool {
        self.read_whole(digest).is_ok()
    }

    /// All modules with their sizes.
    pub(super) fn list(&self) -> Result<Vec<(ModuleHash, u64)>, HostError> {
        let entries = fs::read_dir(self.layout.modules()).map_err(HostError::io("listing modules"))?;
        let known = entries.flatten().filter_map(|entry| {
            let name = entry.file_name();
            let digest = name.to_str()?.strip_suffix(".wasm")?.parse().ok()?;
            Some((digest, entry.metadata().ok()?.len()))
        });
        let mut known: Vec<_> = known.collect();
        known.sort_unstable();
        Ok(known)
    }

    /// Where a module's bytes are.
    pub(super) fn path(&self, digest: ModuleHash) -> PathBuf {
        self.layout.module(digest)
    }

    /// Takes a module; `true` if it was new, or what was here under that name was another.
    pub(super) async fn put(&self, digest: ModuleHash, bytes: ModuleBytes) -> Result<bool, HostError> {
        let upload = Upload::receive(layout::beside(&self.layout.module(digest)), bytes).await?;
        if upload.digest != digest {
            return Err(HostError::ModuleDigest { expected: digest, found: upload.digest });
        }
        let lock = self.lock(digest);
        let _held = lock.lock().await;
        let new = !self.has(digest);
        if !self.is_compiled(digest).await {
            let source = File::open(&upload.path).map_err(HostError::io("opening a module"))?;
            self.compile(digest, source, true).await?;
        }
        if new {
            layout::rename_durably(&upload.path, &self.layout.module(digest))
                .map_err(HostError::io("keeping a module"))?;
        }
        Ok(new)
    }

    /// Removes a module. That nobody uses it is the caller's business.
    pub(super) fn remove(&self, digest: ModuleHash) -> Result<(), HostError> {
        self.size(digest)?;
        layout::remove(&self.layout.module(digest)).map_err(HostError::io("deleting a module"))?;
        Ok(self.cache.remove(self.engine.artifact_key(digest)).map_err(LoadError::from)?)
    }

    /// The compiled module.
    pub(super) async fn compiled(&self, digest: ModuleHash) -> Result<File, HostError> {
        let source = || self.read_whole(digest);
        self.artifact(digest, source, true).await
    }

    /// The compiled netstack.
    pub(super) async fn compiled_netstack(&self) -> Result<File, HostError> {
        let source = || {
            let path = layout::beside(&self.layout.modules().join("netstack"));
            let opened = layout::write_new(&path, crate::modules::NETSTACK).and_then(|()| File::open(&path));
            let _ = fs::remove_file(&path);
            opened.map_err(HostError::io("writing the netstack"))
        };
        self.artifact(self.netstack, source, false).await
    }

    /// Forgets what was compiled of these, because it cannot be mapped: the next start compiles it again.
    pub(super) fn forget_compiled(&self, digest: ModuleHash) {
        for module in [digest, self.netstack] {
            if let Err(error) = self.cache.remove(self.engine.artifact_key(module)) {
                tracing::warn!(%error, "a compiled module that cannot be mapped stays");
            }
        }
    }

    async fn artifact(
        &self,
        digest: ModuleHash,
        source: impl FnOnce() -> Result<File, HostError>,
        guest: bool,
    ) -> Result<File, HostError> {
        if let Some(file) = self.cached(digest) {
            return Ok(file);
        }
        let lock = self.lock(digest);
        let _held = lock.lock().await;
        if !self.is_compiled(digest).await {
            self.compile(digest, source()?, guest).await?;
        }
        self.cached(digest).ok_or_else(|| HostError::io("reading a compiled module")(io::ErrorKind::NotFound.into()))
    }

    /// Reads some hundred KB to some MB, to see that they are what was written.
    fn cached(&self, digest: ModuleHash) -> Option<File> {
        self.cache.artifact(self.engine.artifact_key(digest))
    }

    async fn is_compiled(&self, digest: ModuleHash) -> bool {
        self.cached(digest).is_some()
    }

    /// The module's file, if it is what it is called.
    fn read_whole(&self, digest: ModuleHash) -> Result<File, HostError> {
        self.size(digest)?;
        let path = self.layout.module(digest);
        let read = || {
            let mut file = File::open(&path)?;
            let found = blake3::Hasher::new().update_reader(&mut file)?.finalize();
            io::Seek::rewind(&mut file)?;
            Ok((ModuleHash(*found.as_bytes()), file))
        };
        match read().map_err(HostError::io("reading a module"))? {
            (found, file) if found == digest => Ok(file),
            _ => Err(HostError::ModuleDamaged(digest)),
        }
    }

    /// Compiles into the cache, in a jail.
    async fn compile(&self, digest: ModuleHash, source: File, guest: bool) -> Result<(), HostError> {
        let pending = self.cache.begin(self.engine.artifact_key(digest)).map_err(LoadError::from)?;
        let stderr_path = layout::beside(&self.layout.modules().join("compile"));
        let stderr = File::options().read(true).write(true).create(true).truncate(true).open(&stderr_path);
        let stderr = stderr.map_err(HostError::io("making a worker's standard error"))?;
        let _ = fs::remove_file(&stderr_path);
        let group = format!("compile-{digest}");
        let cgroup = Cgroup::new(&self.worker.group, &group[..24], &CgroupLimits::compile())?;
        let launch = Launch {
            task: Task::Compile { guest },
            root: self.layout.root().to_string_lossy().into_owned(),
            uid: self.worker.own_uid.then_some(GuestId::COMPILER_UID),
            leashed: false,
        };
        let descriptors = [source.as_fd(), pending.file().as_fd()];
        let spawned = worker::spawn(Spawn {
            program: &self.worker.program,
            launch: &launch,
            descriptors: &descriptors,
            stderr: &stderr,
            cgroup: Some(&cgroup),
            limit: COMPILE_LIMIT,
        });
        let spawned = spawned.await;
        if let Err(error) = cgroup.remove().await {
            tracing::warn!(%error, "a compiling worker's group stays");
        }
        match spawned {
            Ok(_ended) => Ok(pending.commit().map_err(LoadError::from)?),
            Err(SpawnError::Launch(LaunchError::Refused(sentence))) => Err(HostError::ModuleRefused(sentence)),
            Err(error) => Err(HostError::Compile(error)),
        }
    }

    fn lock(&self, digest: ModuleHash) -> Arc<tokio::sync::Mutex<()>> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        // What nobody holds is nobody's.
        busy.retain(|_, lock| Arc::strong_count(lock) > 1);
        busy.entry(digest).or_default().clone()
    }
}

/// What writers that were killed left in the cache.
fn remove_stale(cache: &Path) {
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension.to_string_lossy().starts_with("tmp")) {
            let _ = fs::remove_file(path);
        }
    }
}

/// A module that has arrived, not yet under its name. Dropping it removes what is not.
struct Upload {
    path: PathBuf,
    digest: ModuleHash,
}

impl Upload {
    async fn receive(path: PathBuf, mut bytes: ModuleBytes) -> Result<Self, HostError> {
        let mut upload = Self { path, digest: ModuleHash([0; 32]) };
        let failed = HostError::io("writing a module");
        let opened = tokio::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&upload.path).await;
        let mut file = match opened {
            Ok(file) => file,
            Err(error) => return Err(failed(error)),
        };
        let mut hasher = blake3::Hasher::new();
        while let Some(chunk) = bytes.next().await {
            let chunk = chunk.map_err(HostError::ModuleCutOff)?;
            hasher.update(&chunk);
            if hasher.count() > MODULE_BYTES_MAX as u64 {
                return Err(HostError::ModuleTooBig);
            }
            file.write_all(&chunk).await.map_err(HostError::io("writing a module"))?;
        }
        file.flush().await.map_err(HostError::io("writing a module"))?;
        file.sync_all().await.map_err(HostError::io("writing a module"))?;
        upload.digest = ModuleHash(*hasher.finalize().as_bytes());
        Ok(upload)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Gone already when it was kept.
        let _ = fs::remove_file(&self.path);
    }
}
