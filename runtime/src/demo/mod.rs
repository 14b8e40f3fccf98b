//! `roam demo`: four guests and a client in namespaces of their own, spoken to by ordinary programs.
//!
//! In reading order: [`Options`] and [`run`], `stage` (who takes part), `checks` (what is tried), `load` (what is
//! measured), `show` (how it is told).

mod checks;
mod load;
mod show;
mod stage;

pub use show::Style;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::lab::LabError;
use checks::Outcome;
use load::Row;
use show::Show;
use stage::Stage;

/// What the demo is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long each of the load runs takes.
    pub duration: Duration,
    /// The `roam` binary to run guests and load with.
    pub roam: PathBuf,
    /// A folder with `square.wasm` and the others; the modules built into this binary if absent.
    pub guests: Option<PathBuf>,
    /// How to tell what happens.
    pub style: Style,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Report {
    checks: Vec<Outcome>,
    load: Vec<Row>,
    /// Guests that ended before the demo did, and why.
    fallen: Vec<String>,
}

impl Report {
    /// Whether nothing that was tried failed. What could not be tried for want of a program does not count.
    pub fn passed(&self) -> bool {
        self.fallen.is_empty()
            && self.checks.iter().all(|check| check.passed != Some(false))
            && self.load.iter().all(Row::clean)
    }
}

/// Runs the demo. An error is a demo that could not take place; a guest that misbehaves is in the report.
pub fn run(options: &Options) -> Result<Report, LabError> {
    let mut show = Show::new(options.style);
    show.title("roam demo: four servers as WebAssembly guests, and clients that need not know");
    let mut stage = Stage::set(options, &mut show)?;
    show.heading("Ordinary clients talk to them");
    let checks = checks::run(&stage, &mut show);
    show.heading(&format!("roam load, {:?} each; every reply is matched and compared", options.duration));
    let load = load::run(&stage, options, &mut show);
    let fallen = stage.fallen();
    for reason in &fallen {
        show.warning(reason);
    }
    let report = Report { checks, load, fallen };
    show.verdict(&report);
    Ok(report)
}
