//! `roam demo`: guests and clients in namespaces of their own, on this machine.

use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::{SigSet, Signal};

use super::units;
use crate::demo::{self, Options, Style};
use crate::lab;

/// Show four guests serve ordinary clients, in network namespaces of their own.
///
/// Needs no root where the kernel lets users have user namespaces. Exit code: 0 when all went well, 1 when something
/// was lost, changed or not answered, or when the demo could not take place.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// How long each of the load runs takes.
    #[arg(long, default_value = "4s", value_parser = units::duration, value_name = "TIME")]
    duration: Duration,
    /// Print nothing but the results, as one line of JSON.
    #[arg(long)]
    json: bool,
    /// Take the guests from this folder (square.wasm, echo.wasm, kv.wasm, web.wasm) instead of the built-in ones.
    #[arg(long, value_name = "DIR")]
    guests: Option<PathBuf>,
}

const DURATION_MIN: Duration = Duration::from_millis(100);
/// The demo is for looking at.
const DURATION_MAX: Duration = Duration::from_secs(600);

/// Runs the demo. Call it while the process has one thread: that is what a user namespace takes.
pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let duration = arguments.duration;
    ensure!((DURATION_MIN..=DURATION_MAX).contains(&duration), "--duration {duration:?}: 100ms to 10m");
    if !lab::has_rights() {
        lab::enter_user_namespace()?;
    }
    leave_cleanly_when_interrupted()?;
    let options = Options {
        duration,
        roam: std::env::current_exe().context("finding the roam binary")?,
        guests: arguments.guests,
        style: if arguments.json { Style::Json } else { Style::Text },
    };
    let report = demo::run(&options)?;
    Ok(if report.passed() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// Ends the process at the first signal, with the shell's code for it. The children and namespaces go with it.
fn leave_cleanly_when_interrupted() -> anyhow::Result<()> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().context("blocking signals")?;
    let wait = move || {
        if let Ok(signal) = signals.wait() {
            eprintln!("\ninterrupted; nothing is left behind");
            std::process::exit(128 + signal as i32);
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait).context("starting a thread")?;
    Ok(())
}
