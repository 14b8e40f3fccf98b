//! What the operator may choose.

use crate::store::Limits;

/// How to use it, for the log.
pub const USAGE: &str = "options: --memory SIZE (64m), --item-size SIZE (1m), --connections N (1024), --port N (11211); \
                         SIZE is a number of bytes, or of KiB, MiB, GiB with k, m, g after it";

/// The least and the most memory for items.
pub const MEMORY_BYTES: std::ops::RangeInclusive<usize> = 1 << 20..=3 << 30;
/// The least and the most for one item.
pub const ITEM_BYTES: std::ops::RangeInclusive<usize> = 1 << 10..=1 << 30;
/// The least and the most connections at a time.
pub const CONNECTIONS: std::ops::RangeInclusive<usize> = 1..=4000;

/// Checked options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bounds of the store.
    pub limits: Limits,
    /// Connections at a time.
    pub connections: usize,
    /// Where to listen.
    pub port: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self { limits: Limits { memory_bytes: 64 << 20, item_bytes: 1 << 20 }, connections: 1024, port: 11211 }
    }
}

/// Why the options cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// No such option.
    #[error("unknown option {0:?}; {USAGE}")]
    Unknown(String),
    /// An option at the end.
    #[error("{0} needs a value; {USAGE}")]
    Missing(String),
    /// Not a number, or out of bounds.
    #[error("{option} cannot be {value:?}: {min} to {max} it may be")]
    Bad {
        /// Which option.
        option: String,
        /// What was given.
        value: String,
        /// The least.
        min: usize,
        /// The most.
        max: usize,
    },
    /// An item of full size would not fit.
    #[error("--item-size {item_bytes} is more than --memory {memory_bytes}")]
    ItemOverMemory {
        /// One item.
        item_bytes: usize,
        /// All of them.
        memory_bytes: usize,
    },
}

impl Options {
    /// Reads arguments: `--name value` or `--name=value`.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, OptionError> {
        let mut options = Self::default();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (argument, None),
            };
            let mut number = |bounds| bounded(&name, value.clone().or_else(|| arguments.next()), bounds);
            match name.as_str() {
                "--memory" => options.limits.memory_bytes = number(MEMORY_BYTES)?,
                "--item-size" => options.limits.item_bytes = number(ITEM_BYTES)?,
                "--connections" => options.connections = number(CONNECTIONS)?,
                "--port" => options.port = number(1..=65535)? as u16,
                _ => return Err(OptionError::Unknown(name)),
            }
        }
        let Limits { memory_bytes, item_bytes } = options.limits;
        if item_bytes > memory_bytes {
            return Err(OptionError::ItemOverMemory { item_bytes, memory_bytes });
        }
        Ok(options)
    }
}

fn bounded(option: &str, value: Option<String>, bounds: std::ops::RangeInclusive<usize>) -> Result<usize, OptionError> {
    let value = value.ok_or_else(|| OptionError::Missing(option.to_owned()))?;
    size(&value).filter(|number| bounds.contains(number)).ok_or_else(|| OptionError::Bad {
        option: option.to_owned(),
        value,
        min: *bounds.start(),
        max: *bounds.end(),
    })
}

/// A number with an optional unit of 1024, 1024² or 1024³.
fn size(text: &str) -> Option<usize> {
    let (digits, shift) = match text.as_bytes().last()?.to_ascii_lowercase() {
        b'k' => (&text[..text.len() - 1], 10),
        b'm' => (&text[..text.len() - 1], 20),
        b'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<usize>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options, OptionError> {
        Options::parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn options_are_read() {
        assert_eq!(parse(""), Ok(Options::default()));
        let options = parse("--memory 2m --item-size=4K --connections 7 --port 1").expect("all is right");
        assert_eq!(options.limits, Limits { memory_bytes: 2 << 20, item_bytes: 4 << 10 });
        assert_eq!((options.connections, options.port), (7, 1));
    }

    #[test]
    fn wrong_options_are_explained() {
        let text = |arguments: &str| parse(arguments).expect_err(arguments).to_string();
        assert!(text("--verbose").starts_with("unknown option \"--verbose\"; options: --memory"));
        assert!(text("--memory").starts_with("--memory needs a value"));
        for wrong in ["--memory 1k", "--memory x", "--memory 9g", "--memory=", "--port 0", "--memory 99999999999999g"] {
            assert!(text(wrong).contains("cannot be"), "{wrong}");
        }
        assert_eq!(text("--memory 1m --item-size 2m"), "--item-size 2097152 is more than --memory 1048576");
    }
}
