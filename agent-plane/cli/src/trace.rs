//! `kairo trace`: what was done for whom, as kairod remembers it: a list, a tree, an export.

mod export;
mod otlp;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Subcommand;
use kairo_wire::{Client, Meta};
use serde_json::{Value, json};

use crate::call::Session;
use crate::failure::Failure;
use crate::terminal::{Cell, Table, Terminal, Tone, items, text};

pub use export::{ExportOptions, export};

/// Verbs of `trace`.
#[derive(Debug, Subcommand)]
pub enum TraceCommand {
    /// Lists the traces that kairod remembers, the newest first.
    List {
        /// Traces shown at most.
        #[arg(long, default_value_t = 30)]
        limit: usize,
    },
    /// Shows a trace as a tree of spans with their times.
    Show {
        /// Its 32 hexadecimal digits, as `kairo trace list` shows them.
        trace: String,
    },
    /// Follows the spans and posts them to an OpenTelemetry collector (OTLP over HTTP, JSON).
    Export(ExportOptions),
}

/// Spans asked for at once.
const PAGE: usize = 500;
/// Pages read at most: more than kairod keeps.
const MAX_PAGES: usize = 64;
/// Deepest indentation.
const MAX_DEPTH: usize = 32;
/// The context that this command's own requests have: not sampled, or looking at traces would make
/// traces.
const UNSAMPLED: &str = "00-6b6169726f20747261636520636d6421-6b6169726f20636d-00";

/// Does it.
pub fn trace(
    session: &mut Session<'_>,
    terminal: &Terminal,
    command: &TraceCommand,
) -> Result<(), Failure> {
    match command {
        TraceCommand::List { limit } => list(session, terminal, *limit),
        TraceCommand::Show { trace } => show(session, terminal, trace),
        // Makes its own connections, and was done before.
        TraceCommand::Export(_) => Ok(()),
    }
}

/// A page of spans.
fn page(client: &mut Client, params: Value, timeout: Duration) -> Result<Value, Failure> {
    let meta = Meta {
        traceparent: Some(UNSAMPLED.into()),
        ..Meta::default()
    };
    Ok(client.call_with_meta("kernel.traces", params, Some(meta), timeout)?)
}

/// Every span that is kept, of one trace or of all.
fn spans(session: &mut Session<'_>, trace: Option<&str>) -> Result<Vec<Value>, Failure> {
    let mut all = Vec::new();
    let mut after = 0;
    for _ in 0..MAX_PAGES {
        let mut params = json!({"after": after, "limit": PAGE});
        if let Some(trace) = trace {
            params["trace_id"] = trace.into();
        }
        let page = page(session.client, params, session.timeout)?;
        all.extend(items(&page["spans"]).iter().cloned());
        after = page["next"].as_u64().unwrap_or(0);
        if page["more"] != true {
            break;
        }
    }
    Ok(all)
}

fn start_ns(span: &Value) -> i64 {
    span["start_unix_ns"].as_i64().unwrap_or(0)
}

fn end_ns(span: &Value) -> i64 {
    start_ns(span).saturating_add(span["duration_ns"].as_i64().unwrap_or(0))
}

fn millis(ns: i64) -> String {
    format!("{:.3}", ns as f64 / 1e6)
}

fn outcome(word: &str) -> Cell {
    let tone = if word == "ok" { Tone::Good } else { Tone::Bad };
    Cell::toned(word, tone)
}

/// Whether the span that caused it is not among these: it is where a tree begins.
fn is_root(span: &Value, all: &[Value]) -> bool {
    let parent = &span["parent_span_id"];
    parent.is_null() || !all.iter().any(|other| other["span_id"] == *parent)
}

