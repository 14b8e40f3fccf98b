//! What is on disk of a guest that may be another host's: from before it is stopped until that is settled.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use roam_sdn::model::{Generation, Incarnation};
use roam_snapshot::protocol::SessionId;
use serde::{Deserialize, Serialize};

use crate::api::GuestName;
use crate::host::layout::write_whole;

/// Longest file that is read, bytes.
const FILE_BYTES_MAX: u64 = 4096;

/// A session whose token may have been sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Handover {
    pub(super) session: SessionId,
    /// To whom.
    pub(super) to: GuestName,
    /// Where that host takes migrations.
    pub(super) at: SocketAddr,
    /// The generation that ends; none without a controller.
    pub(super) generation: Option<Generation>,
    /// The controller as it was before: one that was restarted since may have forgotten what it granted.
    pub(super) incarnation: Option<Incarnation>,
}

impl Handover {
    pub(super) fn keep(&self, path: &Path) -> io::Result<()> {
        write_whole(path, &serde_json::to_vec(self)?)
    }

    /// `None` if there is none.
    pub(super) fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.len() > FILE_BYTES_MAX => Err(io::ErrorKind::FileTooLarge.into()),
            Ok(_) => Ok(Some(serde_json::from_slice(&fs::read(path)?)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
