//! `event.*` and `stream.*`: subscribing, granting credit, and ending it.

use std::rc::Rc;

use kairo_wire::{ErrorCode, ErrorInfo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::router::{Call, Method, Permission};
use crate::subscription::{Policy, Subscription, deliver_events};
use crate::topics::{MAX_PATTERNS, Pattern};

pub fn methods() -> Vec<Method> {
    vec![
        Method::new(
            "event.subscribe",
            Permission::Observe,
            "Delivers events whose topic or alias matches, from now on.",
            async |call, params| subscribe(&call, &params),
        ),
        Method::new(
            "event.unsubscribe",
            Permission::Observe,
            "Ends a subscription of this connection, of events or of a stream.",
            async |call, params| unsubscribe(&call, &params),
        ),
        Method::new(
            "stream.credit",
            Permission::Observe,
            "Grants a subscription more bytes to deliver.",
            async |call, params| credit(&call, &params),
        ),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SubscribeParams {
    /// Patterns: `*` is one segment, `>` the tail.
    topics: Vec<String>,
    /// What happens when the reader is slow; `drop` if absent.
    #[serde(default)]
    policy: Policy,
    /// Bytes of frames it may deliver before `stream.credit` grants more; absent means that only
    /// the connection's queue limits it.
    credit_bytes: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
struct Subscribed {
    /// Name of the subscription, as its events carry it.
    subscription: String,
    /// Number of the first event it can deliver.
    from_seq: u64,
}

fn subscribe(call: &Call, params: &SubscribeParams) -> Result<Subscribed, ErrorInfo> {
    if params.topics.is_empty() || params.topics.len() > MAX_PATTERNS {
        let text = format!(
            "`topics` has {} patterns, allowed is 1 to {MAX_PATTERNS}; \">\" means all",
            params.topics.len()
        );
        return Err(ErrorInfo::new(ErrorCode::InvalidParams, text));
    }
    let patterns: Result<Vec<Pattern>, _> = params
        .topics
        .iter()
        .map(|text| Pattern::parse(text))
        .collect();
    let patterns =
        patterns.map_err(|error| ErrorInfo::new(ErrorCode::InvalidParams, error.to_string()))?;
    let connection = &call.connection;
    let intent = call.meta.correlation_id.clone();
    let subscription =
        Subscription::register(connection, params.policy, params.credit_bytes, intent)?;
    let from_seq = call.daemon.bus.next_seq();
    let delivery = deliver_events(
        Rc::clone(&call.daemon),
        Rc::clone(connection),
        Rc::clone(&subscription),
        patterns,
        from_seq,
    );
    subscription.run(connection, delivery);
    Ok(Subscribed {
        subscription: subscription.name.clone(),
        from_seq,
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UnsubscribeParams {
    /// Its name.
    subscription: String,
}

#[derive(Serialize, JsonSchema)]
struct Unsubscribed {
    /// Its name. What was queued before is still delivered.
    subscription: String,
}

fn unsubscribe(call: &Call, params: &UnsubscribeParams) -> Result<Unsubscribed, ErrorInfo> {
    let mut all = call.connection.subscriptions.borrow_mut();
    let Some(subscription) = all.remove(&params.subscription) else {
        return Err(unknown(&params.subscription));
    };
    subscription.stop();
    Ok(Unsubscribed {
        subscription: subscription.name.clone(),
    })
}

fn unknown(name: &str) -> ErrorInfo {
    let shown: String = name.chars().take(64).collect();
    let text = format!("this connection has no subscription {shown:?}");
    ErrorInfo::new(ErrorCode::NotFound, text).reason("unknown_subscription")
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CreditParams {
    /// The subscription.
    subscription: String,
    /// Bytes to add.
    bytes: u64,
}

#[derive(Serialize, JsonSchema)]
struct Credited {
    /// Bytes it may deliver now; none when it does not count credit.
    credit_bytes: Option<u64>,
}

fn credit(call: &Call, params: &CreditParams) -> Result<Credited, ErrorInfo> {
    let all = call.connection.subscriptions.borrow();
    let subscription = all
        .get(&params.subscription)
        .ok_or_else(|| unknown(&params.subscription))?;
    Ok(Credited {
        credit_bytes: subscription.grant(&call.connection, params.bytes),
    })
}
