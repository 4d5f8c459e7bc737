//! Log lines: one line a record on standard error, and the newest records in memory.
//!
//! The `tracing` macros say something (`tracing::warn!(trace_id, "…")`); this is their one
//! subscriber. It guarantees: a record is one line of at most [`MAX_LINE_BYTES`], whatever is in
//! it; nothing in it moves a terminal's cursor or begins another line; secrets are taken out
//! ([`crate::redact`]); a call site that floods says [`BURST`] lines and then one a second, with
//! the number it left out; a full disk or a closed standard error loses lines and nothing else.
//!
//! On a terminal a line is for people. Anywhere else (kairo-init's ring, the journal, a file) it
//! is logfmt: `ts=… level=… component=… pid=… msg="…" key=value…`, which people can read too.
//!
//! It takes no part in spans: those of kairod are kept by kairod, bounded, and told by methods.

mod flood;
mod line;

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber, span};

use flood::Floods;
pub use flood::{BURST, Flooding};
pub use line::{MAX_LINE_BYTES, plain};

/// Records kept in memory: with the longest lines half a MiB.
pub const KEPT_RECORDS: usize = 256;
/// Fields of one record; more are left out.
const MAX_FIELDS: usize = 16;
/// Longest message and longest value, bytes.
const MAX_MESSAGE_BYTES: usize = 1024;
const MAX_VALUE_BYTES: usize = 256;

/// One thing that was said, already without secrets and without control characters.
#[derive(Clone, Debug)]
pub struct Record {
    /// When.
    pub time: SystemTime,
    /// `error`, `warn`, `info`, `debug` or `trace`.
    pub level: &'static str,
    /// Which part of which program: `kairod.link`.
    pub component: String,
    /// What.
    pub message: String,
    /// The rest: `caller`, `intent`, `pid`, `trace_id`, ….
    pub fields: Vec<(&'static str, String)>,
    /// Records of the same call site that were left out just before.
    pub left_out: u64,
}

/// What is remembered.
#[derive(Debug, Default)]
struct Memory {
    records: VecDeque<Record>,
    floods: Floods,
}

/// The subscriber.
#[derive(Debug)]
struct Lines {
    level: LevelFilter,
    for_people: bool,
}

static MEMORY: OnceLock<Mutex<Memory>> = OnceLock::new();

fn with_memory<T>(work: impl FnOnce(&mut Memory) -> T) -> T {
    let memory = MEMORY.get_or_init(Mutex::default);
    // A thread that died while it held it left whole records.
    work(&mut memory.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Starts logging for the whole process. `level` is `error`, `warn`, `info`, `debug` or `trace`;
/// anything else is `info`. The second call in a process changes nothing.
pub fn start(level: Option<&str>) {
    let level = level.and_then(|level| level.parse().ok());
    let lines = Lines {
        level: level.unwrap_or(LevelFilter::INFO),
        for_people: std::io::stderr().is_terminal(),
    };
    // Only fails when there is a subscriber already: that one goes on.
    let _ = tracing::subscriber::set_global_default(lines);
}

/// The newest records, the oldest of them first.
pub fn recent() -> Vec<Record> {
    with_memory(|memory| memory.records.iter().cloned().collect())
}

/// The call sites that said more than they may.
pub fn floods() -> Vec<Flooding> {
    with_memory(|memory| memory.floods.all())
}

impl Subscriber for Lines {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        match self.enabled(metadata) {
            true => Interest::always(),
            false => Interest::never(),
        }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let place = || format!("{}:{}", metadata.target(), metadata.line().unwrap_or(0));
        let site = metadata.callsite();
        let said = with_memory(|memory| memory.floods.take(site, Instant::now(), place));
        let Some(left_out) = said else { return };
        let mut words = Words::default();
        event.record(&mut words);
        let record = Record {
            time: SystemTime::now(),
            level: level_name(*metadata.level()),
            component: metadata.target().replace("::", "."),
            message: line::shown(&words.message, MAX_MESSAGE_BYTES),
            fields: words.fields,
            left_out,
        };
        let text = match self.for_people {
            true => line::for_people(&record),
            false => line::logfmt(&record),
        };
        // One write, so that lines of two threads do not mix. There is nobody left to tell that it
        // failed.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
        with_memory(|memory| {
            if memory.records.len() >= KEPT_RECORDS {
                memory.records.pop_front();
            }
            memory.records.push_back(record);
        });
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// Message and fields of a record, bounded while they are written.
#[derive(Default)]
struct Words {
    message: String,
    fields: Vec<(&'static str, String)>,
}

impl Words {
    fn put(&mut self, field: &Field, write: impl FnOnce(&mut Bounded) -> std::fmt::Result) {
        let is_message = field.name() == "message";
        if !is_message && self.fields.len() >= MAX_FIELDS {
            return;
        }
        let limit = if is_message {
            MAX_MESSAGE_BYTES
        } else {
            MAX_VALUE_BYTES
        };
        // More than is shown: a secret that the cut would halve is still seen as one.
        let mut text = Bounded(String::new(), limit + 512);
        // A value that cannot be written is as long as what it wrote.
        let _ = write(&mut text);
        if is_message {
            self.message = text.0;
        } else if crate::redact::is_secret_key(field.name()) {
            self.fields
                .push((field.name(), crate::redact::REDACTED.into()));
        } else {
            self.fields
                .push((field.name(), line::shown(&text.0, MAX_VALUE_BYTES)));
        }
    }
}

impl Visit for Words {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, |text| std::fmt::Write::write_str(text, value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.put(field, |text| {
            std::fmt::Write::write_fmt(text, format_args!("{value:?}"))
        });
    }
}

/// A text that takes so many bytes and drops the rest.
struct Bounded(String, usize);

impl std::fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = self.1.saturating_sub(self.0.len());
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        Ok(())
    }
}
