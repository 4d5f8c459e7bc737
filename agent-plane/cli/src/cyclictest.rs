//! Histograms in the shape that `cyclictest --json` writes, so that what reads one reads both.
//!
//! The keys are cyclictest's of rt-tests 2.4, odd colons included; a loop is a thread. Counts are
//! per whole microsecond, as there. One key is ours: `skipped`, the periods that no latency stands
//! for, which cyclictest leaves out without a word.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::plot;
use crate::terminal::text;

/// The version of cyclictest whose shape this is.
const RT_TESTS: &str = "2.40";
const SECONDS_PER_DAY: u64 = 86_400;
const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// One loop: its histogram as `rt.histogram` gives it, and its core.
pub struct Thread {
    /// The histogram.
    pub histogram: Value,
    /// The core; none when the loop is not pinned.
    pub core: Option<u64>,
}

/// The document. `system` is `system.get_info`, `counted_for` how long was counted until now.
pub fn document(threads: &[Thread], system: &Value, counted_for: Duration) -> Value {
    let end = SystemTime::now().duration_since(UNIX_EPOCH);
    let end = end.unwrap_or(Duration::ZERO);
    let kernel = &system["kernel"];
    let realtime = u8::from(kernel["preempt_rt"] == true);
    let numbered = threads.iter().enumerate();
    let threads: Map<String, Value> = numbered
        .map(|(number, each)| (number.to_string(), thread(each)))
        .collect();
    json!({
        "file_version": 1,
        "cmdline:": std::env::args().collect::<Vec<_>>().join(" "),
        "rt_test_version:": RT_TESTS,
        "start_time": date(end.saturating_sub(counted_for).as_secs()),
        "end_time": date(end.as_secs()),
        "return_code": 0,
        "sysinfo": {
            "sysname": "Linux", "nodename": text(&system["hostname"]),
            "release": text(&kernel["release"]), "version": text(&kernel["version"]),
            "machine": text(&system["machine"]), "realtime": realtime,
        },
        "num_threads": threads.len(),
        "resolution_in_ns": 0,
        "thread": threads,
    })
}

fn thread(each: &Thread) -> Value {
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for (upper_us, count) in plot::buckets(&each.histogram) {
        *counts.entry(upper_us as u64).or_default() += count;
    }
    let min = counts.first_key_value().map_or(0, |(us, _)| *us);
    let histogram: Map<String, Value> = counts
        .into_iter()
        .map(|(us, count)| (us.to_string(), json!(count)))
        .collect();
    let max = each.histogram["max"].as_f64().unwrap_or(0.0);
    json!({
        "histogram": histogram,
        "cycles": each.histogram["count"],
        "min": min,
        "max": max as u64,
        "avg": each.histogram["mean"],
        "cpu": each.core.unwrap_or(0),
        "node": 0,
        "skipped": each.histogram["skipped"],
    })
}

/// Seconds since 1970 in the spelling of mail headers, UTC.
fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / SECONDS_PER_DAY, seconds % SECONDS_PER_DAY);
    let weekday = DAYS[(days % 7) as usize];
    let (mut year, mut day) = (1970, days);
    let is_leap =
        |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    // Bounded by the clock: a round a year.
    loop {
        let length = 365 + u64::from(is_leap(year));
        if day < length {
            break;
        }
        day -= length;
        year += 1;
    }
    let lengths = [
        31,
        28 + u64::from(is_leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let mut month = 0;
    while day >= lengths[month] {
        day -= lengths[month];
        month += 1;
    }
    format!(
        "{weekday}, {:02} {} {year} {:02}:{:02}:{:02} +0000",
        day + 1,
        MONTHS[month],
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 +0000");
        // `date -u -R -d @N`.
        assert_eq!(date(951_826_245), "Tue, 29 Feb 2000 12:10:45 +0000");
        assert_eq!(date(1_795_265_233), "Sat, 21 Nov 2026 12:47:13 +0000");
    }

    #[test]
    fn the_document_has_the_keys_of_cyclictest_and_no_count_is_lost() {
        let histogram = json!({
            "count": 7, "mean": 3.5, "max": 90.7, "skipped": 2,
            "buckets": [{"upper": 3.1, "count": 2}, {"upper": 3.9, "count": 4},
                        {"upper": 90.7, "count": 1}],
        });
        let thread = Thread {
            histogram,
            core: Some(1),
        };
        let written = document(&[thread], &json!({}), Duration::from_secs(5));
        // What `cyclictest -q -l 200 -i 1000 -h 100 --json=FILE` of rt-tests 2.4 writes.
        let theirs = [
            "cmdline:",
            "end_time",
            "file_version",
            "num_threads",
            "resolution_in_ns",
            "return_code",
            "rt_test_version:",
            "start_time",
            "sysinfo",
            "thread",
        ];
        let keys = |value: &Value| {
            value
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect::<Vec<_>>()
        };
        assert_eq!(keys(&written), theirs);
        let system = [
            "machine", "nodename", "realtime", "release", "sysname", "version",
        ];
        assert_eq!(keys(&written["sysinfo"]), system);
        let thread = &written["thread"]["0"];
        let ours = [
            "avg",
            "cpu",
            "cycles",
            "histogram",
            "max",
            "min",
            "node",
            "skipped",
        ];
        assert_eq!(keys(thread), ours);
        assert_eq!(thread["histogram"], json!({"3": 6, "90": 1}));
        assert_eq!((&thread["min"], &thread["max"]), (&json!(3), &json!(90)));
    }
}
