//! `roam route watch`: what changes, as it comes.

use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::StreamExt;
use roam_sdn::table::Table;

use super::super::print;
use super::super::target::ControllerFlags;
use super::live::Live;
use super::{ips, name};
use crate::ambient::now_ms;
use crate::api::client::{ClientError, SdnClient};
use crate::api::sdn::{Change, Kind, Presence, Revision, Route, Update, WatchEvent};

/// How long after the controller went away it is asked for again, at first and at most.
const AGAIN_MIN: Duration = Duration::from_millis(200);
const AGAIN_MAX: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
pub(super) struct Flags {
    #[command(flatten)]
    pub(super) controller: ControllerFlags,
    /// Print JSON, one line an event.
    #[arg(long)]
    json: bool,
    /// Print one line a change also on a terminal, where else a table with rates is redrawn each second.
    #[arg(long, conflicts_with = "json")]
    plain: bool,
}

pub(super) async fn run(client: SdnClient, flags: Flags) -> Result<()> {
    let mut view: Box<dyn View> = match (flags.json, flags.plain || !print::to_terminal()) {
        (true, _) => Box::new(Json),
        (_, true) => Box::new(Lines { table: None }),
        _ => Box::<Live>::default(),
    };
    tokio::select! {
        ended = follow(&client, view.as_mut()) => ended,
        asked = tokio::signal::ctrl_c() => asked.context("waiting for Ctrl-C"),
    }
}

/// One way to show what comes.
pub(super) trait View {
    /// Whether it shows counters.
    fn wants_figures(&self) -> bool;
    /// Something has come.
    fn event(&mut self, event: WatchEvent) -> Result<()>;
    /// The controller is away, or back.
    fn notice(&mut self, words: &str) -> Result<()>;
}

