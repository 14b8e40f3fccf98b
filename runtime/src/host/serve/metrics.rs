//! What a host counts. Guests are asked at each scrape.

use std::collections::BTreeMap;
use std::fmt;

use futures_util::{StreamExt, stream};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use roam_netstack::Stats;
use tokio::time::timeout;

use super::App;
use crate::api::{GuestState, GuestStats, GuestView, HostView, PollTimes};
use crate::serve::metrics;

/// Everything there is to tell.
pub(super) async fn scrape(app: &App) -> Result<String, fmt::Error> {
    let mut of_guests = Registry::default();
    of_guests.register_collector(Box::new(Scrape::take(app).await));
    app.host.register_migrations(&mut of_guests);
    metrics::text(&app.reception.metrics, &of_guests)
}

/// All guests at one moment. One that does not tell its counters in time has none.
#[derive(Debug)]
struct Scrape {
    host: HostView,
    guests: Vec<Guest>,
}

#[derive(Debug)]
struct Guest {
    label: [(&'static str, String); 1],
    view: GuestView,
    stats: Option<GuestStats>,
}

impl Scrape {
    async fn take(app: &App) -> Self {
        let ask = |view: GuestView| async move {
            let asked = async {
                let runs = view.state == GuestState::Running && view.responsive;
                if runs { app.host.stats(&view.spec.name).await.ok() } else { None }
            };
            let stats = timeout(app.reception.limits.scrape_guest, asked).await.ok().flatten();
            Guest { label: [("guest", view.spec.name.to_string())], view, stats }
        };
        let guests = stream::iter(app.host.list().await).map(ask);
        let mut guests: Vec<_> = guests.buffer_unordered(app.reception.limits.scrape_guests_at_once).collect().await;
        guests.sort_by(|one, other| one.view.spec.name.cmp(&other.view.spec.name));
        Self { host: app.host.about().await, guests }
    }
}

/// A counter or gauge of a guest that runs.
struct Counted {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    value: fn(&GuestStats) -> f64,
}

const fn plain(name: &'static str, help: &'static str, value: fn(&GuestStats) -> f64) -> Counted {
    Counted { name, help, unit: None, value }
}

const fn bytes(name: &'static str, help: &'static str, value: fn(&GuestStats) -> f64) -> Counted {
    Counted { name, help, unit: Some(Unit::Bytes), value }
}

const fn seconds(name: &'static str, help: &'static str, value: fn(&GuestStats) -> f64) -> Counted {
    Counted { name, help, unit: Some(Unit::Seconds), value }
}

const COUNTERS: [Counted; 9] = [
    plain("polls", "Polls", |stats| stats.polls as f64),
    plain("rx_frames", "Frames received", |stats| stats.rx_frames as f64),
    bytes("rx", "Bytes of frames received", |stats| stats.rx_bytes as f64),
    plain("rx_dropped", "Received frames dropped", |stats| stats.rx_dropped as f64),
    plain("tx_frames", "Frames sent", |stats| stats.tx_frames as f64),
    bytes("tx", "Bytes of frames sent", |stats| stats.tx_bytes as f64),
    plain("tx_dropped", "Frames the kernel did not take", |stats| stats.tx_dropped as f64),
    plain("log_lines_dropped", "Log lines that could not be kept", |stats| stats.log_lines_dropped as f64),
    seconds("cpu", "CPU time of the worker", |stats| stats.cpu_us as f64 / 1e6),
];

const GAUGES: [Counted; 4] = [
    seconds("uptime", "Time since the guest was started", |stats| stats.uptime_ms as f64 / 1e3),
    plain("sockets", "Open sockets", |stats| stats.sockets.len() as f64),
    bytes("memory", "Linear memories of guest and netstack", |stats| stats.memory_bytes as f64),
    bytes("rss", "Resident memory of the worker", |stats| stats.rss_bytes as f64),
];

const STATES: [(GuestState, &str); 10] = [
    (GuestState::Starting, "starting"),
    (GuestState::Running, "running"),
    (GuestState::Stopping, "stopping"),
    (GuestState::Stopped, "stopped"),
    (GuestState::Ended, "ended"),
    (GuestState::Waiting, "waiting"),
    (GuestState::Parked, "parked"),
    (GuestState::Fenced, "fenced"),
    (GuestState::Arriving, "arriving"),
    (GuestState::InDoubt, "in-doubt"),
];

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode_host(&mut encoder)?;
        self.encode_views(&mut encoder)?;
        for counter in &COUNTERS {
            self.encode_counted(&mut encoder, counter, MetricType::Counter)?;
        }
        for gauge in &GAUGES {
            self.encode_counted(&mut encoder, gauge, MetricType::Gauge)?;
        }
        self.encode_poll_times(&mut encoder)?;
        self.encode_netstack(&mut encoder)
    }
}

