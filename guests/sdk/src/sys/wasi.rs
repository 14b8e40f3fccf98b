//! Makes a WASI guest a reactor: initialised once, then polled.
//!
//! Unless something calls the constructors by name, the linker takes every export for a whole program's run and wraps
//! it in constructors and destructors, which would close the standard streams after the first poll.

unsafe extern "C" {
    fn __wasm_call_ctors();
}

/// What the host calls once before the first poll.
#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    // SAFETY: the linker makes this function in every module; the host calls us once, before all else.
    unsafe { __wasm_call_ctors() };
}
