//! A latency histogram as an SVG file: counts on a logarithmic scale over microseconds, like the
//! plots that people make of cyclictest.

use std::fmt::Write;

use serde_json::Value;

use crate::terminal::{number, text};

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 420.0;
/// Space for the axes' labels: left, right, top, bottom.
const MARGIN: (f64, f64, f64, f64) = (70.0, 20.0, 60.0, 50.0);

/// The filled buckets as (upper edge in µs, count), ascending.
pub fn buckets(histogram: &Value) -> Vec<(f64, u64)> {
    let list = histogram["buckets"].as_array().into_iter().flatten();
    list.filter_map(|bucket| Some((bucket["upper"].as_f64()?, bucket["count"].as_u64()?)))
        .collect()
}

/// A blue and an orange that differ in lightness too, for readers who see few colours.
const COLOURS: [&str; 2] = ["#2a6f97", "#f4a259"];

/// The plot of one histogram.
pub fn svg(histogram: &Value) -> String {
    drawn(&header(histogram), &[buckets(histogram)])
}

/// The plot of a comparison, as `kairo latency` reports it.
pub fn both(report: &Value) -> String {
    let side = |name: &str, colour: &str, side: &Value| {
        format!(
            "<tspan fill='{colour}'>{name}</tspan> {} values, p50 {} µs, p99.9 {} µs, max {} µs ",
            text(&side["count"]),
            number(&side["p50"], 1),
            number(&side["p999"], 1),
            number(&side["max"], 1),
        )
    };
    let (ours, theirs) = (&report["kairo_rt"], &report["cyclictest"]);
    let mut words = side("kairo-rt", COLOURS[0], ours);
    let mut histograms = vec![buckets(ours)];
    if !theirs.is_null() {
        words.push_str(&side("cyclictest", COLOURS[1], theirs));
        histograms.push(buckets(theirs));
    }
    let title = format!("wake-up lateness of {}", escaped(&text(&report["loop"])));
    drawn(&titles(&title, &words), &histograms)
}

/// The first histogram's bars, and the others' in front of them and half as wide.
fn drawn(header: &str, histograms: &[Vec<(f64, u64)>]) -> String {
    let all = || histograms.iter().flatten();
    let widest = all().map(|bucket| bucket.0).fold(0.0, f64::max).max(0.001) * 1.05;
    let most = all().map(|bucket| bucket.1).max().unwrap_or(1);
    let decades = (most as f64).log10().ceil().max(1.0);
    let (left, right, top, bottom) = MARGIN;
    let (inner_width, inner_height) = (WIDTH - left - right, HEIGHT - top - bottom);
    let x = |us: f64| left + us / widest * inner_width;
    // A count of one stands a little above the axis, or it could not be seen.
    let y = |count: f64| top + inner_height * (1.0 - (count.log10() + 0.15) / (decades + 0.15));

    let mut out = header.to_owned();
    for decade in 0..=decades as u32 {
        let count = 10_f64.powi(decade as i32);
        let line = y(count);
        element(
            &mut out,
            format_args!(
                "<line x1='{left}' x2='{:.1}' y1='{line:.1}' y2='{line:.1}' stroke='#ddd'/>\
                 <text x='{:.1}' y='{:.1}' text-anchor='end'>{count}</text>",
                WIDTH - right,
                left - 8.0,
                line + 4.0
            ),
        );
    }
    for tick in 0..=5 {
        let us = widest * f64::from(tick) / 5.0;
        element(
            &mut out,
            format_args!(
                "<text x='{:.1}' y='{:.1}' text-anchor='middle'>{us:.1}</text>",
                x(us),
                HEIGHT - bottom + 18.0
            ),
        );
    }
    let base = HEIGHT - bottom;
    for ((buckets, colour), share) in histograms.iter().zip(COLOURS).zip([1.0, 0.5]) {
        for (upper, count) in buckets {
            // A bucket is 1/32 wide, and at least a pixel to be seen.
            let width = (upper / 32.0 / widest * inner_width).max(1.0) * share;
            let height = y(*count as f64);
            element(
                &mut out,
                format_args!(
                    "<rect x='{:.1}' y='{height:.1}' width='{width:.1}' height='{:.1}' \
                     fill='{colour}'/>",
                    x(*upper) - width,
                    base - height
                ),
            );
        }
    }
    element(
        &mut out,
        format_args!(
            "<line x1='{left}' x2='{:.1}' y1='{base}' y2='{base}' stroke='#333'/>\
             <text x='{:.1}' y='{:.1}' text-anchor='middle'>µs</text></svg>",
            WIDTH - right,
            left + inner_width / 2.0,
            HEIGHT - 10.0
        ),
    );
    out
}

fn header(histogram: &Value) -> String {
    let quantiles = &histogram["quantiles"];
    let title = format!(
        "{} of {}",
        escaped(&text(&histogram["kind"])),
        escaped(&text(&histogram["source"]))
    );
    let words = format!(
        "{} values, p50 {} µs, p99 {} µs, p99.9 {} µs, max {} µs, {} periods skipped",
        text(&histogram["count"]),
        number(&quantiles["p50"], 1),
        number(&quantiles["p99"], 1),
        number(&quantiles["p999"], 1),
        number(&histogram["max"], 1),
        text(&histogram["skipped"]),
    );
    titles(&title, &words)
}

/// The canvas, a title and a line under it.
fn titles(title: &str, words: &str) -> String {
    let mut out = String::new();
    element(
        &mut out,
        format_args!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{HEIGHT}' \
             font-family='sans-serif' font-size='12'>\
             <rect width='100%' height='100%' fill='white'/>\
             <text x='{WIDTH_HALF}' y='22' text-anchor='middle' font-size='16'>{title}</text>\
             <text x='{WIDTH_HALF}' y='42' text-anchor='middle'>{words}</text>"
        ),
    );
    out
}

const WIDTH_HALF: f64 = WIDTH / 2.0;

/// Appends a line.
fn element(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = out.write_fmt(arguments);
    out.push('\n');
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_bucket_is_a_bar_inside_the_frame_even_when_there_is_none() {
        assert!(svg(&json!({})).ends_with("</svg>\n"));
        let buckets = json!([{"upper": 10.0, "count": 1}, {"upper": 90.0, "count": 100_000}]);
        let plot = svg(&json!({"kind": "lateness", "source": "<arm>", "buckets": buckets}));
        assert_eq!(plot.matches("fill='#2a6f97'").count(), 2);
        assert!(plot.contains("&lt;arm>"));
        assert!(!plot.contains("NaN") && !plot.contains("height='-"));
    }

    #[test]
    fn a_comparison_shows_both_and_one_alone_shows_one() {
        let side = json!({"count": 1, "buckets": [{"upper": 10.0, "count": 1}]});
        let plot = both(&json!({"loop": "l", "kairo_rt": side, "cyclictest": side}));
        assert_eq!(plot.matches("<rect x=").count(), 2);
        let alone = both(&json!({"loop": "l", "kairo_rt": side, "cyclictest": null}));
        assert!(!alone.contains("cyclictest") && alone.ends_with("</svg>\n"));
    }
}
