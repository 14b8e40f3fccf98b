//! A module that the target lacks, as it comes from the source.

use bytes::Bytes;
use futures_util::stream;
use roam_snapshot::protocol::{Reason, ReasonCode};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Migrator, reason};
use crate::engine::ModuleHash;
use crate::host::HostError;

/// Pieces that wait for the disk.
const PIECES_MAX: usize = 8;

/// Goes the way of any module: checked by digest and size, compiled in a jail, kept when that is done.
pub(super) struct IncomingModule {
    pieces: Option<mpsc::Sender<Result<Bytes, std::io::Error>>>,
    kept: Option<JoinHandle<Result<bool, HostError>>>,
    left_bytes: u64,
    handle: tokio::runtime::Handle,
}

impl IncomingModule {
    pub(super) fn begin(migrator: &Migrator, digest: ModuleHash, bytes: u64) -> Self {
        let (pieces, arriving) = mpsc::channel(PIECES_MAX);
        let shared = migrator.shared.clone();
        let arriving = stream::unfold(arriving, async |mut arriving| Some((arriving.recv().await?, arriving)));
        let kept = migrator.handle.spawn(async move { shared.modules.put(digest, Box::pin(arriving)).await });
        Self { pieces: Some(pieces), kept: Some(kept), left_bytes: bytes, handle: migrator.handle.clone() }
    }

    /// Whether that was all of it, and it is kept.
    pub(super) fn add(&mut self, piece: &[u8]) -> Result<bool, Reason> {
        self.left_bytes = self.left_bytes.saturating_sub(piece.len() as u64);
        if let Some(pieces) = &self.pieces
            && pieces.blocking_send(Ok(Bytes::copy_from_slice(piece))).is_err()
        {
            // It was refused half-way; why is told below.
            self.left_bytes = 0;
        }
        if self.left_bytes > 0 {
            return Ok(false);
        }
        self.pieces = None;
        let Some(kept) = self.kept.take() else { return Ok(true) };
        match self.handle.block_on(kept) {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(error)) => Err(reason(ReasonCode::Module, &error)),
            Err(error) => Err(reason(ReasonCode::Closing, &error)),
        }
    }
}

impl Drop for IncomingModule {
    fn drop(&mut self) {
        // Half a module is none: the stream ends with an error.
        if let Some(pieces) = self.pieces.take() {
            let _ = pieces.try_send(Err(std::io::ErrorKind::UnexpectedEof.into()));
        }
    }
}
