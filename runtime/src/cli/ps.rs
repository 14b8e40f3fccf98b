//! `roam ps`: the guests of one or all hosts.

use std::process::ExitCode;

use anyhow::Result;
use roam_snapshot::protocol::Phase;
use serde::Serialize;

use super::config::Config;
use super::exit;
use super::fleet;
use super::target::{HostFlags, Targets};
use super::{block_on, print};
use crate::api::{Direction, EndKind, GuestState, GuestView, MigrationBrief};

/// List guests.
///
/// Of the host that --host names, else of all that are known: this machine's daemon, those of the configuration file,
/// and those of standing labs.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::HELP)]
pub(super) struct Arguments {
    #[command(flatten)]
    host: HostFlags,
    /// Print names only.
    #[arg(long, short)]
    quiet: bool,
    /// Print JSON: an array of guests.
    #[arg(long, conflicts_with = "quiet")]
    json: bool,
}

/// How much of a reason is shown; `roam inspect` has all of it.
const REASON_CHARS_MAX: usize = 64;

#[derive(Serialize)]
struct Row<'a> {
    host: &'a str,
    #[serde(flatten)]
    guest: &'a GuestView,
}

pub(super) fn run(arguments: Arguments, config: &Config) -> Result<ExitCode> {
    let targets = Targets::new(&arguments.host, config).all()?;
    block_on(async {
        let asked = fleet::ask(&targets, async |target| Ok(target.client.list().await?)).await?;
        let rows = asked.answers.iter().flat_map(|(host, guests)| guests.iter().map(move |guest| Row { host, guest }));
        let rows: Vec<Row<'_>> = rows.collect();
        if arguments.json {
            print::json(&rows)?;
        } else if arguments.quiet {
            rows.iter().try_for_each(|row| print::line(&row.guest.spec.name.to_string()))?;
        } else {
            let head = ["NAME", "HOST", "STATE", "SINCE", "ADDRESS", "RESTARTS", "MODULE", "MIGRATION", "REASON"];
            print::text(&print::table(&head, &rows.iter().map(cells).collect::<Vec<_>>()))?;
        }
        asked.complete()?;
        Ok(ExitCode::SUCCESS)
    })
}

fn cells(row: &Row<'_>) -> Vec<String> {
    let Row { host, guest } = row;
    let network = &guest.network;
    let address = network.ip.map(|ip| ip.to_string()).or_else(|| network.ip6.map(|ip6| ip6.to_string()));
    let module = guest.spec.module.to_string();
    vec![
        guest.spec.name.to_string(),
        (*host).to_owned(),
        state(guest),
        print::age(guest.since_ms),
        address.unwrap_or_else(|| "-".into()),
        guest.restarts.to_string(),
        module[..12].to_owned(),
        guest.migration.as_ref().map_or_else(|| "-".into(), migration),
        reason(guest),
    ]
}

/// Where it goes or comes from, and how far it is.
pub(super) fn migration(migration: &MigrationBrief) -> String {
    let way = match migration.direction {
        Direction::Outgoing => "to",
        Direction::Incoming => "from",
    };
    format!("{way} {}, {}", print::plain(&migration.other), phase(migration.phase))
}

/// The word for a phase, as everywhere.
pub(super) fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Initiate => "initiate",
        Phase::Validate => "validate",
        Phase::Prepare => "prepare",
        Phase::Execute => "execute",
        Phase::Complete => "complete",
        Phase::Failed => "failed",
    }
}

/// Why a guest that is meant to run does not: how it ended last, in brief.
fn reason(guest: &GuestView) -> String {
    use GuestState::{Ended, Fenced, Parked, Waiting};
    match &guest.last_end {
        Some(end)
            if matches!(guest.state, Ended | Fenced | Parked | Waiting)
                || (guest.state, end.kind) == (GuestState::Stopped, EndKind::Checkpointed) =>
        {
            print::brief(&end.reason, REASON_CHARS_MAX)
        }
        _ => String::new(),
    }
}

/// The state as one word; a guest that hangs is not simply running.
pub(super) fn state(guest: &GuestView) -> String {
    let word = match guest.state {
        GuestState::Starting => "starting",
        GuestState::Running if !guest.responsive => "running, silent",
        GuestState::Running => "running",
        GuestState::Stopping => "stopping",
        GuestState::Stopped => "stopped",
        GuestState::Ended => "ended",
        GuestState::Waiting => "waiting",
        GuestState::Parked => "parked",
        GuestState::Fenced => "fenced",
        GuestState::Arriving => "arriving",
        GuestState::InDoubt => "in doubt",
    };
    word.to_owned()
}
