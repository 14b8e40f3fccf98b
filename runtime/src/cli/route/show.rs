//! `roam route show`.

use std::fmt::Write as _;

use anyhow::Result;

use super::super::print;
use super::super::target::ControllerFlags;
use super::{ips, name, owner};
use crate::api::client::SdnClient;
use crate::api::sdn::RouteView;

#[derive(Debug, clap::Args)]
pub(super) struct Flags {
    /// MAC, IP address or name.
    address: String,
    #[command(flatten)]
    pub(super) controller: ControllerFlags,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(client: SdnClient, flags: Flags) -> Result<()> {
    let route = client.route(&flags.address).await?;
    if flags.json { print::json(&route) } else { print::text(&show(&route)) }
}

fn show(route: &RouteView) -> String {
    let placement = &route.placement;
    let mut rows = vec![
        ("address", route.address.mac.to_string()),
        ("name", name(&route.address)),
        ("ip", ips(&route.address)),
        ("host", format!("{}, since {}", owner(&placement.host, route.presence), print::moment(placement.since_ms))),
        ("generation", format!("{}, with revision {} of the table", placement.generation, placement.revision)),
    ];
    if let Some(via) = &placement.via {
        let end = format!("`roam route clean {}` ends it", route.address.mac);
        rows.push(("via", format!("{via}: frames still go there and it passes them on; {end}")));
    }
    if let Some(switch) = &route.last_switch {
        rows.push(("last switch", format!("from {} at {}", switch.from, print::moment(switch.at_ms))));
        rows.push(("took", format!("{} µs, on disk after {} µs", switch.plane_us, switch.durable_us)));
        rows.push(("switches", format!("{} since the controller was started", switch.switches)));
    }
    match &route.counters {
        Some(counters) => {
            let passed = |packets, bytes| format!("{packets} packets, {}", print::size(bytes));
            rows.push(("to it", passed(counters.to_packets, counters.to_bytes)));
            rows.push(("from it", passed(counters.from_packets, counters.from_bytes)));
        }
        None => rows.push(("counters", "none: the controller's data plane cannot tell them".into())),
    }
    if !route.behind.is_empty() {
        let hosts: Vec<String> = route.behind.iter().map(ToString::to_string).collect();
        rows.push(("behind", format!("{}: not known to forward to {} yet", hosts.join(", "), placement.host)));
    }
    rows.into_iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name:<12} {value}");
        text
    })
}
