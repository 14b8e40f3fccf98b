//! What a guest may contain: everything whose effect can be saved and put back.

use wasmparser::{ExternalKind, Operator, Parser, Payload, TypeRef, ValType, Validator, WasmFeatures};

use super::rewrite::HIDDEN_PREFIX;

/// A module larger than this is refused before it is looked at.
pub const MODULE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Elements of all tables together.
pub const TABLE_ELEMENTS_MAX: u64 = 1_000_000;

/// Why a module is not run. Every case names what to change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not WebAssembly at all.
    #[error("not a WebAssembly module: it does not start with `\\0asm`")]
    NotWasm,
    /// A component, which has another binary format.
    #[error(
        "this is a WebAssembly component; roam runs core modules (build for wasm32-unknown-unknown or wasm32-wasip1)"
    )]
    Component,
    /// Over [`MODULE_BYTES_MAX`].
    #[error("the module is {bytes} bytes; the limit is {MODULE_BYTES_MAX}")]
    TooBig {
        /// Its size.
        bytes: usize,
    },
    /// Malformed, or it uses a proposal roam does not run (threads, GC, 64-bit memory, relaxed SIMD, exceptions).
    #[error("the module is not valid: {message} (at byte {offset})")]
    Invalid {
        /// The validator's sentence.
        message: String,
        /// Where in the file.
        offset: usize,
    },
    /// An instruction whose effect is outside linear memory and cannot be saved.
    #[error("`{instruction}` at byte {offset} changes state that cannot be saved ({why})")]
    Instruction {
        /// Its text-format name.
        instruction: &'static str,
        /// Where in the file.
        offset: usize,
        /// What it changes.
        why: &'static str,
    },
    /// State shared with or owned by someone else.
    #[error("the module imports the {kind} {module}::{name}; a guest must own all of its state")]
    ImportedState {
        /// memory, table, mutable global or tag.
        kind: &'static str,
        /// Import module.
        module: String,
        /// Import name.
        name: String,
    },
    /// A function the host does not offer.
    #[error("the module imports {module}::{name}, which this host does not offer")]
    UnknownImport {
        /// Import module.
        module: String,
        /// Import name.
        name: String,
    },
    /// A known import with a type of its own.
    #[error("the module imports a function with the wrong type: {0}")]
    ImportType(String),
    /// Memory shared between threads.
    #[error("the module has a shared memory; a guest is single-threaded")]
    SharedMemory,
    /// A mutable global that holds a reference.
    #[error("mutable global {index} holds a reference, which cannot be saved")]
    ReferenceGlobal {
        /// Its index.
        index: u32,
    },
    /// Over [`TABLE_ELEMENTS_MAX`].
    #[error("the module's tables have {elements} elements; the limit is {TABLE_ELEMENTS_MAX}")]
    TableTooBig {
        /// Elements of all tables.
        elements: u64,
    },
    /// An export in the name space of the rewriter.
    #[error("the module exports `{0}`: names that start with `{HIDDEN_PREFIX}` are the host's")]
    ReservedExport(String),
    /// No, or not the right, export of that name.
    #[error("the module does not export `{name}` as {expected}; build it with roam-sdk or roam.h")]
    MissingExport {
        /// The export.
        name: &'static str,
        /// Its type.
        expected: &'static str,
    },
    /// A WASI command, which runs once and ends.
    #[error("the module is a WASI command (`_start`); build it as a reactor (a cdylib) that exports `roam_poll`")]
    Command,
    /// Built for another version of the ABI.
    #[error("the module was built for ABI version {found}; this host speaks version {supported}")]
    AbiVersion {
        /// What the module says.
        found: u32,
        /// What this host speaks.
        supported: u32,
    },
}

/// The state of a module that no export shows yet.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Hidden {
    /// Indices of mutable globals.
    pub(crate) globals: Vec<u32>,
    /// How many memories there are.
    pub(crate) memories: u32,
}

/// The size limit alone: cheap, before anything is hashed or parsed.
pub(crate) fn check_size(bytes: &[u8]) -> Result<(), Refusal> {
    if bytes.len() > MODULE_BYTES_MAX {
        return Err(Refusal::TooBig { bytes: bytes.len() });
    }
    if !bytes.starts_with(b"\0asm") {
        return Err(Refusal::NotWasm);
    }
    Ok(())
}

