//! Latency over time, with the migrations marked: one panel a guest, as SVG.

use std::fs;
use std::io;
use std::path::Path;

use plotters::prelude::*;

use super::DemoError;
use super::load::Run;
use super::moves::Moved;
use crate::load::Sample;

const WIDTH: u32 = 1100;
const PANEL_HEIGHT: u32 = 240;
/// What the axis of latencies has, ms; longer where something took longer.
const LATENCY_MS: (f64, f64) = (0.01, 10.0);
const CURVE: RGBColor = RGBColor(0x1f, 0x5f, 0x8b);
const MARK: RGBColor = RGBColor(0xc0, 0x39, 0x2b);
const FONT: &str = "sans-serif";

/// One guest's part of the picture. Times in seconds from the beginning of its load.
struct Panel<'a> {
    title: String,
    samples: &'a [Sample],
    duration_s: f64,
    /// When the guest was on its way: from the request until the route led to the target.
    marks: Vec<(f64, f64)>,
}

/// Draws and writes it. Nothing is written if it cannot be drawn.
pub(super) fn write(path: &Path, runs: &[Run], moves: &[Moved]) -> Result<(), DemoError> {
    let panels: Vec<Panel<'_>> = runs.iter().map(|run| Panel::of(run, moves)).collect();
    let problem =
        |error: DrawingAreaErrorKind<io::Error>| DemoError::Picture { path: path.into(), problem: error.to_string() };
    let mut text = String::new();
    draw(&mut text, &panels).map_err(problem)?;
    fs::write(path, text).map_err(|source| DemoError::File { path: path.into(), source })
}

impl<'a> Panel<'a> {
    fn of(run: &'a Run, moves: &[Moved]) -> Self {
        let name = run.offer.role.name;
        let at = |time: std::time::Instant| match time.checked_duration_since(run.began) {
            Some(after) => after.as_secs_f64(),
            None => -run.began.duration_since(time).as_secs_f64(),
        };
        let its = moves.iter().filter(|moved| moved.guest == name);
        Self {
            title: format!("{name}: {}", run.offer.measured),
            samples: &run.report.samples,
            duration_s: run.report.duration_s,
            marks: its.map(|moved| (at(moved.began), at(moved.ended))).collect(),
        }
    }

    /// Seconds and milliseconds. What took no time at all has no place on an axis of powers.
    fn points(&self) -> Vec<(f64, f64)> {
        let point = |sample: &Sample| (sample.sent_us as f64 / 1e6, (sample.rtt_us as f64 / 1e3).max(LATENCY_MS.0));
        let mut points: Vec<_> = self.samples.iter().map(point).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    }
}

fn draw(text: &mut String, panels: &[Panel<'_>]) -> Result<(), DrawingAreaErrorKind<io::Error>> {
    let area = SVGBackend::with_string(text, (WIDTH, 40 + PANEL_HEIGHT * panels.len() as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let head = "Latency that clients saw while their servers moved between two hosts (red: a migration)";
    let area = area.titled(head, (FONT, 18))?;
    for (part, panel) in area.split_evenly((panels.len(), 1)).iter().zip(panels) {
        let points = panel.points();
        let slowest = points.iter().map(|(_, ms)| *ms).fold(LATENCY_MS.1, f64::max);
        let mut chart = ChartBuilder::on(part)
            .caption(&panel.title, (FONT, 15))
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..panel.duration_s.max(0.1), (LATENCY_MS.0..slowest * 1.5).log_scale())?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_labels(11)
            .x_label_formatter(&|s| format!("{s:.0} s"))
            .y_labels(5)
            .y_label_formatter(&|ms| format!("{} ms", (ms * 100.0).round() / 100.0))
            .label_style((FONT, 12))
            .draw()?;
        let mark = |(from, to): &(f64, f64)| {
            let to = to.max(from + panel.duration_s / f64::from(WIDTH));
            Rectangle::new([(*from, LATENCY_MS.0), (to, slowest * 1.5)], MARK.mix(0.35).filled())
        };
        chart.draw_series(panel.marks.iter().map(mark))?;
        chart.draw_series([PathElement::new(points, CURVE.stroke_width(1))])?;
    }
    area.present()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guest_and_every_migration_is_in_it() {
        let samples: Vec<Sample> = (0..100).map(|n| Sample { sent_us: n * 10_000, rtt_us: n % 7 * 100 }).collect();
        let panel = |title: &str, marks| Panel { title: title.into(), samples: &samples, duration_s: 1.0, marks };
        let panels = [panel("one", vec![(0.2, 0.2004), (0.6, 0.65)]), panel("two", vec![]), panel("none", vec![])];
        let mut text = String::new();
        draw(&mut text, &panels).unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"), "{text}");
        for title in ["one", "two", "none"] {
            assert!(text.contains(title), "{title}");
        }
        assert_eq!(text.matches("#C0392B").count(), 2, "{text}");
    }
}
