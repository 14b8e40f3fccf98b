//! `roam front`: doors for clients outside the overlay.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use super::config::Config;
use super::exit::Usage;
use super::route::{HELP, warn};
use super::target::ControllerFlags;
use super::{block_on, print};
use crate::api::client::SdnClient;
use crate::api::sdn::{Accepted, Front, FrontKey};

/// Open and close doors for clients outside the overlay: a public address and port of the gateway that leads to a guest.
///
/// Connections through a front go on while the guest moves. A FRONT is protocol, address and port: tcp/192.0.2.1:80,
/// udp/[2001:db8::1]:53.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List fronts.
    #[command(after_help = HELP)]
    Ls {
        #[command(flatten)]
        controller: ControllerFlags,
        /// Print JSON: an array of fronts.
        #[arg(long)]
        json: bool,
    },
    /// Open a front, or lead one elsewhere.
    #[command(after_help = HELP)]
    Add {
        /// Where clients come to.
        front: FrontKey,
        /// Where they are led to: address and port in the overlay, or a guest's name and port, for example kv:11211.
        #[arg(long, value_name = "TARGET")]
        to: String,
        #[command(flatten)]
        controller: ControllerFlags,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Close a front. Connections through it that are under way go on.
    #[command(after_help = HELP)]
    Rm {
        /// Where clients came to.
        front: FrontKey,
        #[command(flatten)]
        controller: ControllerFlags,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn run(arguments: Arguments, config: &Config) -> Result<ExitCode> {
    match arguments.command {
        Command::Ls { controller, json } => block_on(list(controller.client(config)?, json)),
        Command::Add { front, to, controller, json } => block_on(add(controller.client(config)?, front, &to, json)),
        Command::Rm { front, controller, json } => block_on(remove(controller.client(config)?, front, json)),
    }?;
    Ok(ExitCode::SUCCESS)
}

async fn list(client: SdnClient, json: bool) -> Result<()> {
    let fronts = client.fronts().await?;
    if json {
        return print::json(&fronts);
    }
    let row = |front: &Front| vec![front.key().to_string(), front.to.to_string()];
    print::text(&print::table(&["FRONT", "TO"], &fronts.iter().map(row).collect::<Vec<_>>()))
}

async fn add(client: SdnClient, key: FrontKey, to: &str, json: bool) -> Result<()> {
    let to = match to.parse::<SocketAddr>() {
        Ok(to) => to,
        Err(_) => resolve(&client, key, to).await?,
    };
    let accepted = client.open_front(&Front { protocol: key.protocol, listen: key.listen, to }).await?;
    said(&accepted, json, &format!("{key} leads to {to}"))
}

async fn remove(client: SdnClient, key: FrontKey, json: bool) -> Result<()> {
    let accepted = client.close_front(key).await?;
    said(&accepted, json, &format!("{key} is closed"))
}

fn said(accepted: &Accepted, json: bool, words: &str) -> Result<()> {
    warn(accepted.trouble.as_ref());
    if json { print::json(accepted) } else { print::line(words) }
}

/// A name and port: the table knows the address, of the family that clients come by.
async fn resolve(client: &SdnClient, key: FrontKey, to: &str) -> Result<SocketAddr> {
    let usage = || {
        let to = to.escape_debug();
        Usage(format!("--to {to}: write an address and port or a name and port, for example 10.90.1.2:80 or kv:11211"))
    };
    let (name, port) = to.rsplit_once(':').ok_or_else(usage)?;
    let port: u16 = port.parse().map_err(|_| usage())?;
    if name.is_empty() {
        return Err(usage().into());
    }
    let address = client.route(name).await?.address;
    let (family, ip) = match key.listen.ip() {
        IpAddr::V4(_) => ("IPv4", address.ip.map(IpAddr::from)),
        IpAddr::V6(_) => ("IPv6", address.ip6.map(IpAddr::from)),
    };
    let ip =
        ip.ok_or_else(|| Usage(format!("{name} has no {family} address, and clients of {key} come by {family}")))?;
    Ok(SocketAddr::new(ip, port))
}
