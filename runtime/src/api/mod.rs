//! What a host daemon and its clients say to each other: versioned JSON over HTTP, under `/v1`.
//!
//! The types here are the wire. They are plain data: what a guest *is* lives in [`crate::host`]. Numbers carry their
//! unit in their name; addresses, digests and MACs are strings as people write them. Unknown fields are refused, so
//! that a misspelt one is not silently the default.

mod address;
mod checkpoint;
pub mod client;
mod guest;
mod host;
mod migration;
pub mod sdn;
mod stats;

pub use address::{CidrText, Family as AddressFamily, derived_mac};
pub use checkpoint::{CHECKPOINT_HEADER, CheckpointReport, CheckpointRequest, RestoreRequest};
pub use guest::{
    End, EndKind, GuestSpec, GuestState, GuestView, MTU_BYTES_DEFAULT, NetworkView, RestartPolicy, SpecError,
};
pub use host::{ErrorBody, ErrorCode, Health, HostView, LogEntry, ModuleView, OverlayView};
pub use migration::{
    Direction, MIGRATION_PORT, MigrateRequest, MigrationBrief, MigrationEvent, MigrationProgress, MigrationReason,
    MigrationReport, MigrationState, MigrationView,
};
pub use roam_sdn::{Mac as MacText, Name as GuestName, NameError};
pub use stats::{GuestStats, PollTimes, SocketView};

/// Path prefix of this version of the interface.
pub const PREFIX: &str = "/v1";
/// A request body that is no module.
pub const BODY_BYTES_MAX: usize = 256 * 1024;
