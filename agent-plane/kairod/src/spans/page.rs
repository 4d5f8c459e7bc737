//! Spans as they are read, and how many a user may make.

use std::collections::BTreeMap;
use std::time::Instant;

use kairo_observe::context::TraceId;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Attribute, Kind, Span, Tracer};

/// Requests of a user that are recorded in a second, and at once: their programs decide about
/// sampling, and must not push what others did out of memory in a moment.
const SPANS_PER_S: f64 = 200.0;
/// Users remembered. One that is forgotten begins anew.
const MAX_USERS: usize = 1024;
/// Most bytes of spans in a page, so that it fits into a frame.
const PAGE_BYTES: usize = 256 * 1024;

/// What is left of each user's share.
#[derive(Debug, Default)]
pub struct Allowances(BTreeMap<u32, (f64, Instant)>);

impl Allowances {
    /// Takes one span of `uid` at the time `now`; false when too many were taken.
    pub fn take(&mut self, uid: u32, now: Instant) -> bool {
        if self.0.len() >= MAX_USERS && !self.0.contains_key(&uid) {
            self.0.clear();
        }
        let (left, at) = self.0.entry(uid).or_insert((SPANS_PER_S, now));
        let since_s = now.saturating_duration_since(*at).as_secs_f64();
        *left = (*left + since_s * SPANS_PER_S).min(SPANS_PER_S);
        *at = now;
        if *left < 1.0 {
            return false;
        }
        *left -= 1.0;
        true
    }
}

/// A span as it is read.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SpanView {
    /// Its place among all that were ever kept.
    number: u64,
    /// 32 hexadecimal digits.
    trace_id: String,
    /// 16 hexadecimal digits.
    span_id: String,
    /// The span that caused it; none at the root of a trace. It may be another program's.
    parent_span_id: Option<String>,
    /// The method, or what was done.
    name: String,
    kind: Kind,
    /// `kairod`, or `kairo-rt` for what the real-time plane did.
    process: &'static str,
    /// When it began, ns since 1970.
    start_unix_ns: i64,
    /// How long it took, ns.
    duration_ns: u64,
    /// `ok`, or an error's code.
    outcome: String,
    /// What went wrong; empty if nothing did.
    message: String,
    /// What else is known of it.
    attributes: BTreeMap<&'static str, Attribute>,
}

impl SpanView {
    fn of(span: &Span) -> Self {
        Self {
            number: span.number,
            trace_id: span.trace_id.to_string(),
            span_id: span.span_id.to_string(),
            parent_span_id: span.parent.map(|parent| parent.to_string()),
            name: span.name.clone(),
            kind: span.kind,
            process: span.process,
            start_unix_ns: span.start_unix_ns,
            duration_ns: span.duration_ns,
            outcome: span.outcome.clone(),
            message: span.message.clone(),
            attributes: span.attributes.iter().cloned().collect(),
        }
    }
}

/// Some of the spans that are kept.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Page {
    /// The spans in the order in which they ended.
    spans: Vec<SpanView>,
    /// `after` of the next page.
    next: u64,
    /// Whether there are more already.
    more: bool,
    /// Spans behind `after` that were pushed out of memory before they could be read.
    lost: u64,
    /// Another text after each start of kairod: then numbers begin anew.
    run: String,
    /// Requests that were not recorded because their user asks for too many.
    refused: u64,
}

impl Tracer {
    /// The newest spans, the oldest of them first.
    pub fn newest(&self, count: usize) -> Vec<SpanView> {
        let kept = self.kept.borrow();
        let from = kept.len().saturating_sub(count);
        kept.range(from..).map(SpanView::of).collect()
    }

    /// The spans behind number `after`, at most `limit`, of one trace or of all.
    pub fn page(&self, after: u64, trace: Option<TraceId>, limit: usize) -> Page {
        let kept = self.kept.borrow();
        let oldest = kept.front().map_or(self.next.get(), |span| span.number);
        let mut page = Page {
            spans: Vec::new(),
            next: after.min(self.next.get() - 1),
            more: false,
            lost: oldest.saturating_sub(after.saturating_add(1)),
            run: self.run.clone(),
            refused: self.refused.get(),
        };
        let mut bytes = 0;
        let behind = kept.partition_point(|span| span.number <= after);
        for span in kept.range(behind..) {
            let wanted = trace.is_none_or(|trace| span.trace_id == trace);
            if wanted && (page.spans.len() >= limit || bytes > PAGE_BYTES) {
                page.more = true;
                break;
            }
            if wanted {
                bytes += span.cost_bytes();
                page.spans.push(SpanView::of(span));
            }
            page.next = span.number;
        }
        page
    }
}
