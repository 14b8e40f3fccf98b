//! How an image comes to be a file.

use std::fs::File;
use std::io::{BufReader, Seek};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use roam_snapshot::image::file::Unfinished;
use roam_snapshot::image::verify;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::print;
use crate::api::client::{Client, ImageStream};
use crate::api::{CheckpointReport, CheckpointRequest, GuestName};

/// What Ctrl-C and a polite end are answered with.
const INTERRUPTED: u8 = 130;
const TERMINATED: u8 = 143;
/// Bytes read at once to check an image.
const CHECK_BYTES: usize = 1 << 20;

/// Somebody wants this to end.
pub(super) struct Interrupt {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupt {
    /// From now on the signals do nothing else.
    pub(super) fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("waiting for signals");
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Returns when it has come: with what to exit.
    pub(super) async fn came(&mut self) -> ExitCode {
        tokio::select! {
            _ = self.interrupt.recv() => ExitCode::from(INTERRUPTED),
            _ = self.terminate.recv() => ExitCode::from(TERMINATED),
        }
    }
}

/// Whether a guest ended with its image.
pub(super) enum Ended {
    Yes,
    No(anyhow::Error),
}

/// Has an image taken, and writes it into a file, where all of it is checked. The guest waits as long as the stream is
/// there, if it is to end.
pub(super) async fn fetch(
    client: &Client,
    name: &GuestName,
    request: &CheckpointRequest,
    unfinished: &Unfinished,
) -> Result<ImageStream> {
    let mut stream = client.checkpoint(name, request).await?;
    let bar = print::bar(format!("fetching {name}"), stream.report.bytes);
    let file = unfinished.file().try_clone().context("cannot write the image")?;
    stream.read(tokio::fs::File::from_std(file), bar.position()).await?;
    let (file, expected) = (unfinished.file().try_clone()?, stream.report.digest.clone());
    let checked = tokio::task::spawn_blocking(move || check(file, &expected)).await;
    checked.context("checking the image")??;
    Ok(stream)
}

fn check(mut file: File, expected: &str) -> Result<()> {
    file.rewind().context("cannot read the image")?;
    let image = verify(BufReader::with_capacity(CHECK_BYTES, file)).context("what the host sent")?;
    if image.digest.to_string() != expected {
        bail!("the host sent image {}, and said {expected}", image.digest);
    }
    Ok(())
}

/// Gives the file its name, durably.
pub(super) async fn keep(unfinished: Unfinished) -> Result<()> {
    let kept = tokio::task::spawn_blocking(move || unfinished.keep()).await;
    Ok(kept.context("keeping the image")??)
}

/// Says that the image is safe.
pub(super) async fn confirm(client: &Client, name: &GuestName, report: &CheckpointReport) -> Ended {
    match client.keep_checkpoint(name, &report.digest).await {
        Ok(_stopped) => Ended::Yes,
        Err(error) => Ended::No(error.into()),
    }
}
