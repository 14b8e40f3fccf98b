//! The command line: one file per command. Each parses raw flags, checks them once, and runs.
//!
//! A command's files: `COMMAND.rs`, or a folder where it has many; what several share is in `daemon` (the daemons),
//! `target` (which host, which controller), `wanted` (what a guest is to be), `several` and `fleet` (many guests, many
//! hosts), `print`, `units` and `config`.
//!
//! Exit codes, each command's in its `--help`:
//!
//! | code | what |
//! | --- | --- |
//! | 0 | done |
//! | 1 | it ran and failed, or found what it looks for, see the command |
//! | 2 | usage: flags, environment or a file of settings make no sense |
//! | 3 | a host or the controller cannot be reached |
//! | 4 | there is no such guest, module, address, host or lab |
//! | 5 | the host or controller refused: a name is taken, a guest in the wrong state, a generation over, no right |
//! | 6 | `migrate`: it is not known how it ended |
//! | 101, 124 | `run`: the guest panicked or trapped, overran its budget; else the guest's own |
//! | 130, 143 | interrupted |
//!
//! Nobody reading our output is no failure, and neither is ending by Ctrl-C what goes on until then (`logs --follow`,
//! `stats --watch`, `route watch`, `checkpoint --every`).

mod cert;
mod checkpoint;
mod completions;
mod config;
mod daemon;
mod demo;
mod deploy;
mod exit;
mod fleet;
mod front;
mod host;
mod inspect;
mod lab;
mod load;
mod logs;
mod man;
mod manifest;
mod migrate;
mod migrations;
mod modules;
mod print;
mod ps;
mod restore;
mod rm;
mod route;
mod run;
mod sdn;
mod several;
mod start;
mod stats;
mod stop;
mod target;
mod units;
mod wanted;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use serde::Deserialize;

use config::Config;

/// Runs network servers as sandboxed WebAssembly guests with their own TCP/IP stack.
#[derive(Debug, Parser)]
#[command(name = "roam", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// A file of settings [default: ~/.config/roam/config.toml, else /etc/roam/config.toml].
    #[arg(long, global = true, env = "ROAM_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// What to log on standard error, for example `info` or `roam_runtime=debug` [default: info].
    #[arg(long, global = true, env = "ROAM_LOG", value_name = "FILTER")]
    log: Option<String>,
    /// How log lines look: for people, or one JSON object each [default: human].
    #[arg(long, global = true, env = "ROAM_LOG_FORMAT", value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum LogFormat {
    Human,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    Cert(cert::Arguments),
    Checkpoint(checkpoint::Arguments),
    Completions(completions::Arguments),
    Demo(demo::Arguments),
    Deploy(Box<deploy::Arguments>),
    Front(front::Arguments),
    Host(Box<host::Settings>),
    Inspect(inspect::Arguments),
    Lab(lab::Arguments),
    Load(load::Arguments),
    Logs(logs::Arguments),
    Man(man::Arguments),
    Migrate(Box<migrate::Arguments>),
    Migrations(migrations::Arguments),
    Modules(modules::Arguments),
    Ps(ps::Arguments),
    Restore(restore::Arguments),
    Rm(rm::Arguments),
    Route(route::Arguments),
    Run(run::Arguments),
    Sdn(Box<sdn::Settings>),
    Start(start::Arguments),
    Stats(stats::Arguments),
    Stop(stop::Arguments),
    #[command(hide = true)]
    Worker(worker::Arguments),
}

/// What a text is taken for as a manifest and as a configuration file: a door for the fuzz targets.
#[cfg(fuzzing)]
pub fn settings(text: &str) -> (Result<usize>, Result<()>) {
    let path = std::path::Path::new("settings.toml");
    (manifest::parse(text, path).map(|guests| guests.len()), Config::parse(text, path).map(drop))
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    run_command(Arguments::parse()).unwrap_or_else(|error| exit::report(&error))
}

fn run_command(arguments: Arguments) -> Result<ExitCode> {
    // A worker is told everything by its daemon, and reads no files.
    let config = match arguments.command {
        Command::Worker(_) => Config::default(),
        _ => Config::load(arguments.config.as_deref())?,
    };
    start_log(arguments.log.as_deref(), arguments.log_format, &config)?;
    match arguments.command {
        Command::Cert(arguments) => cert::run(arguments),
        Command::Checkpoint(arguments) => checkpoint::run(arguments, &config),
        Command::Completions(arguments) => completions::run(arguments),
        Command::Demo(arguments) => demo::run(arguments),
        Command::Deploy(arguments) => deploy::run(*arguments, &config),
        Command::Front(arguments) => front::run(arguments, &config),
        Command::Host(settings) => host::run(settings.over(config.host)),
        Command::Inspect(arguments) => inspect::run(arguments, &config),
        Command::Lab(arguments) => lab::run(arguments),
        Command::Load(arguments) => load::run(arguments),
        Command::Logs(arguments) => logs::run(arguments, &config),
        Command::Man(arguments) => man::run(arguments),
        Command::Migrate(arguments) => migrate::run(*arguments, &config),
        Command::Migrations(arguments) => migrations::run(arguments, &config),
        Command::Modules(arguments) => modules::run(arguments, &config),
        Command::Ps(arguments) => ps::run(arguments, &config),
        Command::Restore(arguments) => restore::run(arguments, &config),
        Command::Rm(arguments) => rm::run(arguments, &config),
        Command::Route(arguments) => route::run(arguments, &config),
        Command::Run(arguments) => run::run(arguments),
        Command::Sdn(settings) => sdn::run(settings.over(config.sdn)),
        Command::Start(arguments) => start::run(arguments, &config),
        Command::Stats(arguments) => stats::run(arguments, &config),
        Command::Stop(arguments) => stop::run(arguments, &config),
        Command::Worker(arguments) => worker::run(arguments),
    }
}

fn start_log(filter: Option<&str>, format: Option<LogFormat>, config: &Config) -> Result<()> {
    let filter = filter.or(config.log.as_deref()).unwrap_or("info");
    let parsed = tracing_subscriber::EnvFilter::try_new(filter)
        .map_err(|error| exit::Usage(format!("--log {filter}: {error}")))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    match format.or(config.log_format).unwrap_or(LogFormat::Human) {
        LogFormat::Human => log.init(),
        // The span a line belongs to is told once.
        LogFormat::Json => log.json().with_span_list(false).init(),
    }
    Ok(())
}

/// Runs the part of a command that speaks to hosts.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("no runtime to wait with")?.block_on(work)
}
