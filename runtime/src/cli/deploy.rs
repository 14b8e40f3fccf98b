//! `roam deploy`: modules become guests.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::config::Config;
use super::exit::{self, Refused, Usage};
use super::manifest;
use super::target::{HostFlags, Target, Targets};
use super::wanted::{ModuleFile, Wanted};
use super::{block_on, print};
use crate::api::client::Client;
use crate::api::{ErrorCode, GuestSpec, GuestView};

/// What a manifest is called when nothing else is said.
const MANIFEST: &str = "roam.toml";

/// Run a module as a guest of a host.
///
/// Ships the module if the host does not have it, gives the guest its addresses and starts it; ends when it serves.
/// With --file, or in a directory with a roam.toml and without a module, does what that manifest declares: guests that
/// are missing are created, those that are there as declared are left alone, and one that differs is refused.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::HELP)]
pub(super) struct Arguments {
    /// The module: a core WebAssembly file for wasm32-unknown-unknown or wasm32-wasip1.
    module: Option<PathBuf>,
    /// A manifest of guests [default without a module: roam.toml].
    #[arg(long, value_name = "FILE", conflicts_with = "module")]
    file: Option<PathBuf>,
    #[command(flatten)]
    wanted: Wanted,
    #[command(flatten)]
    host: HostFlags,
    /// Print JSON, one line a guest.
    #[arg(long)]
    json: bool,
}

/// What was done about a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Done {
    Created,
    Unchanged,
}

/// What is printed of a guest.
#[derive(Serialize)]
struct Report<'a> {
    done: Done,
    host: &'a str,
    /// Whether the module had to be sent.
    shipped: bool,
    guest: GuestView,
}

pub(super) fn run(arguments: Arguments, config: &Config) -> Result<ExitCode> {
    let manifest = arguments.file.clone().or_else(|| arguments.module.is_none().then(|| MANIFEST.into()));
    let declared = match (&arguments.module, manifest) {
        (_, Some(path)) => {
            if arguments.wanted != Wanted::default() {
                return Err(Usage("flags of a guest go with a module; a manifest says its own".into()).into());
            }
            if arguments.file.is_none() && !path.exists() {
                return Err(Usage(format!("give a module, or a manifest: there is no {MANIFEST} here")).into());
            }
            manifest::load(&path)?
        }
        (Some(module), None) => {
            vec![(module.clone(), arguments.wanted.clone())]
        }
        (None, None) => return Err(Usage("give a module or a manifest".into()).into()),
    };
    let is_manifest = arguments.module.is_none();
    let targets = Targets::new(&arguments.host, config);
    // Everything is checked before anything is done.
    let mut jobs = Vec::new();
    for (path, wanted) in declared {
        let target = match &wanted.host {
            Some(host) => targets.named(host)?,
            None => targets.one()?,
        };
        let module = ModuleFile::read(&path)?;
        let spec = wanted.spec(&path, module.digest)?;
        jobs.push(Job { target, module, spec, is_manifest });
    }
    block_on(all(jobs, arguments.json))
}

/// Each is tried; what went wrong with one is said and the others go on.
async fn all(jobs: Vec<Job>, json: bool) -> Result<ExitCode> {
    let alone = jobs.len() == 1;
    let mut worst = None;
    for job in jobs {
        match job.run().await {
            Ok(report) => print(&report, json)?,
            Err(error) if alone => return Err(error),
            Err(error) => {
                worst = worst.max(Some(exit::of(&error)));
                exit::complain(&error.context(format!("{} on {}", job.spec.name, job.target.name)));
            }
        }
    }
    worst.map_or(Ok(ExitCode::SUCCESS), |code| Err(exit::Reported(code).into()))
}

struct Job {
    target: Target,
    module: ModuleFile,
    spec: GuestSpec,
    is_manifest: bool,
}

impl Job {
    async fn run(&self) -> Result<Report<'_>> {
        let Target { name: host, client } = &self.target;
        if self.is_manifest {
            match client.inspect(&self.spec.name).await {
                Ok(guest) => return self.compare(guest),
                Err(error) if error.code() == Some(ErrorCode::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let shipped = !client.has_module(self.module.digest).await?;
        if shipped {
            ship(client, &self.module).await?;
        }
        let guest = client.create(&self.spec).await?;
        Ok(Report { done: Done::Created, host, shipped, guest })
    }

    fn compare(&self, guest: GuestView) -> Result<Report<'_>> {
        let differs = differences(&guest.spec, &self.spec)?;
        if differs.is_empty() {
            return Ok(Report { done: Done::Unchanged, host: &self.target.name, shipped: false, guest });
        }
        let name = &self.spec.name;
        Err(Refused(format!(
            "{name} is there already, but differs: {}; `roam rm --force {name}` first, or declare what is there",
            differs.join("; ")
        ))
        .into())
    }
}

/// Sends a module, and shows how that goes.
pub(super) async fn ship(client: &Client, module: &ModuleFile) -> Result<()> {
    let ModuleFile { path, digest, size_bytes } = module;
    let file = tokio::fs::File::open(path).await;
    let file = file.with_context(|| format!("cannot read module {}", path.display()))?;
    let bar = print::bar(format!("shipping {}", file_name(path)), *size_bytes);
    // After the last byte the host compiles.
    let result = client.put_module(*digest, file, bar.position()).await;
    bar.clear();
    result?;
    Ok(())
}

/// Where two specifications are not the same: `memory_bytes_max is 1, not 2`.
fn differences(is: &GuestSpec, wanted: &GuestSpec) -> Result<Vec<String>> {
    let fields = |spec| match serde_json::to_value(spec) {
        Ok(Value::Object(fields)) => Ok(fields),
        Ok(other) => Err(anyhow::anyhow!("a specification is no object: {other}")),
        Err(error) => Err(error.into()),
    };
    let (is, wanted) = (fields(is)?, fields(wanted)?);
    let mut names: Vec<&String> = is.keys().chain(wanted.keys()).collect();
    names.sort();
    names.dedup();
    let differing = names.into_iter().filter(|name| is.get(*name) != wanted.get(*name));
    let shown = |value: Option<&Value>| value.map_or_else(|| "not given".to_owned(), Value::to_string);
    Ok(differing.map(|name| format!("{name} is {}, not {}", shown(is.get(name)), shown(wanted.get(name)))).collect())
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn print(report: &Report<'_>, json: bool) -> Result<()> {
    if json {
        return print::json_line(report);
    }
    let Report { done, host, shipped, guest } = report;
    let addresses: Vec<String> =
        [guest.network.ip.map(|ip| ip.to_string()), guest.network.ip6.map(|ip| ip.to_string())]
            .into_iter()
            .flatten()
            .collect();
    let done = match done {
        Done::Created => "serves",
        Done::Unchanged => "is there as declared",
    };
    let remark = if *shipped { "  (shipped)" } else { "" };
    print::line(&format!("{} {done} on {host} at {}", guest.spec.name, addresses.join(" and ")))?;
    print::line(&format!("  module {}{remark}", guest.spec.module))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ModuleHash;

    #[test]
    fn differences_are_named_by_field() {
        let is = GuestSpec::new("kv".parse().unwrap(), ModuleHash([1; 32]));
        assert!(differences(&is, &is).unwrap().is_empty());
        let wanted = GuestSpec { mtu: Some(1400), cpus_max: Some(0.5), ..is.clone() };
        assert_eq!(
            differences(&is, &wanted).unwrap(),
            ["cpus_max is not given, not 0.5", "mtu is not given, not 1400"]
        );
    }
}
