//! `roam demo`: servers that move between two hosts while ordinary programs talk to them.
//!
//! In reading order: [`Options`] and [`run`], `stage` (who takes part) with `network` and `place` (where), `checks` (what
//! ordinary programs get), `load` (what is asked all the while), `moves` (the migrations), `show` (how it is told) with
//! `row` (what each guest's clients saw) and `picture`.

mod checks;
mod error;
mod load;
mod moves;
mod network;
mod picture;
mod place;
mod row;
mod show;
mod stage;

pub use error::DemoError;
pub use show::Style;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use checks::Outcome;
use load::{Download, Run};
use moves::Moved;
use row::Row;
use show::Show;
use stage::Stage;

/// What the demo is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long load is offered, and guests move.
    pub duration: Duration,
    /// The `roam` binary to run hosts with.
    pub roam: PathBuf,
    /// A folder with `square.wasm` and the others; the modules built into this binary if absent.
    pub guests: Option<PathBuf>,
    /// Where the picture goes.
    pub picture: PathBuf,
    /// How to tell what happens.
    pub style: Style,
}

/// What came of it.
#[derive(Debug, Serialize)]
pub struct Report {
    checks: Vec<Outcome>,
    guests: Vec<Row>,
    migrations: Vec<Moved>,
    /// Where the picture is.
    picture: PathBuf,
    /// Daemons that ended before the demo did, and why.
    fallen: Vec<String>,
}

impl Report {
    /// Whether nothing that was tried failed. What could not be tried for want of a program does not count.
    pub fn passed(&self) -> bool {
        self.fallen.is_empty()
            && self.checks.iter().all(|check| check.passed != Some(false))
            && self.guests.iter().all(Row::clean)
            && self.migrations.iter().all(|moved| moved.failure.is_none())
    }
}

/// Set by [`interrupt`].
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Has the demo end soon, and clear away what it made.
pub fn interrupt() {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

fn go_on() -> Result<(), DemoError> {
    if interrupted() { Err(DemoError::Interrupted) } else { Ok(()) }
}

/// Runs the demo. An error is a demo that could not take place; a guest that misbehaves is in the report.
///
/// The calling thread gets a mount namespace of its own.
pub fn run(options: &Options) -> Result<Report, DemoError> {
    let mut show = Show::new(options.style);
    show.title("roam demo: servers that move between hosts while their clients keep talking");
    let mut stage = Stage::set(options, &mut show)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(DemoError::Runtime)?;
    go_on()?;
    runtime.block_on(stage.deploy(options, &mut show))?;
    go_on()?;
    show.heading("Ordinary clients talk to them");
    let mut checks = checks::run(&stage, &mut show);
    go_on()?;
    show.heading(
        "They move from host to host, with clients at them all the while; every reply is matched and compared",
    );
    let played = play(&stage, &runtime, options, &mut show)?;
    go_on()?;
    show.outcome(&played.download);
    checks.push(played.download);
    show.heading("What their clients saw");
    let guests: Vec<Row> = played.runs.iter().map(|run| Row::of(run, &played.moves)).collect();
    show.table(&guests);
    let fallen = stage.fallen();
    fallen.iter().for_each(|reason| show.warning(reason));
    picture::write(&options.picture, &played.runs, &played.moves)?;
    show.heading(&format!("Latency over time, with the migrations marked: {}", options.picture.display()));
    let report = Report { checks, guests, migrations: played.moves, picture: options.picture.clone(), fallen };
    show.verdict(&report);
    Ok(report)
}

/// What went on at the same time.
struct Played {
    runs: Vec<Run>,
    download: Outcome,
    moves: Vec<Moved>,
}

fn play(
    stage: &Stage,
    runtime: &tokio::runtime::Runtime,
    options: &Options,
    show: &mut Show,
) -> Result<Played, DemoError> {
    let (offers, download) = (load::offers(options.duration), Download::new(options.duration));
    offers.iter().for_each(|offer| show.command(&offer.typed()));
    show.command(download.typed());
    let until = Instant::now() + options.duration;
    thread::scope(|scope| {
        let loads = offers.map(|offer| scope.spawn(move || offer.run(stage)));
        let loading = scope.spawn(|| download.run(stage, options.duration));
        let moves = runtime.block_on(moves::run(stage, until, show));
        if moves.is_err() {
            interrupt();
        }
        let mut runs = Vec::new();
        for load in loads {
            runs.push(load.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        let download = loading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // The first error is the one that says why.
        let moves = moves?;
        Ok(Played { runs: runs.into_iter().collect::<Result<_, _>>()?, download, moves })
    })
}
