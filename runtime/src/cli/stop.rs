//! `roam stop`: a guest stays on record, and does not run.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use super::config::Config;
use super::several::Guests;
use super::{exit, units};

/// Stop guests; `roam start` starts them again.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::HELP)]
pub(super) struct Arguments {
    #[command(flatten)]
    guests: Guests,
    /// How long a guest may take before it is killed.
    #[arg(long, default_value = "2s", value_parser = units::duration, value_name = "TIME")]
    grace: Duration,
}

pub(super) fn run(arguments: Arguments, config: &Config) -> Result<ExitCode> {
    arguments.guests.each(config, "stopped", async |target, name| {
        target.client.stop(name, arguments.grace).await?;
        Ok(())
    })
}
