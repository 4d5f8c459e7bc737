//! Doing a request once under its idempotency key, also across a kill and a reboot.
//!
//! For a key that belongs to an identity the event log has a row: written, and flushed, before
//! anything is done, and again with the result before it is answered. So a kill
//!
//! - before the first row leaves nothing: the repeated request is the first;
//! - between the rows leaves a key that was begun: the repeated request is refused with
//!   `outcome_unknown`, because nobody can say whether it was done;
//! - after the second row leaves the result: the repeated request gets it.
//!
//! Where the effect is a row of the same log, as with `event.publish`, both are one transaction and
//! there is no such between ([`Once`]). Without a log such keys are refused: a promise of "once"
//! that ends with the process is none. Keys that go with a connection are kept in memory alone.
//! A request without a key does not come through here.

use std::rc::Rc;

use kairo_events::{Key, Keyed};
use kairo_wire::{ErrorInfo, Meta, Value};

use crate::connection::Connection;
use crate::daemon::Daemon;
use crate::event_log;
use crate::idempotency::{self, Begin, Fingerprint, KEPT_FOR, Ticket};
use crate::reasons::Reason;
use crate::router::{Encoded, Keeping, Method, Router, Work, check_intent};

/// A key whose effect is written together with its result.
#[derive(Debug)]
pub struct Once {
    ticket: Ticket,
    key: Key,
}

impl Once {
    /// What the log writes beside the effect. From now on it may have happened.
    pub fn keyed(&self, result: kairo_events::keys::ResultOf) -> Keyed {
        self.ticket.begun(&self.key.method);
        Keyed {
            key: self.key.clone(),
            forget: self.ticket.forgotten(),
            kept_for: KEPT_FOR,
            result,
        }
    }

    /// It is written, with this result.
    pub fn done(&self, result: &[u8]) {
        self.ticket.done(result);
    }

    /// It is not written.
    pub fn failed(&self, error: &ErrorInfo) {
        // A log that was closed under it may have written it before.
        if error.detail("cause").and_then(Value::as_str) == Some("closed") {
            self.ticket.lose_track();
        } else {
            self.ticket.failed(error);
        }
    }
}

/// Starts a request that has a key: only the first one with it is done.
pub fn start(
    daemon: &Rc<Daemon>,
    connection: &Rc<Connection>,
    method: &Method,
    key: &str,
    meta: Meta,
    params: Value,
) -> Result<Work, ErrorInfo> {
    let owner = match method.keeping {
        Keeping::OfConnection => idempotency::of_connection(connection.number),
        Keeping::Written | Keeping::WithEffect => connection.identity.subject().to_string(),
    };
    let print = idempotency::fingerprint(method.name, &params);
    let ticket = match daemon.idempotency.begin(&owner, key, print)? {
        Begin::First(ticket) => ticket,
        Begin::Done(result) => return Ok(Box::pin(async move { Ok(result.into()) })),
        Begin::Running(ended) => {
            let (daemon, key) = (Rc::clone(daemon), key.to_string());
            return Ok(Box::pin(async move {
                ended.notified().await;
                after_the_first(&daemon, &owner, &key, print).map(Encoded::from)
            }));
        }
    };
    let name = method.name;
    match method.keeping {
        Keeping::OfConnection => {
            ticket.begun(name);
            let work = Router::start(daemon, connection, method, meta, params, None);
            let work = work.inspect_err(|error| ticket.failed(error))?;
            Ok(Box::pin(async move {
                let result = work.await;
                match &result {
                    Ok(result) => ticket.done(&result.bytes),
                    Err(error) => ticket.failed(error),
                }
                result
            }))
        }
        Keeping::WithEffect => {
            require_log(daemon, name)?;
            let once = Once {
                key: row(&ticket, name, print),
                ticket,
            };
            Router::start(daemon, connection, method, meta, params, Some(once))
        }
        Keeping::Written => {
            require_log(daemon, name)?;
            let (daemon, connection) = (Rc::clone(daemon), Rc::clone(connection));
            let key = row(&ticket, name, print);
            Ok(Box::pin(async move {
                start_written(&daemon, &connection, ticket, key, name, meta, params).await
            }))
        }
    }
}

fn row(ticket: &Ticket, method: &str, fingerprint: Fingerprint) -> Key {
    let (owner, key) = ticket.name();
    Key {
        owner: owner.to_string(),
        key: key.to_string(),
        method: method.to_string(),
        fingerprint,
    }
}

/// What the second request with a key gets when the first has ended.
fn after_the_first(
    daemon: &Daemon,
    owner: &str,
    key: &str,
    print: Fingerprint,
) -> Result<Vec<u8>, ErrorInfo> {
    match daemon.idempotency.begin(owner, key, print)? {
        Begin::Done(result) => Ok(result),
        // The first failed: this caller may try again, as itself.
        Begin::First(_) | Begin::Running(_) => {
            let text = "the request under this idempotency_key failed; try again";
            Err(Reason::IdempotencyKeyFailed.error(text))
        }
    }
}

/// Refuses where the key could not be kept.
fn require_log(daemon: &Daemon, method: &str) -> Result<(), ErrorInfo> {
    daemon.bus.log().map(drop).map_err(|mut error| {
        let why = error.message;
        error.message = format!(
            "an idempotency_key of {method} is kept in the event log; {why}; send it later, or \
             without a key"
        );
        error
    })
}

/// Writes that it is begun, does it, and writes its result.
async fn start_written(
    daemon: &Rc<Daemon>,
    connection: &Rc<Connection>,
    ticket: Ticket,
    key: Key,
    name: &'static str,
    meta: Meta,
    params: Value,
) -> Result<Encoded, ErrorInfo> {
    ticket.is_written(&daemon.bus);
    write(daemon, &key, None, ticket.forgotten()).await?;
    // While that was written, what allowed it may have ended.
    let method = daemon.router.find(name)?;
    daemon.require_method(connection, name, method.permission)?;
    check_intent(daemon, &meta)?;
    if daemon.is_draining() {
        let text = "kairod is stopping; try again";
        return Err(Reason::Draining.error_retried(text, 1000));
    }
    ticket.begun(name);
    let result = match Router::start(daemon, connection, method, meta, params, None) {
        Ok(work) => work.await,
        Err(error) => Err(error),
    };
    match &result {
        Ok(result) => {
            ticket.done(&result.bytes);
            // It is done, whatever becomes of this: then the next kairod says that nobody knows.
            let _ = write(daemon, &key, Some(result.bytes.clone()), Vec::new()).await;
        }
        Err(error) => ticket.failed(error),
    }
    result
}

async fn write(
    daemon: &Daemon,
    key: &Key,
    result: Option<Vec<u8>>,
    forget: Vec<String>,
) -> Result<(), ErrorInfo> {
    let log = daemon.bus.log()?;
    let written = log.store.keep_key(key.clone(), result, forget, KEPT_FOR);
    drop(log);
    let written = written.map_err(|error| event_log::refusal(&error))?.await;
    written.map_err(|error| event_log::refusal(&error))
}
