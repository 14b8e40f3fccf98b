//! `roam logs`: what a guest has written.

use std::process::ExitCode;

use anyhow::{Context, Result};
use futures_util::StreamExt;

use super::config::Config;
use super::exit;
use super::target::{HostFlags, Targets};
use super::{block_on, print};
use crate::api::{GuestName, LogEntry};
use crate::host::LogQuery;

/// Show a guest's log.
///
/// With --follow it goes on until the guest is deleted, or Ctrl-C, which is no failure.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::HELP)]
pub(super) struct Arguments {
    /// The guest.
    name: GuestName,
    /// Go on with new lines as they come.
    #[arg(long, short)]
    follow: bool,
    /// Begin with the last so many lines [default: all that are kept].
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
    #[command(flatten)]
    host: HostFlags,
    /// Print JSON, one line an entry.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments, config: &Config) -> Result<ExitCode> {
    let target = Targets::new(&arguments.host, config).one()?;
    let query = LogQuery { follow: arguments.follow, tail: arguments.tail };
    block_on(async {
        let mut lines = target.client.logs(&arguments.name, query).await?;
        loop {
            let entry = tokio::select! {
                entry = lines.next() => entry,
                asked = tokio::signal::ctrl_c(), if arguments.follow => {
                    asked.context("waiting for Ctrl-C")?;
                    return Ok(ExitCode::SUCCESS);
                }
            };
            match entry.transpose()? {
                Some(entry) if arguments.json => print::json_line(&entry)?,
                Some(entry) => print::line(&show(&entry))?,
                None => return Ok(ExitCode::SUCCESS),
            }
        }
    })
}

fn show(entry: &LogEntry) -> String {
    format!("{} {:<5} {}", print::moment(entry.at_ms), entry.level, print::plain(&entry.text))
}
