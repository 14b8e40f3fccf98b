//! `roam route hosts` and `roam route leave`.

use std::fmt::Write as _;

use anyhow::Result;

use super::super::print;
use super::super::target::ControllerFlags;
use super::warn;
use crate::api::GuestName;
use crate::api::client::SdnClient;
use crate::api::sdn::{Kind, NodeView, Presence};

#[derive(Debug, clap::Args)]
pub(super) struct Flags {
    #[command(flatten)]
    pub(super) controller: ControllerFlags,
    /// Print JSON: an array of hosts and gateways.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Leave {
    /// The host.
    host: GuestName,
    #[command(flatten)]
    pub(super) controller: ControllerFlags,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(client: SdnClient, flags: Flags) -> Result<()> {
    let nodes = client.hosts().await?;
    if flags.json { print::json(&nodes) } else { print::text(&show(&nodes)) }
}

pub(super) async fn leave(client: SdnClient, flags: Leave) -> Result<()> {
    let accepted = client.leave(&flags.host).await?;
    warn(accepted.trouble.as_ref());
    if flags.json { print::json(&accepted) } else { print::line(&format!("{} has left", flags.host)) }
}

fn show(nodes: &[NodeView]) -> String {
    let head = ["HOST", "KIND", "PRESENCE", "HEARD", "VTEP", "MIGRATE", "ADDRESSES", "APPLIED", "PLANE"];
    let mut text = print::table(&head, &nodes.iter().map(cells).collect::<Vec<_>>());
    for node in nodes {
        if let Some(trouble) = node.plane.as_ref().and_then(|plane| plane.trouble.as_ref()) {
            let _ = writeln!(text, "{}: {}", node.host.name, print::plain(trouble));
        }
        if node.host.presence == Presence::Lost && node.addresses == 0 {
            let name = &node.host.name;
            let _ = writeln!(text, "{name} is lost and owns nothing; `roam route leave {name}` strikes it off");
        }
    }
    text
}

fn cells(node: &NodeView) -> Vec<String> {
    let none = || "-".to_owned();
    let kind = match node.host.kind {
        Kind::Host => "host",
        Kind::Gateway => "gateway",
    };
    let presence = match node.host.presence {
        Presence::Live => "live",
        Presence::Lost => "lost",
    };
    let plane = node.plane.as_ref().map_or_else(none, |plane| match (&plane.trouble, plane.drifts_mended) {
        (Some(_), _) => format!("{}, in trouble", plane.kind),
        (None, 0) => plane.kind.clone(),
        (None, mended) => format!("{}, {mended} drifts mended", plane.kind),
    });
    vec![
        node.host.name.to_string(),
        kind.to_owned(),
        presence.to_owned(),
        node.heard_ms_ago.map_or_else(none, |ms| format!("{} ago", print::nanoseconds(ms.saturating_mul(1_000_000)))),
        node.host.vtep.to_string(),
        node.host.migrate.map_or_else(none, |at| at.to_string()),
        node.addresses.to_string(),
        node.applied.map_or_else(none, |revision| revision.to_string()),
        print::plain(&plane),
    ]
}
