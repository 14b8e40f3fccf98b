//! Migrations: what is asked for, how far one is, and what it came to.

use roam_snapshot::plan::{Divergence, PlanName};
use roam_snapshot::protocol::Phase;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{GuestName, SpecError};

/// TCP port of hosts' migrations when an address names none.
pub const MIGRATION_PORT: u16 = 7445;

/// A guest is to go to another host. What is left out has the default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"to": "host-b", "plan": "pre_copy", "downtime_us": 2000}))]
pub struct MigrateRequest {
    /// The host, by its name at the controller.
    #[schema(value_type = String)]
    pub to: GuestName,
    /// Where that host takes migrations, for hosts that no controller knows: `ADDRESS:PORT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "172.30.0.2:7445")]
    pub at: Option<std::net::SocketAddr>,
    /// How.
    #[serde(default = "default_plan")]
    #[schema(value_type = PlanText, default = default_plan)]
    pub plan: PlanName,
    /// How long the guest may be stopped, microseconds. Pre-copy goes on until it expects to need no longer.
    #[serde(default = "default_downtime_us")]
    #[schema(default = default_downtime_us, minimum = 100, maximum = 60000000)]
    pub downtime_us: u64,
    /// Most bytes a second that are sent while the guest runs. The last pages are sent as fast as possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 65536)]
    pub bandwidth_bytes_per_s: Option<u64>,
    /// Most rounds before the stop.
    #[serde(default = "default_rounds_max")]
    #[schema(default = default_rounds_max, minimum = 1, maximum = 1000)]
    pub rounds_max: u32,
    /// How long it may take until the stop, milliseconds.
    #[serde(default = "default_timeout_ms")]
    #[schema(default = default_timeout_ms, minimum = 100, maximum = 86400000)]
    pub timeout_ms: u64,
    /// What is done when the guest dirties pages faster than they can be sent.
    #[serde(default)]
    #[schema(value_type = DivergenceText, default = Divergence::default)]
    pub on_divergence: Divergence,
}

// These three describe types of a crate that knows no OpenAPI; what they say is for readers of the description.

/// How a guest goes: `stop_and_copy` sends all its pages while it is stopped, `pre_copy` most of them in rounds while it
/// runs and the rest while it is stopped.
#[derive(ToSchema)]
#[schema(as = Plan, rename_all = "snake_case")]
#[expect(dead_code, reason = "only its description is used")]
enum PlanText {
    StopAndCopy,
    PreCopy,
}

/// What is done about a guest that dirties pages faster than they can be sent: `throttle` gives it less and less time to
/// run, with `give_up` the migration fails and the guest serves on where it is.
#[derive(ToSchema)]
#[schema(as = Divergence, rename_all = "snake_case")]
#[expect(dead_code, reason = "only its description is used")]
enum DivergenceText {
    Throttle,
    GiveUp,
}

/// How far a migration is: the two hosts meet (`initiate`), the target looks whether it can have the guest (`validate`)
/// and makes everything ready that is slow (`prepare`), the guest's pages go over (`execute`), the target serves and the
/// route follows (`complete`); or the guest is where it was, or in doubt (`failed`).
#[derive(ToSchema)]
#[schema(as = Phase, rename_all = "snake_case")]
#[expect(dead_code, reason = "only its description is used")]
enum PhaseText {
    Initiate,
    Validate,
    Prepare,
    Execute,
    Complete,
    Failed,
}

fn default_plan() -> PlanName {
    PlanName::PreCopy
}

fn default_downtime_us() -> u64 {
    2_000
}

fn default_rounds_max() -> u32 {
    30
}

fn default_timeout_ms() -> u64 {
    120_000
}

/// Least and most of what a request may ask for, as its description says.
const DOWNTIME_US: (u64, u64) = (100, 60_000_000);
const BANDWIDTH_BYTES_PER_S: (u64, u64) = (64 * 1024, u64::MAX);
const ROUNDS_MAX: (u64, u64) = (1, 1000);
const TIMEOUT_MS: (u64, u64) = (100, 86_400_000);

