//! `roam lab`: hosts, a gateway and a client on this machine.

use std::fmt::Write as _;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Subcommand;
use nix::sys::signal::{SigSet, Signal};
use serde::Serialize;

use super::exit::{Unknown, Usage};
use super::target::labs;
use super::{print, units};
use crate::lab::has_rights;
use crate::lab::standing::{HOSTS_MAX, LabName, LabPlane, Labs, Raised, Shape, StandingError, Status};
use crate::load::units::{UnitError, bits_per_second};

/// Raise, use and take down a lab: hosts, a gateway and a client on this machine.
///
/// Each is a network namespace; the hosts run daemons, the gateway the controller (see `roam route`). The hosts' guests and
/// the client share an Ethernet, 10.90.0.0/16 and fd90::/64, that no address outside is reached from or reaches, but by a
/// front (see `roam front`) from the node `outside`, 192.0.2.10 and 2001:db8::10, to the gateway's 192.0.2.1 and
/// 2001:db8::1. A lab stays until it is taken down. Needs root.
/// Its files are in /run/roam/labs, or where ROAM_LAB_DIR says.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const HELP: &str = "Exit codes: 0 done; 1 it failed, or the lab is not whole (status); 2 usage; 4 there is no such lab \
or node; 130 or 143 interrupted, and what was begun is taken down; exec passes its command's code on";

#[derive(Debug, Subcommand)]
enum Command {
    /// Raise a lab, or start again the daemons of one that is up.
    #[command(after_help = HELP)]
    Up(Up),
    /// Take a lab down: its daemons and guests, its namespaces and files, whatever is left of them.
    #[command(after_help = HELP)]
    Down(Down),
    /// Say how labs are.
    #[command(after_help = HELP)]
    Status(StatusFlags),
    /// Run a command in a node of a lab: client, outside, gateway, host-a, host-b, …
    #[command(after_help = HELP)]
    Exec(Exec),
}

#[derive(Debug, clap::Args)]
struct Up {
    /// What the lab is called.
    #[arg(long, default_value = "lab")]
    name: LabName,
    /// How many hosts.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=i64::from(HOSTS_MAX)))]
    hosts: u8,
    /// Rate of each host's link, in each direction, for example 1Gbit [default: unlimited].
    #[arg(long, value_parser = link, value_name = "RATE")]
    link: Option<u64>,
    /// Delay of each host's link, in each direction, where the kernel has netem [default: none].
    #[arg(long, value_parser = units::duration, value_name = "TIME")]
    delay: Option<Duration>,
    /// What carries frames to the host that owns their address: the kernel's VXLAN and bridges, or in the gateway an Open
    /// vSwitch, both as a controller says; or none, where VXLAN learns and there is no controller.
    #[arg(long, value_enum, default_value_t = LabPlane::Kernel)]
    plane: LabPlane,
    /// Print JSON: what status prints.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Down {
    /// Which lab.
    #[arg(long, default_value = "lab")]
    name: LabName,
    /// All labs.
    #[arg(long, conflicts_with = "name")]
    all: bool,
    /// Print JSON, one line a lab.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct StatusFlags {
    /// Which lab [default: all].
    #[arg(long)]
    name: Option<LabName>,
    /// Print JSON: an array of labs.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Exec {
    /// Which lab.
    #[arg(long, default_value = "lab")]
    name: LabName,
    /// Which node.
    node: String,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// What is printed of a lab that was taken down.
#[derive(Serialize)]
struct Gone<'a> {
    name: &'a LabName,
    processes: usize,
    namespaces: usize,
}

/// Set by the first signal.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

pub(super) fn run(arguments: Arguments) -> Result<ExitCode> {
    let labs = labs();
    match arguments.command {
        Command::Up(up) => raise(&labs, &up),
        Command::Down(down) => take_down(&labs, &down),
        Command::Status(flags) => status(&labs, &flags),
        Command::Exec(exec) => execute(&labs, &exec),
    }
}

fn link(text: &str) -> Result<u64, UnitError> {
    bits_per_second(text).map(|bits| bits as u64)
}

