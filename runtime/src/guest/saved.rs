//! What a guest is beside its memories: taken between two polls, put into another guest of the same modules.

use roam_snapshot::protocol::STATE_BYTES_MAX;
use serde::{Deserialize, Serialize};
use wasmtime::{Global, Store, V128, Val, ValType};

use super::Guest;
use super::exports::Exports;
use super::world::World;
use crate::engine::ModuleHash;

/// Globals, clock and random generator of a guest. Its memories travel beside it; log lines and frames that were not
/// taken from it yet are no part: take them first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedGuest {
    /// [`Self::VERSION`]; comes first, so that it can be read of any version.
    version: u32,
    /// The guest's module and the netstack's, by the blake3 of their bytes.
    modules: [[u8; 32]; 2],
    /// What it has beside its memories and globals.
    world: SavedWorld,
    /// When its own code wants to run again, on its clock, nanoseconds.
    deadline_ns: i64,
    /// Mutable globals of the guest's module, by index.
    guest: Vec<SavedGlobal>,
    /// The same of the netstack's.
    netstack: Vec<SavedGlobal>,
}

/// See [`World`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedWorld {
    pub(super) now_ns: i64,
    pub(super) epoch_ns: i64,
    pub(super) random: SavedRandom,
    pub(super) log_lines_dropped: u64,
}

/// Where a ChaCha generator stands.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedRandom {
    pub(super) seed: [u8; 32],
    pub(super) stream: u64,
    /// 32-bit words drawn so far.
    pub(super) word_pos: u128,
}

/// A guest's keys come out of it.
impl std::fmt::Debug for SavedRandom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SavedRandom").field("word_pos", &self.word_pos).finish_non_exhaustive()
    }
}

/// The mutable global that the rewriter exported as `roam:global:INDEX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SavedGlobal {
    index: u32,
    value: SavedValue,
}

/// Floats by their bits: every NaN stays what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum SavedValue {
    I32(i32),
    I64(i64),
    F32(u32),
    F64(u64),
    V128(u128),
}

/// Why a state was not put into a guest, which is as it was.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Over its limit.
    #[error("a guest's state of {bytes} bytes; the limit is {STATE_BYTES_MAX}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Of another version.
    #[error("a guest's state of version {found}; this host knows version {}", SavedGuest::VERSION)]
    Version {
        /// What it says.
        found: u32,
    },
    /// It is no state.
    #[error("a guest's state that cannot be decoded")]
    Decode(#[from] postcard::Error),
    /// Bytes after its end.
    #[error("a guest's state with {0} bytes too many")]
    Trailing(usize),
    /// The state is another module's.
    #[error("the state is of {module} {saved}, which is {found} here")]
    Module {
        /// The guest's module or the netstack.
        module: &'static str,
        /// What it is here.
        found: ModuleHash,
        /// What it was.
        saved: ModuleHash,
    },
    /// It cannot be the module's: that has other globals.
    #[error("the state is not {module}'s, which has {found} mutable globals, not {saved}")]
    Globals {
        /// The guest's module or the netstack.
        module: &'static str,
        /// How many it has.
        found: usize,
        /// How many the state has.
        saved: usize,
    },
    /// The same.
    #[error("the state is not {module}'s, which has {found}, not {saved}")]
    Global {
        /// The guest's module or the netstack.
        module: &'static str,
        /// The module's global and its type.
        found: String,
        /// The state's.
        saved: String,
    },
    /// The netstack's memory is not one: the guest's memories must be in place first.
    #[error("the netstack's memory does not say where its rings are")]
    Memory,
}

impl SavedGuest {
    /// The version that is written, and the only one that is read.
    pub const VERSION: u32 = 1;

    /// As bytes; at most [`STATE_BYTES_MAX`] unless the module has tens of thousands of mutable globals.
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_allocvec(self).expect("a state is plain data")
    }

    /// From exactly its bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, InstallError> {
        if bytes.len() > STATE_BYTES_MAX {
            return Err(InstallError::TooLong { bytes: bytes.len() });
        }
        let (found, _) = postcard::take_from_bytes::<u32>(bytes)?;
        if found != Self::VERSION {
            return Err(InstallError::Version { found });
        }
        let (saved, rest) = postcard::take_from_bytes(bytes)?;
        if rest.is_empty() { Ok(saved) } else { Err(InstallError::Trailing(rest.len())) }
    }

    /// The guest's clock, nanoseconds.
    pub fn now_ns(&self) -> i64 {
        self.world.now_ns
    }

    /// Wall clock at guest time 0, nanoseconds since 1970.
    pub fn epoch_ns(&self) -> i64 {
        self.world.epoch_ns
    }

    /// The same guest later, without a poll in between.
    pub fn at(mut self, now_ns: i64) -> Self {
        self.world.now_ns = self.world.now_ns.max(now_ns);
        self
    }
}

impl Guest {
    /// What it is beside its memories. Changes nothing, though wasmtime wants the store for itself to read a global.
    pub fn save(&mut self) -> SavedGuest {
        SavedGuest {
            version: SavedGuest::VERSION,
            modules: self.modules.map(|module| module.0),
            world: self.store.data().save(),
            deadline_ns: self.deadline_ns,
            guest: save(&mut self.store, &self.exports),
            netstack: save(&mut self.store, &self.stack.exports),
        }
    }

