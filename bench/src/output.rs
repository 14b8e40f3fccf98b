//! What a run prints: JSON lines, or a table.

use serde_json::{Map, Value, json};

use crate::environment::Environment;
use crate::params::Params;
use crate::scenarios::Scenario;

/// What one engine did: names of results to numbers.
pub(crate) type Results = Map<String, Value>;

/// A column of the table for people.
#[derive(Debug)]
pub(crate) struct Column {
    /// The result shown.
    pub(crate) key: &'static str,
    /// What stands above it, the unit included.
    pub(crate) heading: &'static str,
    /// How many of the result's unit make one of the heading's.
    pub(crate) scale: f64,
}

impl Column {
    pub(crate) const fn new(key: &'static str, heading: &'static str) -> Self {
        Self { key, heading, scale: 1.0 }
    }

    pub(crate) const fn scaled(key: &'static str, heading: &'static str, scale: f64) -> Self {
        Self { key, heading, scale }
    }
}

/// Where records go.
pub(crate) struct Output {
    scenario: &'static Scenario,
    params: Value,
    environment: Environment,
    json: bool,
    summaries: Vec<(String, Results)>,
}

impl Output {
    pub(crate) fn new(scenario: &'static Scenario, params: &Params, environment: Environment, json: bool) -> Self {
        let params = params.to_json();
        if !json {
            println!("{}: {}", scenario.name, scenario.question);
            let values = params.as_object().into_iter().flatten();
            let shown: Vec<String> = values.map(|(name, value)| format!("{name}={}", plain(value))).collect();
            println!("  {}\n  {}", shown.join(" "), environment.headline());
        }
        Self { scenario, params, environment, json, summaries: Vec::new() }
    }

    /// What is being done, for who waits.
    pub(crate) fn progress(&self, doing: &str) {
        if !self.json {
            eprintln!("  … {doing}");
        }
    }

    /// One engine in one round, from 1.
    pub(crate) fn round(&mut self, engine: &str, round: u32, results: &Results) {
        if self.json {
            self.line(engine, Some(round), results);
        } else {
            let shown: Vec<String> = self.scenario.columns.iter().filter_map(|column| cell(column, results)).collect();
            eprintln!("  round {round} {engine}: {}", shown.join("  "));
        }
    }

    /// One engine over all rounds.
    pub(crate) fn summary(&mut self, engine: &str, results: Results) {
        if self.json {
            self.line(engine, None, &results);
        } else {
            self.summaries.push((engine.to_owned(), results));
        }
    }

    /// Prints the table, if that is what was asked for.
    pub(crate) fn finish(self) {
        if !self.json {
            print!("{}", table(self.scenario.columns, &self.summaries));
        }
    }

    fn line(&self, engine: &str, round: Option<u32>, results: &Results) {
        let record = json!({
            "scenario": self.scenario.name,
            "engine": engine,
            "params": self.params,
            "results": results,
            "environment": self.environment.of_round(round),
        });
        println!("{record}");
    }
}

/// One line for each engine; a column that no engine has is left out.
fn table(columns: &[Column], rows: &[(String, Results)]) -> String {
    let used = columns.iter().filter(|column| rows.iter().any(|(_, results)| results.contains_key(column.key)));
    let mut lines = vec![vec!["engine".to_owned()]];
    lines.extend(rows.iter().map(|(engine, _)| vec![engine.clone()]));
    for column in used {
        lines[0].push(column.heading.to_owned());
        for (line, (_, results)) in lines[1..].iter_mut().zip(rows) {
            line.push(value(column, results).unwrap_or_else(|| "-".into()));
        }
    }
    let width = |index: usize| lines.iter().map(|line| line[index].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        for (index, (cell, width)) in line.iter().zip(&widths).enumerate() {
            // Names to the left, numbers to the right.
            let padded = if index == 0 { format!("{cell:<width$}") } else { format!("  {cell:>width$}") };
            text.push_str(&padded);
        }
        text.push('\n');
    }
    text
}

fn cell(column: &Column, results: &Results) -> Option<String> {
    Some(format!("{} {}", column.heading, value(column, results)?))
}

fn value(column: &Column, results: &Results) -> Option<String> {
    results.get(column.key)?.as_f64().map(|value| number(value / column.scale))
}

/// Three digits or more, no more decimals than that takes.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up_and_leaves_out_what_nobody_has() {
        let columns =
            [Column::scaled("rate", "k/s", 1000.0), Column::new("nothing", "x"), Column::new("ratio", "ratio")];
        let rows = [("a", json!({"rate": 123_456, "ratio": 0.5})), ("longer", json!({"rate": 7000.0}))];
        let rows = rows.map(|(engine, results)| (engine.to_owned(), results.as_object().unwrap().clone()));
        assert_eq!(table(&columns, &rows), "engine  k/s  ratio\na       123  0.500\nlonger    7      -\n");
    }

    #[test]
    fn numbers_are_short() {
        let shown = [0.0, 12.0, 0.1234, 1.234, 12.34, 1234.5].map(number);
        assert_eq!(shown, ["0", "12", "0.123", "1.23", "12.3", "1234"]);
    }
}
