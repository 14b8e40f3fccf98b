//! `roam.toml`: guests, declared.
//!
//! ```toml
//! [[guest]]
//! module = "kv.wasm"          # relative to the manifest
//! host = "host-a"             # as --host; the command's own host when left out
//! name = "kv"
//! ip = "10.90.0.10/16"
//! memory = "64MiB"
//! env = { LEVEL = "debug" }
//! args = ["--verbose"]
//! ```
//!
//! Each key but `module` and `host` is named as the flag of `roam deploy`, and means the same.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::config::read;
use super::exit::Usage;
use super::wanted::Wanted;

/// Most guests of a manifest.
const GUESTS_MAX: usize = 1024;

/// A guest of a manifest.
#[derive(Debug)]
pub(super) struct Declared {
    /// Its module, from where the command runs.
    pub(super) module: PathBuf,
    /// Where it is to run, if the manifest says.
    pub(super) host: Option<String>,
    /// The rest.
    pub(super) wanted: Wanted,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    guest: Vec<Table>,
}

/// `module` and `host` are taken out of a table before the rest is read: serde knows no struct within a struct whose
/// unknown keys are refused.
struct Table(Declared);

impl<'de> Deserialize<'de> for Table {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(TableVisitor)
    }
}

struct TableVisitor;

impl<'de> serde::de::Visitor<'de> for TableVisitor {
    type Value = Table;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a guest")
    }

    fn visit_map<M: serde::de::MapAccess<'de>>(self, map: M) -> Result<Table, M::Error> {
        let mut own = Own { map, module: None, host: None };
        let rest = serde::de::value::MapAccessDeserializer::new(&mut own);
        let wanted = Wanted::deserialize(rest)?;
        let module = own.module.ok_or_else(|| serde::de::Error::missing_field("module"))?;
        Ok(Table(Declared { module, host: own.host, wanted }))
    }
}

/// A table's entries but for those two, which stay here.
struct Own<M> {
    map: M,
    module: Option<PathBuf>,
    host: Option<String>,
}

impl<'de, M: serde::de::MapAccess<'de>> serde::de::MapAccess<'de> for &mut Own<M> {
    type Error = M::Error;

    fn next_key_seed<K: serde::de::DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, M::Error> {
        while let Some(key) = self.map.next_key::<String>()? {
            match key.as_str() {
                "module" => self.module = Some(self.map.next_value()?),
                "host" => self.host = Some(self.map.next_value()?),
                _ => {
                    let key = serde::de::value::StringDeserializer::<M::Error>::new(key);
                    return seed.deserialize(key).map(Some);
                }
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: serde::de::DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, M::Error> {
        self.map.next_value_seed(seed)
    }
}

/// Reads a manifest.
pub(super) fn load(path: &Path) -> Result<Vec<Declared>> {
    let text = read(path).with_context(|| format!("the manifest {}", path.display()))?;
    parse(&text, path)
}

fn parse(text: &str, path: &Path) -> Result<Vec<Declared>> {
    let refuse = |what: String| Usage(format!("{}: {what}", path.display()));
    let file: File = toml::from_str(text).map_err(|error| refuse(error.to_string()))?;
    if file.guest.is_empty() {
        return Err(refuse("it declares no [[guest]]".into()).into());
    }
    if file.guest.len() > GUESTS_MAX {
        return Err(refuse(format!("{} guests; at most {GUESTS_MAX}", file.guest.len())).into());
    }
    let dir = path.parent().unwrap_or(Path::new(""));
    let mut declared: Vec<Declared> = file.guest.into_iter().map(|Table(guest)| guest).collect();
    for guest in &mut declared {
        guest.module = dir.join(&guest.module);
    }
    for (index, guest) in declared.iter().enumerate() {
        let name = guest.wanted.name(&guest.module)?;
        for other in &declared[..index] {
            if other.host == guest.host && other.wanted.name(&other.module)? == name {
                return Err(refuse(format!("two guests are called {name}; give one another name")).into());
            }
        }
    }
    Ok(declared)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Declared>, String> {
        parse(text, Path::new("/m/roam.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_manifest_says_what_flags_say() {
        let text = "[[guest]]\nmodule = 'kv.wasm'\nhost = 'host-a'\nip = '10.90.0.10/16'\nmemory = '64MiB'\n\
                    cpus = 1\nenv = { A = 'b' }\npoll-budget = '5ms'\nrestart = 'always'\nargs = ['-v']\n\
                    [[guest]]\nmodule = '/x/echo.wasm'\nsocket-memory = 1048576\n";
        let declared = read(text).unwrap();
        assert_eq!(declared[0].module, Path::new("/m/kv.wasm"));
        assert_eq!(declared[0].host.as_deref(), Some("host-a"));
        assert_eq!(declared[0].wanted.memory, Some(64 << 20));
        assert_eq!(declared[0].wanted.env, [("A".to_owned(), "b".to_owned())]);
        assert_eq!(declared[1].module, Path::new("/x/echo.wasm"));
        assert_eq!(declared[1].wanted.socket_memory, Some(1 << 20));
    }

    #[test]
    fn errors_say_where() {
        for (text, at) in [
            ("[[guest]]\nmodule = 'kv.wasm'\nmemroy = '1M'", "line 3, column 1"),
            ("[[guest]]\nmodule = 'kv.wasm'\n\nmemory = '1 parsec'", "line 4"),
            ("[[guest]]\nmodule = 'kv.wasm'\nip = '10.0.0.1'", "line 3"),
            ("[[guest]]\nname = 'kv'", "line 1"),
            ("[[guests]]\nmodule = 'kv.wasm'", "line 1"),
            ("[[guest]", "line 1"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains("/m/roam.toml") && error.contains(at), "{error}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in ["", "[[guest]]\nmodule = 'a.wasm'\n[[guest]]\nmodule = 'b/a.wasm'"] {
            assert!(read(text).is_err(), "{text}");
        }
        let apart = "[[guest]]\nmodule = 'a.wasm'\nhost = 'x'\n[[guest]]\nmodule = 'a.wasm'\nhost = 'y'";
        assert_eq!(read(apart).unwrap().len(), 2);
    }
}
