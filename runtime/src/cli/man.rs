//! `roam man`: manual pages.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Command, CommandFactory};

use super::print;

/// Write manual pages, one a command, into a directory.
///
/// Read one with man DIR/roam-deploy.1. Exit codes: 0 done; 1 it failed; 2 usage.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where to; made if need be.
    dir: PathBuf,
    /// Print what was written as JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Arguments) -> Result<ExitCode> {
    let dir = &arguments.dir;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut command = super::Arguments::command();
    // Gives each command its whole name, `roam lab up`.
    command.build();
    let mut pages = Vec::new();
    write(&command, "roam", dir, &mut pages)?;
    if arguments.json {
        print::json(&pages)?
    } else {
        print::line(&format!("{} pages in {}", pages.len(), dir.display()))?
    }
    Ok(ExitCode::SUCCESS)
}

/// The page of a command and those of its subcommands.
fn write(command: &Command, name: &str, dir: &Path, pages: &mut Vec<PathBuf>) -> Result<()> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).title(name).render(&mut page)?;
    let path = dir.join(format!("{name}.1"));
    std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    pages.push(path);
    let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help");
    for sub in shown {
        write(sub, &format!("{name}-{}", sub.get_name()), dir, pages)?;
    }
    Ok(())
}
