//! The only unsafe code of this crate; each module hands out safe types or functions.
#![allow(unsafe_code)]

pub(crate) mod memory;
pub(crate) mod module;
pub(crate) mod packet;
pub(crate) mod process;
pub(crate) mod rights;
pub(crate) mod socket;
