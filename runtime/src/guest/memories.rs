//! The linear memories of a guest, for whom copies them from outside.

use std::fs::File;

use roam_snapshot::page::PAGE_BYTES;
use serde::{Deserialize, Serialize};
use wasmtime::Memory;

use super::Guest;
use crate::engine::{MEMORY_GUARD_BYTES, MEMORY_RESERVED_BYTES};
use crate::sys;

/// Bytes that memories grow by.
const GROWTH_BYTES: u64 = 64 * 1024;
const _: () = assert!(GROWTH_BYTES.is_multiple_of(PAGE_BYTES as u64));

/// A memory is backed by huge pages from here on: so much of small guests is touched sparsely.
const HUGE_FROM_BYTES: usize = 16 << 20;

/// A linear memory. It stays where it is for as long as the guest lives, however it grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestMemory {
    /// Where it begins in this process.
    pub address: u64,
    /// Its size, bytes.
    pub bytes: u64,
    /// What is mapped from there on: all it can grow to, and the guard behind that. Bytes.
    pub mapped_bytes: u64,
    /// What its module gives it from the beginning, bytes.
    pub initial_bytes: u64,
    /// Up to here there may be content that nobody has touched yet and no page table shows: an image's that is mapped
    /// there. Bytes.
    pub unseen_bytes: u64,
}

/// Pages of an image's file that follow each other there and in a memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRun {
    /// Which memory, in the order of [`Guest::memories`].
    pub memory: u8,
    /// Where in the memory, bytes.
    pub offset: u64,
    /// Where in the file, bytes.
    pub place: u64,
    /// How many bytes.
    pub bytes: u64,
}

/// Why an image was not mapped. The guest is none then.
#[derive(Debug, thiserror::Error)]
#[error("{} bytes of the image cannot be mapped at {} of memory {}", run.bytes, run.offset, run.memory)]
pub struct MapError {
    /// What was to be mapped.
    run: ImageRun,
    /// What the system said; `EINVAL` for what is outside of the memory, or no whole pages.
    #[source]
    source: nix::Error,
}

/// Why memories were not made larger.
#[derive(Debug, thiserror::Error)]
pub enum GrowError {
    /// There are more or fewer.
    #[error("sizes for {given} memories; the guest has {found}")]
    Count {
        /// How many sizes.
        given: usize,
        /// How many memories.
        found: usize,
    },
    /// A memory never shrinks.
    #[error("memory {memory} has {now} bytes already, more than {bytes}")]
    Shrinks {
        /// Which.
        memory: usize,
        /// What it was to have.
        bytes: u64,
        /// What it has.
        now: u64,
    },
    /// Memories grow by 64 KiB.
    #[error("memory {memory} cannot have {bytes} bytes: not a multiple of {GROWTH_BYTES}")]
    Odd {
        /// Which.
        memory: usize,
        /// What it was to have.
        bytes: u64,
    },
    /// Beyond the guest's limit or its module's, or the machine has no more.
    #[error("memory {memory} cannot have {bytes} bytes")]
    Refused {
        /// Which.
        memory: usize,
        /// What it was to have.
        bytes: u64,
        /// Why.
        #[source]
        source: wasmtime::Error,
    },
}

impl Guest {
    /// Its memories: the guest's own in the order of its module, then the netstack's.
    pub fn memories(&self) -> Vec<GuestMemory> {
        let memory = |(index, (memory, _)): (usize, (Memory, bool))| GuestMemory {
            address: memory.data_ptr(&self.store).addr() as u64,
            bytes: memory.data_size(&self.store) as u64,
            mapped_bytes: MEMORY_RESERVED_BYTES + MEMORY_GUARD_BYTES,
            initial_bytes: memory.ty(&self.store).minimum() * GROWTH_BYTES,
            unseen_bytes: self.unseen_bytes.get(index).copied().unwrap_or(0),
        };
        self.all_memories().into_iter().enumerate().map(memory).collect()
    }

    /// Maps parts of an image over the memories of a guest that [waits](Guest::waiting), which are large enough already.
    /// Nobody may change the file from then on.
    pub fn map_image(&mut self, file: &File, runs: &[ImageRun]) -> Result<(), MapError> {
        let memories = self.all_memories();
        self.unseen_bytes.resize(memories.len(), 0);
        for &run in runs {
            let failed = |source| MapError { run, source };
            let index = usize::from(run.memory);
            let (memory, _) = *memories.get(index).ok_or(failed(nix::Error::EINVAL))?;
            sys::memory::map_file(&mut self.store, (memory, run.offset), (file, run.place), run.bytes)
                .map_err(failed)?;
            self.unseen_bytes[index] = self.unseen_bytes[index].max(run.offset + run.bytes);
        }
        Ok(())
    }