fn raise(labs: &Labs, up: &Up) -> Result<ExitCode> {
    ensure!(has_rights(), "a lab needs root: it makes network namespaces that stay");
    let delay_us = up.delay.map(|delay| u64::try_from(delay.as_micros()).unwrap_or(u64::MAX));
    let shape = Shape { hosts: up.hosts, link_bits_per_s: up.link, delay_us, plane: up.plane };
    shape.check().map_err(Usage)?;
    let signal = watch_signals()?;
    let roam = std::env::current_exe().context("finding the roam binary")?;
    let raised = labs.up(&up.name, &shape, &roam, &mut |step| eprintln!("{step} …"), &INTERRUPTED);
    let raised = match raised {
        Err(StandingError::Interrupted) => {
            eprintln!("roam: {}", StandingError::Interrupted);
            return Ok(ExitCode::from(128 + signal.join().unwrap_or(Signal::SIGINT as u8)));
        }
        raised => raised?,
    };
    let status = labs.status(&up.name)?.context("the lab has been taken down meanwhile")?;
    if up.json {
        print::json(&status)?;
    } else {
        print::text(&summary(&status, &raised))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// From now on signals only leave word, so that what was begun can be taken down. The first one's number.
fn watch_signals() -> Result<thread::JoinHandle<u8>> {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().context("blocking signals")?;
    let wait = move || {
        let signal = signals.wait().unwrap_or(Signal::SIGINT);
        INTERRUPTED.store(true, Ordering::Relaxed);
        signal as u8
    };
    thread::Builder::new().name("signals".into()).spawn(wait).context("starting a thread")
}

fn summary(status: &Status, raised: &Raised) -> String {
    let name = &status.name;
    let what = match raised {
        Raised::New => "is up".to_owned(),
        Raised::Already => "is up already".to_owned(),
        Raised::Repaired(daemons) => format!("was up; started again {}", daemons.join(" and ")),
    };
    let mut text = format!("lab {name} {what}\n\n{}", show(status));
    let flag = flag(name);
    let host = status.hosts.first().map_or("host-a", |host| &host.name);
    let host = if name == "lab" { host.to_owned() } else { format!("{name}/{host}") };
    let _ = write!(
        text,
        "\ntry: roam deploy MODULE.wasm --ip 10.90.1.10/16 --host {host}\n     \
         roam lab exec{flag} client -- ping -c 3 10.90.1.10\n     \
         roam ps\n     \
         roam lab down{flag}\n"
    );
    text
}

/// How a lab is named on a command line; the usual one need not be.
fn flag(lab: &str) -> String {
    if lab == "lab" { String::new() } else { format!(" --name {lab}") }
}

fn show(status: &Status) -> String {
    let nodes: Vec<Vec<String>> = status
        .nodes
        .iter()
        .map(|node| {
            let state = match status.hosts.iter().find(|host| host.name == node.node) {
                _ if !node.present => "gone".to_owned(),
                None => "up".to_owned(),
                Some(host) if host.healthy => match host.guests.unwrap_or(0) {
                    1 => "healthy, 1 guest".to_owned(),
                    guests => format!("healthy, {guests} guests"),
                },
                Some(host) => host.problems.join("; "),
            };
            vec![node.node.clone(), node.namespace.clone(), node.addresses.join(" "), state]
        })
        .collect();
    let mut text = print::table(&["NODE", "NAMESPACE", "ADDRESSES", "STATE"], &nodes);
    if let Some(shape) = &status.shape {
        let link = shape.link_bits_per_s.map_or("unlimited".into(), |rate| print::bit_rate(rate as f64));
        let delay = shape.delay_us.map_or(String::new(), |us| format!(", delay {}", print::nanoseconds(us * 1000)));
        let _ = writeln!(text, "links: {link}{delay}; files: {}", status.dir.display());
        if let Some(controller) = &status.controller {
            let state = if controller.healthy { "healthy".to_owned() } else { controller.problems.join("; ") };
            let _ = writeln!(text, "controller: {state}, plane {}; to reach it:", shape.plane);
            let _ = writeln!(text, "  export ROAM_CONTROLLER=unix:{}", controller.socket.display());
        }
    }
    text
}

fn take_down(labs: &Labs, down: &Down) -> Result<ExitCode> {
    ensure!(has_rights(), "a lab is taken down by root");
    let names = if down.all { labs.names()? } else { vec![down.name.clone()] };
    for name in &names {
        let gone = labs.down(name).with_context(|| format!("lab {name}"))?;
        if down.json {
            print::json_line(&Gone { name, processes: gone.processes, namespaces: gone.namespaces })?;
        } else if gone.namespaces == 0 && gone.processes == 0 {
            print::line(&format!("lab {name} was not up"))?;
        } else {
            print::line(&format!("lab {name} is down: {} processes, {} namespaces", gone.processes, gone.namespaces))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn status(labs: &Labs, flags: &StatusFlags) -> Result<ExitCode> {
    let names = match &flags.name {
        Some(name) => vec![name.clone()],
        None => labs.names()?,
    };
    let mut all = Vec::new();
    for name in names {
        match labs.status(&name)? {
            Some(status) => all.push(status),
            None => return Err(Unknown(StandingError::NoLab(name.to_string()).to_string()).into()),
        }
    }
    if flags.json {
        print::json(&all)?;
    } else if all.is_empty() {
        print::line("no lab is up; `roam lab up` raises one")?;
    }
    for status in all.iter().filter(|_| !flags.json) {
        let flag = flag(&status.name);
        let word = match (status.whole, &status.shape) {
            (true, _) => "is whole".to_owned(),
            (false, None) => format!("is not whole; `roam lab down{flag}` clears away what there is"),
            (false, Some(_)) => format!(
                "is not whole; `roam lab up{flag}`, with the flags it was raised with, starts its daemons again, and \
                 `roam lab down{flag}` clears away what there is"
            ),
        };
        print::text(&format!("lab {} {word}\n\n{}", status.name, show(status)))?;
    }
    Ok(if all.iter().all(|status| status.whole) { ExitCode::SUCCESS } else { ExitCode::from(super::exit::FAILED) })
}

/// Takes this process's place, so that signals, terminal and exit code are the command's own.
fn execute(labs: &Labs, exec: &Exec) -> Result<ExitCode> {
    let [program, arguments @ ..] = exec.command.as_slice() else {
        return Err(Usage("give a command".into()).into());
    };
    let command = labs.command(&exec.name, &exec.node, program);
    let mut command = command.map_err(|error| match error {
        StandingError::NoLab(_) | StandingError::NoNode { .. } => Unknown(error.to_string()).into(),
        other => anyhow::Error::from(other),
    })?;
    let error = command.args(arguments).exec();
    Err(anyhow::Error::from(error).context(format!("cannot run `{program}` in {} of lab {}", exec.node, exec.name)))
}
