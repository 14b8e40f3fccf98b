//! `roam-bench`: what roam's guests cost, beside the same work done in other ways.
//!
//! ```text
//!  scenarios/   data: name, question, parameters, columns, and a function that measures
//!      │ starts             │ records
//!  engines/  child processes on one network    output  JSON lines or a table
//!   guest: `roam run`   native: the netstack without sandbox   kernel: blocking sockets
//! ```
//!
//! Engines that are compared run interleaved, round after round, on one path: a bridge in namespaces of the
//! benchmark's own ([`network`]), servers on one core, clients on another. What is reported is the median over rounds,
//! with the least and the most.
//!
//! This binary is also `roam` when called by that name, and spawns itself so: what is measured is the `roam` of the same
//! build, never another one that happens to be installed.
#![forbid(unsafe_code)]

mod bulk;
mod engines;
mod environment;
mod network;
mod output;
mod params;
mod process;
mod scenarios;
mod stats;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use clap::{Parser, Subcommand};

use environment::Environment;
use output::Output;
use params::Params;
use scenarios::{Run, SCENARIOS, Scenario};

/// Measures roam's guests beside the same work done in other ways, in one run on one path.
///
/// Needs root, or a kernel that gives user namespaces; leaves nothing behind. For numbers worth keeping let nothing else
/// run. Exit codes: 0 measured; 1 it could not be; 2 usage.
#[derive(Debug, Parser)]
#[command(name = "roam-bench", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Name, question and parameters of each scenario.
    List,
    /// Run one scenario.
    Run(RunArguments),
    /// Be one of the compared servers.
    #[command(name = "__serve", hide = true)]
    Serve(engines::ServeArguments),
    /// Start a guest in this process and say how long each step took.
    #[command(name = "__start", hide = true)]
    Start(scenarios::StartArguments),
}

#[derive(Debug, clap::Args)]
struct RunArguments {
    /// Which: see `roam-bench list`.
    name: String,
    /// Change a parameter; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Rounds [default: the scenario's own].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: Option<u32>,
    /// One JSON line for each engine and round, and one for each engine over all rounds.
    #[arg(long)]
    json: bool,
    /// What content and choices are derived from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    if called_as("roam") {
        return roam_runtime::cli::main();
    }
    let result = match Arguments::parse().command {
        Command::List => list(),
        Command::Run(arguments) => return usage_or(run(&arguments)),
        Command::Serve(arguments) => engines::serve(arguments),
        Command::Start(arguments) => scenarios::start_once(&arguments),
    };
    usage_or(result.map_err(Failure::Run))
}

fn called_as(name: &str) -> bool {
    std::env::args_os().next().is_some_and(|first| Path::new(&first).file_name().is_some_and(|file| file == name))
}

enum Failure {
    Usage(anyhow::Error),
    Run(anyhow::Error),
}

fn usage_or(result: Result<(), Failure>) -> ExitCode {
    let (error, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(error)) => (error, 2),
        Err(Failure::Run(error)) => (error, 1),
    };
    eprintln!("roam-bench: {error:#}");
    ExitCode::from(code)
}

fn list() -> Result<()> {
    for scenario in SCENARIOS {
        println!("{}: {}", scenario.name, scenario.question);
        for param in scenario.params {
            println!("    {}={}  {} ({})", param.name, param.default, param.help, param.kind);
        }
    }
    Ok(())
}

fn run(arguments: &RunArguments) -> Result<(), Failure> {
    let scenario = find(&arguments.name).map_err(Failure::Usage)?;
    let params = Params::new(scenario.params, &arguments.set).map_err(Failure::Usage)?;
    let repeats = arguments.repeat.unwrap_or(scenario.repeats);
    measure(scenario, params, repeats, arguments).map_err(Failure::Run)
}

fn measure(scenario: &'static Scenario, params: Params, repeats: u32, arguments: &RunArguments) -> Result<()> {
    if !roam_runtime::lab::has_rights() {
        // Before any thread is started, as it must be.
        roam_runtime::lab::enter_user_namespace().context("cannot measure here")?;
    }
    let environment = Environment::new(arguments.seed, repeats);
    let mut output = Output::new(scenario, &params, environment, arguments.json);
    let run = Run { params, repeats, seed: arguments.seed, cores: process::Cores::choose()? };
    (scenario.run)(&run, &mut output).with_context(|| scenario.name)?;
    output.finish();
    Ok(())
}

fn find(name: &str) -> Result<&'static Scenario> {
    let names = || SCENARIOS.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ");
    let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
    found.ok_or_else(|| anyhow!("there is no scenario `{name}`; there is {}", names()))
}
