//! Streams and events: policies, credit, gaps, and readers that stall.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use kairo_wire::{Client, ErrorCode, Incoming, StreamChunk};
use serde_json::{Value, json};
use std::time::Duration;
use support::{PATIENCE, System, call, eventually};

fn chunk(client: &mut Client) -> StreamChunk {
    match client.next_incoming(PATIENCE).unwrap() {
        Some(Incoming::Chunk(chunk)) => chunk,
        other => panic!("expected a chunk, got {other:?}"),
    }
}

fn subscribe(client: &mut Client, params: Value) -> String {
    let subscribed = call(client, "device.subscribe", params).unwrap();
    assert_eq!(subscribed["format"], "msgpack");
    subscribed["subscription"].as_str().unwrap().into()
}

#[test]
fn samples_name_joints_and_units_and_move_on() {
    let system = System::start();
    let mut client = system.client();
    let name = subscribe(&mut client, json!({"device": "arm", "rate_hz": 100}));
    let first = chunk(&mut client);
    assert_eq!(
        (first.subscription.as_str(), first.seq, first.offset),
        (name.as_str(), 0, 0)
    );
    assert_eq!(first.stream, "device/arm/state");
    let sample: Value = rmp_serde::from_slice(&first.data).unwrap();
    assert_eq!(sample["device"], "arm");
    assert_eq!(sample["joints"].as_object().unwrap().len(), 6);
    assert!(sample["joints"]["gripper"]["position_rad"].is_number());
    let second = chunk(&mut client);
    assert_eq!((second.seq, second.offset), (1, first.data.len() as u64));
    let later: Value = rmp_serde::from_slice(&second.data).unwrap();
    assert!(later["tick"].as_u64() > sample["tick"].as_u64());

    call(
        &mut client,
        "event.unsubscribe",
        json!({"subscription": name}),
    )
    .unwrap();
    let gone = call(
        &mut client,
        "stream.credit",
        json!({"subscription": name, "bytes": 1}),
    );
    assert_eq!(gone.unwrap_err().reason_name(), "unknown_subscription");
}

#[test]
fn credit_bounds_what_is_delivered_and_gaps_are_told() {
    let system = System::start();
    let mut client = system.client();
    // Room for one sample (about 1.2 KiB) and not for two.
    let params = json!({"device": "arm", "rate_hz": 200, "credit_bytes": 2000});
    let name = subscribe(&mut client, params);
    let first = chunk(&mut client);
    let silence = client.next_incoming(Duration::from_millis(100)).unwrap();
    assert_eq!(silence, None, "delivered without credit");
    let grant = json!({"subscription": name, "bytes": 100_000});
    call(&mut client, "stream.credit", grant).unwrap();
    let after = chunk(&mut client);
    let gap = after.gap.expect("samples were lost");
    assert_eq!(gap.from, first.data.len() as u64);
    assert_eq!(gap.to, after.offset);
    assert!(after.seq > first.seq + 1);
    assert_eq!(chunk(&mut client).gap, None);
}

#[test]
fn blocking_waits_for_credit_and_loses_nothing() {
    let system = System::start();
    let mut client = system.client();
    let params = json!({
        "device": "arm", "rate_hz": 200, "credit_bytes": 2000, "policy": "block",
    });
    let name = subscribe(&mut client, params);
    let first = chunk(&mut client);
    let silence = client.next_incoming(Duration::from_millis(100)).unwrap();
    assert_eq!(silence, None, "delivered without credit");
    call(
        &mut client,
        "stream.credit",
        json!({"subscription": name, "bytes": 100_000}),
    )
    .unwrap();
    let second = chunk(&mut client);
    assert_eq!((second.seq, second.gap), (first.seq + 1, None));
}

#[test]
fn a_stalled_subscriber_delays_nobody_and_is_told_what_it_missed() {
    let system = System::start();
    let mut stalled = system.client();
    let topics = json!({"topics": ["kairo.device.*"], "credit_bytes": 0});
    let answer = call(&mut stalled, "event.subscribe", topics).unwrap();
    let mut reader = system.client();
    call(
        &mut reader,
        "event.subscribe",
        json!({"topics": ["kairo.device.*"]}),
    )
    .unwrap();
    let mut actor = system.client();
    for _ in 0..20 {
        call(&mut actor, "device.claim", json!({"device": "arm"})).unwrap();
        call(&mut actor, "device.release", json!({"device": "arm"})).unwrap();
    }
    let mut seen = 0;
    while seen < 40 {
        match reader.next_incoming(PATIENCE).unwrap() {
            Some(Incoming::Event(event)) if event.topic != "kairo.system.device.safe" => seen += 1,
            Some(_) => {}
            None => panic!("only {seen} of 40 events arrived"),
        }
    }
    let name = answer["subscription"].as_str().unwrap();
    call(
        &mut stalled,
        "stream.credit",
        json!({"subscription": name, "bytes": 1_000_000}),
    )
    .unwrap();
    call(&mut actor, "device.claim", json!({"device": "arm"})).unwrap();
    let Some(Incoming::Event(gap)) = stalled.next_incoming(PATIENCE).unwrap() else {
        panic!("an event");
    };
    assert_eq!(gap.topic, "kairo.system.event.gap");
    let data: Value = kairo_wire::message::typed(&gap.data).unwrap();
    assert!(data["lost"].as_u64().unwrap() >= 40);
    let Some(Incoming::Event(next)) = stalled.next_incoming(PATIENCE).unwrap() else {
        panic!("an event");
    };
    assert_eq!(data["to_seq"], next.seq);
}

#[test]
fn what_is_not_offered_is_refused() {
    let system = System::start();
    let mut client = system.client();
    let mut refuse = |method: &str, params: Value| call(&mut client, method, params).unwrap_err();
    let spill = refuse(
        "device.subscribe",
        json!({"device": "arm", "policy": "spill"}),
    );
    assert_eq!(spill.code, ErrorCode::Unsupported);
    for rate_hz in [0.0, -1.0, 1.0e9] {
        let wild = refuse(
            "device.subscribe",
            json!({"device": "arm", "rate_hz": rate_hz}),
        );
        assert_eq!(wild.code, ErrorCode::Limit);
    }
    for topics in [json!([]), json!([""]), json!(["a b"]), json!(["a.>.b"])] {
        let bad = refuse("event.subscribe", json!({"topics": topics}));
        assert_eq!(bad.code, ErrorCode::InvalidParams);
    }
    let refused = eventually("subscriptions run out", || {
        call(&mut client, "event.subscribe", json!({"topics": [">"]})).err()
    });
    assert_eq!(refused.reason_name(), "subscriptions");
}
