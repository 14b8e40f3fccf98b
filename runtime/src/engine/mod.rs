//! From bytes to a module that can run: validate, rewrite once, compile or take from the cache.
//!
//! ```text
//! bytes ── check ──> Hidden (what to export) ── rewrite ──> module whose whole state is exported
//!                                                              │ compile, keyed by blake3(bytes, engine)
//!                                                              v
//!                                                         cache ──> GuestModule
//! ```
//!
//! A guest's state must be readable from outside. `check` refuses what cannot be read or put back (naming the
//! instruction), `rewrite` exports what can: every mutable global and every memory.

mod cache;
mod check;
mod rewrite;

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use wasmtime::{ExternType, OptLevel};

pub use cache::{ArtifactKey, Cache, CacheError, PendingArtifact};
pub use check::{MODULE_BYTES_MAX, Refusal, TABLE_ELEMENTS_MAX};
pub use rewrite::HIDDEN_PREFIX;

use crate::guest::is_known_import;

/// Compiles modules and holds what all of them share.
#[derive(Clone)]
pub struct Engine {
    wasmtime: wasmtime::Engine,
    cache: Option<Arc<Cache>>,
}

/// Why a module was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is not something roam runs; the sentence names what and where.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The engine could not be set up on this machine.
    #[error("the WebAssembly engine cannot run on this machine")]
    Engine(#[source] wasmtime::Error),
    /// It is valid, but could not be compiled.
    #[error("the module could not be compiled")]
    Compile(#[source] wasmtime::Error),
    /// It was compiled, but cannot be mapped, for example because it was compiled for another processor.
    #[error("the compiled module cannot be mapped")]
    Map(#[source] wasmtime::Error),
    /// Rewriting failed although the module is valid.
    #[error("the module could not be rewritten: {0}")]
    Rewrite(String),
    /// The compile cache cannot be used.
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// A module by the blake3 hash of its original bytes: what snapshots and hosts know it by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModuleHash(pub [u8; 32]);

impl ModuleHash {
    /// The hash of these module bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl std::str::FromStr for ModuleHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hash =
            blake3::Hash::from_hex(text).map_err(|_| format!("`{text}` is no blake3 digest: write 64 hex digits"))?;
        Ok(Self(*hash.as_bytes()))
    }
}

impl TryFrom<String> for ModuleHash {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ModuleHash> for String {
    fn from(hash: ModuleHash) -> Self {
        hash.to_string()
    }
}

impl std::fmt::Display for ModuleHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&blake3::Hash::from(self.0).to_hex())
    }
}

impl std::fmt::Debug for ModuleHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// A compiled module whose whole state is exported. Cheap to clone.
#[derive(Clone)]
pub struct GuestModule {
    pub(crate) module: wasmtime::Module,
    hash: ModuleHash,
    from_cache: bool,
}

impl GuestModule {
    /// What identifies it.
    pub fn hash(&self) -> ModuleHash {
        self.hash
    }

    /// Makes what its memory begins with now rather than when it is instantiated first, which may be where no file can
    /// be made any more.
    pub(crate) fn prepare_memory(&self) -> Result<(), LoadError> {
        self.module.initialize_copy_on_write_image().map_err(LoadError::Map)
    }

    /// Whether it was mapped from the cache instead of compiled.
    pub fn from_cache(&self) -> bool {
        self.from_cache
    }
}

impl Engine {
    /// An engine that keeps compiled modules in `cache_dir`, or nowhere.
    pub fn new(cache_dir: Option<PathBuf>) -> Result<Self, LoadError> {
        let wasmtime = wasmtime::Engine::new(&configuration()).map_err(LoadError::Engine)?;
        let cache = cache_dir.map(Cache::open).transpose()?.map(Arc::new);
        Ok(Self { wasmtime, cache })
    }

    /// Loads a guest: checks that it is one, and that everything it can become can be saved.
    pub fn load(&self, bytes: &[u8]) -> Result<GuestModule, LoadError> {
        let module = self.compile(bytes)?;
        check_guest(&module.module)?;
        Ok(module)
    }

    /// Loads the netstack that was built with this binary.
    pub fn load_netstack(&self) -> Result<GuestModule, LoadError> {
        self.compile(crate::modules::NETSTACK)
    }

    /// What the cache knows a compiled module by.
    pub fn artifact_key(&self, module: ModuleHash) -> ArtifactKey {
        cache::key(module, &self.wasmtime)
    }

    /// Checks and compiles without a cache: what [`Self::map_artifact`] maps. A guest must have a guest's imports and
    /// exports; the netstack is none.
    pub fn compile_artifact(&self, bytes: &[u8], guest: bool) -> Result<Vec<u8>, LoadError> {
        check::check_size(bytes)?;
        let module = wasmtime::Module::new(&self.wasmtime, prepare(bytes)?).map_err(LoadError::Compile)?;
        if guest {
            check_guest(&module)?;
        }
        module.serialize().map_err(LoadError::Compile)
    }

    /// Maps what [`Self::compile_artifact`] made of the module `hash`. The file is executed: whoever hands it in vouches
    /// that nobody else could write it, as [`Cache::artifact`] does.
    pub fn map_artifact(&self, artifact: File, hash: ModuleHash) -> Result<GuestModule, LoadError> {
        let module = crate::sys::module::map_open(&self.wasmtime, artifact).map_err(LoadError::Map)?;
        Ok(GuestModule { module, hash, from_cache: true })
    }

    /// Makes what the calling thread needs to run guests now rather than at the first call.
    pub(crate) fn prepare_thread(&self) {
        wasmtime::Engine::tls_eager_initialize();
    }