/// Validates the module and lists its hidden state, or says why it cannot be a guest.
pub(crate) fn check(bytes: &[u8]) -> Result<Hidden, Refusal> {
    check_size(bytes)?;
    if Parser::is_component(bytes) {
        return Err(Refusal::Component);
    }
    check_sections(bytes)?;
    Validator::new_with_features(features()).validate_all(bytes).map_err(invalid)?;
    hidden_state(bytes)
}

fn features() -> WasmFeatures {
    let off = WasmFeatures::THREADS
        | WasmFeatures::SHARED_EVERYTHING_THREADS
        | WasmFeatures::RELAXED_SIMD
        | WasmFeatures::MEMORY64
        | WasmFeatures::GC
        | WasmFeatures::FUNCTION_REFERENCES
        | WasmFeatures::EXCEPTIONS
        | WasmFeatures::LEGACY_EXCEPTIONS
        | WasmFeatures::STACK_SWITCHING
        | WasmFeatures::WIDE_ARITHMETIC
        | WasmFeatures::CUSTOM_PAGE_SIZES
        | WasmFeatures::COMPONENT_MODEL;
    WasmFeatures::default() & !off
}

fn invalid(error: wasmparser::BinaryReaderError) -> Refusal {
    Refusal::Invalid { message: error.message().to_string(), offset: error.offset() }
}

/// Refuses by name what the validator would only call an unsupported proposal.
fn check_sections(bytes: &[u8]) -> Result<(), Refusal> {
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(invalid)? {
            Payload::MemorySection(memories) => {
                for memory in memories {
                    if memory.map_err(invalid)?.shared {
                        return Err(Refusal::SharedMemory);
                    }
                }
            }
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    check_import(import.map_err(invalid)?)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_import(import: wasmparser::Import<'_>) -> Result<(), Refusal> {
    let kind = match import.ty {
        TypeRef::Memory(_) => "memory",
        TypeRef::Table(_) => "table",
        TypeRef::Tag(_) => "tag",
        TypeRef::Global(global) if global.mutable => "mutable global",
        TypeRef::Global(_) | TypeRef::Func(_) | TypeRef::FuncExact(_) => return Ok(()),
    };
    Err(Refusal::ImportedState { kind, module: import.module.into(), name: import.name.into() })
}

/// What must be exported; the module is valid from here on.
fn hidden_state(bytes: &[u8]) -> Result<Hidden, Refusal> {
    let mut hidden = Hidden::default();
    let mut global_index = 0;
    let mut table_elements = 0u64;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(invalid)? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    global_index += u32::from(matches!(import.map_err(invalid)?.ty, TypeRef::Global(_)));
                }
            }
            Payload::TableSection(tables) => {
                for table in tables {
                    table_elements = table_elements.saturating_add(table.map_err(invalid)?.ty.initial);
                }
            }
            Payload::MemorySection(memories) => hidden.memories = memories.count(),
            Payload::GlobalSection(globals) => {
                for global in globals {
                    let ty = global.map_err(invalid)?.ty;
                    if ty.mutable && matches!(ty.content_type, ValType::Ref(_)) {
                        return Err(Refusal::ReferenceGlobal { index: global_index });
                    }
                    if ty.mutable {
                        hidden.globals.push(global_index);
                    }
                    global_index += 1;
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    let export = export.map_err(invalid)?;
                    if export.name.starts_with(HIDDEN_PREFIX) && export.kind != ExternalKind::Func {
                        return Err(Refusal::ReservedExport(export.name.into()));
                    }
                }
            }
            Payload::CodeSectionEntry(body) => check_body(&body)?,
            _ => {}
        }
    }
    if table_elements > TABLE_ELEMENTS_MAX {
        return Err(Refusal::TableTooBig { elements: table_elements });
    }
    Ok(hidden)
}

fn check_body(body: &wasmparser::FunctionBody<'_>) -> Result<(), Refusal> {
    for operator in body.get_operators_reader().map_err(invalid)?.into_iter_with_offsets() {
        let (operator, offset) = operator.map_err(invalid)?;
        if let Some((instruction, why)) = unsaveable(&operator) {
            return Err(Refusal::Instruction { instruction, offset, why });
        }
    }
    Ok(())
}

