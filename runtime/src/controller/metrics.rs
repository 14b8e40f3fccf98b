//! What a controller counts, for Prometheus. The planes are asked at each scrape.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use roam_sdn::controller::{Accepted, ControllerStatus, NodeView, RouteView};
use roam_sdn::model::Presence;

use super::App;
use crate::serve::metrics;

/// Addresses that are told one by one; with more there are only sums, and `roam_sdn_addresses_told` is 0.
const ADDRESSES_TOLD_MAX: usize = 2000;

/// Bounds of switch times, seconds: what a switch is to take is in the middle.
const SWITCH_SECONDS: [f64; 10] = [1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 1e-2, 1e-1];
/// Bounds of the time to the disk, seconds.
const DURABLE_SECONDS: [f64; 10] = [2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.2, 1.0];

/// How long moves took.
pub(super) struct Switches {
    plane: Histogram,
    durable: Histogram,
}

impl Default for Switches {
    fn default() -> Self {
        Self { plane: Histogram::new(SWITCH_SECONDS), durable: Histogram::new(DURABLE_SECONDS) }
    }
}

impl Switches {
    /// A move that was accepted.
    pub(super) fn observe(&self, accepted: &Accepted) {
        self.plane.observe(accepted.plane_us as f64 / 1e6);
        if accepted.durable {
            self.durable.observe(accepted.durable_us as f64 / 1e6);
        }
    }
}

/// Everything there is to tell.
pub(super) async fn scrape(app: &App) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    let roam = registry.sub_registry_with_prefix("roam_sdn");
    let help = "From the call of a move to the changed data plane";
    roam.register_with_unit("switch", help, Unit::Seconds, app.switches.plane.clone());
    let help = "From the call of a move until it was on disk, but for those that were answered before";
    roam.register_with_unit("switch_durable", help, Unit::Seconds, app.switches.durable.clone());
    registry.register_collector(Box::new(Scrape::take(app).await));
    metrics::text(&app.reception.metrics, &registry)
}

/// The controller at one moment.
#[derive(Debug)]
struct Scrape {
    status: ControllerStatus,
    nodes: Vec<NodeView>,
    /// `None` if they are too many.
    routes: Option<Vec<RouteView>>,
}

impl Scrape {
    async fn take(app: &App) -> Self {
        let nodes = app.controller.nodes();
        let addresses: u64 = nodes.iter().map(|node| node.addresses).sum();
        let mut routes = None;
        if addresses <= ADDRESSES_TOLD_MAX as u64 {
            // A plane in trouble has no counters; that it is says the status.
            let counters = app.controller.counters().await.unwrap_or_default();
            routes = Some(app.controller.routes(&counters));
        }
        Self { status: app.controller.status(), nodes, routes }
    }

    fn encode_state(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let status = &self.status;
        gauge(encoder, "revision", "The table's revision.", status.revision.0)?;
        counter(encoder, "switches", "Moves since the controller was started.", status.switches)?;
        let help = "1 while changes cannot be kept on disk.";
        gauge(encoder, "store_trouble", help, status.store_trouble.is_some().into())?;
        let help = "1 while fronts are not as they should be.";
        gauge(encoder, "fronts_trouble", help, status.fronts_trouble.is_some().into())?;
        if let Some(plane) = &status.plane {
            let help = "1 while the controller's data plane is not as it should be.";
            gauge(encoder, "plane_trouble", help, plane.trouble.is_some().into())?;
            let help = "Differences of the data plane that were found and mended.";
            counter(encoder, "drifts_mended", help, plane.drifts_mended)?;
        }
        Ok(())
    }

