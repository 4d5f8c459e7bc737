//! Traces over real connections: who caused what, also past kairod, and what is not recorded.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use kairo_wire::{Client, Meta};
use serde_json::{Value, json};
use support::{PATIENCE, System, call, claim, eventually};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn traced(flags: &str) -> Meta {
    Meta {
        traceparent: Some(format!("00-{TRACE}-{PARENT}-{flags}")),
        ..Meta::default()
    }
}

fn with(client: &mut Client, method: &str, params: Value, meta: Meta) -> Value {
    client
        .call_with_meta(method, params, Some(meta), PATIENCE)
        .unwrap()
}

/// The spans of the trace, as soon as there are `count`.
fn spans(client: &mut Client, count: usize) -> Vec<Value> {
    eventually("the spans are kept", || {
        let page = call(client, "kernel.traces", json!({"trace_id": TRACE})).unwrap();
        let spans = page["spans"].as_array().unwrap();
        (spans.len() >= count).then(|| spans.clone())
    })
}

fn named<'s>(spans: &'s [Value], name: &str) -> &'s Value {
    let found = spans.iter().find(|span| span["name"] == name);
    found.unwrap_or_else(|| panic!("no span {name} in {spans:#?}"))
}

#[test]
fn a_command_is_followed_from_the_caller_into_the_real_time_plane() {
    let system = System::start();
    let mut client = system.client();
    let epoch = claim(&mut client);
    let sent = with(
        &mut client,
        "device.send",
        json!({"device": "arm", "epoch": epoch, "ttl_ms": 500,
               "command": {"mode": "position", "positions": {"elbow_flex": 0.1}}}),
        traced("01"),
    );
    let spans = spans(&mut client, 2);
    let send = named(&spans, "device.send");
    assert_eq!(send["parent_span_id"], PARENT);
    assert_eq!(send["outcome"], "ok");
    assert_eq!(send["process"], "kairod");
    assert_eq!(send["attributes"]["pid"], std::process::id());
    let caller = send["attributes"]["caller"].as_str().unwrap();
    assert!(caller.starts_with("operator"), "{caller}");
    let command = named(&spans, "rt.command");
    assert_eq!(command["parent_span_id"], send["span_id"]);
    assert_eq!(command["process"], "kairo-rt");
    assert_eq!(command["attributes"]["tick"], sent["tick"]);
    assert_eq!(command["attributes"]["decided_mono_ns"], sent["applied_ns"]);
    // What the real-time plane did lies within what kairod did for the caller.
    let times = |span: &Value| {
        let start = span["start_unix_ns"].as_i64().unwrap();
        (start, start + span["duration_ns"].as_i64().unwrap())
    };
    let (outer, inner) = (times(send), times(command));
    // The wall clock is read twice, and may be set in between by less than a test would wait.
    let slack_ns = 1_000_000;
    assert!(
        outer.0 <= inner.0 + slack_ns && inner.1 <= outer.1 + slack_ns,
        "{outer:?} {inner:?}"
    );
}

#[test]
fn an_event_carries_its_span_on_and_a_refusal_says_why() {
    let system = System::start();
    let mut client = system.client();
    let mut listener = system.client();
    call(
        &mut listener,
        "event.subscribe",
        json!({"topics": ["test.>"]}),
    )
    .unwrap();
    with(
        &mut client,
        "event.publish",
        json!({"topic": "test.x"}),
        traced("01"),
    );
    let spans = spans(&mut client, 2);
    let publish = named(&spans, "publish test.x");
    assert_eq!(
        publish["parent_span_id"],
        named(&spans, "event.publish")["span_id"]
    );
    assert_eq!(publish["kind"], "producer");
    let queried = call(&mut client, "event.query", json!({"topics": ["test.x"]})).unwrap();
    let span = publish["span_id"].as_str().unwrap();
    assert_eq!(
        queried["events"][0]["traceparent"],
        format!("00-{TRACE}-{span}-01")
    );
    let refused = client.call_with_meta::<Value>(
        "device.info",
        json!({"device": "leg"}),
        Some(traced("01")),
        PATIENCE,
    );
    refused.unwrap_err();
    let spans = spans_of(&mut client);
    let info = named(&spans, "device.info");
    assert_eq!(info["outcome"], "E_NOT_FOUND");
    assert!(info["message"].as_str().unwrap().contains("leg"));
}

fn spans_of(client: &mut Client) -> Vec<Value> {
    spans(client, 1)
}

#[test]
fn what_is_not_sampled_is_passed_on_and_not_recorded_and_what_is_invalid_is_neither() {
    let system = System::start();
    let mut client = system.client();
    let publish = |client: &mut Client, topic: &str, traceparent: &str| {
        let meta = Meta {
            traceparent: Some(traceparent.into()),
            ..Meta::default()
        };
        with(client, "event.publish", json!({"topic": topic}), meta);
        let queried = call(client, "event.query", json!({"topics": [topic]})).unwrap();
        queried["events"][0]["traceparent"].clone()
    };
    let unsampled = format!("00-{TRACE}-{PARENT}-00");
    assert_eq!(publish(&mut client, "test.a", &unsampled), unsampled);
    for (topic, invalid) in [
        ("test.b", format!("00-{}-{PARENT}-01", "0".repeat(32))),
        ("test.c", format!("00-{}-{PARENT}-01", TRACE.to_uppercase())),
        ("test.d", "garbage".to_string()),
    ] {
        assert_eq!(publish(&mut client, topic, &invalid), Value::Null);
    }
    let page = call(&mut client, "kernel.traces", json!({"trace_id": TRACE})).unwrap();
    assert_eq!(page["spans"], json!([]));
}

#[test]
fn a_request_outside_of_every_trace_begins_one_as_often_as_configured() {
    let always = System::start_observed("[traces]\nratio = 1.0\n");
    let mut client = always.client();
    call(&mut client, "event.publish", json!({"topic": "test.x"})).unwrap();
    let page = call(&mut client, "kernel.traces", json!({})).unwrap();
    let spans = page["spans"].as_array().unwrap();
    let root = named(spans, "event.publish");
    assert_eq!(root["parent_span_id"], Value::Null);
    assert_eq!(named(spans, "publish test.x")["trace_id"], root["trace_id"]);

    let never = System::start_observed("[traces]\nratio = 0.0\n");
    let mut client = never.client();
    for _ in 0..100 {
        call(&mut client, "kernel.ping", json!({})).unwrap();
    }
    let page = call(&mut client, "kernel.traces", json!({})).unwrap();
    assert_eq!(page["spans"], json!([]));
}

#[test]
fn whoever_is_no_operator_is_recorded_so_often_and_reads_nothing() {
    let system = System::start();
    let mut agent = system.confined("agent", "greedy");
    for _ in 0..600 {
        with(&mut agent, "kernel.ping", json!({}), traced("01"));
    }
    let refused = call(&mut agent, "kernel.traces", json!({})).unwrap_err();
    assert_eq!(refused.code, kairo_wire::ErrorCode::PermissionDenied);
    let mut client = system.client();
    let page = call(&mut client, "kernel.traces", json!({"limit": 1000})).unwrap();
    assert!(page["refused"].as_u64().unwrap() > 0, "{}", page["refused"]);
    for wrong in [
        json!({"limit": 0}),
        json!({"limit": 1001}),
        json!({"trace_id": "xyz"}),
    ] {
        let error = call(&mut client, "kernel.traces", wrong).unwrap_err();
        assert_eq!(error.code, kairo_wire::ErrorCode::InvalidParams);
    }
}
