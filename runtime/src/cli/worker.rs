//! `roam worker`: one jailed process per guest. Not for people: `roam host` starts it.

use std::process::ExitCode;

use anyhow::Result;

/// Runs one guest for a host daemon.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {}

pub(super) fn run(Arguments {}: Arguments) -> Result<ExitCode> {
    Ok(crate::worker::run()?)
}
