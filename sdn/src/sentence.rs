//! Errors in words.

use std::error::Error;

/// An error and its sources in one line.
pub fn in_full(error: &dyn Error) -> String {
    let (mut line, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        line = format!("{line}: {error}");
        cause = error.source();
    }
    line
}
