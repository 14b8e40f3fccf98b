//! What the operator gave the guest: arguments and environment.

use roam_abi::Errno;

use crate::sys;

/// The arguments in order, the guest's own name first, as everywhere. Bytes that are not UTF-8 become U+FFFD.
pub fn args() -> impl Iterator<Item = String> {
    (0..).map_while(|index| entry(index, sys::arg))
}

/// The environment, as names and values.
pub fn vars() -> impl Iterator<Item = (String, String)> {
    (0..).map_while(|index| entry(index, sys::env)).map(|entry| {
        let (name, value) = entry.split_once('=').unwrap_or((&entry, ""));
        (name.to_owned(), value.to_owned())
    })
}

/// The value of one variable, where it is set.
pub fn var(name: &str) -> Option<String> {
    vars().find(|(known, _)| known == name).map(|(_, value)| value)
}

fn entry(index: u32, import: impl Fn(u32, &mut [u8]) -> Result<u32, Errno>) -> Option<String> {
    let len = import(index, &mut []).ok()?;
    let mut bytes = vec![0; len as usize];
    import(index, &mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
