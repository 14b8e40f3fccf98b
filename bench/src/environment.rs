//! Where and when a result was measured.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// What a result depends on beside its parameters.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Environment {
    /// Of the source this was built from; `-dirty` if it had changes on top.
    commit: &'static str,
    kernel: String,
    /// Cores this process may use.
    cores: usize,
    cpu: String,
    seed: u64,
    /// When the run began, RFC 3339.
    date: String,
    /// Rounds of the run.
    repeats: u32,
    /// Which of them this is, from 1; `null` for a summary over all.
    repeat: Option<u32>,
}

impl Environment {
    pub(crate) fn new(seed: u64, repeats: u32) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            commit: env!("ROAM_COMMIT"),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| cpu_model(&text)).unwrap_or_default(),
            seed,
            date: rfc3339(now.as_secs()),
            repeats,
            repeat: None,
        }
    }

    pub(crate) fn of_round(&self, round: Option<u32>) -> Self {
        Self { repeat: round, ..self.clone() }
    }

    /// One line for people.
    pub(crate) fn headline(&self) -> String {
        let Self { commit, kernel, cores, cpu, date, .. } = self;
        format!("{date}, commit {commit}, Linux {kernel}, {cores} cores, {cpu}")
    }
}

fn cpu_model(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// UTC, by the civil-from-days method (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn rfc3339(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }

    #[test]
    fn the_cpu_is_named() {
        assert_eq!(cpu_model("processor\t: 0\nmodel name\t: A: B\n"), Some("A: B".into()));
        assert_eq!(cpu_model("processor\t: 0\n"), None);
    }
}
