//! A guest as it is asked for: by flags or by a table of a manifest, which have the same names.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Deserializer};

use super::exit::Usage;
use super::{print, units};
use crate::api::{CidrText, GuestName, GuestSpec, MacText, RestartPolicy, SpecError};
use crate::engine::ModuleHash;

/// What may be said of a guest.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Wanted {
    /// In a manifest: its module. A command line has that beside.
    #[arg(skip)]
    pub(super) module: Option<PathBuf>,
    /// In a manifest: where it is to run. A command line has that beside.
    #[arg(skip)]
    pub(super) host: Option<String>,
    /// The guest's name, a DNS label [default: from the module's file name].
    #[arg(long)]
    pub(super) name: Option<GuestName>,
    /// IPv4 address with prefix [default: from the host's pool, unless --ip6 is given].
    #[arg(long, value_name = "ADDRESS/PREFIX")]
    pub(super) ip: Option<CidrText<Ipv4Addr>>,
    /// IPv6 address with prefix [default: from the host's pool, unless --ip is given].
    #[arg(long, value_name = "ADDRESS/PREFIX")]
    pub(super) ip6: Option<CidrText<Ipv6Addr>>,
    /// MAC address [default: locally administered, from the addresses].
    #[arg(long)]
    pub(super) mac: Option<MacText>,
    /// IPv4 gateway [default: the host's].
    #[arg(long, value_name = "ADDRESS")]
    pub(super) gateway: Option<Ipv4Addr>,
    /// IPv6 gateway [default: the host's].
    #[arg(long, value_name = "ADDRESS")]
    pub(super) gateway6: Option<Ipv6Addr>,
    /// IP MTU in bytes [default: what the host's network carries, 1500 at most].
    #[arg(long, value_name = "BYTES")]
    pub(super) mtu: Option<u16>,
    /// Limit of the guest's memory [default: 256MiB].
    #[arg(long, value_parser = units::bytes, value_name = "SIZE")]
    #[serde(deserialize_with = "size")]
    pub(super) memory: Option<usize>,
    /// Limit of all sockets' buffers together [default: 256MiB].
    #[arg(long, value_parser = units::bytes, value_name = "SIZE")]
    #[serde(deserialize_with = "size")]
    pub(super) socket_memory: Option<usize>,
    /// Limit of its CPU time in cores: 0.5 is half a core [default: none].
    #[arg(long, value_name = "CORES")]
    pub(super) cpus: Option<f64>,
    /// An environment variable for the guest; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = variable)]
    #[serde(deserialize_with = "variables")]
    pub(super) env: Vec<(String, String)>,
    /// What to do when the guest ends by itself [default: on-failure].
    #[arg(long, value_name = "POLICY")]
    pub(super) restart: Option<RestartPolicy>,
    /// CPU time one poll may take before the guest is stopped [default: 1s].
    #[arg(long, value_parser = units::duration, value_name = "TIME")]
    #[serde(deserialize_with = "time")]
    pub(super) poll_budget: Option<Duration>,
    /// Look for frames this long before sleeping: less latency for a busy core [default: 0us].
    #[arg(long, value_parser = units::duration, value_name = "TIME")]
    #[serde(deserialize_with = "time")]
    pub(super) busy_poll: Option<Duration>,
    /// Arguments for the guest, after `--`.
    #[arg(last = true, value_name = "ARGS")]
    pub(super) args: Vec<String>,
}

impl Wanted {
    /// The specification, checked as far as it can be without a host.
    pub(super) fn spec(&self, module: &Path, digest: ModuleHash) -> Result<GuestSpec> {
        let mut spec = GuestSpec::new(self.name(module)?, digest);
        spec.ip = self.ip;
        spec.ip6 = self.ip6;
        spec.mac = self.mac;
        spec.gateway = self.gateway;
        spec.gateway6 = self.gateway6;
        spec.mtu = self.mtu;
        spec.memory_bytes_max = self.memory.map_or(spec.memory_bytes_max, |bytes| bytes as u64);
        spec.socket_memory_bytes_max = self.socket_memory.map_or(spec.socket_memory_bytes_max, |bytes| bytes as u64);
        spec.cpus_max = self.cpus;
        spec.restart = self.restart.unwrap_or(spec.restart);
        spec.poll_budget_us = self.poll_budget.map_or(spec.poll_budget_us, microseconds);
        spec.busy_poll_us = self.busy_poll.map_or(spec.busy_poll_us, microseconds);
        spec.args = self.args.clone();
        for (key, value) in &self.env {
            if spec.env.insert(key.clone(), value.clone()).is_some() {
                return Err(Usage(format!("--env {key} is given twice")).into());
            }
        }
        spec.check().map_err(|error| Usage(by_flag(error)))?;
        Ok(spec)
    }

