//! Requests that are audited: what is written, before or after, and whatever becomes of them.
//!
//! Before: the attempt is on the disk first, or the request fails; meanwhile what allowed it may
//! have ended, so that is asked again. After: it happens, and how it went is written beside it. An
//! entry that has begun is always ended, also when its caller gives it up. Never waits but for the
//! audit log.

use std::rc::Rc;

use kairo_audit::{Entry, Phase};
use kairo_wire::{ErrorInfo, Value};

use super::{Call, Method, Work, check_intent};
use crate::audit;
use crate::connection::Connection;
use crate::daemon::Daemon;
use crate::reasons::Reason;

/// Does it, and writes how that went.
pub fn after(method: &Method, call: Call, params: Value) -> Work {
    let entry = audit::entry(
        &call.connection,
        method.name,
        params.to_string(),
        &call.meta,
    );
    let mut noting = Noting::new(&call, entry);
    let started = (method.handler)(call, params);
    Box::pin(async move {
        let result = match started {
            Ok(work) => work.await,
            Err(error) => Err(error),
        };
        noting.ended(&result);
        result
    })
}

/// Writes that it is about to be done, does it once that is on the disk, and writes how that went.
pub fn before(name: &'static str, call: Call, params: Value) -> Work {
    let entry = audit::entry(&call.connection, name, params.to_string(), &call.meta);
    let daemon = Rc::clone(&call.daemon);
    Box::pin(async move {
        let mut attempt = entry.clone();
        attempt.phase = Phase::Attempt;
        let number = daemon.audit.attempt(attempt).await?;
        let mut noting = Noting::new(&call, entry);
        noting.attempt = Some(number);
        let method = daemon.router.find(name)?;
        let result = match still_allowed(method, &call) {
            Ok(()) => match (method.handler)(call, params) {
                Ok(work) => work.await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        noting.ended(&result);
        result
    })
}

/// Refuses what was allowed before a disk was waited for, and is not any more.
fn still_allowed(method: &Method, call: &Call) -> Result<(), ErrorInfo> {
    let daemon = &call.daemon;
    daemon.require_method(&call.connection, method.name, method.permission)?;
    check_intent(daemon, &call.meta)?;
    if daemon.is_draining() {
        let text = "kairod is stopping; try again";
        return Err(Reason::Draining.error_retried(text, 1000));
    }
    Ok(())
}

/// Writes how something audited ended: also when its caller gives it up half-way, by its deadline
/// or by cancelling it, because what it had done by then stays done.
struct Noting {
    daemon: Rc<Daemon>,
    connection: Rc<Connection>,
    entry: Option<Entry>,
    attempt: Option<u64>,
    intent: Option<String>,
    trace_id: Option<String>,
}

impl Noting {
    fn new(call: &Call, entry: Entry) -> Self {
        Self {
            daemon: Rc::clone(&call.daemon),
            connection: Rc::clone(&call.connection),
            entry: Some(entry),
            attempt: None,
            intent: call.meta.correlation_id.clone(),
            trace_id: call.trace_id(),
        }
    }

    /// The same for the log's readers, in short.
    fn say<T>(&self, act: &str, result: &Result<T, ErrorInfo>) {
        let outcome = match result {
            Ok(_) => "ok",
            Err(error) => error.code.name(),
        };
        tracing::info!(
            caller = %self.connection.identity.as_subject(),
            pid = self.connection.identity.pid(),
            intent = self.intent,
            trace_id = self.trace_id,
            outcome,
            "{act}"
        );
    }

    fn ended<T>(&mut self, result: &Result<T, ErrorInfo>) {
        if let Some(entry) = self.entry.take() {
            self.say(&entry.act, result);
            let entry = audit::ended(entry, self.attempt, result);
            self.daemon.note(&self.connection, entry);
        }
    }
}

impl Drop for Noting {
    fn drop(&mut self) {
        let text = "given up by its caller; what it had done so far stays done";
        self.ended::<()>(&Err(Reason::Canceled.error(text)));
    }
}
