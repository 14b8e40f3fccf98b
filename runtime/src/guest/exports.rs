//! The state of an instance, by the names the rewriter gave it.

use wasmtime::{AsContextMut, Global, Instance, Memory, Module};

use crate::engine::HIDDEN_PREFIX;

/// Every mutable global and every memory of an instance, by index.
pub(super) struct Exports {
    pub(super) globals: Vec<(u32, Global)>,
    pub(super) memories: Vec<Memory>,
}

impl Exports {
    pub(super) fn of(mut store: impl AsContextMut, instance: Instance, module: &Module) -> Self {
        let indices = |kind: &str| {
            let index = |name: &str| name.strip_prefix(HIDDEN_PREFIX)?.strip_prefix(kind)?.parse().ok();
            let mut indices: Vec<u32> = module.exports().filter_map(|export| index(export.name())).collect();
            indices.sort_unstable();
            indices
        };
        let name = |kind: &str, index: u32| format!("{HIDDEN_PREFIX}{kind}{index}");
        let (globals, memories) = (indices("global:"), indices("memory:"));
        let mut global = |index| instance.get_global(&mut store, &name("global:", index)).map(|global| (index, global));
        let globals = globals.into_iter().filter_map(&mut global).collect();
        let memory = |index| instance.get_memory(&mut store, &name("memory:", index));
        Self { globals, memories: memories.into_iter().filter_map(memory).collect() }
    }
}
