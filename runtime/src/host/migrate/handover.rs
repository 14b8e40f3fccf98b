//! What is on disk of a guest that is being moved: from before its pages are sent until it is settled whose it is.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use roam_sdn::model::{Generation, Incarnation};
use roam_snapshot::protocol::SessionId;
use serde::{Deserialize, Serialize};

use super::mark::Mark;
use crate::ambient::boot_id;
use crate::api::GuestName;
use crate::host::layout::{self, Layout, write_whole};
use crate::host::record::Record;

/// Longest file that is read, bytes.
const FILE_BYTES_MAX: u64 = 4096;

/// A session that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::host) struct Handover {
    pub(super) session: SessionId,
    /// To whom.
    pub(in crate::host) to: GuestName,
    /// Where that host takes migrations.
    pub(super) at: SocketAddr,
    /// The generation that ends; none without a controller.
    pub(super) generation: Option<Generation>,
    /// The controller as it was before: one that was restarted since may have forgotten what it granted.
    pub(super) incarnation: Option<Incarnation>,
    /// In which boot of the machine: what was left beside this without waiting for the disk is of no use in another.
    pub(super) boot: String,
}

/// What may have been said in it, as a [`Mark`] beside it tells a restarted daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Said {
    /// Nothing that makes the guest another host's, nor its address.
    #[default]
    Nothing,
    /// The claim: the address may be the target's.
    Claim,
    /// The token: the guest may be the target's.
    Token,
}

impl Said {
    /// Leaves word of it.
    pub(super) fn note(self, mark: &Mark) -> io::Result<()> {
        mark.set(self as u8)
    }

    /// The last word of it. What cannot be read may say anything.
    fn read(path: &Path) -> Self {
        match Mark::read(path) {
            Ok(None) => Self::Nothing,
            Ok(Some(byte)) if byte == Self::Claim as u8 => Self::Claim,
            Ok(Some(_)) | Err(_) => Self::Token,
        }
    }
}

impl Handover {
    pub(super) fn keep(&self, path: &Path) -> io::Result<()> {
        write_whole(path, &serde_json::to_vec(self)?)
    }

    /// What the last daemon may have said in it, by the mark beside it.
    pub(super) fn said(&self, mark: &Path) -> Said {
        if self.boot == boot_id() { Said::read(mark) } else { Said::Token }
    }

    /// It is settled: nothing is noted any more. What is left after a crash is settled once more, and found to be settled.
    pub(in crate::host) fn forget(layout: &Layout, record: &Record) {
        // In this order: a mark alone says nothing.
        let removed =
            layout::remove(&layout.handover(record.id)).and_then(|()| layout::remove(&layout.handed(record.id)));
        if let Err(error) = removed {
            tracing::warn!(guest = %record.spec.name, %error, "what is noted of a migration stays");
        }
    }

    /// `None` if there is none.
    pub(in crate::host) fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.len() > FILE_BYTES_MAX => Err(io::ErrorKind::FileTooLarge.into()),
            Ok(_) => Ok(Some(serde_json::from_slice(&fs::read(path)?)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
