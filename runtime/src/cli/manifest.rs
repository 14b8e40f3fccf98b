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

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::config::read;
use super::exit::Usage;
use super::wanted::Wanted;

/// Most guests of a manifest.
const GUESTS_MAX: usize = 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    guest: Vec<Wanted>,
}

/// Reads a manifest: guests with their modules, the paths as seen from where the command runs.
pub(super) fn load(path: &Path) -> Result<Vec<(PathBuf, Wanted)>> {
    let text = read(path).with_context(|| format!("the manifest {}", path.display()))?;
    parse(&text, path)
}

pub(super) fn parse(text: &str, path: &Path) -> Result<Vec<(PathBuf, Wanted)>> {
    let refuse = |what: String| Usage(format!("{}: {what}", path.display()));
    // toml says line and column, and shows the line.
    let file: File = toml::from_str(text).map_err(|error| refuse(error.to_string()))?;
    if file.guest.is_empty() {
        return Err(refuse("it declares no [[guest]]".into()).into());
    }
    if file.guest.len() > GUESTS_MAX {
        return Err(refuse(format!("{} guests; at most {GUESTS_MAX}", file.guest.len())).into());
    }
    let dir = path.parent().unwrap_or(Path::new(""));
    let (mut declared, mut names) = (Vec::new(), BTreeSet::new());
    for (index, guest) in file.guest.into_iter().enumerate() {
        let Some(module) = &guest.module else {
            return Err(refuse(format!("[[guest]] number {} has no `module`", index + 1)).into());
        };
        let module = dir.join(module);
        let name = guest.name(&module)?;
        if !names.insert((guest.host.clone(), name.to_string())) {
            return Err(refuse(format!("two guests are called {name}; give one another name")).into());
        }
        declared.push((module, guest));
    }
    Ok(declared)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(PathBuf, Wanted)>, String> {
        parse(text, Path::new("/m/roam.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_manifest_says_what_flags_say() {
        let text = "[[guest]]\nmodule = 'kv.wasm'\nhost = 'host-a'\nip = '10.90.0.10/16'\nmemory = '64MiB'\n\
                    cpus = 1\nenv = { A = 'b' }\npoll-budget = '5ms'\nrestart = 'always'\nargs = ['-v']\n\
                    [[guest]]\nmodule = '/x/echo.wasm'\nsocket-memory = 1048576\n";
        let declared = read(text).unwrap();
        assert_eq!(declared[0].0, Path::new("/m/kv.wasm"));
        assert_eq!(declared[0].1.host.as_deref(), Some("host-a"));
        assert_eq!(declared[0].1.memory, Some(64 << 20));
        assert_eq!(declared[0].1.env, [("A".to_owned(), "b".to_owned())]);
        assert_eq!(declared[1].0, Path::new("/x/echo.wasm"));
        assert_eq!(declared[1].1.socket_memory, Some(1 << 20));
    }

    #[test]
    fn errors_say_where() {
        for (text, at) in [
            ("[[guest]]\nmodule = 'kv.wasm'\nmemroy = '1M'", "line 3, column 1"),
            ("[[guest]]\nmodule = 'kv.wasm'\n\nmemory = '1 parsec'", "line 4"),
            ("[[guest]]\nmodule = 'kv.wasm'\nip = '10.0.0.1'", "line 3"),
            ("[[guest]]\nname = 'kv'", "number 1 has no `module`"),
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
