//! What a daemon counts of its peers and their requests, for Prometheus.

use std::fmt;
use std::time::Duration;

use hyper::Method;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Type of [`text`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Bounds of request times, seconds: from what a look-up takes to what compiling a large module does.
const REQUEST_SECONDS: [f64; 10] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: String,
    route: String,
    status: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    method: String,
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: Rejected,
}

/// Why a connection or request got no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Rejected {
    /// Too many handshakes.
    Handshakes,
    /// A handshake that failed or took too long.
    Tls,
    /// Too many connections.
    Connections,
    /// Too many requests.
    Rate,
    /// Not its role.
    Role,
}

/// Counters of requests.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    request_seconds: Family<Route, Histogram, fn() -> Histogram>,
    connections: Gauge,
    rejected: Family<Reason, Counter>,
}

/// A connection that counts while this lives.
pub(crate) struct Counted(Gauge);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let request_seconds: Family<_, _, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(REQUEST_SECONDS));
        let connections = Gauge::default();
        let rejected = Family::default();
        let roam = registry.sub_registry_with_prefix("roam_api");
        roam.register("requests", "Requests answered", requests.clone());
        let help = "Time from a request's header to its answer's";
        roam.register_with_unit("request_time", help, Unit::Seconds, request_seconds.clone());
        roam.register("connections", "Open connections", connections.clone());
        roam.register("rejected", "Connections and requests that got no further", rejected.clone());
        Self { registry, requests, request_seconds, connections, rejected }
    }

    pub(crate) fn answered(&self, route: &str, method: &Method, status: u16, took: Duration) {
        let (method, route) = (method_label(method), route.to_owned());
        let labels = Answered { method: method.clone(), route: route.clone(), status: status.into() };
        self.requests.get_or_create(&labels).inc();
        self.request_seconds.get_or_create(&Route { method, route }).observe(took.as_secs_f64());
    }

    pub(crate) fn rejected(&self, reason: Rejected) {
        self.rejected.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn connection(&self) -> Counted {
        self.connections.inc();
        Counted(self.connections.clone())
    }
}

/// Peers can make up methods; labels they cannot.
fn method_label(method: &Method) -> String {
    let known = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE];
    if known.contains(method) { method.to_string() } else { "other".to_owned() }
}

/// Everything there is to tell: of requests, and what else the daemon counts.
pub(crate) fn text(metrics: &Metrics, others: &Registry) -> Result<String, fmt::Error> {
    let mut text = String::new();
    encode_registry(&mut text, &metrics.registry)?;
    encode_registry(&mut text, others)?;
    encode_eof(&mut text)?;
    Ok(text)
}
