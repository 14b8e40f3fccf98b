//! Names of guests and hosts.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a guest or a host is called: 1 to 63 of `a-z`, `0-9` and `-`, the first and last no dash (a DNS label,
/// RFC 1123), so that it serves as file name, metric label and host name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no name: 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit")]
pub struct NameError(String);

impl Name {
    /// Longest name, bytes.
    pub const BYTES_MAX: usize = 63;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let fits = (1..=Self::BYTES_MAX).contains(&text.len()) && text.bytes().all(inner);
        if fits && !text.starts_with('-') && !text.ends_with('-') {
            Ok(Self(text.to_owned()))
        } else {
            // Enough to recognise it by, however long it was.
            Err(NameError(text.chars().take(80).collect()))
        }
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_dns_label() {
        for name in ["kv", "a", "upf-2", "0", &"x".repeat(63)] {
            assert!(name.parse::<Name>().is_ok(), "{name}");
        }
        for name in ["", "-a", "a-", "Kv", "a b", "a/b", "..", "a.b", "kv\n", "ä", &"x".repeat(64)] {
            assert!(name.parse::<Name>().is_err(), "{name}");
        }
    }
}
