//! `roam checkpoint`: an image of a guest in a file, or one every so often in a directory.
//!
//! In reading order: this file (flags, one image), `fetch` (how an image comes to be a file), `every` (one after the other),
//! `directory` (which of them are kept).

mod directory;
mod every;
mod fetch;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use roam_snapshot::image::file::Unfinished;
use serde::Serialize;

use super::config::Config;
use super::exit::{self, Usage};
use super::target::HostFlags;
use super::{block_on, fleet, print, units};
use crate::api::{CheckpointReport, CheckpointRequest, GuestName};
use fetch::{Ended, Interrupt};

pub(super) use directory::newest;

/// Keep a guest in a file: its memory, its connections, all of it.
///
/// Most of it is read while the guest runs. Without --keep-running the guest ends when its image is safe here, and not
/// before: whatever fails leaves it running, and Ctrl-C leaves nothing behind. The file holds the guest's secrets; only you
/// may read it. `roam restore` makes a guest of it again.
///
/// With --every, goes on until Ctrl-C: the first image has everything, each that follows has what changed. When there
/// are half as many more than --keep says, the oldest are merged.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::HELP)]
pub(super) struct Arguments {
    /// The guest.
    name: GuestName,
    /// The file; with --every, a directory for this guest's images alone.
    #[arg(long, short, value_name = "FILE|DIR")]
    output: PathBuf,
    /// Have the guest go on.
    #[arg(long)]
    keep_running: bool,
    /// Replace the file if there is one.
    #[arg(long, conflicts_with = "every")]
    force: bool,
    /// Take an image every so often, until Ctrl-C; the guest goes on.
    #[arg(long, value_parser = units::duration, value_name = "TIME")]
    every: Option<Duration>,
    /// With --every: how many can be restored.
    #[arg(long, value_name = "COUNT", requires = "every", default_value = "12")]
    keep: NonZeroUsize,
    #[command(flatten)]
    host: HostFlags,
    /// Print JSON, one line an image.
    #[arg(long)]
    json: bool,
}

/// What is printed of an image.
#[derive(Serialize)]
struct Report<'a> {
    guest: &'a GuestName,
    host: &'a str,
    file: &'a Path,
    /// Whether the guest goes on.
    keeps_running: bool,
    #[serde(flatten)]
    image: &'a CheckpointReport,
}

pub(super) fn run(arguments: Arguments, config: &Config) -> Result<ExitCode> {
    block_on(async {
        match arguments.every {
            Some(every) => every::run(&arguments, config, every).await,
            None => one(&arguments, config).await,
        }
    })
}

async fn one(arguments: &Arguments, config: &Config) -> Result<ExitCode> {
    let path = &arguments.output;
    let target = fleet::holder(&arguments.host, config, &arguments.name, "--host").await?;
    let mut interrupt = Interrupt::listen()?;
    // Before the guest notices anything.
    not_there(path, arguments.force)?;
    let unfinished = Unfinished::begin(path)?;
    let request = CheckpointRequest { keep_running: arguments.keep_running, ..CheckpointRequest::default() };
    let (client, name) = (&target.client, &arguments.name);
    let fetched = tokio::select! {
        fetched = fetch::fetch(client, name, &request, &unfinished) => fetched,
        code = interrupt.came() => return Ok(code),
    };
    let stream = fetched?;
    not_there(path, arguments.force)?;
    fetch::keep(unfinished).await?;
    let report = &stream.report;
    if !arguments.keep_running {
        let ended = fetch::confirm(client, name, report).await;
        if let Ended::No(error) = ended {
            return Err(error.context(format!("{} is whole, but {name} has not ended with it", path.display())));
        }
    }
    let keeps_running = arguments.keep_running;
    let report = Report { guest: name, host: &target.name, file: path, keeps_running, image: report };
    show(&report, arguments.json)?;
    Ok(ExitCode::SUCCESS)
}

fn not_there(path: &Path, force: bool) -> Result<()> {
    let shown = path.display();
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => {
            Err(Usage(format!("{shown} is a directory; name a file, or say --every")).into())
        }
        Ok(_) if !force => Err(Usage(format!("{shown} exists; name another file, or replace it with --force")).into()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot look at {shown}"))
        }
        _ => Ok(()),
    }
}

fn show(report: &Report<'_>, json: bool) -> Result<()> {
    if json {
        return print::json_line(report);
    }
    let Report { guest, host, file, keeps_running, image } = report;
    let what = if image.parent.is_some() { "what changed" } else { "everything" };
    let stopped = match image.blackout_us {
        Some(blackout_us) => format!("stopped for {}", print::nanoseconds(blackout_us.saturating_mul(1000))),
        None => "ended".to_owned(),
    };
    let goes_on = if *keeps_running { "goes on" } else { "is stopped" };
    print::line(&format!("{guest} on {host} is in {}, and {goes_on}", file.display()))?;
    print::line(&format!(
        "  {what}: {} pages, {} frames, {}; {stopped}",
        image.pages,
        image.frames,
        print::size(image.bytes)
    ))?;
    print::line(&format!("  image {}", image.digest))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        checkpoint: Arguments,
    }

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        let words = std::iter::once("checkpoint").chain(line.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.checkpoint)
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let every = parse("kv -o images --every 5s").unwrap();
        assert_eq!((every.every, every.keep.get()), (Some(Duration::from_secs(5)), 12));
        assert!(parse("kv -o f.snap --keep-running --force --json").is_ok());
        for line in ["kv", "kv -o d --keep 3", "kv -o d --every 5s --keep 0", "kv -o d --every 5s --force", "-o f"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
