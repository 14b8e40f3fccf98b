//! Names of guests.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a guest is called on its host: 1 to 63 of `a-z`, `0-9` and `-`, the first and last no dash (a DNS label,
/// RFC 1123), so that it serves as file name, metric label and host name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GuestName(String);

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a guest name: 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit")]
pub struct NameError(String);

impl GuestName {
    /// Longest name, bytes.
    pub const BYTES_MAX: usize = 63;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for GuestName {
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

impl TryFrom<String> for GuestName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<GuestName> for String {
    fn from(name: GuestName) -> Self {
        name.0
    }
}

impl fmt::Display for GuestName {
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
            assert!(name.parse::<GuestName>().is_ok(), "{name}");
        }
        for name in ["", "-a", "a-", "Kv", "a b", "a/b", "..", "a.b", "kv\n", "ä", &"x".repeat(64)] {
            assert!(name.parse::<GuestName>().is_err(), "{name}");
        }
    }
}
