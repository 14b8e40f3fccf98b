//! `roam route move`, `clean`, `claim`, `release`.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use serde::Serialize;

use super::super::print;
use super::super::target::ControllerFlags;
use super::{ips, name, warn};
use crate::api::GuestName;
use crate::api::client::SdnClient;
use crate::api::sdn::{self, Accepted, Address, Generation};

#[derive(Debug, clap::Args)]
pub(super) struct Move {
    /// MAC, IP address or name.
    address: String,
    /// The host it goes to. Its owner gets it with a new generation, from which on nobody else moves it from this one.
    #[arg(long, value_name = "HOST")]
    to: GuestName,
    /// The generation that ends; refused if it is over already [default: the present one].
    #[arg(long, value_parser = generation)]
    generation: Option<Generation>,
    /// Go on sending frames to the owner before, which passes them on, until `roam route clean`.
    #[arg(long)]
    drain: bool,
    #[command(flatten)]
    pub(super) controller: ControllerFlags,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct OfOne {
    /// MAC, IP address or name.
    address: String,
    /// The generation that is meant; refused if it is over already [default: the present one].
    #[arg(long, value_parser = generation)]
    generation: Option<Generation>,
    #[command(flatten)]
    pub(super) controller: ControllerFlags,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Claim {
    /// Its Ethernet address.
    #[arg(long)]
    mac: roam_sdn::Mac,
    /// Its IPv4 address.
    #[arg(long)]
    ip: Option<Ipv4Addr>,
    /// Its IPv6 address.
    #[arg(long)]
    ip6: Option<Ipv6Addr>,
    /// What people call it.
    #[arg(long)]
    name: Option<GuestName>,
    /// The host that has it.
    #[arg(long, value_name = "HOST")]
    host: GuestName,
    /// The generation that the host has it since, if it had it before.
    #[arg(long, value_parser = generation)]
    generation: Option<Generation>,
    #[command(flatten)]
    pub(super) controller: ControllerFlags,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What is printed of a move.
#[derive(Serialize)]
struct Moved {
    from: GuestName,
    #[serde(flatten)]
    accepted: Accepted,
}

fn generation(text: &str) -> Result<Generation, String> {
    let number = text.parse().map_err(|error| format!("`{}` is no generation: {error}", text.escape_debug()))?;
    Ok(Generation(number))
}

pub(super) async fn move_to(client: SdnClient, flags: Move) -> Result<()> {
    let before = client.route(&flags.address).await?;
    let (mac, from) = (before.address.mac, before.placement.host);
    let ends = flags.generation.unwrap_or(before.placement.generation);
    let to = sdn::Move { drain: flags.drain, ..sdn::Move::new(flags.to, ends) };
    // By MAC: the name could come to mean another address meanwhile.
    let accepted = client.move_to(&mac.to_string(), &to).await?;
    warn(accepted.trouble.as_ref());
    if flags.json {
        return print::json(&Moved { from, accepted });
    }
    let now = accepted.route.as_ref().map_or(ends.next(), |route| route.placement.generation);
    let drain =
        if flags.drain { format!("; {from} passes frames on until `roam route clean {mac}`") } else { String::new() };
    let words = format!("{mac} {}: {from} -> {}, generation {now}{drain}", name(&before.address), to.to);
    print::line(&format!("{words}\n{}", times(&accepted)))
}

pub(super) async fn clean(client: SdnClient, flags: OfOne) -> Result<()> {
    let before = client.route(&flags.address).await?;
    let generation = flags.generation.unwrap_or(before.placement.generation);
    let mac = before.address.mac;
    let accepted = client.settle(&mac.to_string(), generation).await?;
    warn(accepted.trouble.as_ref());
    if flags.json {
        return print::json(&accepted);
    }
    let host = &before.placement.host;
    let words = match &before.placement.via {
        Some(via) => format!("{mac} {}: frames go to {host}, and not by {via} any more", name(&before.address)),
        None => format!("{mac} {}: frames went to {host} already", name(&before.address)),
    };
    print::line(&format!("{words}\n{}", times(&accepted)))
}

pub(super) async fn claim(client: SdnClient, flags: Claim) -> Result<()> {
    let address = Address { mac: flags.mac, ip: flags.ip, ip6: flags.ip6, name: flags.name };
    let claim = sdn::Claim { address, host: flags.host, held: flags.generation };
    let accepted = client.claim(&claim).await?;
    warn(accepted.trouble.as_ref());
    if flags.json {
        return print::json(&accepted);
    }
    let sdn::Claim { address, host, .. } = claim;
    let generation = accepted.route.as_ref().map_or_else(String::new, |route| route.placement.generation.to_string());
    let words = format!("{} {} {}: {host}'s, generation {generation}", address.mac, name(&address), ips(&address));
    print::line(&format!("{words}\n{}", times(&accepted)))
}

pub(super) async fn release(client: SdnClient, flags: OfOne) -> Result<()> {
    let before = client.route(&flags.address).await?;
    let generation = flags.generation.unwrap_or(before.placement.generation);
    let mac = before.address.mac;
    let accepted = client.release(&mac.to_string(), generation).await?;
    warn(accepted.trouble.as_ref());
    if flags.json {
        return print::json(&accepted);
    }
    let words = format!("{mac} {}: nobody's any more; it was {}'s", name(&before.address), before.placement.host);
    print::line(&format!("{words}\n{}", times(&accepted)))
}

fn times(accepted: &Accepted) -> String {
    format!("data plane after {} µs, on disk after {} µs", accepted.plane_us, accepted.durable_us)
}