impl Scrape {
    fn encode_host(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor("roam_host_info", "What the host is.", None, MetricType::Gauge)?;
        let labels = [("name", self.host.name.as_str()), ("version", self.host.version.as_str())];
        family.encode_family(&labels)?.encode_gauge(&1_u64)?;
        let mut family = encoder.encode_descriptor("roam_guests", "Guests by state.", None, MetricType::Gauge)?;
        for (state, label) in STATES {
            let count = self.guests.iter().filter(|guest| guest.view.state == state).count();
            family.encode_family(&[("state", label)])?.encode_gauge(&(count as u64))?;
        }
        Ok(())
    }

    /// What the daemon knows without asking the guest.
    fn encode_views(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "1 for a guest that runs and answers.";
        let mut family = encoder.encode_descriptor("roam_guest_up", help, None, MetricType::Gauge)?;
        for guest in &self.guests {
            let up = u64::from(guest.stats.is_some());
            family.encode_family(&guest.label)?.encode_gauge(&up)?;
        }
        let help = "1 for the state a guest is in.";
        let mut family = encoder.encode_descriptor("roam_guest_state", help, None, MetricType::Gauge)?;
        for guest in &self.guests {
            for (state, label) in STATES {
                let labels = [("guest", guest.view.spec.name.as_str()), ("state", label)];
                family.encode_family(&labels)?.encode_gauge(&u64::from(guest.view.state == state))?;
            }
        }
        let (help, unit) = ("Limit of the guest's linear memories.", Some(&Unit::Bytes));
        let mut family = encoder.encode_descriptor("roam_guest_memory_limit", help, unit, MetricType::Gauge)?;
        for guest in &self.guests {
            family.encode_family(&guest.label)?.encode_gauge(&guest.view.spec.memory_bytes_max)?;
        }
        let help = "Times a guest was started again without an operator's doing.";
        let mut family = encoder.encode_descriptor("roam_guest_restarts", help, None, MetricType::Counter)?;
        for guest in &self.guests {
            family.encode_family(&guest.label)?.encode_counter::<NoLabelSet, _, f64>(&guest.view.restarts, None)?;
        }
        Ok(())
    }

    fn encode_counted(&self, encoder: &mut DescriptorEncoder<'_>, counted: &Counted, kind: MetricType) -> fmt::Result {
        let name = format!("roam_guest_{}", counted.name);
        let mut family =
            encoder.encode_descriptor(&name, &format!("{}.", counted.help), counted.unit.as_ref(), kind)?;
        for (guest, stats) in self.running() {
            let (value, mut metric) = ((counted.value)(stats), family.encode_family(&guest.label)?);
            match kind {
                MetricType::Counter => metric.encode_counter::<NoLabelSet, _, f64>(&value, None)?,
                _ => metric.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    fn encode_poll_times(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (help, unit) = ("How long polls took.", Some(&Unit::Seconds));
        let mut family = encoder.encode_descriptor("roam_guest_poll_time", help, unit, MetricType::Histogram)?;
        for (guest, stats) in self.running() {
            let (sum, count, buckets) = histogram(&stats.poll_times);
            family.encode_family(&guest.label)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }

    fn encode_netstack(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "The netstack's own counters, by name.";
        let mut family = encoder.encode_descriptor("roam_guest_netstack", help, None, MetricType::Counter)?;
        for (guest, stats) in self.running() {
            let counters: &BTreeMap<String, u64> = &stats.netstack;
            // The names are the worker's word; those that become labels are ours.
            let known = Stats::NAMES.iter().filter_map(|name| Some((*name, counters.get(*name)?)));
            for (counter, value) in known {
                let labels = [("guest", guest.view.spec.name.as_str()), ("counter", counter)];
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(value, None)?;
            }
        }
        Ok(())
    }

    fn running(&self) -> impl Iterator<Item = (&Guest, &GuestStats)> {
        self.guests.iter().filter_map(|guest| Some((guest, guest.stats.as_ref()?)))
    }
}

/// Sum in seconds, count, and counts by upper bound in seconds. The encoder makes them cumulative.
fn histogram(times: &PollTimes) -> (f64, u64, Vec<(f64, u64)>) {
    let bound = |index| PollTimes::bound_ns(index).map_or(f64::INFINITY, |bound| bound as f64 / 1e9);
    let mut counts = times.counts.clone();
    // A worker that was started by an older daemon may know fewer buckets.
    counts.resize(PollTimes::BUCKETS, 0);
    let buckets: Vec<_> = counts.iter().enumerate().map(|(index, &count)| (bound(index), count)).collect();
    // The worker may have become hostile: its counts need not fit.
    let count = counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
    (times.sum_ns as f64 / 1e9, count, buckets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_that_do_not_fit_are_no_panic() {
        let times = PollTimes { counts: vec![u64::MAX; PollTimes::BUCKETS], sum_ns: u64::MAX, max_ns: 0 };
        let (_, count, buckets) = histogram(&times);
        assert_eq!((count, buckets.len()), (u64::MAX, PollTimes::BUCKETS));
    }
}
