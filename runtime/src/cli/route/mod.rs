//! `roam route`: which host owns which address, and changing it.

mod change;
mod hosts;
mod list;
mod live;
mod show;
mod watch;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use super::config::Config;
use super::target::ControllerFlags;
use super::{block_on, print};
use crate::api::sdn::{Address, Presence, SwitchView};

/// Show and change which host owns which address.
///
/// Asks a controller (`roam sdn`): the one that --controller names, else ROAM_CONTROLLER, else that of the configuration
/// file, else this machine's. An ADDRESS is a MAC, an IP address, or a guest's name where only one address is called so.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What the help of a command that speaks to a controller ends with.
pub(super) const HELP: &str = "Exit codes: 0 done; 1 it failed; 2 usage; 3 the controller cannot be reached; 4 there \
is no such address, host, front or lab; 5 the controller refused. A change that was accepted stands: when a data plane \
does not follow at once, that is a warning on standard error and no failure";

#[derive(Debug, Subcommand)]
enum Command {
    /// List addresses and their owners.
    #[command(after_help = HELP)]
    Ls(list::Flags),
    /// Show all that is known of an address.
    #[command(after_help = HELP)]
    Show(show::Flags),
    /// Give an address to another host.
    #[command(after_help = HELP)]
    Move(change::Move),
    /// Have the owner before pass nothing on any more: ends `move --drain`.
    #[command(after_help = HELP)]
    Clean(change::OfOne),
    /// Say that a host has an address. Hosts do it themselves for their guests.
    #[command(after_help = HELP)]
    Claim(change::Claim),
    /// Give an address up. Hosts do it themselves when a guest is deleted.
    #[command(after_help = HELP)]
    Release(change::OfOne),
    /// List hosts and gateways, and how well they follow.
    #[command(after_help = HELP)]
    Hosts(hosts::Flags),
    /// Strike a host off that owns nothing any more.
    #[command(after_help = HELP)]
    Leave(hosts::Leave),
    /// Follow what changes, until Ctrl-C, which is no failure.
    #[command(after_help = HELP)]
    Watch(watch::Flags),
}

pub(super) fn run(arguments: Arguments, config: &Config) -> Result<ExitCode> {
    let client = |flags: &ControllerFlags| flags.client(config);
    match arguments.command {
        Command::Ls(flags) => block_on(list::run(client(&flags.controller)?, flags)),
        Command::Show(flags) => block_on(show::run(client(&flags.controller)?, flags)),
        Command::Move(flags) => block_on(change::move_to(client(&flags.controller)?, flags)),
        Command::Clean(flags) => block_on(change::clean(client(&flags.controller)?, flags)),
        Command::Claim(flags) => block_on(change::claim(client(&flags.controller)?, flags)),
        Command::Release(flags) => block_on(change::release(client(&flags.controller)?, flags)),
        Command::Hosts(flags) => block_on(hosts::run(client(&flags.controller)?, flags)),
        Command::Leave(flags) => block_on(hosts::leave(client(&flags.controller)?, flags)),
        Command::Watch(flags) => block_on(watch::run(client(&flags.controller)?, flags)),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Its IP addresses, `-` without any.
fn ips(address: &Address) -> String {
    let ips: Vec<String> = address.ips().map(|ip| ip.to_string()).collect();
    if ips.is_empty() { "-".to_owned() } else { ips.join(" ") }
}

/// What people call it, `-` if nothing.
fn name(address: &Address) -> String {
    address.name.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string)
}

/// A host's name, marked if it is lost.
fn owner(host: &impl std::fmt::Display, presence: Presence) -> String {
    match presence {
        Presence::Live => host.to_string(),
        Presence::Lost => format!("{host} (lost)"),
    }
}

/// How long the last switch took.
fn took(switch: Option<&SwitchView>) -> String {
    switch.map_or_else(|| "-".to_owned(), |switch| format!("{} µs", switch.plane_us))
}

/// What is not as it should be, on standard error; the change stands all the same.
pub(super) fn warn(trouble: Option<&String>) {
    if let Some(trouble) = trouble {
        let trouble = print::plain(trouble);
        eprintln!("roam: warning: it is accepted, but the data plane does not follow yet: {trouble}");
    }
}
