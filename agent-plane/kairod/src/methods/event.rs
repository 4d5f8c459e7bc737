//! `event.*` and `stream.*`: publishing, subscribing, asking the log, granting credit, ending.

use std::rc::Rc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kairo_events::{Class, NewEvent, Pattern, Query, Start};
use kairo_wire::{ErrorInfo, Event, Value};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::delivery::{Delivery, From, Reading, ask};
use crate::event_log::refusal;
use crate::events::{Published, encoded, expected, from_log};
use crate::permission::{Class as PeerClass, Right};
use crate::reasons::Reason;
use crate::router::{Call, Guard, Method, Permission};
use crate::subscription::{Policy, Subscription};
use crate::topics::{self, MAX_PATTERNS};

/// Longest `data` of a published event, bytes as MsgPack: an event has to fit into a frame, with
/// others beside it in a page.
const MAX_DATA_BYTES: usize = 256 * 1024;
/// Events of a page, if the caller does not say, and at most.
const USUAL_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;
/// Size after which a page ends: one more event still fits into the frame.
const PAGE_BYTES: usize = 512 * 1024;
/// Values in a page, because a client takes no message with more than 65 536 of them.
const PAGE_VALUES: usize = 48 * 1024;

pub fn methods() -> Vec<Method> {
    vec![
        Method::guarded(
            "event.publish",
            Permission::Publish,
            Guard {
                right: Right::TopicPublish,
                target: |params: &PublishParams| &params.topic,
            },
            "Publishes an event; answers when it is kept as its class promises.",
            publish,
        )
        .repeatable_with_effect(),
        Method::new(
            "event.query",
            Permission::Observe,
            "Gives a page of the event log.",
            query,
        ),
        Method::new(
            "event.replay",
            Permission::Observe,
            "Delivers a part of the event log again, marked as replay, and says when it is done.",
            replay,
        ),
        Method::new(
            "event.subscribe",
            Permission::Observe,
            "Delivers events whose topic or alias matches, from now on or from the past on.",
            subscribe,
        ),
        Method::new(
            "event.ack",
            Permission::Observe,
            "Acknowledges events up to a number for the durable consumer of a subscription.",
            acknowledge,
        )
        .urgent(),
        Method::new(
            "event.unsubscribe",
            Permission::Observe,
            "Ends a subscription of this connection, of events or of a stream.",
            unsubscribe,
        ),
        Method::new(
            "stream.credit",
            Permission::Observe,
            "Grants a subscription more bytes to deliver.",
            async |call, params| credit(&call, &params),
        )
        .urgent(),
    ]
}

/// How much an event is worth.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Durability {
    /// Delivered to those who listen now, and never written.
    Volatile,
    /// Written within 5 ms; survives the death of kairod, and a power cut but for the last second.
    #[default]
    Batched,
    /// Flushed to the disk before the answer.
    Synchronous,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PublishParams {
    /// The topic: segments of letters, digits, `_` and `-`, joined by dots.
    #[serde(deserialize_with = "canonical")]
    topic: String,
    /// The facts.
    #[serde(default)]
    #[schemars(with = "serde_json::Value")]
    data: Option<Value>,
    /// How much it is worth; `batched` if absent.
    #[serde(default)]
    class: Durability,
    /// Unique for as long as the log keeps the event; publishing the same again changes nothing.
    id: Option<String>,
    /// The stream to which it is appended.
    stream: Option<String>,
    /// The version that the stream's last event must have; 0 when there must be none.
    expected_version: Option<u64>,
}

/// A topic by its canonical name: by the short one, an event would pass the rule for the kernel's
/// own topics and reach their subscribers.
fn canonical<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok(topics::canonical(&text))
}

/// Who publishes, as the event's `source`: what the kernel knows, not what the client says. Always
/// with the uid, so that no name means somebody else.
fn source(call: &Call) -> String {
    let subject = call.connection.identity.subject();
    match &subject.name {
        Some(name) => format!("{}/{name}@{}", subject.class, subject.uid),
        None => format!("{}@{}", subject.class, subject.uid),
    }
}

