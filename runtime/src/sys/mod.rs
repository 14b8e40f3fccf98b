//! The only unsafe code of this crate; each module hands out safe types or functions.

pub mod process;
