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

/// The plot.
pub fn svg(histogram: &Value) -> String {
    let buckets = buckets(histogram);
    let widest = buckets.last().map_or(1.0, |bucket| bucket.0) * 1.05;
    let most = buckets.iter().map(|bucket| bucket.1).max().unwrap_or(1);
    let decades = (most as f64).log10().ceil().max(1.0);
    let (left, right, top, bottom) = MARGIN;
    let (inner_width, inner_height) = (WIDTH - left - right, HEIGHT - top - bottom);
    let x = |us: f64| left + us / widest * inner_width;
    // A count of one stands a little above the axis, or it could not be seen.
    let y = |count: f64| top + inner_height * (1.0 - (count.log10() + 0.15) / (decades + 0.15));

    let mut out = String::new();
    header(&mut out, histogram);
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
    for (upper, count) in &buckets {
        // A bucket is 1/32 wide, and at least a pixel to be seen.
        let width = (upper / 32.0 / widest * inner_width).max(1.0);
        let height = y(*count as f64);
        element(
            &mut out,
            format_args!(
                "<rect x='{:.1}' y='{height:.1}' width='{width:.1}' height='{:.1}' \
                 fill='#2a6f97'/>",
                x(*upper) - width,
                base - height
            ),
        );
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

fn header(out: &mut String, histogram: &Value) {
    let quantiles = &histogram["quantiles"];
    element(
        out,
        format_args!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{HEIGHT}' \
             font-family='sans-serif' font-size='12'>\
             <rect width='100%' height='100%' fill='white'/>\
             <text x='{WIDTH_HALF}' y='22' text-anchor='middle' font-size='16'>{} of {}</text>\
             <text x='{WIDTH_HALF}' y='42' text-anchor='middle'>{} values, p50 {} µs, p99 {} µs, \
             p99.9 {} µs, max {} µs, {} periods skipped</text>",
            escaped(&text(&histogram["kind"])),
            escaped(&text(&histogram["source"])),
            text(&histogram["count"]),
            number(&quantiles["p50"], 1),
            number(&quantiles["p99"], 1),
            number(&quantiles["p999"], 1),
            number(&histogram["max"], 1),
            text(&histogram["skipped"]),
        ),
    );
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
}
