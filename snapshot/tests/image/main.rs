//! The checkpoint's file: what is written is read again, what was damaged is refused by name.
#![allow(clippy::unwrap_used)]

mod chains;
mod damage;
mod files;
mod golden;
mod model;
mod round_trip;