    fn encode_nodes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Hosts and gateways by presence.";
        let mut family = encoder.encode_descriptor("roam_sdn_hosts", help, None, MetricType::Gauge)?;
        for (presence, label) in [(Presence::Live, "live"), (Presence::Lost, "lost")] {
            let count = self.nodes.iter().filter(|node| node.host.presence == presence).count() as u64;
            family.encode_family(&[("presence", label)])?.encode_gauge(&count)?;
        }
        let help = "Addresses by their owner.";
        let mut family = encoder.encode_descriptor("roam_sdn_addresses", help, None, MetricType::Gauge)?;
        for node in &self.nodes {
            family.encode_family(&[("host", node.host.name.as_str())])?.encode_gauge(&node.addresses)?;
        }
        let help = "Whether addresses are told one by one: 0 if they are too many for that.";
        gauge(encoder, "addresses_told", help, self.routes.is_some().into())
    }

    fn encode_traffic(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let routes = self.routes.as_deref().unwrap_or_default();
        let counted = || routes.iter().filter_map(|route| Some((Labels::of(route), route.counters?)));
        let help = "Packets that passed the controller's data plane, by address and direction.";
        let mut family = encoder.encode_descriptor("roam_sdn_address_packets", help, None, MetricType::Counter)?;
        for (labels, counters) in counted() {
            for (direction, value) in [("to", counters.to_packets), ("from", counters.from_packets)] {
                let labels = labels.directed(direction);
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
            }
        }
        let (help, unit) = ("The same in bytes.", Some(&Unit::Bytes));
        let mut family = encoder.encode_descriptor("roam_sdn_address", help, unit, MetricType::Counter)?;
        for (labels, counters) in counted() {
            for (direction, value) in [("to", counters.to_bytes), ("from", counters.from_bytes)] {
                let labels = labels.directed(direction);
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
            }
        }
        Ok(())
    }

    fn encode_switches(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let routes = self.routes.as_deref().unwrap_or_default();
        let moved = || routes.iter().filter_map(|route| Some((Labels::of(route), route.last_switch.as_ref()?)));
        let help = "Moves of an address since the controller was started.";
        let mut family = encoder.encode_descriptor("roam_sdn_address_switches", help, None, MetricType::Counter)?;
        for (labels, switch) in moved() {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&switch.switches, None)?;
        }
        let (help, unit) = ("How long the last switch of an address took.", Some(&Unit::Seconds));
        let mut family = encoder.encode_descriptor("roam_sdn_address_last_switch", help, unit, MetricType::Gauge)?;
        for (labels, switch) in moved() {
            family.encode_family(&labels)?.encode_gauge(&(switch.plane_us as f64 / 1e6))?;
        }
        let (help, unit) = ("When that was, since 1970.", Some(&Unit::Seconds));
        let mut family = encoder.encode_descriptor("roam_sdn_address_last_switch_at", help, unit, MetricType::Gauge)?;
        for (labels, switch) in moved() {
            family.encode_family(&labels)?.encode_gauge(&(switch.at_ms as f64 / 1e3))?;
        }
        Ok(())
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_state(&mut encoder)?;
        self.encode_nodes(&mut encoder)?;
        self.encode_traffic(&mut encoder)?;
        self.encode_switches(&mut encoder)
    }
}

/// What an address is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    mac: String,
    name: String,
}

/// And which way its packets went.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Directed {
    mac: String,
    name: String,
    direction: &'static str,
}

impl Labels {
    fn of(route: &RouteView) -> Self {
        let name = route.address.name.as_ref().map(ToString::to_string).unwrap_or_default();
        Self { mac: route.address.mac.to_string(), name }
    }

    fn directed(&self, direction: &'static str) -> Directed {
        Directed { mac: self.mac.clone(), name: self.name.clone(), direction }
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let name = format!("roam_sdn_{name}");
    encoder.encode_descriptor(&name, help, None, MetricType::Gauge)?.encode_gauge(&value)
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let name = format!("roam_sdn_{name}");
    let mut family = encoder.encode_descriptor(&name, help, None, MetricType::Counter)?;
    family.encode_counter::<NoLabelSet, _, f64>(&value, None)
}
