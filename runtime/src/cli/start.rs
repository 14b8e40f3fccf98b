//! `roam start`: a guest that does not run runs again.

use std::process::ExitCode;

use anyhow::Result;

use super::config::Config;
use super::exit;
use super::several::Guests;

/// Start guests that are stopped, ended, waiting or parked.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::HELP)]
pub(super) struct Arguments {
    #[command(flatten)]
    guests: Guests,
}

pub(super) fn run(arguments: Arguments, config: &Config) -> Result<ExitCode> {
    arguments.guests.each(config, "started", async |target, name| {
        target.client.start(name).await?;
        Ok(())
    })
}
