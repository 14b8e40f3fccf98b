//! `roam migrate`: guests go to another host while their clients keep talking.
//!
//! In reading order: this file (flags, which host), `travel` (one migration, until it is over), `view` (how that is shown),
//! `report` (what it came to), `drain` (all guests of a host).

mod drain;
mod report;
mod travel;
mod view;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use roam_snapshot::plan::{Divergence, PlanName};

use super::config::Config;
use super::exit::Usage;
use super::target::HostFlags;
use super::{block_on, exit, fleet, print, units};
use crate::api::{GuestName, MigrateRequest, SpecError};
use crate::load::units as rates;
use travel::{End, Interrupts};

pub(super) use report::took;

/// Move a guest to another host, live, sockets and all; or all guests of a host.
///
/// The guest serves where it is until the other host has all of it, and whatever fails before that leaves it there. Shows
/// how it goes, and what it came to. Ctrl-C cancels it and waits for how it ended; a second one leaves it to the hosts.
///
/// Without --from, the host that has the guest is looked for among all that are known.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Arguments {
    /// The guest.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    name: Option<GuestName>,
    /// The host it goes to, by its name at the controller. With --all there may be several, each of which gets its share
    /// [default with --all: all other hosts the controller knows].
    #[arg(long, value_name = "HOST", required_unless_present = "all")]
    to: Vec<GuestName>,
    /// Where that host takes guests in; for hosts that no controller knows.
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "all")]
    at: Option<SocketAddr>,
    /// Move all guests that run on the host that --from names.
    #[arg(long, requires = "from")]
    all: bool,
    /// The host it is on: unix:/path, https://name:port, a name of the configuration file, or a standing lab's host-a or
    /// LAB/host-a.
    #[arg(long, visible_alias = "host", env = "ROAM_HOST", value_name = "HOST")]
    from: Option<String>,
    /// How: pre_copy sends the guest's memory while it runs, and the rest when that fits --downtime; stop_and_copy stops
    /// it first.
    #[arg(long, default_value = "pre_copy", value_name = "PLAN")]
    plan: Plan,
    /// How long the guest may be stopped.
    #[arg(long, default_value = "2ms", value_parser = units::duration, value_name = "TIME")]
    downtime: Duration,
    /// Most that is sent while the guest runs, bits a second, for example 100Mbit [default: no limit].
    #[arg(long, value_parser = rates::bits_per_second, value_name = "RATE")]
    bandwidth: Option<f64>,
    /// Most rounds before the stop.
    #[arg(long, default_value_t = 30, value_name = "COUNT")]
    max_rounds: u32,
    /// How long it may take until the stop.
    #[arg(long, default_value = "2min", value_parser = units::duration, value_name = "TIME")]
    timeout: Duration,
    /// What is done when the guest changes its memory faster than it can be sent: it gets less time to run, or stays.
    #[arg(long, default_value = "throttle", value_name = "WHAT")]
    on_divergence: OnDivergence,
    /// With --all: how many go at the same time.
    #[arg(long, default_value_t = 2, value_name = "COUNT", value_parser = clap::value_parser!(u8).range(1..=64))]
    at_once: u8,
    /// Do not wait for the end; `roam migrations` shows it.
    #[arg(long, conflicts_with = "all")]
    detach: bool,
    /// Print JSON, one line each time something has changed; the last line is how it ended.
    #[arg(long)]
    json: bool,
    /// With --all and without --to: the controller, as for `roam route` [default: that of the host's lab, else that of
    /// the configuration file, else this machine's].
    #[arg(long, env = "ROAM_CONTROLLER", value_name = "CONTROLLER")]
    controller: Option<String>,
    /// Where ca.pem, operator.pem and operator.key are, for https.
    #[arg(long, env = "ROAM_TLS_DIR", value_name = "DIR")]
    tls_dir: Option<PathBuf>,
}

/// What the help ends with.
const HELP: &str = "Exit codes: 0 it is there; 1 it failed, and the guest stays where it was (with --all: one of them \
does); 2 usage; 3 a host cannot be reached; 4 there is no such guest or host; 5 the host refused; 6 it is not known how \
it ended; 130 cancelled by Ctrl-C, or left to the hosts by a second one";

/// What Ctrl-C ends with.
const INTERRUPTED: u8 = 130;

/// A plan as it is written.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Plan {
    #[value(name = "pre_copy", alias = "pre-copy")]
    PreCopy,
    #[value(name = "stop_and_copy", alias = "stop-and-copy")]
    StopAndCopy,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum OnDivergence {
    Throttle,
    #[value(name = "give-up", alias = "give_up")]
    GiveUp,
}

pub(super) fn run(arguments: Arguments, config: &Config) -> Result<ExitCode> {
    let [first, others @ ..] = arguments.to.as_slice() else {
        return block_on(drain::run(&arguments, config));
    };
    match &arguments.name {
        None => block_on(drain::run(&arguments, config)),
        Some(_) if !others.is_empty() => Err(Usage("one guest goes to one host: give --to once".into()).into()),
        Some(name) => block_on(one(&arguments, config, name, first)),
    }
}