    /// Makes them that large, in the order of [`Self::memories`]. Those before the one that fails have grown.
    pub fn grow_to(&mut self, sizes: &[u64]) -> Result<(), GrowError> {
        let memories = self.all_memories();
        if sizes.len() != memories.len() {
            return Err(GrowError::Count { given: sizes.len(), found: memories.len() });
        }
        for (index, ((memory, is_netstack), bytes)) in memories.into_iter().zip(sizes.iter().copied()).enumerate() {
            let now = memory.data_size(&self.store) as u64;
            let more = bytes.checked_sub(now).ok_or(GrowError::Shrinks { memory: index, bytes, now })?;
            if !more.is_multiple_of(GROWTH_BYTES) {
                return Err(GrowError::Odd { memory: index, bytes });
            }
            if more > 0 {
                self.store.data_mut().in_stack = is_netstack;
                let grown = memory.grow(&mut self.store, more / GROWTH_BYTES);
                self.store.data_mut().in_stack = false;
                grown.map_err(|source| GrowError::Refused { memory: index, bytes, source })?;
            }
        }
        Ok(())
    }

    /// Gives all that was written to them back. What is left is what the engine maps of the module's data, and zeros:
    /// the same wherever that engine runs that module. Until memories and state are put in place the guest is none.
    pub fn reset_memories(&mut self) -> nix::Result<()> {
        self.all_memories().into_iter().try_for_each(|(memory, _)| sys::memory::forget(&mut self.store, memory))
    }

    /// Has them in huge pages where they are large.
    pub(super) fn prefer_huge(&mut self) {
        for (memory, _) in self.all_memories() {
            sys::memory::prefer_huge(&mut self.store, memory, HUGE_FROM_BYTES, MEMORY_RESERVED_BYTES as usize);
        }
    }