/// Instructions that change a table or a segment. Active segments need none of them; `memory.init` and `table.init`
/// are refused with them because passive segments are only of use to code that then drops them.
fn unsaveable(operator: &Operator<'_>) -> Option<(&'static str, &'static str)> {
    const TABLE: &str = "the contents of a table";
    const SEGMENT: &str = "whether a segment was dropped";
    const PASSIVE: &str = "a passive segment used after start";
    Some(match operator {
        Operator::TableSet { .. } => ("table.set", TABLE),
        Operator::TableGrow { .. } => ("table.grow", TABLE),
        Operator::TableFill { .. } => ("table.fill", TABLE),
        Operator::TableCopy { .. } => ("table.copy", TABLE),
        Operator::TableInit { .. } => ("table.init", TABLE),
        Operator::ElemDrop { .. } => ("elem.drop", SEGMENT),
        Operator::DataDrop { .. } => ("data.drop", SEGMENT),
        Operator::MemoryInit { .. } => ("memory.init", PASSIVE),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(text: &str) -> Result<Hidden, Refusal> {
        check(&wat::parse_str(text).expect("valid text"))
    }

    #[test]
    fn hidden_state_is_listed() {
        let hidden = check_text(
            r#"(module (import "a" "b" (global i32)) (memory 1) (memory 1)
                (global i32 (i32.const 1)) (global (mut i64) (i64.const 2)) (global (mut f32) (f32.const 0)))"#,
        );
        assert_eq!(hidden, Ok(Hidden { globals: vec![2, 3], memories: 2 }));
    }

    #[test]
    fn what_cannot_be_saved_is_refused_by_name() {
        let with_table = |code: &str| {
            format!(r#"(module (table 1 funcref) (memory 1) (elem $e func) (data $d "x") (func $f {code}))"#)
        };
        for (instruction, code) in [
            ("table.set", "i32.const 0 ref.null func table.set 0"),
            ("table.grow", "ref.null func i32.const 1 table.grow 0 drop"),
            ("table.fill", "i32.const 0 ref.null func i32.const 0 table.fill 0"),
            ("table.copy", "i32.const 0 i32.const 0 i32.const 0 table.copy"),
            ("table.init", "i32.const 0 i32.const 0 i32.const 0 table.init $e"),
            ("elem.drop", "elem.drop $e"),
            ("data.drop", "data.drop $d"),
            ("memory.init", "i32.const 0 i32.const 0 i32.const 0 memory.init $d"),
        ] {
            let error = check_text(&with_table(code)).expect_err(instruction);
            assert!(
                matches!(&error, Refusal::Instruction { instruction: found, .. } if *found == instruction),
                "{error}"
            );
            assert!(error.to_string().contains(instruction));
        }
    }

    #[test]
    fn state_of_others_is_refused() {
        for (kind, import) in
            [("memory", "(memory 1)"), ("table", "(table 1 funcref)"), ("mutable global", "(global (mut i32))")]
        {
            let error = check_text(&format!(r#"(module (import "env" "it" {import}))"#)).expect_err(kind);
            assert!(matches!(&error, Refusal::ImportedState { kind: found, .. } if *found == kind), "{error}");
        }
        assert_eq!(check_text("(module (memory 1 2 shared))"), Err(Refusal::SharedMemory));
        assert_eq!(
            check_text("(module (global (mut funcref) (ref.null func)))"),
            Err(Refusal::ReferenceGlobal { index: 0 })
        );
        assert_eq!(check_text("(module (table 2000000 funcref))"), Err(Refusal::TableTooBig { elements: 2_000_000 }));
        assert_eq!(
            check_text(r#"(module (memory (export "roam:memory:0") 1))"#),
            Err(Refusal::ReservedExport("roam:memory:0".into()))
        );
    }

    #[test]
    fn what_is_not_a_module_is_refused() {
        assert_eq!(check(b""), Err(Refusal::NotWasm));
        assert_eq!(check(b"#!/bin/sh\n"), Err(Refusal::NotWasm));
        assert_eq!(check(&wat::parse_str("(component)").expect("valid text")), Err(Refusal::Component));
        assert!(matches!(check(b"\0asm\x01\0\0\0\x01\xff"), Err(Refusal::Invalid { .. })));
        assert!(matches!(check(&vec![0; MODULE_BYTES_MAX + 1]), Err(Refusal::TooBig { .. })));
        for proposal in ["(module (memory i64 1))", "(module (type (struct)))", "(module (tag))"] {
            assert!(matches!(check_text(proposal), Err(Refusal::Invalid { .. })), "{proposal}");
        }
    }

    proptest::proptest! {
        #[test]
        fn mangled_modules_never_panic(cut in 0usize..4096, at in 0usize..4096, value in 0u8..) {
            let mut bytes = crate::modules::ECHO.to_vec();
            let at = at * bytes.len() / 4096;
            bytes[at] = value;
            bytes.truncate(bytes.len() - cut * bytes.len() / 4096);
            let _ = check(&bytes);
        }
    }
}