/// Follows for ever. A controller that cannot be reached at first is an error; later it is waited for.
async fn follow(client: &SdnClient, view: &mut dyn View) -> Result<()> {
    let mut after = None;
    let mut events = client.watch(after, view.wants_figures()).await?;
    loop {
        let end = loop {
            match events.next().await.transpose() {
                Ok(Some(WatchEvent::Goodbye)) | Ok(None) => break None,
                Ok(Some(event)) => {
                    after = revision(&event).or(after);
                    view.event(event)?;
                }
                Err(error) => break Some(error),
            }
        };
        let mut gone = false;
        let mut pause = AGAIN_MIN;
        let mut reason = end;
        events = loop {
            if let Some(error) = reason.take().filter(|_| !gone) {
                view.notice(&format!("the controller is away: {error}; waiting for it"))?;
                gone = true;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(AGAIN_MAX);
            match client.watch(after, view.wants_figures()).await {
                Ok(events) => break events,
                // No right any more, or no controller: that does not pass.
                Err(error @ (ClientError::Refused { .. } | ClientError::Protocol { .. })) => return Err(error.into()),
                Err(error) => reason = Some(error),
            }
        };
        if gone {
            view.notice("the controller is back")?;
        }
    }
}

fn revision(event: &WatchEvent) -> Option<Revision> {
    match event {
        WatchEvent::Table(table) => Some(table.revision),
        WatchEvent::Update(update) => Some(update.revision),
        WatchEvent::Figures(_) | WatchEvent::Goodbye => None,
    }
}

struct Json;

impl View for Json {
    fn wants_figures(&self) -> bool {
        false
    }

    fn event(&mut self, event: WatchEvent) -> Result<()> {
        print::json_line(&event)
    }

    fn notice(&mut self, words: &str) -> Result<()> {
        eprintln!("roam: {words}");
        Ok(())
    }
}

/// A line a change.
struct Lines {
    /// What was heard so far: it has what a change replaces.
    table: Option<Table>,
}

impl View for Lines {
    fn wants_figures(&self) -> bool {
        false
    }

    fn event(&mut self, event: WatchEvent) -> Result<()> {
        match event {
            WatchEvent::Table(view) => {
                let (hosts, routes, fronts) = (view.hosts.len(), view.routes.len(), view.fronts.len());
                let words = format!("the table: {hosts} hosts, {routes} addresses, {fronts} fronts");
                print::line(&stamped(view.revision, &words))?;
                self.table = Some(view.into_table());
            }
            WatchEvent::Update(update) => self.update(&update)?,
            WatchEvent::Figures(_) | WatchEvent::Goodbye => {}
        }
        Ok(())
    }

    fn notice(&mut self, words: &str) -> Result<()> {
        Json.notice(words)
    }
}

impl Lines {
    fn update(&mut self, update: &Update) -> Result<()> {
        for words in update.changes.iter().filter_map(|change| describe(self.table.as_ref(), change)) {
            print::line(&stamped(update.revision, &words))?;
        }
        if let Some(table) = &mut self.table {
            table.apply(update);
        }
        Ok(())
    }
}

fn stamped(revision: Revision, words: &str) -> String {
    format!("{} r{revision} {words}", print::moment(now_ms()))
}

/// A change in words, `None` if it is nobody's business but the controller's.
pub(super) fn describe(before: Option<&Table>, change: &Change) -> Option<String> {
    let route = |mac| before.and_then(|table| table.route(mac));
    Some(match change {
        Change::Host(host) => {
            let kind = if host.kind == Kind::Gateway { "gateway" } else { "host" };
            let known = before.and_then(|table| table.host(&host.name)).map(|host| host.presence);
            match (known, host.presence) {
                (_, Presence::Lost) => format!("{kind} {} is lost", host.name),
                (Some(Presence::Lost), Presence::Live) => format!("{kind} {} is back, at {}", host.name, host.vtep),
                (_, Presence::Live) => format!("{kind} {} is at {}", host.name, host.vtep),
            }
        }
        Change::NoHost(host) => format!("{host} has left"),
        Change::Route(now) => placed(route(now.address.mac), now),
        Change::NoRoute(mac) => match route(*mac) {
            Some(was) => format!("{mac} {}: nobody's, was {}'s", name(&was.address), was.placement.host),
            None => format!("{mac}: nobody's"),
        },
        Change::Front(front) => format!("front {} leads to {}", front.key(), front.to),
        Change::NoFront(front) => format!("front {front} is closed"),
        Change::Floor(_) => return None,
    })
}

fn placed(was: Option<&Route>, now: &Route) -> String {
    let (address, placement) = (&now.address, &now.placement);
    let who = match was.map(|was| &was.placement.host).filter(|was| **was != placement.host) {
        Some(was) => format!("{was} -> {}", placement.host),
        None => format!("{}'s", placement.host),
    };
    let via = placement.via.as_ref().map_or_else(String::new, |via| format!(", by {via}"));
    format!("{} {} {}: {who}, generation {}{via}", address.mac, name(address), ips(address), placement.generation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(text: &str) -> Update {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_change_says_what_it_replaces() {
        let placed = |host: &str, generation: u64, revision: u64| {
            update(&format!(
                r#"{{"revision":{revision},"changes":[{{"route":{{"address":{{"mac":"02:00:00:00:00:01","name":"kv"}},
                "placement":{{"host":"{host}","generation":{generation},"since_ms":0,"revision":{revision}}}}}}}]}}"#
            ))
        };
        let mut table = Table::default();
        let first = placed("a", 1, 1);
        let said = describe(Some(&table), &first.changes[0]).unwrap();
        assert_eq!(said, "02:00:00:00:00:01 kv -: a's, generation 1");
        table.apply(&first);
        let moved = placed("b", 2, 2);
        let said = describe(Some(&table), &moved.changes[0]).unwrap();
        assert_eq!(said, "02:00:00:00:00:01 kv -: a -> b, generation 2");
        table.apply(&moved);
        let gone = update(r#"{"revision":3,"changes":[{"no_route":"02:00:00:00:00:01"}]}"#);
        assert_eq!(describe(Some(&table), &gone.changes[0]).unwrap(), "02:00:00:00:00:01 kv: nobody's, was b's");
    }
}