async fn publish(call: Call, params: PublishParams) -> Result<Published, ErrorInfo> {
    let data = params.data.unwrap_or(Value::Nil);
    let bytes = encoded(&data);
    if bytes.len() > MAX_DATA_BYTES {
        let length = bytes.len();
        let text = format!("`data` has {length} bytes as MsgPack, allowed are {MAX_DATA_BYTES}");
        return Err(Reason::EventTooLarge.error(text));
    }
    drop(data);
    allow(&call, bytes.len())?;
    let mut event = NewEvent::new(&params.topic, &source(&call), bytes).class(match params.class {
        Durability::Volatile => Class::Volatile,
        Durability::Batched => Class::Batched,
        Durability::Synchronous => Class::Synchronous,
    });
    event.id = params.id;
    event.stream = params.stream;
    event.expected = expected(params.expected_version);
    let once = call.once.take();
    call.daemon.bus.publish_for(event, &call.meta, once).await
}

/// Takes an event from what the caller's user may publish. An operator may stop the robot and is
/// not counted.
fn allow(call: &Call, bytes: usize) -> Result<(), ErrorInfo> {
    let subject = call.connection.identity.as_subject();
    if subject.class == PeerClass::Operator {
        return Ok(());
    }
    let mut allowances = call.daemon.bus.allowances.borrow_mut();
    allowances.take(subject.uid, bytes, Instant::now())
}

/// Reads patterns, and refuses a topic that the caller may not see. What a wildcard covers is
/// looked at event by event.
fn patterns(call: &Call, texts: &[String]) -> Result<Vec<Pattern>, ErrorInfo> {
    if texts.len() > MAX_PATTERNS {
        let text = format!("{} patterns, allowed are {MAX_PATTERNS}", texts.len());
        return Err(Reason::invalid().error(text));
    }
    let mut patterns = Vec::with_capacity(texts.len());
    for text in texts {
        let pattern =
            Pattern::parse(text).map_err(|error| Reason::invalid().error(error.to_string()))?;
        if kairo_events::topic::is_topic(text) {
            let topic = topics::canonical(text);
            call.daemon
                .require(&call.connection, Right::TopicSubscribe, &topic)?;
        }
        patterns.push(pattern);
    }
    Ok(patterns)
}

