//! A latency plot: what share of the wake-ups came later than a given time, as an SVG file.
//!
//! Both axes are logarithmic. The share does not depend on the width of anybody's histogram
//! buckets, so curves from different tools compare, and the tail, which is what matters, is drawn
//! as large as the rest.

use std::path::Path;

use plotters::prelude::{
    BLACK, ChartBuilder, Color, IntoDrawingArea, IntoLogRange, PathElement, RGBColor, SVGBackend,
    SeriesLabelPosition, WHITE,
};
use plotters::series::LineSeries;

/// One curve: its legend and its histogram, ascending.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Text in the legend.
    pub name: String,
    /// (upper edge in µs, samples in that bucket).
    pub buckets: Vec<(f64, u64)>,
}

/// Why no plot was written.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw the latency plot {path}: {reason}")]
pub struct PlotError {
    path: String,
    reason: String,
}

/// A blue and an orange that differ in lightness too, for readers who see few colours.
const COLOURS: [RGBColor; 2] = [RGBColor(31, 119, 180), RGBColor(230, 120, 10)];
/// Smallest time on the axis, µs.
const LEAST_US: f64 = 1.0;

/// Draws `curves` (at most two) to `path`.
///
/// # Errors
/// When the file cannot be written.
pub fn latency(path: &Path, title: &str, curves: &[Curve]) -> Result<(), PlotError> {
    draw(path, title, curves).map_err(|reason| PlotError {
        path: path.display().to_string(),
        reason,
    })
}

fn draw(path: &Path, title: &str, curves: &[Curve]) -> Result<(), String> {
    let edges = curves
        .iter()
        .flat_map(|curve| curve.buckets.iter().map(|(us, _)| *us));
    let most_us = edges.clone().fold(10.0, f64::max);
    let least_us = edges.fold(most_us, f64::min).max(LEAST_US);
    let samples = |curve: &Curve| {
        curve
            .buckets
            .iter()
            .map(|(_, samples)| samples)
            .sum::<u64>()
    };
    let most_samples = curves.iter().map(samples).fold(10, u64::max);
    let area = SVGBackend::new(path, (900, 480)).into_drawing_area();
    let text = |error: plotters::drawing::DrawingAreaErrorKind<std::io::Error>| error.to_string();
    area.fill(&WHITE).map_err(text)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(14)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(
            (least_us * 0.8..most_us * 1.2).log_scale(),
            (0.5 / most_samples as f64..1.2).log_scale(),
        )
        .map_err(text)?;
    chart
        .configure_mesh()
        .x_desc("wake-up lateness, µs (virtual machine: compare the curves, not the numbers)")
        .y_desc("share of wake-ups that came later")
        .light_line_style(WHITE.mix(0.0))
        .x_label_formatter(&|value| format!("{value:.0}"))
        .y_label_formatter(&|share| percentage(*share))
        .draw()
        .map_err(text)?;
    for (curve, colour) in curves.iter().zip(COLOURS) {
        let steps = later_than(&curve.buckets);
        chart
            .draw_series(LineSeries::new(steps, colour.stroke_width(2)))
            .map_err(text)?
            .label(curve.name.clone())
            .legend(move |(x, y)| {
                PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2))
            });
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.3))
        .draw()
        .map_err(text)?;
    area.present().map_err(text)
}

/// A share as people read it: `100 %`, `0.1 %`.
fn percentage(share: f64) -> String {
    let percent = share * 100.0;
    let digits = if percent >= 1.0 {
        0
    } else {
        (-percent.log10()).ceil() as usize
    };
    format!("{percent:.digits$} %")
}

/// The corner points of the falling steps: beyond each bucket's upper edge, the share still to
/// come. The last step falls to nothing, which a logarithmic axis does not have: it ends there.
fn later_than(buckets: &[(f64, u64)]) -> Vec<(f64, f64)> {
    let total: u64 = buckets.iter().map(|(_, samples)| samples).sum();
    let mut points = Vec::with_capacity(2 * buckets.len());
    let mut left = total;
    for (edge_us, samples) in buckets {
        let edge_us = edge_us.max(LEAST_US);
        points.push((edge_us, left as f64 / total as f64));
        left -= samples;
        if left > 0 {
            points.push((edge_us, left as f64 / total as f64));
        }
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_names_both_curves() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("latency.svg");
        let curve = |name: &str| Curve {
            name: name.to_owned(),
            buckets: vec![(5.0, 10), (10.0, 2000), (400.0, 1)],
        };
        latency(&path, "title", &[curve("kairo-rt"), curve("cyclictest")]).expect("drawn");
        let text = std::fs::read_to_string(&path).expect("read");
        assert!(text.contains("<svg") && text.contains("kairo-rt") && text.contains("cyclictest"));
    }

    #[test]
    fn the_share_falls_from_all_to_the_last_sample() {
        let points = later_than(&[(5.0, 1), (10.0, 2), (400.0, 1)]);
        assert_eq!(points[0], (5.0, 1.0));
        assert_eq!(points[1], (5.0, 0.75));
        assert_eq!(*points.last().expect("a point"), (400.0, 0.25));
        assert_eq!(
            (percentage(1.0), percentage(0.001)),
            ("100 %".into(), "0.1 %".into())
        );
    }

    #[test]
    fn an_unwritable_path_is_named() {
        let error = latency(Path::new("/no/such/dir/x.svg"), "t", &[]).expect_err("cannot");
        assert!(error.to_string().contains("/no/such/dir/x.svg"), "{error}");
    }
}
