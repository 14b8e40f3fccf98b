//! Exports the state that a module keeps to itself, so that it can be saved from outside.

use wasm_encoder::reencode::{Error, Reencode, utils};
use wasm_encoder::{ExportKind, ExportSection, Module};

use super::LoadError;
use super::check::Hidden;

/// What the added exports' names start with: `roam:global:INDEX`, `roam:memory:INDEX`.
pub const HIDDEN_PREFIX: &str = "roam:";

/// The same module with every mutable global and every memory exported.
pub(crate) fn export_hidden(bytes: &[u8], hidden: &Hidden) -> Result<Vec<u8>, LoadError> {
    let mut module = Module::new();
    let mut rewriter = Rewriter { hidden, exported: false };
    rewriter
        .parse_core_module(&mut module, wasmparser::Parser::new(0), bytes)
        .map_err(|error| LoadError::Rewrite(error.to_string()))?;
    // A module without exports cannot be polled; `check_guest` says so better than we could here.
    Ok(if rewriter.exported { module.finish() } else { bytes.to_vec() })
}

struct Rewriter<'a> {
    hidden: &'a Hidden,
    exported: bool,
}

impl Reencode for Rewriter<'_> {
    type Error = std::convert::Infallible;

    fn parse_export_section(
        &mut self,
        exports: &mut ExportSection,
        section: wasmparser::ExportSectionReader<'_>,
    ) -> Result<(), Error<Self::Error>> {
        utils::parse_export_section(self, exports, section)?;
        for index in &self.hidden.globals {
            exports.export(&format!("{HIDDEN_PREFIX}global:{index}"), ExportKind::Global, *index);
        }
        for index in 0..self.hidden.memories {
            exports.export(&format!("{HIDDEN_PREFIX}memory:{index}"), ExportKind::Memory, index);
        }
        self.exported = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::check::check;

    #[test]
    fn hidden_state_becomes_exports_and_nothing_else_changes() {
        let bytes = wat::parse_str(
            r#"(module (memory 1) (global (mut i32) (i32.const 7)) (func (export "f") (result i32) global.get 0))"#,
        )
        .expect("valid text");
        let hidden = check(&bytes).expect("a saveable module");
        let rewritten = export_hidden(&bytes, &hidden).expect("rewrites");
        let engine = wasmtime::Engine::default();
        let module = wasmtime::Module::new(&engine, &rewritten).expect("still valid");
        let names: Vec<_> = module.exports().map(|export| export.name().to_string()).collect();
        assert_eq!(names, ["f", "roam:global:0", "roam:memory:0"]);
    }
}
