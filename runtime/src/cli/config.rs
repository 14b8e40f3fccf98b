//! The configuration file.
//!
//! From `--config`, else `ROAM_CONFIG`, else `~/.config/roam/config.toml`, else `/etc/roam/config.toml`, else nothing.
//! What a flag says goes before what the environment says, and that before what the file says.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use super::exit::Usage;
use super::{LogFormat, host, sdn};

/// Largest file that is read, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What the file says.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Config {
    /// The host that commands speak to: a name of `hosts`, a URL, or a standing lab's host.
    pub(super) default_host: Option<String>,
    /// The controller that `roam route` and `roam front` speak to: a URL, or a standing lab's name.
    pub(super) controller: Option<String>,
    /// Hosts by the names `--host` knows them by.
    #[serde(default)]
    pub(super) hosts: BTreeMap<String, HostEntry>,
    /// Settings of `roam host`, named as its flags.
    #[serde(default)]
    pub(super) host: host::Settings,
    /// Settings of `roam sdn`, named as its flags.
    #[serde(default)]
    pub(super) sdn: sdn::Settings,
    /// As `--log`.
    pub(super) log: Option<String>,
    /// As `--log-format`.
    pub(super) log_format: Option<LogFormat>,
}

/// A host.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct HostEntry {
    /// `unix:/path` or `https://name:port`.
    pub(super) url: String,
    /// Where ca.pem, operator.pem and operator.key are.
    pub(super) tls_dir: Option<PathBuf>,
}

impl Config {
    /// The one to use. A file that was named must be there; the others need not.
    pub(super) fn load(named: Option<&Path>) -> Result<Self> {
        if let Some(path) = named {
            let text = read(path).with_context(|| format!("the configuration file {}", path.display()))?;
            return Self::parse(&text, path);
        }
        for path in places() {
            match read(&path) {
                Ok(text) => return Self::parse(&text, &path),
                Err(error) if is_out_of_reach(&error) => {}
                Err(error) => return Err(error).context(format!("the configuration file {}", path.display())),
            }
        }
        Ok(Self::default())
    }

    pub(super) fn parse(text: &str, path: &Path) -> Result<Self> {
        // toml says line and column, and shows the line.
        toml::from_str(text).map_err(|error| Usage(format!("{}: {error}", path.display())).into())
    }
}

/// Not there, or in a home that is not this user's (`HOME` outlives a change of user).
fn is_out_of_reach(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied)
}

fn places() -> Vec<PathBuf> {
    let dir = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let user = dir.or_else(home).map(|dir| dir.join("roam/config.toml"));
    user.into_iter().chain(["/etc/roam/config.toml".into()]).collect()
}

/// Reads a file of settings.
pub(super) fn read(path: &Path) -> io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("over {FILE_BYTES_MAX} bytes are too many for a file of settings")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("config.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_file() {
        let text = "default-host = 'a'\ncontroller = 'unix:/c'\nlog = 'debug'\nlog-format = 'json'\n\
                    [hosts.a]\nurl = 'https://a:1'\ntls-dir = '/tls'\n[host]\nname = 'a'\nbridge = 'br1'\n";
        let config = parse(text).unwrap();
        assert_eq!(config.hosts["a"].url, "https://a:1");
        assert_eq!(config.default_host.as_deref(), Some("a"));
        assert_eq!(config.controller.as_deref(), Some("unix:/c"));
        assert!(matches!(config.log_format, Some(LogFormat::Json)));
    }

    #[test]
    fn what_is_unknown_is_refused_with_its_line() {
        for (text, at) in
            [("\nlogg = 'x'", "line 2"), ("[hosts.a]\nurl = 'x'\nuri = 'y'", "line 3"), ("[host]\nnam = 1", "line 2")]
        {
            let error = parse(text).unwrap_err();
            assert!(error.contains("config.toml") && error.contains(at), "{error}");
        }
    }
}
