//! Doing the same to several guests of a host.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use super::config::Config;
use super::target::{HostFlags, Target, Targets};
use super::{block_on, exit, print};
use crate::api::GuestName;

/// Which guests, where.
#[derive(Debug, clap::Args)]
pub(super) struct Guests {
    /// The guests.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<GuestName>,
    #[command(flatten)]
    host: HostFlags,
    /// Print JSON, one line a guest.
    #[arg(long)]
    json: bool,
}

/// What is printed of a guest that it was done to.
#[derive(Serialize)]
struct Report<'a> {
    name: &'a GuestName,
    host: &'a str,
    done: &'static str,
}

impl Guests {
    /// Does `action` to each in turn. What fails with one is said, and the others are gone on with.
    pub(super) fn each(
        &self,
        config: &Config,
        done: &'static str,
        action: impl AsyncFn(&Target, &GuestName) -> Result<()>,
    ) -> Result<ExitCode> {
        let target = Targets::new(&self.host, config).one()?;
        block_on(async {
            let mut worst = None;
            for name in &self.names {
                match action(&target, name).await {
                    Ok(()) if self.json => print::json_line(&Report { name, host: &target.name, done })?,
                    Ok(()) => print::line(&format!("{name} {done}"))?,
                    Err(error) if self.names.len() == 1 => return Err(error),
                    Err(error) => {
                        worst = worst.max(Some(exit::of(&error)));
                        exit::complain(&error.context(name.to_string()));
                    }
                }
            }
            worst.map_or(Ok(ExitCode::SUCCESS), |code| Err(exit::Reported(code).into()))
        })
    }
}
