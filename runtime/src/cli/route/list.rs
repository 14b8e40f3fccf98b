//! `roam route ls`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::Result;

use super::super::print;
use super::super::target::ControllerFlags;
use super::{ips, name, owner, took};
use crate::api::client::SdnClient;
use crate::api::sdn::{Presence, RouteView};

/// Hosts that are said to be behind, for each address; `route show` names all.
const BEHIND_SHOWN_MAX: usize = 8;

#[derive(Debug, clap::Args)]
pub(super) struct Flags {
    #[command(flatten)]
    pub(super) controller: ControllerFlags,
    /// Print JSON: an array of addresses.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(client: SdnClient, flags: Flags) -> Result<()> {
    let routes = client.routes(true).await?;
    if flags.json { print::json(&routes) } else { print::text(&show(&routes)) }
}

fn show(routes: &[RouteView]) -> String {
    let head = ["ADDRESS", "NAME", "IP", "HOST", "GENERATION", "VIA", "SINCE", "SWITCH", "TO-PKTS", "FROM-PKTS"];
    print::table(&head, &routes.iter().map(cells).collect::<Vec<_>>()) + &remarks(routes)
}

fn cells(route: &RouteView) -> Vec<String> {
    let placement = &route.placement;
    let behind = if route.behind.is_empty() { "" } else { " *" };
    let packets = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
    vec![
        route.address.mac.to_string(),
        name(&route.address),
        ips(&route.address),
        owner(&placement.host, route.presence) + behind,
        placement.generation.to_string(),
        placement.via.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string),
        print::age(placement.since_ms),
        took(route.last_switch.as_ref()),
        packets(route.counters.map(|counters| counters.to_packets)),
        packets(route.counters.map(|counters| counters.from_packets)),
    ]
}

/// What is not as it should be, in sentences.
fn remarks(routes: &[RouteView]) -> String {
    let lost = routes.iter().filter(|route| route.presence == Presence::Lost);
    let lost: BTreeSet<_> = lost.map(|route| &route.placement.host).collect();
    let mut text = String::new();
    for host in lost {
        let _ = writeln!(
            text,
            "{host} is lost: nothing is heard of it, and what it owns stays its own until `roam route move` gives it to \
             another host"
        );
    }
    for route in routes.iter().filter(|route| !route.behind.is_empty()) {
        let hosts: Vec<String> = route.behind.iter().take(BEHIND_SHOWN_MAX).map(ToString::to_string).collect();
        let more = if route.behind.len() > BEHIND_SHOWN_MAX { " and others" } else { "" };
        let _ = writeln!(
            text,
            "* {}: {}{more} has not said yet that it forwards to {}",
            route.address.mac,
            hosts.join(", "),
            route.placement.host
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_marked_and_said() {
        let route = serde_json::json!([{
            "address": {"mac": "02:00:00:00:00:0a", "ip": "10.90.1.2", "ip6": "fd90::2", "name": "kv"},
            "placement": {"host": "host-b", "generation": 2, "via": "host-a", "since_ms": 0, "revision": 7},
            "presence": "lost",
            "last_switch": {"from": "host-a", "at_ms": 0, "plane_us": 42, "durable_us": 900, "switches": 1},
            "counters": null,
            "behind": ["host-a"],
        }]);
        let text = show(&serde_json::from_value::<Vec<RouteView>>(route).unwrap());
        let row = text.lines().nth(1).unwrap();
        for cell in ["02:00:00:00:00:0a", "kv", "10.90.1.2 fd90::2", "host-b (lost) *", "host-a", "42 µs"] {
            assert!(row.contains(cell), "{cell}: {row}");
        }
        assert!(text.contains("host-b is lost") && text.contains("* 02:00:00:00:00:0a: host-a has"), "{text}");
    }
}
