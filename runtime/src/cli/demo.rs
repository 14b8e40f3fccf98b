//! `roam demo`: hosts, guests and clients in namespaces of their own, on this machine.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::{SigSet, Signal};

use super::units;
use crate::demo::{self, Options, Style};
use crate::lab;

/// Show three guests move between two hosts while their clients keep talking.
///
/// Hosts, controller and client are in network namespaces of their own, and all files but the picture in memory: nothing
/// is left behind, however it ends. Needs root. Exit code: 0 when all went well, 1 when something was lost, changed or not
/// answered, or when the demo could not take place, 130 or 143 interrupted.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// How long clients ask, and guests move.
    #[arg(long, default_value = "20s", value_parser = units::duration, value_name = "TIME")]
    duration: Duration,
    /// Print nothing but the results, as one line of JSON.
    #[arg(long)]
    json: bool,
    /// Take the guests from this folder (square.wasm, kv.wasm, web.wasm) instead of the built-in ones.
    #[arg(long, value_name = "DIR")]
    guests: Option<PathBuf>,
    /// Where to draw latency over time, with the migrations marked (SVG).
    #[arg(long, default_value = "roam-demo.svg", value_name = "FILE")]
    picture: PathBuf,
}

/// In less, hardly a guest has time to move.
const DURATION_MIN: Duration = Duration::from_secs(6);
/// The demo is for looking at.
const DURATION_MAX: Duration = Duration::from_secs(600);

/// Runs the demo.
pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let duration = arguments.duration;
    ensure!((DURATION_MIN..=DURATION_MAX).contains(&duration), "--duration {duration:?}: 6s to 10m");
    ensure!(lab::has_rights(), "the demo needs root: it has hosts, with networks of their own, on this machine");
    leave_cleanly_when_interrupted()?;
    let options = Options {
        duration,
        roam: std::env::current_exe().context("finding the roam binary")?,
        guests: arguments.guests,
        picture: arguments.picture,
        style: if arguments.json { Style::Json } else { Style::Text },
    };
    match demo::run(&options) {
        Ok(report) if report.passed() => Ok(ExitCode::SUCCESS),
        Ok(_) => Ok(ExitCode::from(1)),
        Err(error) => match INTERRUPTED_BY.load(Ordering::Relaxed) {
            0 => Err(error.into()),
            signal => {
                eprintln!("\ninterrupted; nothing is left behind");
                Ok(ExitCode::from(128 + signal))
            }
        },
    }
}

/// The signal that ends the demo; 0 for none.
static INTERRUPTED_BY: AtomicU8 = AtomicU8::new(0);
/// How long the demo may take after a signal to clear away what it made.
const PATIENCE: Duration = Duration::from_secs(10);

/// From now on the first signal has the demo end. One that does not, or a second signal, ends the process: its children
/// and namespaces go with it.
fn leave_cleanly_when_interrupted() -> anyhow::Result<()> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().context("blocking signals")?;
    let wait = move || {
        let Ok(signal) = signals.wait() else { return };
        INTERRUPTED_BY.store(signal as u8, Ordering::Relaxed);
        demo::interrupt();
        let end = move || std::process::exit(128 + signal as i32);
        thread::spawn(move || {
            thread::sleep(PATIENCE);
            end()
        });
        if signals.wait().is_ok() {
            end();
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait).context("starting a thread")?;
    Ok(())
}
