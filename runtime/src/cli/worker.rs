//! `roam worker`: one jailed process per guest. Not for people: `roam host` starts it.

use std::process::ExitCode;

use anyhow::Result;

/// Runs one guest for a host daemon.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// What a list of processes is to show: the guest's name. All that counts comes with the orders.
    label: Option<String>,
}

pub(super) fn run(Arguments { label: _ }: Arguments) -> Result<ExitCode> {
    Ok(crate::worker::run()?)
}