fn list(session: &mut Session<'_>, terminal: &Terminal, limit: usize) -> Result<(), Failure> {
    let mut traces: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for span in spans(session, None)? {
        traces
            .entry(text(&span["trace_id"]))
            .or_default()
            .push(span);
    }
    let mut summaries: Vec<Value> = traces.iter().map(|(id, all)| summary(id, all)).collect();
    summaries.sort_by_key(|summary| std::cmp::Reverse(start_ns(summary)));
    summaries.truncate(limit);
    if terminal.json {
        return terminal.json_page(&json!({"traces": summaries}));
    }
    let mut table = Table::new(&[
        "TRACE", "BEGAN", ">TOOK ms", ">SPANS", "OUTCOME", "ROOT", "CALLER",
    ]);
    for one in &summaries {
        table.row([
            Cell::from(text(&one["trace_id"])),
            Cell::from(clock(start_ns(one))),
            Cell::from(millis(one["duration_ns"].as_i64().unwrap_or(0))),
            Cell::from(text(&one["spans"])),
            outcome(&text(&one["outcome"])),
            Cell::from(text(&one["root"])),
            Cell::from(text(&one["caller"])),
        ]);
    }
    terminal.table(&table)
}

/// What a list says of a trace.
fn summary(id: &str, all: &[Value]) -> Value {
    let roots = all.iter().filter(|span| is_root(span, all));
    let root = roots
        .min_by_key(|span| start_ns(span))
        .unwrap_or(&Value::Null);
    let begin = all.iter().map(start_ns).min().unwrap_or(0);
    let end = all.iter().map(end_ns).max().unwrap_or(0);
    let failed = all.iter().find(|span| span["outcome"] != "ok");
    json!({
        "trace_id": id, "start_unix_ns": begin, "duration_ns": end - begin, "spans": all.len(),
        "outcome": failed.map_or_else(|| "ok".into(), |span| span["outcome"].clone()),
        "root": root["name"], "caller": root["attributes"]["caller"],
    })
}

/// The time of day, UTC.
fn clock(unix_ns: i64) -> String {
    let since = Duration::from_nanos(u64::try_from(unix_ns).unwrap_or(0));
    let time: SystemTime = UNIX_EPOCH.checked_add(since).unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_millis(time).to_string()
}

fn show(session: &mut Session<'_>, terminal: &Terminal, trace: &str) -> Result<(), Failure> {
    let mut all = spans(session, Some(trace))?;
    if all.is_empty() {
        let text = format!(
            "no span of trace {trace} is kept; `kairo trace list` shows those that are, the \
             oldest are forgotten first"
        );
        return Err(Failure::NotDone(text));
    }
    all.sort_by_key(start_ns);
    if terminal.json {
        return terminal.json_page(&json!({"trace_id": trace, "spans": all}));
    }
    let begin = start_ns(&all[0]);
    terminal.line(format!("trace {trace}, began {}", clock(begin)))?;
    let mut table = Table::new(&["SPAN", "PROCESS", ">AT ms", ">TOOK ms", "OUTCOME", "WHAT"]);
    for root in all.iter().filter(|span| is_root(span, &all)) {
        rows(&mut table, root, &all, begin, 0);
    }
    terminal.table(&table)
}

/// The rows of a span and of all below it.
fn rows(table: &mut Table, span: &Value, all: &[Value], begin: i64, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    let attributes = span["attributes"].as_object();
    let words = attributes.into_iter().flatten();
    let mut what: Vec<String> = words
        .map(|(name, value)| format!("{name}={}", text(value)))
        .collect();
    if let Some(message) = span["message"].as_str().filter(|text| !text.is_empty()) {
        what.insert(0, message.into());
    }
    table.row([
        Cell::from(format!("{}{}", "  ".repeat(depth), text(&span["name"]))),
        Cell::from(text(&span["process"])),
        Cell::from(millis(start_ns(span) - begin)),
        Cell::from(millis(span["duration_ns"].as_i64().unwrap_or(0))),
        outcome(&text(&span["outcome"])),
        Cell::from(what.join(" ")),
    ]);
    let below = all
        .iter()
        .filter(|one| one["parent_span_id"] == span["span_id"]);
    for child in below {
        rows(table, child, all, begin, depth + 1);
    }
}
