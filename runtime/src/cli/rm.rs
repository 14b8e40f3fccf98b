//! `roam rm`: a guest, its record and its log go.

use std::process::ExitCode;

use anyhow::Result;

use super::config::Config;
use super::exit;
use super::several::Guests;

/// Delete guests with their records and logs; one that runs only with --force.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::HELP)]
pub(super) struct Arguments {
    #[command(flatten)]
    guests: Guests,
    /// Stop it first if it runs.
    #[arg(long, short)]
    force: bool,
}

pub(super) fn run(arguments: Arguments, config: &Config) -> Result<ExitCode> {
    arguments.guests.each(config, "deleted", async |target, name| {
        target.client.delete(name, arguments.force).await?;
        Ok(())
    })
}
