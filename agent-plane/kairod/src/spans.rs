//! Spans: what kairod did for whom, in which trace, and what it caused.
//!
//! A request in a sampled trace has a span, and so has what it causes: a call passed on to a
//! service, an event, a command that the real-time plane answered. The last one is made here from
//! the answer's times; kairo-rt knows nothing of traces and does nothing for them.
//!
//! They are kept in memory, the newest [`KEPT_SPANS`] or [`KEPT_BYTES`], and read in pages. A
//! request outside of every trace costs one comparison and one step of a random generator; it
//! becomes the root of a new trace with the probability that the configuration says. What is not
//! recorded makes no identifiers. Event loop only.

pub mod page;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kairo_link::MonoNs;
use kairo_observe::context::{Context, SpanId, TraceId};
use kairo_wire::{ErrorInfo, Meta, Request};
use schemars::JsonSchema;
use serde::Serialize;

use crate::connection::Connection;
use crate::permission::Class;
use crate::spans::page::Allowances;

/// Spans that stay readable.
pub const KEPT_SPANS: usize = 4096;
/// What they may take together.
pub const KEPT_BYTES: usize = 2 * 1024 * 1024;
/// What a span takes beside its texts: a generous guess.
const OVERHEAD_BYTES: usize = 256;
/// Longest text of a span, bytes.
const MAX_TEXT_BYTES: usize = 128;
/// Most attributes of a span.
const MAX_ATTRIBUTES: usize = 12;
/// Which share of the requests outside of every trace begins one, where nothing is configured: one
/// in a thousand shows how a robot does, and slows nobody measurably.
pub const USUAL_RATIO: f64 = 0.001;

/// What a span is to the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A request that was answered.
    Server,
    /// A call to somebody else.
    Client,
    /// Something told to whoever listens.
    Producer,
    /// A part of the work.
    Internal,
}

/// What is known of a span.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Attribute {
    /// A whole number.
    Number(i64),
    /// A text.
    Text(String),
}

impl From<u64> for Attribute {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<&str> for Attribute {
    fn from(text: &str) -> Self {
        Self::Text(short(text))
    }
}

/// Something that was done.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its place among all that were ever kept, from 1.
    pub number: u64,
    /// Its trace.
    pub trace_id: TraceId,
    /// Its own name.
    pub span_id: SpanId,
    /// The span that caused it; none at the root of a trace.
    pub parent: Option<SpanId>,
    /// The method, or what was done.
    pub name: String,
    /// What it is to the other side.
    pub kind: Kind,
    /// The program that did it: `kairod` or `kairo-rt`.
    pub process: &'static str,
    /// When it began, ns since 1970.
    pub start_unix_ns: i64,
    /// How long it took, ns.
    pub duration_ns: u64,
    /// `ok`, or an error's code.
    pub outcome: String,
    /// What went wrong.
    pub message: String,
    /// The rest.
    pub attributes: Vec<(&'static str, Attribute)>,
}

impl Span {
    fn cost_bytes(&self) -> usize {
        let text = |attribute: &Attribute| match attribute {
            Attribute::Number(_) => 0,
            Attribute::Text(text) => text.len(),
        };
        let attributes = self.attributes.iter();
        let each: usize = attributes.map(|(_, value)| 48 + text(value)).sum();
        OVERHEAD_BYTES + self.name.len() + self.outcome.len() + self.message.len() + each
    }
}

/// Makes spans and keeps them.
#[derive(Debug)]
pub struct Tracer {
    /// Tells the spans of this run from those of another.
    run: String,
    /// A new trace begins when a random number is below it.
    threshold: Cell<u64>,
    random: Cell<u64>,
    kept: RefCell<VecDeque<Span>>,
    kept_bytes: Cell<usize>,
    next: Cell<u64>,
    allowances: RefCell<Allowances>,
    /// Requests whose trace was not recorded because their user asks for too many.
    refused: Cell<u64>,
}

impl Default for Tracer {
    fn default() -> Self {
        let begin = Context::begin();
        let tracer = Self {
            run: begin.map_or_else(String::new, |context| context.span_id.to_string()),
            threshold: Cell::new(0),
            // Any number but zero; what it decides need not be unpredictable.
            random: Cell::new(MonoNs::now().0 | 1),
            kept: RefCell::default(),
            kept_bytes: Cell::new(0),
            next: Cell::new(1),
            allowances: RefCell::default(),
            refused: Cell::new(0),
        };
        tracer.set_ratio(USUAL_RATIO);
        tracer
    }
}

impl Tracer {
    /// From now on this share of the requests outside of every trace begins one: 0 to 1.
    pub fn set_ratio(&self, ratio: f64) {
        // Saturates: 1 and more is always, 0 and less is never.
        self.threshold.set((ratio * u64::MAX as f64) as u64);
    }

    /// The span of a request, if it is in a sampled trace or begins one. The request's
    /// `traceparent` becomes what is to be passed on: this span, or what came where it is not
    /// recorded, or nothing where it is invalid.
    pub fn begin(
        self: &Rc<Self>,
        connection: &Connection,
        request: &mut Request,
    ) -> Option<Box<Open>> {
        let given = request.meta.as_mut().and_then(|meta| {
            let text = meta.traceparent.as_deref()?;
            // One that is too long is refused with the rest of the metadata.
            (text.len() <= crate::router::MAX_META_BYTES).then(|| meta.traceparent.take())?
        });
        let parent = given.as_deref().and_then(Context::parse);
        let (context, parent) = match parent {
            None if !self.is_lucky() => return None,
            None => (Context::begin()?, None),
            Some(parent) if !parent.is_sampled() => {
                set(request, parent);
                return None;
            }
            Some(parent) if !self.is_allowed(connection) => {
                set(request, parent.child()?.unsampled());
                return None;
            }
            Some(parent) => (parent.child()?, Some(parent.span_id)),
        };
        set(request, context);
        let mut open = self.open(context, parent, short(&request.method), Kind::Server);
        let identity = &connection.identity;
        open.put("caller", identity.as_subject().to_string().as_str());
        open.put("connection", connection.number);
        open.put("pid", u64::try_from(identity.pid()).unwrap_or(0));
        if let Some(process) = identity.process() {
            open.put("process", process);
        }
        let meta = request.meta.as_ref();
        if let Some(intent) = meta.and_then(|meta| meta.correlation_id.as_deref()) {
            open.put("intent", intent);
        }
        Some(Box::new(open))
    }

