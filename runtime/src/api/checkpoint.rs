//! Images of guests: taken, confirmed, and made guests again.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{GuestName, SpecError};

/// The header of a checkpoint's answer that has a [`CheckpointReport`], JSON on one line.
pub const CHECKPOINT_HEADER: &str = "roam-checkpoint";
/// Longest time for which writes are tracked for an image that may never be asked for, milliseconds.
const EXPECT_MORE_MS_MAX: u64 = 3_600_000;

/// What image is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"keep_running": true, "expect_more_ms": 15000}))]
pub struct CheckpointRequest {
    /// Whether the guest goes on. Otherwise it stays frozen until the image is confirmed, and ends with that.
    #[serde(default)]
    #[schema(default = false)]
    pub keep_running: bool,
    /// The image, by its digest, that this one may rest on: then it has only what changed since, if the host still knows that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9a-f]{64}$")]
    pub follows: Option<String>,
    /// Which image of the guest this is to be, if it has everything; one that follows another is one more than that.
    #[serde(default)]
    #[schema(default = 0)]
    pub sequence: u64,
    /// How long what is written is tracked for an image that follows this one, milliseconds. Only with `keep_running`.
    #[serde(default)]
    #[schema(default = 0, maximum = 3600000)]
    pub expect_more_ms: u64,
}

impl CheckpointRequest {
    /// Checks what can be checked without a host.
    pub fn check(&self) -> Result<(), SpecError> {
        let (field, value, max) = ("expect_more_ms", self.expect_more_ms, EXPECT_MORE_MS_MAX);
        if value <= max { Ok(()) } else { Err(SpecError::Range { field, value, min: 0, max }) }
    }
}

/// What a checkpoint came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckpointReport {
    /// Of the image: it is known by this.
    pub digest: String,
    /// The image that it follows, if it has only what changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Which image of the guest it is.
    pub sequence: u64,
    /// When the guest was stopped for it, milliseconds since 1970.
    pub created_ms: u64,
    /// Bytes of its file.
    pub bytes: u64,
    /// Pages that were read into it, those that were read again not counted twice.
    pub pages: u64,
    /// Pages that were read while the guest was stopped.
    pub pages_last: u64,
    /// Frames that waited for the guest.
    pub frames: u64,
    /// How often what had changed was read while the guest ran.
    pub rounds: u32,
    /// How long the guest was stopped, microseconds; none of one that ends with this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blackout_us: Option<u64>,
    /// From the request until the image was whole, microseconds.
    pub total_us: u64,
}

/// How a guest is restored. What is left out is as in the image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RestoreRequest {
    /// What it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub name: Option<GuestName>,
    /// IPv4 address; the prefix may be left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(example = "10.90.0.11/16")]
    pub ip: Option<String>,
    /// IPv6 address; the prefix may be left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(example = "fd90::11/64")]
    pub ip6: Option<String>,
}