/// Where to begin: a number, or a word.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "the number of an event, `start` or `now`")]
enum Beginning {
    /// With the event of this number.
    Number(u64),
    /// `start` or `now`.
    Word(Word),
    #[default]
    #[serde(skip)]
    Unsaid,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Word {
    /// With the oldest event that the log keeps.
    Start,
    /// With what comes.
    Now,
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
    /// Where to begin: a number, `"start"` or `"now"`; `"now"` if absent. A durable consumer that
    /// exists goes on where it was, whatever is said here.
    #[serde(default)]
    from: Beginning,
    /// Name of a durable consumer of the caller's: what it has not acknowledged with `event.ack`
    /// is delivered again, also after a restart.
    consumer: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct Subscribed {
    /// Name of the subscription, as its events carry it.
    subscription: String,
    /// Number of the first event it can deliver.
    from_seq: u64,
}

async fn subscribe(call: Call, params: SubscribeParams) -> Result<Subscribed, ErrorInfo> {
    if params.topics.is_empty() {
        let text = "`topics` has no pattern; \">\" means all";
        return Err(Reason::invalid().error(text));
    }
    let patterns = patterns(&call, &params.topics)?;
    if let Some(consumer) = &params.consumer {
        return subscribe_consumer(&call, &params, consumer, patterns).await;
    }
    let bus = &call.daemon.bus;
    let (from, from_seq) = match params.from {
        Beginning::Number(seq) => (From::After(seq.saturating_sub(1)), seq),
        Beginning::Word(Word::Start) => (From::After(0), 1),
        _ => (From::Place(bus.next_place()), bus.next_seq()),
    };
    if matches!(from, From::After(_)) || params.policy == Policy::Spill {
        bus.log()?;
    }
    let delivery = register(&call, &params, None, patterns)?;
    let subscription = Rc::clone(&delivery.subscription);
    subscription.run(&call.connection, delivery.follow(from));
    Ok(Subscribed {
        subscription: subscription.name.clone(),
        from_seq,
    })
}

fn register(
    call: &Call,
    params: &SubscribeParams,
    consumer: Option<String>,
    patterns: Vec<Pattern>,
) -> Result<Delivery, ErrorInfo> {
    let intent = call.meta.correlation_id.clone();
    let (policy, credit) = (params.policy, params.credit_bytes);
    Ok(Delivery {
        daemon: Rc::clone(&call.daemon),
        connection: Rc::clone(&call.connection),
        subscription: Subscription::register_events(
            &call.connection,
            policy,
            credit,
            intent,
            consumer,
        )?,
        patterns,
    })
}

async fn subscribe_consumer(
    call: &Call,
    params: &SubscribeParams,
    consumer: &str,
    patterns: Vec<Pattern>,
) -> Result<Subscribed, ErrorInfo> {
    // Consumers of others have other names: nobody acknowledges for somebody else.
    let name = format!("{}/{consumer}", source(call));
    let Some(reading) = Reading::begin(&call.daemon, &name) else {
        let text =
            format!("another subscription reads for the consumer {consumer:?}; end it first");
        return Err(Reason::ConsumerBusy.error(text));
    };
    let start = match params.from {
        Beginning::Number(seq) => Start::After(seq.saturating_sub(1)),
        Beginning::Word(Word::Start) => Start::Oldest,
        _ => Start::Newest,
    };
    let log = call.daemon.bus.log()?;
    let registered = log.store.register(&name, patterns.clone(), start);
    drop(log);
    let registered = registered.map_err(|error| refusal(&error))?;
    let state = registered.await.map_err(|error| refusal(&error))?;
    let delivery = register(call, params, Some(name), patterns)?;
    let subscription = Rc::clone(&delivery.subscription);
    subscription.run(&call.connection, delivery.consume(reading));
    Ok(Subscribed {
        subscription: subscription.name.clone(),
        from_seq: state.cursor + 1,
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AckParams {
    /// A subscription with a durable consumer.
    subscription: String,
    /// Everything up to this number is done.
    seq: u64,
}

#[derive(Serialize, JsonSchema)]
struct Acknowledged {
    /// What the consumer has acknowledged now.
    cursor: u64,
}

async fn acknowledge(call: Call, params: AckParams) -> Result<Acknowledged, ErrorInfo> {
    let found = call
        .connection
        .subscriptions
        .borrow()
        .get(&params.subscription)
        .cloned();
    let subscription = found.ok_or_else(|| unknown(&params.subscription))?;
    let Some(consumer) = &subscription.consumer else {
        let text = "the subscription has no durable consumer; name one in event.subscribe";
        return Err(Reason::NoConsumer.error(text));
    };
    let log = call.daemon.bus.log()?;
    let ticket = log.store.acknowledge(consumer, params.seq);
    drop(log);
    let ticket = ticket.map_err(|error| refusal(&error))?;
    let cursor = ticket.await.map_err(|error| refusal(&error))?;
    subscription.settle(cursor);
    Ok(Acknowledged { cursor })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct QueryParams {
    /// Only topics that one of these patterns means; all if absent.
    #[serde(default)]
    topics: Vec<String>,
    /// Only this stream.
    stream: Option<String>,
    /// Only this correlation.
    correlation_id: Option<String>,
    /// Only from this time on, RFC 3339.
    since: Option<String>,
    /// Only before this time, RFC 3339.
    before: Option<String>,
    /// Only numbers above this one: for the next page, `next` of this one.
    #[serde(default)]
    after_seq: u64,
    /// Only numbers up to this one.
    until_seq: Option<u64>,
    /// Most events in the page: 100 if absent, 1000 at most.
    limit: Option<usize>,
}

#[derive(Serialize, JsonSchema)]
struct QueryResult {
    /// The events, in the order of their numbers.
    #[schemars(with = "Vec<serde_json::Value>")]
    events: Vec<Event>,
    /// `after_seq` of the next page; none when this was the last one. A page may be empty and not
    /// the last.
    next: Option<u64>,
    /// The newest number in the log.
    head_seq: u64,
    /// Numbers of events that are damaged, and therefore not here.
    damaged: Vec<u64>,
}

fn time_ns(what: &str, text: Option<&String>) -> Result<Option<i64>, ErrorInfo> {
    let Some(text) = text else { return Ok(None) };
    let wrong = || {
        let shown: String = text.chars().take(64).collect();
        let text = format!("`{what}` is {shown:?}; right is for example 2026-11-21T16:00:00Z");
        Reason::invalid().error(text)
    };
    let time: SystemTime = humantime::parse_rfc3339_weak(text).map_err(|_| wrong())?;
    let since = time.duration_since(UNIX_EPOCH).map_err(|_| wrong())?;
    i64::try_from(since.as_nanos())
        .map(Some)
        .map_err(|_| wrong())
}

async fn query(call: Call, params: QueryParams) -> Result<QueryResult, ErrorInfo> {
    let patterns = patterns(&call, &params.topics)?;
    let limit = params.limit.unwrap_or(USUAL_LIMIT);
    if limit == 0 || limit > MAX_LIMIT {
        let text = format!("`limit` is {limit}, allowed is 1 to {MAX_LIMIT}");
        return Err(Reason::invalid().error(text));
    }
    let asked = Query {
        after: params.after_seq,
        until: params.until_seq,
        patterns,
        stream: params.stream,
        correlation_id: params.correlation_id,
        since_ns: time_ns("since", params.since.as_ref())?,
        before_ns: time_ns("before", params.before.as_ref())?,
        limit,
        max_bytes: PAGE_BYTES,
    };
    let page = ask(&call.daemon.bus, asked).await?;
    let mut result = QueryResult {
        events: Vec::with_capacity(page.events.len()),
        next: page.next,
        head_seq: page.head,
        damaged: page.damaged,
    };
    let mut total = 0;
    let mut last = params.after_seq;
    for stored in &page.events {
        let event = from_log(stored, false);
        let values = 20 + count(&event.data);
        if !result.events.is_empty() && total + values > PAGE_VALUES {
            result.next = Some(last);
            result.damaged.retain(|seq| *seq <= last);
            break;
        }
        total += values;
        last = stored.seq;
        if call
            .daemon
            .may(&call.connection, Right::TopicSubscribe, &stored.topic)
        {
            result.events.push(event);
        }
    }
    Ok(result)
}

/// Values in a value. Recursion is bounded by the depth that a frame may have.
fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Map(entries) => {
            let entries = entries.iter().map(|(key, value)| count(key) + count(value));
            1 + entries.sum::<usize>()
        }
        _ => 1,
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ReplayParams {
    /// Patterns: `*` is one segment, `>` the tail.
    topics: Vec<String>,
    /// First number; the oldest event that is kept if absent.
    #[serde(default)]
    from_seq: u64,
    /// Last number; what is newest now if absent.
    until_seq: Option<u64>,
    /// Bytes of frames it may deliver before `stream.credit` grants more.
    credit_bytes: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
struct Replaying {
    /// Name of the subscription, as its events carry it. It ends by itself.
    subscription: String,
    /// Last number that it can deliver.
    until_seq: u64,
}

async fn replay(call: Call, params: ReplayParams) -> Result<Replaying, ErrorInfo> {
    let patterns = patterns(&call, &params.topics)?;
    // Waits for nothing but the page that tells the newest number.
    let newest = Query {
        after: u64::MAX,
        ..Query::default()
    };
    let head = ask(&call.daemon.bus, newest).await?.head;
    let until = params.until_seq.unwrap_or(head).min(head);
    let intent = call.meta.correlation_id.clone();
    let subscription = Subscription::register_events(
        &call.connection,
        Policy::Block,
        params.credit_bytes,
        intent,
        None,
    )?;
    let delivery = Delivery {
        daemon: Rc::clone(&call.daemon),
        connection: Rc::clone(&call.connection),
        subscription: Rc::clone(&subscription),
        patterns,
    };
    let after = params.from_seq.saturating_sub(1);
    subscription.run(&call.connection, delivery.replay(after, until));
    Ok(Replaying {
        subscription: subscription.name.clone(),
        until_seq: until,
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UnsubscribeParams {
    /// Its name.
    subscription: String,
    /// Whether its durable consumer is forgotten too, and with it what it has acknowledged.
    #[serde(default)]
    forget: bool,
}

#[derive(Serialize, JsonSchema)]
struct Unsubscribed {
    /// Its name. What was queued before is still delivered.
    subscription: String,
}

async fn unsubscribe(call: Call, params: UnsubscribeParams) -> Result<Unsubscribed, ErrorInfo> {
    let removed = call
        .connection
        .subscriptions
        .borrow_mut()
        .remove(&params.subscription);
    let Some(subscription) = removed else {
        return Err(unknown(&params.subscription));
    };
    subscription.stop();
    if let (true, Some(consumer)) = (params.forget, &subscription.consumer) {
        let log = call.daemon.bus.log()?;
        let forgotten = log.store.remove_consumer(consumer);
        drop(log);
        let forgotten = forgotten.map_err(|error| refusal(&error))?.await;
        forgotten.map_err(|error| refusal(&error))?;
    }
    Ok(Unsubscribed {
        subscription: subscription.name.clone(),
    })
}

fn unknown(name: &str) -> ErrorInfo {
    let shown: String = name.chars().take(64).collect();
    let text = format!("this connection has no subscription {shown:?}");
    let subscription = shown;
    Reason::UnknownSubscription { subscription }.error(text)
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