    pub(crate) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.wasmtime
    }

    fn compile(&self, bytes: &[u8]) -> Result<GuestModule, LoadError> {
        check::check_size(bytes)?;
        let hash = ModuleHash::of(bytes);
        let key = self.artifact_key(hash);
        if let Some(cache) = &self.cache
            && let Some(module) = cache.load(&self.wasmtime, key)
        {
            return Ok(GuestModule { module, hash, from_cache: true });
        }
        let module = wasmtime::Module::new(&self.wasmtime, prepare(bytes)?).map_err(LoadError::Compile)?;
        if let Some(cache) = &self.cache {
            cache.store(key, &module)?;
        }
        Ok(GuestModule { module, hash, from_cache: false })
    }
}

/// The module as it is compiled: checked, and with its hidden state exported.
pub fn prepare(bytes: &[u8]) -> Result<Vec<u8>, LoadError> {
    let hidden = check::check(bytes)?;
    rewrite::export_hidden(bytes, &hidden)
}

/// What is mapped of each linear memory: all that one can have, so that it never moves.
pub(crate) const MEMORY_RESERVED_BYTES: u64 = 4 << 30;
/// What is mapped behind that, and never anything but a guard.
pub(crate) const MEMORY_GUARD_BYTES: u64 = 32 << 20;

/// One configuration for all guests. Whatever changes here changes the cache key by itself.
fn configuration() -> wasmtime::Config {
    let mut config = wasmtime::Config::new();
    // The deterministic, saveable part of WebAssembly; `check::features` says the same to the validator.
    config.wasm_relaxed_simd(false).wasm_memory64(false).wasm_wide_arithmetic(false);
    config.wasm_custom_page_sizes(false);
    config.cranelift_opt_level(OptLevel::Speed);
    // wasmtime's own choice on this kind of machine; memories are found and copied from outside by it.
    config.memory_reservation(MEMORY_RESERVED_BYTES).memory_guard_size(MEMORY_GUARD_BYTES).memory_may_move(false);
    // Traps name the wasm function. Native unwinding through guests is not used.
    config.wasm_backtrace_max_frames(std::num::NonZeroUsize::new(16)).native_unwind_info(false);
    config
}

/// The exports a guest must have, with their types, and only imports the host knows.
fn check_guest(module: &wasmtime::Module) -> Result<(), Refusal> {
    for import in module.imports() {
        if !is_known_import(import.module(), import.name()) {
            return Err(Refusal::UnknownImport { module: import.module().into(), name: import.name().into() });
        }
    }
    if module.get_export("roam_poll").is_none() && module.get_export("_start").is_some() {
        return Err(Refusal::Command);
    }
    if !matches!(module.get_export("memory"), Some(ExternType::Memory(_))) {
        return Err(Refusal::MissingExport { name: "memory", expected: "a memory" });
    }
    check_function(module, "roam_abi_version", &[], &[ValKind::I32], "a function () -> i32")?;
    check_function(module, "roam_poll", &[ValKind::I64], &[ValKind::I64], "a function (i64) -> i64")?;
    if module.get_export("_initialize").is_some() {
        check_function(module, "_initialize", &[], &[], "a function () -> ()")?;
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum ValKind {
    I32,
    I64,
}

fn check_function(
    module: &wasmtime::Module,
    name: &'static str,
    params: &[ValKind],
    results: &[ValKind],
    expected: &'static str,
) -> Result<(), Refusal> {
    let kind = |ty: wasmtime::ValType| match ty {
        wasmtime::ValType::I32 => Some(ValKind::I32),
        wasmtime::ValType::I64 => Some(ValKind::I64),
        _ => None,
    };
    let Some(ExternType::Func(ty)) = module.get_export(name) else {
        return Err(Refusal::MissingExport { name, expected });
    };
    let same = |found: Vec<Option<ValKind>>, wanted: &[ValKind]| {
        found.len() == wanted.len() && found.iter().zip(wanted).all(|(found, wanted)| *found == Some(*wanted))
    };
    if same(ty.params().map(kind).collect(), params) && same(ty.results().map(kind).collect(), results) {
        Ok(())
    } else {
        Err(Refusal::MissingExport { name, expected })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<GuestModule, LoadError> {
        Engine::new(None).expect("an engine").load(&wat::parse_str(text).expect("valid text"))
    }

    fn refused(text: &str) -> String {
        match load(text) {
            Err(LoadError::Refused(refusal)) => refusal.to_string(),
            Err(other) => panic!("expected a refusal, got {other:?}"),
            Ok(_) => panic!("expected a refusal, it loaded"),
        }
    }

    #[test]
    fn a_module_must_be_a_guest() {
        assert!(refused("(module)").contains("`memory`"));
        assert!(refused(r#"(module (memory (export "memory") 1))"#).contains("`roam_abi_version`"));
        let wrong = r#"(module (memory (export "memory") 1) (func (export "roam_abi_version") (result i32) i32.const 1)
            (func (export "roam_poll")))"#;
        assert!(refused(wrong).contains("`roam_poll`"));
        assert!(refused(r#"(module (memory (export "memory") 1) (func (export "_start")))"#).contains("command"));
        assert!(refused(r#"(module (import "env" "read_disk" (func)))"#).contains("env::read_disk"));
    }

    #[test]
    fn loading_twice_takes_the_second_from_the_cache() {
        let dir = std::env::temp_dir().join(format!("roam-engine-test-{}", std::process::id()));
        let engine = Engine::new(Some(dir.clone())).expect("an engine");
        assert!(!engine.load_netstack().expect("compiles").from_cache());
        assert!(engine.load_netstack().expect("maps").from_cache());
        std::fs::remove_dir_all(dir).expect("the cache directory is ours");
    }
}
