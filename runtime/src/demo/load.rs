//! What `roam load` measures against the guests, as a user would call it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Options;
use super::show::Show;
use super::stage::{ECHO, KV, SQUARE, Stage, WEB};
use crate::lab::LabError;

/// What a run may take beyond its duration: to connect, to wait for late replies, to report.
const MARGIN: Duration = Duration::from_secs(15);

/// One run of `roam load`, with its own names for what it counts.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Row {
    #[serde(default)]
    pub(super) name: String,
    /// Why there are no numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) failure: Option<String>,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    pub(super) corrupted: u64,
    pub(super) resets: u64,
    pub(super) rtt_us_p50: f64,
    pub(super) rtt_us_p99: f64,
    pub(super) rtt_us_p999: f64,
    pub(super) rtt_us_max: f64,
    pub(super) silence_us_max: f64,
}

impl Row {
    /// Whether something came back, and all of it, once and whole.
    pub(super) fn clean(&self) -> bool {
        self.failure.is_none()
            && self.received > 0
            && [self.lost, self.duplicated, self.corrupted, self.resets].iter().all(|count| *count == 0)
    }
}

pub(super) fn run(stage: &Stage, options: &Options, show: &mut Show) -> Vec<Row> {
    let measure = |(name, arguments): (&str, String)| {
        let arguments = format!("{arguments} --duration {:?} --json", options.duration);
        show.command(&format!("roam load {arguments}"));
        let row = match measure(stage, options, &arguments) {
            Ok(row) => row,
            Err(failure) => Row { failure: Some(failure), ..Row::default() },
        };
        Row { name: name.into(), ..row }
    };
    let rows = runs().into_iter().map(measure).collect::<Vec<_>>();
    show.table(&rows);
    rows
}

/// Rates that leave a small machine idle most of the time: the demo shows that all is well, not how much goes. A stream
/// has no round trips: its row says how late its pieces came.
fn runs() -> Vec<(&'static str, String)> {
    vec![
        ("udp-square", format!("udp-square {}:7000 --rate 2000", SQUARE.ip)),
        ("udp-echo", format!("udp-echo {}:7 --rate 5000", ECHO.ip)),
        ("udp-echo, IPv6", format!("udp-echo [{}]:7 --rate 5000", ECHO.ip6)),
        ("tcp-echo", format!("tcp-echo {}:7 --rate 5000 --connections 4", ECHO.ip)),
        ("kv", format!("kv {}:11211 --rate 5000 --connections 4", KV.ip)),
        ("stream, lateness", format!("http-stream {}:80 --bandwidth 50Mbit --connections 2", WEB.ip)),
    ]
}

fn measure(stage: &Stage, options: &Options, arguments: &str) -> Result<Row, String> {
    let line = format!("{} load {arguments}", options.roam.display());
    // One line of it: the table has no room for more.
    let said = |error: LabError| error.line().lines().next().unwrap_or_default().to_owned();
    // Its exit code repeats what its report says: the report decides.
    let finished = stage.client.call(&line, b"", options.duration + MARGIN).map_err(said)?;
    let text = finished.text();
    match text.lines().last().map(serde_json::from_str::<Row>) {
        Some(Ok(row)) => Ok(row),
        Some(Err(error)) => Err(format!("a report that cannot be read ({error}): {text}")),
        None => finished.success().map_err(said).and_then(|_| Err("no report".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clean_run_counts_as_one() {
        let report = r#"{"sent":5,"received":5,"lost":0,"duplicated":0,"reordered":0,"corrupted":0,"resets":0,
            "rtt_us_p50":40,"rtt_us_p99":80.5,"rtt_us_p999":90,"rtt_us_max":100,"silence_us_max":1000}"#;
        let row: Row = serde_json::from_str(report).unwrap();
        assert!(row.clean());
        assert!(!Row { lost: 1, ..row }.clean());
        assert!(!Row::default().clean(), "nothing received is no success");
    }
}
