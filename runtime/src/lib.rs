//! x
pub mod lab;
mod sys;