    /// The name that was given, or the module's file name made a DNS label.
    pub(super) fn name(&self, module: &Path) -> Result<GuestName> {
        match &self.name {
            Some(name) => Ok(name.clone()),
            None => label(module).parse().map_err(|_| {
                Usage(format!("{}: its file name gives no name for the guest; give --name", module.display())).into()
            }),
        }
    }
}

/// What is impossible about a specification, in the words and units that it was asked for with.
fn by_flag(error: SpecError) -> String {
    let SpecError::Range { field, value, min, max } = error else { return error.to_string() };
    let time = |us: u64| format!("{:?}", Duration::from_micros(us));
    let (flag, show): (_, &dyn Fn(u64) -> String) = match field {
        "memory_bytes_max" => ("memory", &print::size),
        "socket_memory_bytes_max" => ("socket-memory", &print::size),
        "poll_budget_us" => ("poll-budget", &time),
        "busy_poll_us" => ("busy-poll", &time),
        other => (other, &|value| value.to_string()),
    };
    format!("--{flag} is {}; it must be from {} to {}", show(value), show(min), show(max))
}

/// A module's file and what it is known by.
pub(super) struct ModuleFile {
    pub(super) path: PathBuf,
    pub(super) digest: ModuleHash,
    pub(super) size_bytes: u64,
}

impl ModuleFile {
    pub(super) fn read(path: &Path) -> Result<Self> {
        use std::io::Read;
        let shown = || format!("cannot read module {}", path.display());
        let file = std::fs::File::open(path).with_context(shown)?;
        let mut hasher = blake3::Hasher::new();
        let limit = crate::engine::MODULE_BYTES_MAX as u64;
        let size_bytes = std::io::copy(&mut file.take(limit + 1), &mut hasher).with_context(shown)?;
        if size_bytes > limit {
            return Err(Usage(format!("{} is no module: over {limit} bytes", path.display())).into());
        }
        Ok(Self { path: path.to_owned(), digest: ModuleHash(*hasher.finalize().as_bytes()), size_bytes })
    }
}

/// `My_App.v2.wasm` → `my-app-v2`.
fn label(module: &Path) -> String {
    let stem = module.file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default();
    let mapped: String =
        stem.chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }).collect();
    let cut: String = mapped.trim_matches('-').chars().take(GuestName::BYTES_MAX).collect();
    cut.trim_end_matches('-').to_owned()
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// `KEY=VALUE`.
fn variable(text: &str) -> Result<(String, String), String> {
    let split = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = split.ok_or_else(|| format!("`{text}`: write KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// As a manifest may write quantities: `"64MiB"`, or a bare number.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a quantity, for example \"64MiB\" or \"5ms\"")]
enum Quantity {
    Text(String),
    Whole(u64),
    Fraction(f64),
}

impl Quantity {
    fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
        Ok(match Self::deserialize(deserializer)? {
            Self::Text(text) => text,
            Self::Whole(number) => number.to_string(),
            Self::Fraction(number) => number.to_string(),
        })
    }
}

fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    units::bytes(&Quantity::read(deserializer)?).map(Some).map_err(serde::de::Error::custom)
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    units::duration(&Quantity::read(deserializer)?).map(Some).map_err(serde::de::Error::custom)
}

/// A table of texts.
fn variables<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    Ok(BTreeMap::deserialize(deserializer)?.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_files() {
        let names = [("kv.wasm", "kv"), ("/x/My_App.v2.wasm", "my-app-v2"), ("-a-.wasm", "a"), ("echo", "echo")];
        for (file, expected) in names {
            assert_eq!(label(Path::new(file)), expected);
        }
        let long = format!("{}-{}.wasm", "x".repeat(62), "y".repeat(40));
        assert_eq!(label(Path::new(&long)), "x".repeat(62));
        assert!(Wanted::default().name(Path::new("ä.wasm")).is_err());
    }

    #[test]
    fn what_is_left_out_has_the_hosts_default() {
        let digest = ModuleHash([1; 32]);
        let spec = Wanted::default().spec(Path::new("kv.wasm"), digest).unwrap();
        assert_eq!(spec, GuestSpec::new("kv".parse().unwrap(), digest));
    }

    #[test]
    fn impossible_numbers_are_refused_here() {
        let wanted = Wanted { mtu: Some(10), ..Wanted::default() };
        assert!(wanted.spec(Path::new("kv.wasm"), ModuleHash([1; 32])).is_err());
        let wanted = Wanted { memory: Some(1024), ..Wanted::default() };
        let error = wanted.spec(Path::new("kv.wasm"), ModuleHash([1; 32])).unwrap_err().to_string();
        assert_eq!(error, "--memory is 1 KiB; it must be from 64 KiB to 4 GiB");
        let twice = vec![("A".to_owned(), "1".to_owned()), ("A".to_owned(), "2".to_owned())];
        let wanted = Wanted { env: twice, ..Wanted::default() };
        assert!(wanted.spec(Path::new("kv.wasm"), ModuleHash([1; 32])).is_err());
    }
}