impl Arguments {
    fn request(&self, to: GuestName) -> Result<MigrateRequest> {
        let request = MigrateRequest {
            at: self.at,
            plan: match self.plan {
                Plan::PreCopy => PlanName::PreCopy,
                Plan::StopAndCopy => PlanName::StopAndCopy,
            },
            downtime_us: u64::try_from(self.downtime.as_micros()).unwrap_or(u64::MAX),
            bandwidth_bytes_per_s: self.bandwidth.map(|bits_per_s| (bits_per_s / 8.0) as u64),
            rounds_max: self.max_rounds,
            timeout_ms: u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX),
            on_divergence: match self.on_divergence {
                OnDivergence::Throttle => Divergence::Throttle,
                OnDivergence::GiveUp => Divergence::GiveUp,
            },
            ..MigrateRequest::new(to)
        };
        request.check().map_err(|error| Usage(said_of(&error)))?;
        Ok(request)
    }

    fn host(&self) -> HostFlags {
        HostFlags { host: self.from.clone(), tls_dir: self.tls_dir.clone() }
    }
}

/// With the flag that is meant, whose unit is the user's own.
fn said_of(error: &SpecError) -> String {
    let flag = match error {
        SpecError::Range { field: "downtime_us", .. } => "--downtime",
        SpecError::Range { field: "bandwidth_bytes_per_s", .. } => "--bandwidth",
        SpecError::Range { field: "rounds_max", .. } => "--max-rounds",
        SpecError::Range { field: "timeout_ms", .. } => "--timeout",
        _ => return error.to_string(),
    };
    format!("{flag} is out of range: {error}")
}

async fn one(arguments: &Arguments, config: &Config, name: &GuestName, to: &GuestName) -> Result<ExitCode> {
    let request = arguments.request(to.clone())?;
    let source = fleet::holder(&arguments.host(), config, name, "--from").await?;
    let interrupts = Interrupts::listen()?;
    let begun = travel::begin(&source, name, &request, &interrupts).await?;
    if arguments.detach {
        let words = format!("{name} is on its way to {to}: migration {}", begun.id);
        if arguments.json {
            print::json_line(&begun)?
        } else {
            print::line(&words)?
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut view = view::new(arguments.json);
    let end = travel::follow(&source, begun, view.as_mut(), &interrupts).await?;
    view.clear();
    match end {
        End::Moved(_) if arguments.json => Ok(ExitCode::SUCCESS),
        End::Moved(view) => print::text(&report::report(&view)).map(|()| ExitCode::SUCCESS),
        End::Stayed { view, cancelled } => {
            let stayed = anyhow::Error::from(report::Stayed::from(&view));
            if !cancelled {
                return Err(stayed);
            }
            exit::complain(&stayed);
            Ok(ExitCode::from(INTERRUPTED))
        }
        End::Left(view) => {
            eprintln!("roam: it is left to the hosts; `roam migrations` shows how it ends: migration {}", view.id);
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        migrate: Arguments,
    }

    fn request(line: &str) -> Result<MigrateRequest> {
        let words = std::iter::once("migrate").chain(line.split_whitespace());
        Cli::try_parse_from(words)?.migrate.request("host-b".parse()?)
    }

    #[test]
    fn what_is_left_out_is_as_if_the_request_had_none_of_it() {
        assert_eq!(request("kv --to host-b").unwrap(), MigrateRequest::new("host-b".parse().unwrap()));
    }

    #[test]
    fn options_as_people_write_them() {
        let request = request(
            "kv --to host-b --at 172.30.0.2:7445 --plan stop-and-copy --downtime 500us --bandwidth 100Mbit \
             --max-rounds 5 --timeout 1min --on-divergence give-up",
        )
        .unwrap();
        assert_eq!((request.plan, request.on_divergence), (PlanName::StopAndCopy, Divergence::GiveUp));
        assert_eq!((request.downtime_us, request.rounds_max, request.timeout_ms), (500, 5, 60_000));
        assert_eq!(request.bandwidth_bytes_per_s, Some(12_500_000));
        assert_eq!(request.at, Some("172.30.0.2:7445".parse().unwrap()));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "kv --to host-b --downtime 1us",
            "kv --to host-b --bandwidth 1kbit",
            "kv --to host-b --max-rounds 0",
            "kv --to host-b --timeout 2d",
            "kv --to host-b --plan teleport",
            "kv --to host-b --on-divergence pray",
            "kv --to host-b --all --from host-a",
            "kv",
            "--all",
            "--all --from host-a --detach",
            "--all --from host-a --at 172.30.0.2:7445",
            "--all --from host-a --at-once 0",
        ] {
            assert!(request(line).is_err(), "{line}");
        }
    }
}