impl MigrateRequest {
    /// To that host, the rest as if left out.
    pub fn new(to: GuestName) -> Self {
        Self {
            to,
            at: None,
            plan: default_plan(),
            downtime_us: default_downtime_us(),
            bandwidth_bytes_per_s: None,
            rounds_max: default_rounds_max(),
            timeout_ms: default_timeout_ms(),
            on_divergence: Divergence::default(),
        }
    }

    /// Checks what can be checked without a host.
    pub fn check(&self) -> Result<(), SpecError> {
        let bandwidth = self.bandwidth_bytes_per_s.map(|value| ("bandwidth_bytes_per_s", value, BANDWIDTH_BYTES_PER_S));
        let asked = [
            ("downtime_us", self.downtime_us, DOWNTIME_US),
            ("rounds_max", self.rounds_max.into(), ROUNDS_MAX),
            ("timeout_ms", self.timeout_ms, TIMEOUT_MS),
        ];
        match asked.into_iter().chain(bandwidth).find(|(_, value, (min, max))| !(min..=max).contains(&value)) {
            Some((field, value, (min, max))) => Err(SpecError::Range { field, value, min, max }),
            None => Ok(()),
        }
    }
}

/// Which way a migration goes, seen from the host that tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The guest leaves.
    Outgoing,
    /// The guest comes.
    Incoming,
}

/// How a migration ended, or that it has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MigrationState {
    /// Under way.
    Running,
    /// The token was sent and no answer came: it is being settled who has the guest. Until then the source does not poll it.
    InDoubt,
    /// The guest is at the target.
    Done,
    /// The guest is where it was; `reason` says why.
    Failed,
}

/// A migration, under way or over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MigrationView {
    /// 32 hex digits, the same on both hosts.
    #[schema(pattern = "^[0-9a-f]{32}$")]
    pub id: String,
    /// The guest.
    #[schema(value_type = String)]
    pub guest: GuestName,
    /// Which way it goes.
    pub direction: Direction,
    /// The source.
    pub from: String,
    /// The target.
    pub to: String,
    /// How.
    #[schema(value_type = PlanText)]
    pub plan: PlanName,
    /// Whether it is over.
    pub state: MigrationState,
    /// How far it is, or was when it failed.
    #[schema(value_type = PhaseText)]
    pub phase: Phase,
    /// When it began, milliseconds since 1970.
    pub began_ms: u64,
    /// When it was over, milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// What it is at.
    pub progress: MigrationProgress,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<MigrationReason>,
    /// What it came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<MigrationReport>,
}

impl MigrationView {
    /// Whether nothing of it changes any more.
    pub fn is_over(&self) -> bool {
        matches!(self.state, MigrationState::Done | MigrationState::Failed)
    }

    /// What is to be seen of it at the guest.
    pub fn brief(&self) -> MigrationBrief {
        let other = if self.direction == Direction::Outgoing { &self.to } else { &self.from };
        MigrationBrief { id: self.id.clone(), direction: self.direction, other: other.clone(), phase: self.phase }
    }
}

/// A migration that a guest is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigrationBrief {
    /// Its id: `/v1/migrations/{id}` has the rest.
    pub id: String,
    /// Which way it goes.
    pub direction: Direction,
    /// The host it goes to, or comes from.
    pub other: String,
    /// How far it is.
    #[schema(value_type = PhaseText)]
    pub phase: Phase,
}

/// Why a migration failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigrationReason {
    /// For programs: `room`, `conflict`, `incompatible`, `link`, `cancelled`, …
    pub code: String,
    /// One sentence.
    pub message: String,
}