    /// Becomes the guest that was saved, whose memories are in place already. On an error nothing has changed.
    pub fn install(&mut self, saved: &SavedGuest) -> Result<(), InstallError> {
        for ((module, found), saved) in ["the guest", "the netstack"].into_iter().zip(self.modules).zip(saved.modules) {
            if found.0 != saved {
                return Err(InstallError::Module { module, found, saved: ModuleHash(saved) });
            }
        }
        check("the guest", &self.store, &self.exports, &saved.guest)?;
        check("the netstack", &self.store, &self.stack.exports, &saved.netstack)?;
        let layout = self.stack.read_layout(&self.store).ok_or(InstallError::Memory)?;
        set(&mut self.store, &self.exports, &saved.guest);
        set(&mut self.store, &self.stack.exports, &saved.netstack);
        let world = self.store.data_mut();
        world.install(&saved.world);
        world.layout = layout;
        self.deadline_ns = saved.deadline_ns;
        Ok(())
    }
}

fn save(store: &mut Store<World>, exports: &Exports) -> Vec<SavedGlobal> {
    let value = |global: &Global, store: &mut Store<World>| match global.get(store) {
        Val::I32(value) => SavedValue::I32(value),
        Val::I64(value) => SavedValue::I64(value),
        Val::F32(bits) => SavedValue::F32(bits),
        Val::F64(bits) => SavedValue::F64(bits),
        Val::V128(value) => SavedValue::V128(value.as_u128()),
        other => unreachable!("a module with a mutable global that holds {other:?} is not loaded"),
    };
    exports.globals.iter().map(|(index, global)| SavedGlobal { index: *index, value: value(global, store) }).collect()
}

fn check(
    module: &'static str,
    store: &Store<World>,
    exports: &Exports,
    saved: &[SavedGlobal],
) -> Result<(), InstallError> {
    if exports.globals.len() != saved.len() {
        return Err(InstallError::Globals { module, found: exports.globals.len(), saved: saved.len() });
    }
    for ((index, global), saved) in exports.globals.iter().zip(saved) {
        let found = global.ty(store).content().clone();
        let ty = saved.value.ty();
        if *index != saved.index || !ValType::eq(&found, &ty) {
            let (found, saved) = (format!("global {index} of {found}"), format!("global {} of {ty}", saved.index));
            return Err(InstallError::Global { module, found, saved });
        }
    }
    Ok(())
}

fn set(store: &mut Store<World>, exports: &Exports, saved: &[SavedGlobal]) {
    for ((_, global), saved) in exports.globals.iter().zip(saved) {
        global.set(&mut *store, saved.value.into()).expect("it is mutable, and its type was checked");
    }
}

impl SavedValue {
    fn ty(self) -> ValType {
        match self {
            Self::I32(_) => ValType::I32,
            Self::I64(_) => ValType::I64,
            Self::F32(_) => ValType::F32,
            Self::F64(_) => ValType::F64,
            Self::V128(_) => ValType::V128,
        }
    }
}

impl From<SavedValue> for Val {
    fn from(value: SavedValue) -> Self {
        match value {
            SavedValue::I32(value) => Self::I32(value),
            SavedValue::I64(value) => Self::I64(value),
            SavedValue::F32(bits) => Self::F32(bits),
            SavedValue::F64(bits) => Self::F64(bits),
            SavedValue::V128(value) => Self::V128(V128::from(value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved() -> SavedGuest {
        let random = SavedRandom { seed: [7; 32], stream: 3, word_pos: 1 << 67 };
        let values = [
            SavedValue::I32(-1),
            SavedValue::I64(i64::MIN),
            SavedValue::F32(0x7FC0_0001),
            SavedValue::F64(u64::MAX),
            SavedValue::V128(u128::MAX),
        ];
        let globals = (0..).zip(values).map(|(index, value)| SavedGlobal { index, value }).collect();
        SavedGuest {
            version: SavedGuest::VERSION,
            modules: [[1; 32], [2; 32]],
            world: SavedWorld { now_ns: 5, epoch_ns: -6, random, log_lines_dropped: 7 },
            deadline_ns: i64::MAX,
            guest: globals,
            netstack: Vec::new(),
        }
    }

    #[test]
    fn a_state_is_exactly_its_bytes() {
        let bytes = saved().to_bytes();
        assert_eq!(SavedGuest::from_bytes(&bytes).unwrap(), saved());
        let long = [&bytes[..], b"x"].concat();
        assert!(matches!(SavedGuest::from_bytes(&long), Err(InstallError::Trailing(1))));
        for length in 0..bytes.len() {
            assert!(matches!(SavedGuest::from_bytes(&bytes[..length]), Err(InstallError::Decode(_))), "{length}");
        }
        let newer = [&[2], &bytes[1..]].concat();
        assert!(matches!(SavedGuest::from_bytes(&newer), Err(InstallError::Version { found: 2 })));
        let endless = vec![1; STATE_BYTES_MAX + 1];
        assert!(matches!(SavedGuest::from_bytes(&endless), Err(InstallError::TooLong { .. })));
    }

    #[test]
    fn a_clock_never_goes_back() {
        assert_eq!(saved().at(9).now_ns(), 9);
        assert_eq!(saved().at(-9).now_ns(), 5);
    }

    #[test]
    fn seeds_are_not_shown() {
        assert!(!format!("{:?}", saved()).contains("seed"));
    }
}
