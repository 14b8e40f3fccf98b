//! `roam modules`: the modules a host has.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde::Serialize;

use super::config::Config;
use super::exit::{self, Usage};
use super::target::{HostFlags, Target, Targets};
use super::wanted::ModuleFile;
use super::{block_on, print};
use crate::engine::ModuleHash;

/// List, send, fetch and delete a host's modules.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::HELP)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List modules and the guests that use them.
    #[command(after_help = exit::HELP)]
    Ls {
        #[command(flatten)]
        common: Common,
    },
    /// Send a module, so that a later deployment is quick.
    #[command(after_help = exit::HELP)]
    Put {
        /// The module.
        file: PathBuf,
        #[command(flatten)]
        common: Common,
    },
    /// Fetch a module.
    #[command(after_help = exit::HELP)]
    Get {
        /// blake3 of the module, 64 hex digits.
        digest: ModuleHash,
        /// Where to put it; not overwritten.
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
        #[command(flatten)]
        common: Common,
    },
    /// Delete a module that no guest uses.
    #[command(after_help = exit::HELP)]
    Rm {
        /// blake3 of the module, 64 hex digits.
        digest: ModuleHash,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    host: HostFlags,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    digest: ModuleHash,
    host: &'a str,
    done: &'a str,
}

pub(super) fn run(arguments: Arguments, config: &Config) -> Result<ExitCode> {
    let (Command::Ls { common }
    | Command::Put { common, .. }
    | Command::Get { common, .. }
    | Command::Rm { common, .. }) = &arguments.command;
    let target = Targets::new(&common.host, config).one()?;
    block_on(async {
        let (digest, done) = match &arguments.command {
            Command::Ls { .. } => return list(&target, common.json).await,
            Command::Put { file, .. } => put(&target, file).await?,
            Command::Get { digest, output, .. } => {
                get(&target, *digest, output).await?;
                (*digest, "fetched")
            }
            Command::Rm { digest, .. } => {
                target.client.delete_module(*digest).await?;
                (*digest, "deleted")
            }
        };
        if common.json {
            print::json(&Report { digest, host: &target.name, done })?;
        } else {
            print::line(&format!("{digest} {done}"))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn list(target: &Target, json: bool) -> Result<ExitCode> {
    let modules = target.client.modules().await?;
    if json {
        print::json(&modules)?;
    } else {
        let row = |module: &crate::api::ModuleView| {
            vec![module.digest.to_string(), print::size(module.size_bytes), module.guests.join(", ")]
        };
        print::text(&print::table(&["DIGEST", "SIZE", "GUESTS"], &modules.iter().map(row).collect::<Vec<_>>()))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn put(target: &Target, path: &std::path::Path) -> Result<(ModuleHash, &'static str)> {
    let module = ModuleFile::read(path)?;
    let file = tokio::fs::File::open(path).await.with_context(|| format!("cannot read {}", path.display()))?;
    let new = target.client.put_module(module.digest, file, |_| {}).await?;
    Ok((module.digest, if new { "sent" } else { "is there already" }))
}

async fn get(target: &Target, digest: ModuleHash, output: &std::path::Path) -> Result<()> {
    let cannot = |error: std::io::Error| match error.kind() {
        ErrorKind::AlreadyExists => {
            Usage(format!("{} exists and is not overwritten; choose another --output", output.display())).into()
        }
        _ => anyhow::Error::from(error).context(format!("cannot write {}", output.display())),
    };
    let file = tokio::fs::OpenOptions::new().write(true).create_new(true).open(output).await.map_err(cannot)?;
    let fetched = target.client.read_module(digest, file, |_| {}).await;
    if fetched.is_err() {
        // Half a module is none; the error that matters is the other one.
        let _ = std::fs::remove_file(output);
    }
    Ok(fetched?)
}
