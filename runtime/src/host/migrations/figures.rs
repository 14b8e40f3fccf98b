//! What a host counts of its migrations.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::Migrations;
use crate::api::{Direction, MigrationState, MigrationView};

/// Bounds of blackouts, seconds.
const BLACKOUT_SECONDS: [f64; 10] = [0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.04, 0.2, 1.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Way {
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Standing {
    direction: &'static str,
    state: &'static str,
}

/// Counters since the daemon was started. Blackouts are the sources': they know the whole of it.
#[derive(Clone)]
pub(in crate::host) struct Figures {
    over: Family<Standing, Counter>,
    wire: Family<Way, Counter>,
    blackout: Histogram,
}

impl Default for Figures {
    fn default() -> Self {
        Self { over: Family::default(), wire: Family::default(), blackout: Histogram::new(BLACKOUT_SECONDS) }
    }
}

impl Figures {
    /// Counts one that is over.
    pub(super) fn count(&self, view: &MigrationView) {
        let direction = direction(view.direction);
        self.over.get_or_create(&Standing { direction, state: state(view.state) }).inc();
        let bytes = view.report.map_or(view.progress.bytes_on_wire, |report| report.bytes_on_wire);
        self.wire.get_or_create(&Way { direction }).inc_by(bytes);
        if let (Direction::Outgoing, Some(report)) = (view.direction, view.report) {
            self.blackout.observe(report.blackout_us as f64 / 1e6);
        }
    }
}

impl Migrations {
    /// What there is to tell at a scrape.
    pub(in crate::host) fn register(&self, registry: &mut Registry) {
        let Figures { over, wire, blackout } = self.figures().clone();
        registry.register("roam_migrations", "Migrations that are over, by how they ended", over);
        registry.register_with_unit("roam_migration_wire", "Bytes of migrations that are over", Unit::Bytes, wire);
        let help = "How long guests that left were stopped";
        registry.register_with_unit("roam_migration_blackout", help, Unit::Seconds, blackout);
        let underway = Family::<Standing, Gauge>::default();
        for view in self.all().into_iter().filter(|view| !view.is_over()) {
            let labels = Standing { direction: direction(view.direction), state: state(view.state) };
            underway.get_or_create(&labels).inc();
        }
        registry.register("roam_migrations_underway", "Migrations under way, by how they stand", underway);
    }
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Outgoing => "outgoing",
        Direction::Incoming => "incoming",
    }
}

fn state(state: MigrationState) -> &'static str {
    match state {
        MigrationState::Running => "running",
        MigrationState::InDoubt => "in_doubt",
        MigrationState::Done => "done",
        MigrationState::Failed => "failed",
    }
}