/// What a migration is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigrationProgress {
    /// The round under way, from 1; 0 before the first.
    pub round: u32,
    /// Pages that are dirty, by the last look.
    pub dirty_pages: u64,
    /// Pages the guest dirties a second, by the last round.
    pub dirty_pages_per_s: u64,
    /// Bytes sent so far.
    pub bytes_on_wire: u64,
    /// Bytes of the guest's memories.
    pub memory_bytes: u64,
    /// Bytes a second, by the last round.
    pub link_bytes_per_s: u64,
    /// What the blackout would take now, microseconds, by the last round.
    pub downtime_us_estimate: u64,
    /// How much of its time the guest is kept from running, percent.
    pub throttle_percent: u8,
}

/// What a migration came to. Times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigrationReport {
    /// From the request until the route led to the target.
    pub total_us: u64,
    /// From the end of the guest's last poll at the source to the end of its first at the target.
    pub blackout_us: u64,
    /// From the order to stop until the guest had; not part of the blackout but for the wake-up.
    pub stop_us: u64,
    /// The last scan.
    pub scan_us: u64,
    /// Last pages, frames and token, until they were at the target.
    pub send_us: u64,
    /// Until memories and state were in place and compared.
    pub apply_us: u64,
    /// Until the controller had granted the address; runs beside `apply_us`.
    pub grant_us: u64,
    /// The first poll.
    pub first_poll_us: u64,
    /// From the first poll until the route led to the target and that was on disk.
    pub route_us: u64,
    /// Rounds before the stop.
    pub rounds: u32,
    /// Pages sent, the last ones included.
    pub pages_sent: u64,
    /// Pages sent in the blackout.
    pub pages_last: u64,
    /// All bytes sent.
    pub bytes_on_wire: u64,
    /// Frames that came in the blackout and travelled with the last pages.
    pub frames_carried: u64,
    /// Frames that came to the source later and were forwarded.
    pub frames_forwarded: u64,
}

/// What a watch on a migration sends. The event's name is the variant's, its data the variant's as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MigrationEvent {
    /// How it is: first of all, then whenever that changes, at most ten times a second.
    Migration(Box<MigrationView>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use utoipa::PartialSchema;

    #[test]
    fn the_description_has_the_limits_that_are_checked() {
        let schema = serde_json::to_value(MigrateRequest::schema()).unwrap();
        for field in ["downtime_us", "rounds_max", "timeout_ms", "bandwidth_bytes_per_s"] {
            let bound = |which: &str| schema["properties"][field][which].as_u64();
            let inside = [bound("minimum"), bound("maximum")].map(|value| (value, true));
            let below = (bound("minimum").and_then(|value| value.checked_sub(1)), false);
            let above = (bound("maximum").and_then(|value| value.checked_add(1)), false);
            for (value, fits) in inside.into_iter().chain([below, above]) {
                let Some(value) = value else { continue };
                let mut request = serde_json::json!({"to": "b"});
                request[field] = value.into();
                let request: MigrateRequest = serde_json::from_value(request).unwrap();
                assert_eq!(request.check().is_ok(), fits, "{field} = {value}");
            }
            assert!(bound("minimum").is_some(), "{field}");
        }
        let left_out = serde_json::to_value(MigrateRequest::new("b".parse().unwrap())).unwrap();
        for (name, value) in left_out.as_object().unwrap() {
            assert!(schema["properties"][name]["default"] == *value || name == "to", "{name}: {value}");
        }
    }

    /// The description's words are those that are read.
    #[test]
    fn the_description_has_the_words_that_are_used() {
        fn words<D: PartialSchema, T: for<'a> Deserialize<'a> + Serialize>(count: usize) {
            let schema = serde_json::to_value(D::schema()).unwrap();
            let words = schema["oneOf"].as_array().or(schema["enum"].as_array()).cloned().unwrap_or_default();
            assert_eq!(words.len(), count, "{schema}");
            for word in words {
                let word = word["enum"].get(0).cloned().unwrap_or(word);
                let value: T = serde_json::from_value(word.clone()).unwrap();
                assert_eq!(serde_json::to_value(value).unwrap(), word);
            }
        }
        words::<PlanText, PlanName>(2);
        words::<DivergenceText, Divergence>(2);
        words::<PhaseText, Phase>(6);
    }
}
