//! A host, its modules, its guests' logs, and its errors.

use std::net::IpAddr;

use roam_sdn::model::Revision;
use roam_sdn::plane::PlaneStatus;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::engine::ModuleHash;

/// What a host is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostView {
    /// Its name.
    pub name: String,
    /// The daemon's version.
    pub version: String,
    /// The guest ABI it runs.
    pub abi_version: u32,
    /// blake3 of its netstack.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub netstack: ModuleHash,
    /// The kernel.
    pub kernel: String,
    /// Cores.
    pub cores: u32,
    /// Guests it knows.
    pub guests: u64,
    /// What this machine lacks of the jail, in words; empty when it is whole.
    pub jail_lacks: Vec<String>,
    /// How long the daemon runs, milliseconds.
    pub uptime_ms: u64,
    /// Its part in an overlay, if it follows a controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlay: Option<OverlayView>,
}

/// A host's part in an overlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OverlayView {
    /// The controller.
    pub controller: String,
    /// Why it is not followed; `None` while it is.
    pub away: Option<String>,
    /// This host's end of the tunnels.
    #[schema(value_type = String, example = "172.30.0.1")]
    pub vtep: IpAddr,
    /// The revision of its table that is known here.
    pub revision: Option<Revision>,
    /// The revision that the data plane follows.
    pub applied: Option<Revision>,
    /// How the data plane is, where one is kept.
    pub plane: Option<PlaneStatus>,
}

/// Whether a host can do its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// True if it can.
    pub healthy: bool,
    /// What is wrong, in words; empty when healthy.
    pub problems: Vec<String>,
}

/// A module a host has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ModuleView {
    /// blake3 of its bytes.
    #[schema(value_type = String, pattern = "^[0-9a-f]{64}$")]
    pub digest: ModuleHash,
    /// Its size.
    pub size_bytes: u64,
    /// Names of the guests that use it.
    pub guests: Vec<String>,
}

/// A line of a guest's log. One JSON object a line (`application/x-ndjson`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogEntry {
    /// When, milliseconds since 1970 by the host's clock.
    pub at_ms: u64,
    /// `error`, `warn`, `info` or `debug`.
    pub level: String,
    /// What.
    pub text: String,
}

/// What an error answer carries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// Stable, for programs.
    pub code: ErrorCode,
    /// For people: what was wrong and what to do.
    pub message: String,
}

/// Stable names of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request cannot be understood: 400.
    BadRequest,
    /// The peer may not do this: 403.
    Forbidden,
    /// There is no such guest, module or path: 404.
    NotFound,
    /// The path knows no such method: 405.
    MethodNotAllowed,
    /// The request did not arrive in time: 408.
    TooSlow,
    /// A name or address is taken, a module in use, or a guest in the wrong state: 409.
    Conflict,
    /// The address is another host's, or of another generation: 409.
    Fenced,
    /// The controller may have forgotten what the answer rests on: another host must be heard first: 409.
    Unsettled,
    /// The body is over its limit: 413.
    TooLarge,
    /// It can be understood, but is not possible: 422.
    Invalid,
    /// Too many requests: 429; `Retry-After` says when to come back.
    TooManyRequests,
    /// The guest was accepted but did not start; the message says why: 424.
    StartFailed,
    /// The host failed: 500.
    Internal,
    /// The host is overloaded or going down: 503.
    Unavailable,
    /// The disk is full: 507.
    DiskFull,
}

impl ErrorCode {
    /// The HTTP status that goes with it.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::TooSlow => 408,
            Self::Conflict | Self::Fenced | Self::Unsettled => 409,
            Self::TooLarge => 413,
            Self::Invalid => 422,
            Self::StartFailed => 424,
            Self::TooManyRequests => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
            Self::DiskFull => 507,
        }
    }
}
