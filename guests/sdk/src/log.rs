//! Lines for the guest's log: [`error!`], [`warn!`], [`info!`] and [`debug!`] format like `println!`.

pub use roam_abi::LogLevel;

use crate::sys;
pub use crate::{debug, error, info, warn};

/// Logs one line. The host cuts what is longer than [`roam_abi::limits::LOG_LINE_BYTES_MAX`].
pub fn line(level: LogLevel, text: &str) {
    sys::log(level, text);
}

/// Logs that the guest cannot go on, or lost something.
#[macro_export]
macro_rules! error {
    ($($format:tt)*) => { $crate::log::line($crate::log::LogLevel::Error, &::std::format!($($format)*)) };
}

/// Logs what an operator should look at.
#[macro_export]
macro_rules! warn {
    ($($format:tt)*) => { $crate::log::line($crate::log::LogLevel::Warn, &::std::format!($($format)*)) };
}

/// Logs a normal event.
#[macro_export]
macro_rules! info {
    ($($format:tt)*) => { $crate::log::line($crate::log::LogLevel::Info, &::std::format!($($format)*)) };
}

/// Logs something for the guest's developer.
#[macro_export]
macro_rules! debug {
    ($($format:tt)*) => { $crate::log::line($crate::log::LogLevel::Debug, &::std::format!($($format)*)) };
}
