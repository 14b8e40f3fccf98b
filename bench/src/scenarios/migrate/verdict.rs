//! What clients noticed: each migration's time beside the time without any.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::Result;
use roam_runtime::api::MigrationReport;
use roam_runtime::load::Slice;
use serde_json::{Value, json};

use super::clients::{Asked, SLICE};
use super::rig::Migration;
use crate::output::Results;
use crate::scenarios::put_times;
use crate::stats::quantile;

/// How long after its end a migration may still be felt.
const AFTERMATH: Duration = Duration::from_millis(20);
/// Less of a time than that says nothing of a rate.
const SLICES_MIN: usize = 4;

/// A client, and what it sees without migrations.
pub(super) struct Noticed<'a> {
    asked: &'a Asked,
    steady_silence_us: u64,
    steady_per_s: f64,
}

impl<'a> Noticed<'a> {
    pub(super) fn new(asked: &'a Asked, steady: &Range<Instant>) -> Self {
        let slices = asked.slices(steady);
        Self { asked, steady_silence_us: silence_us(slices), steady_per_s: per_s(slices).unwrap_or(0.0) }
    }

    /// Of one migration; nothing of one that failed.
    pub(super) fn of(&self, migration: &Migration, link_bits_per_s: Option<u64>) -> Option<Results> {
        let report = migration.view.report.as_ref()?;
        let silence_us = silence_us(self.asked.slices(&(migration.began..migration.ended + AFTERMATH)));
        let mut results = split(report);
        results.insert("silence_us".into(), json!(silence_us));
        results.insert("silence_beyond_us".into(), json!(silence_us.saturating_sub(self.steady_silence_us)));
        results.insert("steady_silence_us_max".into(), json!(self.steady_silence_us));
        results.insert("steady_packets_per_s".into(), json!(self.steady_per_s));
        let progress = migration.view.progress;
        results.insert("memory_bytes".into(), json!(progress.memory_bytes));
        // By the first round, which is the longest: what is dirtied all the time shows least in it.
        let mut dirty = migration.seen.iter().map(|seen| seen.dirty_pages_per_s);
        if let Some(dirty) = dirty.find(|dirty| *dirty > 0) {
            results.insert("dirty_pages_per_ms".into(), json!(dirty as f64 / 1000.0));
        }
        // Of a link that is not limited the best round says how fast it is.
        let link = link_bits_per_s.map(|bits| bits / 8).or_else(|| greatest(migration, |seen| seen.link_bytes_per_s));
        if let Some(link) = link {
            let least_us = report.bytes_on_wire as f64 * 1e6 / link as f64;
            results.insert("link_bytes_per_s".into(), json!(link));
            results.insert("total_to_link".into(), json!(report.total_us as f64 / least_us));
        }
        if let Some(rate) = per_s(self.asked.slices(&while_copying(migration, report)))
            && self.steady_per_s > 0.0
        {
            results.insert("precopy_packets_per_s".into(), json!(rate));
            results.insert("precopy_to_steady".into(), json!(rate / self.steady_per_s));
        }
        Some(results)
    }

    /// Of all of them, and of the whole of the load.
    pub(super) fn summary(&self, migrations: &[Migration], link_bits_per_s: Option<u64>) -> Result<Results> {
        let Value::Object(mut results) = serde_json::to_value(&self.asked.report)? else {
            unreachable!("a report is an object")
        };
        // What was asked for stands in the parameters; the silence is that of migrations.
        for key in ["kind", "target", "rate", "payload", "connections", "seed", "silence_us_max", "silence_began_ms"] {
            results.remove(key);
        }
        let rounds: Vec<Results> =
            migrations.iter().filter_map(|migration| self.of(migration, link_bits_per_s)).collect();
        results.insert("migrations".into(), json!(rounds.len()));
        results.insert("migrations_failed".into(), json!(migrations.len() - rounds.len()));
        results.insert("steady_silence_us_max".into(), json!(self.steady_silence_us));
        results.insert("steady_packets_per_s".into(), json!(self.steady_per_s));
        let mut keys: Vec<&String> = rounds.iter().flat_map(|round| round.keys()).collect();
        keys.sort();
        keys.dedup();
        for key in keys.into_iter().filter(|key| !key.starts_with("steady_")) {
            put(&mut results, key, rounds.iter().filter_map(|round| round.get(key)?.as_f64()).collect());
        }
        Ok(results)
    }
}

/// A migration's own account.
fn split(report: &MigrationReport) -> Results {
    let values = [
        ("blackout_us", report.blackout_us),
        ("stop_us", report.stop_us),
        ("scan_us", report.scan_us),
        ("send_us", report.send_us),
        ("apply_us", report.apply_us),
        ("grant_us", report.grant_us),
        ("first_poll_us", report.first_poll_us),
        ("route_us", report.route_us),
        ("total_us", report.total_us),
        ("rounds", report.rounds.into()),
        ("pages_sent", report.pages_sent),
        ("pages_last", report.pages_last),
        ("bytes_on_wire", report.bytes_on_wire),
        ("frames_carried", report.frames_carried),
        ("frames_forwarded", report.frames_forwarded),
    ];
    values.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect()
}

/// From when it was asked for until the guest was told to stop.
fn while_copying(migration: &Migration, report: &MigrationReport) -> Range<Instant> {
    let after_us = report.stop_us + report.blackout_us + report.route_us;
    // Without the last slice, which is only partly in it.
    let copying = Duration::from_micros(report.total_us.saturating_sub(after_us)).saturating_sub(SLICE);
    migration.began..migration.began + copying
}

fn silence_us(slices: &[Slice]) -> u64 {
    slices.iter().map(|slice| slice.silence_us.into()).max().unwrap_or(0)
}

fn per_s(slices: &[Slice]) -> Option<f64> {
    let replies: u64 = slices.iter().map(|slice| u64::from(slice.replies)).sum();
    (slices.len() >= SLICES_MIN).then(|| replies as f64 / (slices.len() as f64 * SLICE.as_secs_f64()))
}

/// The greatest that was told; nothing where it was never known.
fn greatest(migration: &Migration, of: impl Fn(&roam_runtime::api::MigrationProgress) -> u64) -> Option<u64> {
    migration.seen.iter().map(of).max().filter(|value| *value > 0)
}

/// Median, 99 percent and most; of what clients got meanwhile the least, too.
fn put(results: &mut Results, key: &str, values: Vec<f64>) {
    if let Some(name) = key.strip_suffix("_us") {
        return put_times(results, name, &mut values.iter().map(|us| (us * 1000.0) as u64).collect::<Vec<_>>());
    }
    // Quantiles are of whole numbers; shares keep three decimals.
    let mut thousandths: Vec<u64> = values.iter().map(|value| (value * 1000.0) as u64).collect();
    for (suffix, share) in [("min", 0.0), ("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        if suffix != "min" || key.starts_with("precopy") {
            results.insert(format!("{key}_{suffix}"), json!(quantile(&mut thousandths, share) as f64 / 1000.0));
        }
    }
}
