//! `roam migrations`: which guests move or have moved, from where to where, and how that went.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Result;

use super::config::Config;
use super::exit::{Unknown, Usage};
use super::fleet::{self, Answers};
use super::target::{HostFlags, Target, Targets};
use super::{block_on, exit, migrate, print, ps};
use crate::api::{Direction, GuestName, MigrationState, MigrationView};

/// List migrations, the newest first, and cancel those under way.
///
/// Of the host that --host names, else of all that are known. A migration that both its hosts tell of is shown once.
#[derive(Debug, clap::Args)]
#[command(after_help = exit::HELP)]
pub(super) struct Arguments {
    /// Those of this guest.
    #[arg(long, value_name = "NAME")]
    guest: Option<GuestName>,
    /// How many are shown; hosts keep a thousand each.
    #[arg(long, default_value_t = 20, value_name = "COUNT")]
    last: usize,
    /// Cancel this one instead, by its id or the beginning of it.
    #[arg(long, value_name = "ID", conflicts_with_all = ["guest", "last"])]
    cancel: Option<String>,
    #[command(flatten)]
    host: HostFlags,
    /// Print JSON: an array of migrations.
    #[arg(long)]
    json: bool,
}

/// How much of an id is shown.
const ID_CHARS: usize = 12;
/// How much of a reason is shown.
const REASON_CHARS_MAX: usize = 64;

pub(super) fn run(arguments: Arguments, config: &Config) -> Result<ExitCode> {
    let targets = Targets::new(&arguments.host, config).all()?;
    block_on(async {
        let guest = arguments.guest.clone();
        let question = |target: Target| {
            let guest = guest.clone();
            async move { Ok(target.client.migrations(guest.as_ref()).await?) }
        };
        let asked = fleet::ask(&targets, question).await?;
        match &arguments.cancel {
            Some(id) => cancel(&targets, &asked, id, arguments.json).await?,
            None => {
                let views = merged(asked.answers.iter().flat_map(|(_, views)| views), arguments.last);
                if arguments.json { print::json(&views)? } else { print::text(&show(&views))? }
            }
        }
        asked.complete()?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Each once, the source's word before the target's: it knows the whole of it. The newest first.
fn merged<'a>(views: impl Iterator<Item = &'a MigrationView>, count_max: usize) -> Vec<&'a MigrationView> {
    let mut by_id = BTreeMap::<&str, &MigrationView>::new();
    for view in views {
        let known = by_id.entry(&view.id).or_insert(view);
        if view.direction == Direction::Outgoing {
            *known = view;
        }
    }
    let mut views: Vec<_> = by_id.into_values().collect();
    views.sort_by_key(|view| std::cmp::Reverse(view.began_ms));
    views.truncate(count_max);
    views
}

fn show(views: &[&MigrationView]) -> String {
    let head = ["ID", "GUEST", "FROM", "TO", "BEGAN", "STATE", "BLACKOUT", "TOTAL", "SENT", "REASON"];
    print::table(&head, &views.iter().map(|view| cells(view)).collect::<Vec<_>>())
}

fn cells(view: &MigrationView) -> Vec<String> {
    let none = || "-".to_owned();
    let bytes = view.report.map_or(view.progress.bytes_on_wire, |report| report.bytes_on_wire);
    let reason = view.reason.as_ref().map_or_else(String::new, |reason| reason.message.clone());
    vec![
        print::plain(&view.id).chars().take(ID_CHARS).collect(),
        view.guest.to_string(),
        print::plain(&view.from),
        print::plain(&view.to),
        format!("{} ago", print::age(view.began_ms)),
        state(view),
        view.report.map_or_else(none, |report| migrate::took(report.blackout_us)),
        view.report.map_or_else(none, |report| migrate::took(report.total_us)),
        print::size(bytes),
        print::brief(&reason, REASON_CHARS_MAX),
    ]
}

fn state(view: &MigrationView) -> String {
    match view.state {
        MigrationState::Running => ps::phase(view.phase).to_owned(),
        MigrationState::InDoubt => "in doubt".to_owned(),
        MigrationState::Done => "done".to_owned(),
        MigrationState::Failed => format!("failed in {}", ps::phase(view.phase)),
    }
}

/// At its source, if that is known.
async fn cancel(targets: &[Target], asked: &Answers<Vec<MigrationView>>, id: &str, json: bool) -> Result<()> {
    let fits = |view: &&MigrationView| view.id.starts_with(id);
    let found = merged(asked.answers.iter().flat_map(|(_, views)| views).filter(fits), 2);
    let view = match found.as_slice() {
        [view] => *view,
        [] => {
            asked.complete()?;
            return Err(
                Unknown(format!("no host that is known here tells of a migration `{}`", print::plain(id))).into()
            );
        }
        _ => {
            return Err(Usage(format!("several migrations begin with `{}`; write more of it", print::plain(id))).into());
        }
    };
    let tells = |views: &[MigrationView]| views.iter().any(|one| one.id == view.id && one.direction == view.direction);
    let (host, _) = asked.answers.iter().find(|(_, views)| tells(views)).expect("somebody told of it");
    let target = targets.iter().find(|target| target.name == *host).expect("it was asked");
    let asked = target.client.cancel_migration(&view.id).await?;
    let words = format!("{} is asked to stay at {}; `roam migrations` shows how it ends", view.guest, view.from);
    if json { print::json(&asked) } else { print::line(&print::plain(&words)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn view(id: &str, direction: &str, began_ms: u64) -> MigrationView {
        let view = json!({
            "id": id, "guest": "kv", "direction": direction, "from": "host-a", "to": "host-b", "plan": "pre_copy",
            "state": "failed", "phase": "execute", "began_ms": began_ms,
            "reason": {"code": "link", "message": "the connection was lost"},
            "progress": {
                "round": 1, "dirty_pages": 0, "dirty_pages_per_s": 0, "bytes_on_wire": 1024, "memory_bytes": 0,
                "link_bytes_per_s": 0, "downtime_us_estimate": 0, "throttle_percent": 0,
            },
        });
        serde_json::from_value(view).unwrap()
    }

    #[test]
    fn one_that_two_hosts_tell_of_is_shown_once() {
        let views = [view("aa", "incoming", 2), view("aa", "outgoing", 1), view("bb", "incoming", 3)];
        let shown = merged(views.iter(), 10);
        assert_eq!(shown, [&views[2], &views[1]]);
        assert_eq!(merged(views.iter(), 1), [&views[2]]);
        let text = show(&shown);
        assert!(text.contains("failed in execute") && text.contains("1 KiB  the connection was lost"), "{text}");
    }
}