    /// And whether it is the netstack's.
    fn all_memories(&self) -> Vec<(Memory, bool)> {
        let guest = self.exports.memories.iter().map(|memory| (*memory, false));
        guest.chain(self.stack.exports.memories.iter().map(|memory| (*memory, true))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, GuestModule};
    use crate::guest::{Guest, GuestConfig};
    use crate::modules::{ECHO, KV, SQUARE, WEB};
    use roam_netstack::Cidr;
    use wasmtime::{Linker, Store};

    fn config() -> GuestConfig {
        let mut network = roam_netstack::Config::new([2, 0, 0, 0, 0, 1]);
        network.ipv4 = Some(Cidr { address: [10, 0, 0, 1].into(), prefix: 24 });
        let memory_bytes_max = 64 << 20;
        GuestConfig {
            args: vec!["guest".into()],
            env: Vec::new(),
            network,
            memory_bytes_max,
            seed: [1; 32],
            epoch_ns: 0,
        }
    }

    /// What a module's memories begin with, before any of its code has run.
    fn initial(engine: &Engine, module: &GuestModule) -> Vec<Vec<u8>> {
        let mut store = Store::new(engine.wasmtime(), ());
        let mut linker = Linker::new(engine.wasmtime());
        linker.define_unknown_imports_as_traps(&module.module).unwrap();
        let instance = linker.instantiate(&mut store, &module.module).unwrap();
        let exports = super::super::exports::Exports::of(&mut store, instance, &module.module);
        exports.memories.iter().map(|memory| memory.data(&store).to_vec()).collect()
    }

    fn contents(guest: &Guest) -> Vec<Vec<u8>> {
        guest.all_memories().into_iter().map(|(memory, _)| memory.data(&guest.store).to_vec()).collect()
    }

    fn engine() -> (Engine, GuestModule) {
        let engine = Engine::new(None).unwrap();
        let netstack = engine.load_netstack().unwrap();
        (engine, netstack)
    }

    #[test]
    fn a_guest_that_waits_has_what_its_modules_begin_with() {
        let (engine, netstack) = engine();
        for bytes in [SQUARE, ECHO, KV, WEB] {
            let module = engine.load(bytes).unwrap();
            let mut expected = initial(&engine, &module);
            expected.extend(initial(&engine, &netstack));
            assert!(expected.iter().all(|memory| memory.iter().any(|byte| *byte != 0)), "they have data");
            let mut served = Guest::start(&engine, &module, &netstack, &config()).unwrap();
            served.poll(1).unwrap();
            served.reset_memories().unwrap();
            for guest in [served, Guest::waiting(&engine, &module, &netstack, &config()).unwrap()] {
                let found = contents(&guest);
                assert_eq!(found.len(), expected.len());
                for (found, expected) in found.iter().zip(&expected) {
                    let (same, rest) = found.split_at(expected.len());
                    assert!(same == expected && rest.iter().all(|byte| *byte == 0));
                }
            }
        }
    }

    /// Its data is too far apart for an image, so the engine copies it.
    #[test]
    fn data_that_was_copied_in_does_not_come_back() {
        let (engine, netstack) = engine();
        let text = format!(
            r#"(module (memory (export "memory") 1000) (data (i32.const 0) "a") (data (i32.const 65000000) "b")
                (func (export "roam_abi_version") (result i32) i32.const {})
                (func (export "roam_poll") (param i64) (result i64) i64.const 0))"#,
            roam_abi::VERSION
        );
        let module = engine.load(&wat::parse_str(text).unwrap()).unwrap();
        let config = GuestConfig { memory_bytes_max: 128 << 20, ..config() };
        let started = Guest::start(&engine, &module, &netstack, &config).unwrap();
        assert_eq!(contents(&started)[0][65_000_000], b'b');
        let waiting = Guest::waiting(&engine, &module, &netstack, &config).unwrap();
        assert!(contents(&waiting)[0].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn memories_are_where_they_say_and_stay_there() {
        let (engine, netstack) = engine();
        let module = engine.load(KV).unwrap();
        let mut guest = Guest::waiting(&engine, &module, &netstack, &config()).unwrap();
        let before = guest.memories();
        assert_eq!(before.len(), 2);
        for memory in &before {
            assert!(mapped_from(memory.address) >= memory.mapped_bytes, "{memory:?}");
        }
        let sizes: Vec<u64> = before.iter().map(|memory| memory.bytes + GROWTH_BYTES * 100).collect();
        guest.grow_to(&sizes).unwrap();
        for (before, after) in before.iter().zip(guest.memories()) {
            let bytes = before.bytes + GROWTH_BYTES * 100;
            assert_eq!(after, GuestMemory { bytes, ..*before });
        }
        assert!(matches!(guest.grow_to(&sizes[1..]), Err(GrowError::Count { given: 1, found: 2 })));
        let smaller: Vec<u64> = sizes.iter().map(|bytes| bytes - GROWTH_BYTES).collect();
        assert!(matches!(guest.grow_to(&smaller), Err(GrowError::Shrinks { memory: 0, .. })));
        assert!(matches!(guest.grow_to(&[sizes[0] + 1, sizes[1]]), Err(GrowError::Odd { memory: 0, .. })));
        for (index, over) in [(0, 64 << 20), (1, 4 << 30)] {
            let mut sizes = sizes.clone();
            sizes[index] += over;
            let refused = guest.grow_to(&sizes);
            assert!(matches!(refused, Err(GrowError::Refused { memory, .. }) if memory == index), "{refused:?}");
        }
    }

    #[test]
    fn an_image_is_mapped_where_it_says() {
        let (engine, netstack) = engine();
        let module = engine.load(KV).unwrap();
        let mut guest = Guest::waiting(&engine, &module, &netstack, &config()).unwrap();
        let before = contents(&guest);
        let path = std::env::temp_dir().join(format!("roam-map-{}", std::process::id()));
        std::fs::write(&path, [vec![1; PAGE_BYTES], vec![2; PAGE_BYTES], vec![3; PAGE_BYTES]].concat()).unwrap();
        let file = File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let page = PAGE_BYTES as u64;
        let run = ImageRun { memory: 0, offset: 2 * page, place: page, bytes: 2 * page };
        guest.map_image(&file, &[run, ImageRun { memory: 1, offset: 0, place: 0, bytes: page }]).unwrap();
        let mut expected = before;
        expected[0][2 * PAGE_BYTES..3 * PAGE_BYTES].fill(2);
        expected[0][3 * PAGE_BYTES..4 * PAGE_BYTES].fill(3);
        expected[1][..PAGE_BYTES].fill(1);
        assert!(contents(&guest) == expected);
        assert_eq!(guest.memories().iter().map(|it| it.unseen_bytes).collect::<Vec<_>>(), [4 * page, page]);
        for bad in [
            ImageRun { memory: 2, ..run },
            ImageRun { offset: 1, ..run },
            ImageRun { place: 1, ..run },
            ImageRun { bytes: 0, ..run },
            ImageRun { bytes: 1 << 40, ..run },
            ImageRun { offset: u64::MAX - page + 1, ..run },
        ] {
            assert!(guest.map_image(&file, &[bad]).is_err(), "{bad:?}");
        }
    }

    /// Bytes that are mapped from there on without a gap, proc_pid_maps(5).
    fn mapped_from(address: u64) -> u64 {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let mut end = address;
        for line in maps.lines() {
            let (first, rest) = line.split_once('-').unwrap();
            let range = [first, rest.split_once(' ').unwrap().0].map(|hex| u64::from_str_radix(hex, 16).unwrap());
            if range[0] <= end && end < range[1] {
                end = range[1];
            }
        }
        end - address
    }
}