    /// A span that the request with this metadata causes; none where that is not recorded.
    pub fn child<N: AsRef<str>>(
        self: &Rc<Self>,
        meta: &Meta,
        name: impl FnOnce() -> N,
        kind: Kind,
    ) -> Option<Open> {
        let parent = Context::parse(meta.traceparent.as_deref()?)?;
        if !parent.is_sampled() {
            return None;
        }
        let context = parent.child()?;
        Some(self.open(context, Some(parent.span_id), short(name().as_ref()), kind))
    }

    fn open(
        self: &Rc<Self>,
        context: Context,
        parent: Option<SpanId>,
        name: String,
        kind: Kind,
    ) -> Open {
        let started = MonoNs::now();
        let span = Span {
            number: 0,
            trace_id: context.trace_id,
            span_id: context.span_id,
            parent,
            name,
            kind,
            process: "kairod",
            start_unix_ns: wall_ns(),
            duration_ns: 0,
            outcome: String::new(),
            message: String::new(),
            attributes: Vec::new(),
        };
        Open {
            tracer: Rc::clone(self),
            context,
            started,
            span: Some(span),
        }
    }

    /// A step of xorshift64: a handful of cycles, and even enough for a share.
    fn is_lucky(&self) -> bool {
        let mut random = self.random.get();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.random.set(random);
        random < self.threshold.get()
    }

    /// Whether the user of a connection may have one more request recorded. Operators always may.
    fn is_allowed(&self, connection: &Connection) -> bool {
        let subject = connection.identity.as_subject();
        if subject.class == Class::Operator {
            return true;
        }
        let mut allowances = self.allowances.borrow_mut();
        let allowed = allowances.take(subject.uid, Instant::now());
        if !allowed {
            self.refused.set(self.refused.get() + 1);
        }
        allowed
    }

    fn keep(&self, mut span: Span) {
        span.number = self.next.get();
        self.next.set(span.number + 1);
        let mut kept = self.kept.borrow_mut();
        let mut bytes = self.kept_bytes.get() + span.cost_bytes();
        while (kept.len() >= KEPT_SPANS || bytes > KEPT_BYTES)
            && let Some(gone) = kept.pop_front()
        {
            bytes -= gone.cost_bytes();
        }
        self.kept_bytes.set(bytes);
        kept.push_back(span);
    }
}

/// A span that has not ended. Dropped, it ends as called off.
#[derive(Debug)]
pub struct Open {
    tracer: Rc<Tracer>,
    context: Context,
    started: MonoNs,
    /// None once it has ended.
    span: Option<Span>,
}

impl Open {
    /// The `traceparent` for what it causes.
    pub fn traceparent(&self) -> String {
        self.context.to_string()
    }

    /// The trace.
    pub fn trace_id(&self) -> TraceId {
        self.context.trace_id
    }

    /// Says something of it.
    pub fn put(&mut self, name: &'static str, value: impl Into<Attribute>) {
        if let Some(span) = &mut self.span
            && span.attributes.len() < MAX_ATTRIBUTES
        {
            span.attributes.push((name, value.into()));
        }
    }

    /// It ended so.
    pub fn end<T>(mut self, result: &Result<T, ErrorInfo>) {
        match result {
            Ok(_) => self.close("ok", ""),
            Err(error) => self.close(error.code.name(), &error.message),
        }
    }

    /// It happened in kairo-rt, from one time of CLOCK_MONOTONIC to another.
    pub fn end_in_rt(mut self, from: MonoNs, to: MonoNs, outcome: &str) {
        let ago_ns = self.started.0.saturating_sub(from.0);
        if let Some(span) = &mut self.span {
            span.process = "kairo-rt";
            span.start_unix_ns -= i64::try_from(ago_ns).unwrap_or(0);
        }
        let took_ns = to.0.saturating_sub(from.0);
        self.finish(took_ns, outcome, "");
    }

    fn close(&mut self, outcome: &str, message: &str) {
        let took_ns = MonoNs::now().0.saturating_sub(self.started.0);
        self.finish(took_ns, outcome, message);
    }

    fn finish(&mut self, took_ns: u64, outcome: &str, message: &str) {
        if let Some(mut span) = self.span.take() {
            span.duration_ns = took_ns;
            span.outcome = outcome.into();
            span.message = short(message);
            self.tracer.keep(span);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.close("E_CANCELED", "given up before its end");
    }
}

/// Passes `context` on with what the request causes.
fn set(request: &mut Request, context: Context) {
    let meta = request.meta.get_or_insert_default();
    meta.traceparent = Some(context.to_string());
}

/// The beginning of a text, without secrets and on one line.
fn short(text: &str) -> String {
    let end = text.floor_char_boundary(text.len().min(MAX_TEXT_BYTES * 4));
    let shown = kairo_observe::redact::text(&text[..end]);
    let mut shown = kairo_observe::log::plain(&shown);
    shown.truncate(shown.floor_char_boundary(MAX_TEXT_BYTES));
    shown
}

fn wall_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
