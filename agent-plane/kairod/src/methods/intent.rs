//! `intent.*`: saying what one is up to, and calling it off with everything that it set going.

use std::rc::Rc;
use std::time::Duration;

use kairo_wire::ErrorInfo;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::audit::Audited;
use crate::cancellation::Canceled;
use crate::intents::{Intent, Status};
use crate::permission::Class;
use crate::reasons::Reason;
use crate::router::{Call, Method, Permission};

/// Longest name or reason, bytes.
const MAX_TEXT_BYTES: usize = 256;
/// Longest deadline, ms: a day.
const MAX_DEADLINE_MS: u64 = 86_400_000;

pub fn methods() -> Vec<Method> {
    vec![
        Method::new(
            "intent.begin",
            Permission::Actuate,
            "Begins an intent; its id is the correlation id of everything done for it.",
            async |call, params| settled(&call, begin(&call, params)).await,
        )
        .repeatable(),
        Method::new(
            "intent.end",
            Permission::Actuate,
            "Ends an intent as completed or failed; live ones below it are canceled.",
            async |call, params| settled(&call, end(&call, params)).await,
        ),
        Method::new(
            "intent.cancel",
            Permission::Actuate,
            "Calls an intent off: requests, streams and claims of it and of all below it end now.",
            async |call, params| settled(&call, cancel(&call, params)).await,
        )
        .urgent()
        .audited(Audited::After),
        Method::new(
            "intent.list",
            Permission::Observe,
            "Lists intents, the live ones first.",
            async |call, params| Ok(list(&call, &params)),
        ),
    ]
}

/// What was done is answered once its events are on the disk: who was told that an intent began
/// finds its end in the log, and who was told how it ended finds that.
async fn settled<T>(call: &Call, done: Result<T, ErrorInfo>) -> Result<T, ErrorInfo> {
    let done = done?;
    call.daemon.bus.settled().await;
    Ok(done)
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BeginParams {
    /// What it is about, for people.
    name: String,
    /// The live intent that it serves; if absent, the one that `meta.correlation_id` names.
    parent: Option<String>,
    /// Ends it as `expired` after so many milliseconds, at most a day.
    deadline_ms: Option<u64>,
    /// Whether it outlives this connection. Then it needs a deadline.
    #[serde(default)]
    detached: bool,
}

#[derive(Serialize, JsonSchema)]
struct Begun {
    /// Its id: give it as `meta.correlation_id` with everything done for it.
    intent: String,
    /// The intent that it serves.
    parent: Option<String>,
}

fn begin(call: &Call, params: BeginParams) -> Result<Begun, ErrorInfo> {
    check_text("name", &params.name)?;
    let deadline = params.deadline_ms;
    if deadline.is_some_and(|ms| ms == 0 || ms > MAX_DEADLINE_MS) {
        let text = format!("deadline_ms is to be 1 to {MAX_DEADLINE_MS}");
        return Err(Reason::DeadlineMs.error(text));
    }
    if params.detached && deadline.is_none() {
        let text = "an intent that outlives its connection needs `deadline_ms`, or nothing ends it";
        return Err(Reason::invalid().error(text));
    }
    let daemon = &call.daemon;
    let parent = params.parent.or_else(|| {
        let correlation = call.meta.correlation_id.clone();
        correlation.filter(|id| daemon.intents.borrow().live(id).is_some())
    });
    if let Some(parent) = &parent {
        owned(call, parent)?;
    }
    let id = uuid::Uuid::now_v7().to_string();
    let owner = call.connection.identity.subject().to_string();
    let mut intent = Intent::new(id.clone(), params.name, parent.clone(), owner);
    intent.connection = (!params.detached).then_some(call.connection.number);
    daemon.begin_intent(intent, &call.meta)?;
    if let Some(ms) = deadline {
        let (timed, late) = (Rc::clone(daemon), id.clone());
        let timer = tokio::task::spawn_local(async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            timed.end_intents(&late, Status::Expired, "its deadline passed");
        });
        let mut intents = daemon.intents.borrow_mut();
        intents.set_timer(&id, timer.abort_handle());
    }
    Ok(Begun { intent: id, parent })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EndParams {
    /// The intent.
    intent: String,
    /// How it went.
    status: Outcome,
    /// Why, for people.
    #[serde(default)]
    reason: String,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Completed,
    Failed,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CancelParams {
    /// The intent.
    intent: String,
    /// Why, for people.
    #[serde(default)]
    reason: String,
}

#[derive(Serialize, JsonSchema)]
struct Ended {
    /// The intents that ended, the leaves first.
    intents: Vec<String>,
    /// What was called off with them.
    canceled: Canceled,
}

fn end(call: &Call, params: EndParams) -> Result<Ended, ErrorInfo> {
    let status = match params.status {
        Outcome::Completed => Status::Completed,
        Outcome::Failed => Status::Failed,
    };
    finish(call, &params.intent, status, &params.reason)
}

fn cancel(call: &Call, params: CancelParams) -> Result<Ended, ErrorInfo> {
    finish(call, &params.intent, Status::Canceled, &params.reason)
}

fn finish(call: &Call, id: &str, status: Status, reason: &str) -> Result<Ended, ErrorInfo> {
    if !reason.is_empty() {
        check_text("reason", reason)?;
    }
    owned(call, id)?;
    let (intents, canceled) = call.daemon.end_intents(id, status, reason);
    Ok(Ended { intents, canceled })
}

/// Refuses whoever neither owns the intent nor is an operator.
fn owned(call: &Call, id: &str) -> Result<(), ErrorInfo> {
    let intents = call.daemon.intents.borrow();
    let intent = intents.live(id).ok_or_else(|| intents.missing(id))?;
    let subject = call.connection.identity.subject();
    if subject.class == Class::Operator || intent.owner == subject.to_string() {
        return Ok(());
    }
    let text = format!("intent {id} belongs to {}, not to {subject}", intent.owner);
    Err(Reason::NotOwner.error(text))
}

fn check_text(what: &str, text: &str) -> Result<(), ErrorInfo> {
    if (1..=MAX_TEXT_BYTES).contains(&text.len()) {
        return Ok(());
    }
    let text = format!(
        "{what} has {} bytes, allowed is 1 to {MAX_TEXT_BYTES}",
        text.len()
    );
    Err(Reason::invalid().error(text))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListParams {
    /// Only those of this status.
    status: Option<Status>,
}

#[derive(Serialize, JsonSchema)]
struct List {
    intents: Vec<IntentView>,
}

#[derive(Serialize, JsonSchema)]
struct IntentView {
    intent: String,
    name: String,
    parent: Option<String>,
    /// Whose it is.
    owner: String,
    status: Status,
    /// Why it ended so.
    reason: String,
}

fn list(call: &Call, params: &ListParams) -> List {
    let intents = call.daemon.intents.borrow();
    let wanted = |intent: &&Intent| params.status.is_none_or(|status| status == intent.status);
    let views = intents.all().filter(wanted).map(|intent| IntentView {
        intent: intent.id.clone(),
        name: intent.name.clone(),
        parent: intent.parent.clone(),
        owner: intent.owner.clone(),
        status: intent.status,
        reason: intent.reason.clone(),
    });
    List {
        intents: views.collect(),
    }
}
