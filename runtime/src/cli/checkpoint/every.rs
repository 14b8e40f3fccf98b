//! Images one after the other, until somebody says that it is enough.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use roam_snapshot::image::file::{Unfinished, sweep};
use tokio::time::{MissedTickBehavior, interval};

use super::fetch::{self, Interrupt};
use super::{Arguments, Report, directory, show};
use crate::api::{CheckpointReport, CheckpointRequest, ErrorCode, GuestState, GuestView, MacText};
use crate::cli::config::Config;
use crate::cli::exit::{self, Usage};
use crate::cli::fleet;
use crate::cli::target::{HostFlags, Target, Targets};

/// Shortest time between two images.
const EVERY_MIN: Duration = Duration::from_millis(100);
/// How long after the next image is due a host still knows what changed since the last.
const PATIENCE: Duration = Duration::from_secs(10);

/// Images of a guest, as far as they are taken.
struct Series<'a> {
    arguments: &'a Arguments,
    config: &'a Config,
    every: Duration,
    /// Where the guest is; `None` when that is to be found out.
    target: Option<Target>,
    /// What it is known by: its name may be another's elsewhere.
    mac: MacText,
    /// The last image, and its number.
    last: Option<String>,
    sequence: u64,
}

pub(super) async fn run(arguments: &Arguments, config: &Config, every: Duration) -> Result<ExitCode> {
    if every < EVERY_MIN {
        return Err(Usage(format!("--every is {every:?}; it must be at least {EVERY_MIN:?}")).into());
    }
    let mut interrupt = Interrupt::listen()?;
    let directory = &arguments.output;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.with_context(|| format!("cannot use {}", directory.display()))?;
    sweep(directory)?;
    let sequence = directory::last(directory, &arguments.name)?.map_or(0, |meta| meta.sequence + 1);
    let target = fleet::holder(&arguments.host, config, &arguments.name, "--host").await?;
    let mac = target.client.inspect(&arguments.name).await?.network.mac;
    let mut series = Series { arguments, config, every, target: Some(target), mac, last: None, sequence };
    let mut ticks = interval(every);
    // An image that takes longer than that is followed by the next at once, not by several.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut first = true;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = interrupt.came() => return Ok(ExitCode::SUCCESS),
        }
        let taken = tokio::select! {
            taken = series.take() => taken,
            _ = interrupt.came() => return Ok(ExitCode::SUCCESS),
        };
        match taken {
            Ok(()) => tidy(arguments).await?,
            // Nothing of it has ever worked, or there is no such guest anywhere.
            Err(error) if first || is_over(&error) => return Err(error),
            Err(error) => exit::complain(&error.context("no image this time; the next is tried, and has everything")),
        }
        first = false;
    }
}

async fn tidy(arguments: &Arguments) -> Result<()> {
    let (directory, keep) = (arguments.output.clone(), arguments.keep);
    tokio::task::spawn_blocking(move || directory::tidy(&directory, keep)).await.context("tidying up")?
}

fn is_over(error: &anyhow::Error) -> bool {
    exit::of(error) == exit::NOT_FOUND
}

impl Series<'_> {
    /// One image. After a failure the next has everything, wherever the guest is then.
    async fn take(&mut self) -> Result<()> {
        let target = match self.target.take() {
            Some(target) => target,
            None => self.find().await?,
        };
        let follows = self.last.take();
        let taken = match self.fetch(&target, follows.clone()).await {
            // It is elsewhere by now.
            Err(error) if is_elsewhere(&error) => {
                let target = self.find().await?;
                eprintln!("roam: {} is on {} now", self.arguments.name, target.name);
                self.fetch(&target, None).await.map(|report| (report, target))
            }
            taken => taken.map(|report| (report, target)),
        };
        let (report, target) = taken?;
        if follows.is_some() && report.parent.is_none() {
            eprintln!(
                "roam: image {} has everything: its host does not know what changed since the last",
                report.sequence
            );
        }
        self.sequence = report.sequence + 1;
        self.last = Some(report.digest);
        self.target = Some(target);
        Ok(())
    }

    /// On whichever host that is known here, also if one was named: guests move.
    async fn find(&self) -> Result<Target> {
        let name = &self.arguments.name;
        let anywhere = HostFlags { host: None, ..self.arguments.host.clone() };
        if let Ok(all) = Targets::new(&anywhere, self.config).all() {
            let asked = fleet::ask(&all, async |target| Ok(target.client.list().await?)).await;
            let is_it = |guest: &GuestView| guest.spec.name == *name && guest.network.mac == self.mac;
            let runs = |guest: &GuestView| is_it(guest) && guest.state == GuestState::Running;
            let here = asked.ok().and_then(|asked| {
                let mut answers = asked.answers.into_iter();
                answers.find_map(|(host, guests)| guests.iter().any(runs).then_some(host))
            });
            if let Some(target) = all.into_iter().find(|target| Some(&target.name) == here.as_ref()) {
                return Ok(target);
            }
        }
        // Not known to be elsewhere.
        fleet::holder(&self.arguments.host, self.config, name, "--host").await
    }

    async fn fetch(&self, target: &Target, follows: Option<String>) -> Result<CheckpointReport> {
        let Arguments { name, output, json, .. } = self.arguments;
        let expect_more = self.every * 2 + PATIENCE;
        let request = CheckpointRequest {
            keep_running: true,
            follows,
            sequence: self.sequence,
            expect_more_ms: u64::try_from(expect_more.as_millis()).unwrap_or(u64::MAX),
        };
        let beside = directory::path(output, self.sequence);
        let unfinished = Unfinished::begin(&beside)?;
        let stream = fetch::fetch(&target.client, name, &request, &unfinished).await?;
        fetch::keep(unfinished).await?;
        self.show(target, &beside, &stream.report, *json)?;
        Ok(stream.report)
    }

    fn show(&self, target: &Target, file: &Path, image: &CheckpointReport, json: bool) -> Result<()> {
        let guest = &self.arguments.name;
        show(&Report { guest, host: &target.name, file, keeps_running: true, image }, json)
    }
}

/// Whether the guest may be on another host.
fn is_elsewhere(error: &anyhow::Error) -> bool {
    let refused = error.downcast_ref::<crate::api::client::ClientError>().and_then(|error| error.code());
    refused == Some(ErrorCode::NotFound)
}
