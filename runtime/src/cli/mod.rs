//! The command line: one file per command. Each parses raw flags, checks them once, and runs.
//!
//! Exit codes: 0 success, 1 it ran and failed (or found what it looks for, see the command), 2 usage.

mod cert;
mod demo;
mod host;
mod load;
mod run;
mod units;
mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs network servers as sandboxed WebAssembly guests with their own TCP/IP stack.
#[derive(Debug, Parser)]
#[command(name = "roam", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// What to log on standard error, for example `info` or `roam_runtime=debug`.
    #[arg(long, global = true, env = "ROAM_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// How log lines look: for people, or one JSON object each.
    #[arg(long, global = true, env = "ROAM_LOG_FORMAT", default_value = "human", value_name = "FORMAT")]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LogFormat {
    Human,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    Cert(cert::Arguments),
    Demo(demo::Arguments),
    Host(host::Settings),
    Load(load::Arguments),
    Run(run::Arguments),
    #[command(hide = true)]
    Worker(worker::Arguments),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = match tracing_subscriber::EnvFilter::try_new(&arguments.log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("roam: --log {}: {error}", arguments.log);
            return ExitCode::from(2);
        }
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    match arguments.log_format {
        LogFormat::Human => log.init(),
        LogFormat::Json => log.json().init(),
    }
    let result = match arguments.command {
        Command::Cert(arguments) => cert::run(arguments),
        Command::Demo(arguments) => demo::run(arguments),
        Command::Host(settings) => host::run(settings),
        Command::Load(arguments) => load::run(arguments),
        Command::Run(arguments) => run::run(arguments),
        Command::Worker(arguments) => worker::run(arguments),
    };
    result.unwrap_or_else(|error| {
        eprintln!("roam: {error:#}");
        ExitCode::FAILURE
    })
}
