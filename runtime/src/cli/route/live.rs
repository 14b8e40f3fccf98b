//! The table that `roam route watch` redraws on a terminal.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::time::Instant;

use anyhow::Result;
use roam_sdn::Mac;
use roam_sdn::table::Table;

use super::super::print;
use super::watch::{View, describe};
use super::{ips, name, owner, took};
use crate::api::sdn::{Counters, RouteView, WatchEvent};

/// Changes that are shown below the table.
const CHANGES_SHOWN_MAX: usize = 8;

/// What has been heard so far.
#[derive(Default)]
pub(super) struct Live {
    table: Option<Table>,
    routes: Vec<RouteView>,
    /// The counters of the figures before, and when they came.
    before: Option<(Instant, BTreeMap<Mac, Counters>)>,
    rates: BTreeMap<Mac, Rates>,
    changes: VecDeque<String>,
    notice: Option<String>,
}

/// What passes in a second.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rates {
    to_packets_per_s: f64,
    to_bits_per_s: f64,
    from_packets_per_s: f64,
    from_bits_per_s: f64,
}

impl View for Live {
    fn wants_figures(&self) -> bool {
        true
    }

    fn event(&mut self, event: WatchEvent) -> Result<()> {
        match event {
            WatchEvent::Table(view) => self.table = Some(view.into_table()),
            WatchEvent::Update(update) => {
                let words = update.changes.iter().filter_map(|change| describe(self.table.as_ref(), change));
                let now = print::moment(crate::ambient::now_ms());
                self.changes.extend(words.map(|words| format!("{now} {words}")));
                let surplus = self.changes.len().saturating_sub(CHANGES_SHOWN_MAX);
                self.changes.drain(..surplus);
                if let Some(table) = &mut self.table {
                    table.apply(&update);
                }
            }
            WatchEvent::Figures(routes) => self.figures(routes, Instant::now()),
            WatchEvent::Goodbye => {}
        }
        self.draw()
    }

    fn notice(&mut self, words: &str) -> Result<()> {
        self.notice = Some(words.to_owned());
        self.draw()
    }
}

impl Live {
    fn figures(&mut self, routes: Vec<RouteView>, at: Instant) {
        let read = |route: &RouteView| Some((route.address.mac, route.counters?));
        let counters: BTreeMap<Mac, Counters> = routes.iter().filter_map(read).collect();
        if let Some((since, before)) = &self.before {
            let seconds = at.saturating_duration_since(*since).as_secs_f64();
            let between = |(mac, now): (&Mac, &Counters)| Some((*mac, Rates::between(before.get(mac)?, now, seconds)?));
            self.rates = counters.iter().filter_map(between).collect();
        }
        self.before = Some((at, counters));
        self.routes = routes;
    }

    fn draw(&self) -> Result<()> {
        // Home, and clear what is below.
        print::text(&format!("\x1b[H\x1b[J{}", self.text()))
    }

    fn text(&self) -> String {
        let head = ["NAME", "IP", "HOST", "GEN", "TO/s", "", "FROM/s", "", "SWITCHED", "IN", "SWITCHES"];
        let rows: Vec<_> = self.routes.iter().map(|route| self.cells(route)).collect();
        let mut text = print::table(&head, &rows);
        if !self.changes.is_empty() {
            text.push('\n');
        }
        for change in &self.changes {
            let _ = writeln!(text, "{change}");
        }
        if let Some(notice) = &self.notice {
            let _ = writeln!(text, "\n{}", print::plain(notice));
        }
        text
    }

    fn cells(&self, route: &RouteView) -> Vec<String> {
        let none = || "-".to_owned();
        let rates = self.rates.get(&route.address.mac);
        let packets = |rate: fn(&Rates) -> f64| rates.map_or_else(none, |rates| print::rate(rate(rates).round()));
        let bits = |rate: fn(&Rates) -> f64| rates.map_or_else(none, |rates| print::bit_rate(rate(rates).round()));
        let switch = route.last_switch.as_ref();
        let called = if route.address.name.is_some() { name(&route.address) } else { route.address.mac.to_string() };
        vec![
            called,
            ips(&route.address),
            owner(&route.placement.host, route.presence),
            route.placement.generation.to_string(),
            packets(|rates| rates.to_packets_per_s),
            bits(|rates| rates.to_bits_per_s),
            packets(|rates| rates.from_packets_per_s),
            bits(|rates| rates.from_bits_per_s),
            switch.map_or_else(none, |switch| format!("{} ago", print::age(switch.at_ms))),
            took(switch),
            switch.map_or(0, |switch| switch.switches).to_string(),
        ]
    }
}

impl Rates {
    /// `None` when the counters began anew in between.
    fn between(before: &Counters, now: &Counters, seconds: f64) -> Option<Self> {
        let rate = |before: u64, now: u64| Some(now.checked_sub(before)? as f64 / seconds.max(f64::EPSILON));
        Some(Self {
            to_packets_per_s: rate(before.to_packets, now.to_packets)?,
            to_bits_per_s: rate(before.to_bytes, now.to_bytes)? * 8.0,
            from_packets_per_s: rate(before.from_packets, now.from_packets)?,
            from_bits_per_s: rate(before.from_bytes, now.from_bytes)? * 8.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn figures(to_packets: u64, to_bytes: u64) -> Vec<RouteView> {
        let route = serde_json::json!([{
            "address": {"mac": "02:00:00:00:00:0a", "ip": "10.90.1.2", "name": "kv"},
            "placement": {"host": "host-b", "generation": 2, "since_ms": 0, "revision": 7},
            "presence": "live", "last_switch": null, "behind": [],
            "counters": {"to_packets": to_packets, "to_bytes": to_bytes, "from_packets": 0, "from_bytes": 0},
        }]);
        serde_json::from_value(route).unwrap()
    }

    #[test]
    fn rates_are_between_successive_figures() {
        let mut live = Live::default();
        let at = Instant::now();
        live.figures(figures(100, 1000), at);
        assert!(live.rates.is_empty());
        live.figures(figures(300, 3000), at + Duration::from_secs(2));
        let row = live.text();
        assert!(row.contains("100   8 kbit/s"), "{row}");
        // Counted anew: what passed is not known.
        live.figures(figures(1, 10), at + Duration::from_secs(3));
        assert!(live.rates.is_empty());
    }
}
