//! Intents over a real socket: what is called off with them, and that they always end.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use kairo_link::control::Request;
use kairo_wire::{Client, ErrorCode, Incoming, Meta};
use serde_json::{Value, json};
use support::{PATIENCE, System, call};

fn serving(intent: &str) -> Option<Meta> {
    Some(Meta {
        correlation_id: Some(intent.into()),
        ..Meta::default()
    })
}

fn begin(client: &mut Client, params: Value) -> String {
    let begun = call(client, "intent.begin", params).unwrap();
    begun["intent"].as_str().unwrap().to_string()
}

fn watching(system: &System) -> Client {
    let mut client = system.client();
    let topics = json!({"topics": ["kairo.intent.>", "kairo.device.released"]});
    call(&mut client, "event.subscribe", topics).unwrap();
    client
}

/// The next event of that topic.
fn event(client: &mut Client, topic: &str) -> Value {
    loop {
        match client.next_incoming(PATIENCE).unwrap() {
            Some(Incoming::Event(event)) if event.topic == topic => {
                return serde_json::to_value(&event.data).unwrap();
            }
            Some(_) => {}
            None => panic!("no event {topic}"),
        }
    }
}

const ENDED: &str = "kairo.system.intent.ended";

#[test]
fn cancelling_an_intent_ends_its_claims_streams_and_children() {
    let system = System::start();
    let mut operator = watching(&system);
    let mut agent = system.client();
    let top = begin(&mut agent, json!({"name": "tidy up"}));
    let below = begin(&mut agent, json!({"name": "grasp", "parent": top}));

    let device = json!({"device": "arm"});
    let claimed: Value = agent
        .call_with_meta("device.claim", &device, serving(&below), PATIENCE)
        .unwrap();
    let topics = json!({"topics": ["kairo.device.>"]});
    agent
        .call_with_meta::<Value>("event.subscribe", topics, serving(&top), PATIENCE)
        .unwrap();

    let canceled = call(&mut operator, "intent.cancel", json!({"intent": top})).unwrap();
    assert_eq!(canceled["intents"], json!([below, top]));
    let things = json!({"requests": 0, "subscriptions": 1, "claims": 1});
    assert_eq!(canceled["canceled"], things);
    // The lease is closed in the real-time plane too: that is what makes the arm safe.
    let epoch = claimed["epoch"].as_u64().unwrap();
    system
        .rt()
        .wait_for(|asked| matches!(asked, Request::CloseLease { epoch: e, .. } if *e == epoch));
    assert_eq!(
        event(&mut operator, "kairo.system.device.released")["cause"],
        "canceled"
    );
    let child = event(&mut operator, ENDED);
    assert_eq!(
        (child["intent"].as_str(), child["status"].as_str()),
        (Some(below.as_str()), Some("canceled"))
    );
    assert_eq!(event(&mut operator, ENDED)["intent"], top.as_str());

    // What was still on its way in its name is refused.
    let late = agent
        .call_with_meta::<Value>("device.claim", &device, serving(&below), PATIENCE)
        .unwrap_err();
    assert_eq!(late.refusal().unwrap().reason_name(), "intent_ended");
}

#[test]
fn a_command_that_serves_an_intent_stops_with_it() {
    let system = System::start();
    let mut agent = system.client();
    let epoch = support::claim(&mut agent);
    let intent = begin(&mut agent, json!({"name": "wave"}));
    let params = json!({
        "device": "arm", "epoch": epoch, "ttl_ms": 500,
        "command": {"mode": "position", "positions": {"elbow_flex": 0.1}},
    });
    agent
        .call_with_meta::<Value>("device.send", params, serving(&intent), PATIENCE)
        .unwrap();
    let canceled = call(&mut agent, "intent.cancel", json!({"intent": intent})).unwrap();
    assert_eq!(canceled["canceled"]["claims"], 1);
}

#[test]
fn a_deadline_ends_an_intent_and_its_owners_end_abandons_it() {
    let system = System::start_without_rt();
    let mut operator = watching(&system);
    let mut agent = system.client();
    let short = begin(&mut agent, json!({"name": "quick", "deadline_ms": 30}));
    let expired = event(&mut operator, ENDED);
    assert_eq!(expired["intent"], short.as_str());
    assert_eq!(expired["status"], "expired");

    let open = begin(&mut agent, json!({"name": "left open"}));
    let params = json!({"name": "stays", "detached": true, "deadline_ms": 60_000});
    let detached = begin(&mut agent, params);
    drop(agent);
    let abandoned = event(&mut operator, ENDED);
    assert_eq!(abandoned["intent"], open.as_str());
    assert_eq!(abandoned["status"], "abandoned");
    let live = call(&mut operator, "intent.list", json!({"status": "live"})).unwrap();
    assert_eq!(live["intents"][0]["intent"], detached.as_str());
}

#[test]
fn an_intent_is_its_owners_and_the_operators() {
    let system = System::start_without_rt();
    let mut one = system.confined("agent", "one");
    let mut other = system.confined("agent", "other");
    let intent = begin(&mut one, json!({"name": "mine"}));
    for method in ["intent.cancel", "intent.end"] {
        let params = match method {
            "intent.end" => json!({"intent": intent, "status": "completed"}),
            _ => json!({"intent": intent}),
        };
        let refused = call(&mut other, method, params).unwrap_err();
        assert_eq!(refused.reason_name(), "not_owner");
    }
    let below = call(
        &mut other,
        "intent.begin",
        json!({"name": "x", "parent": intent}),
    );
    assert_eq!(below.unwrap_err().reason_name(), "not_owner");
    let end = json!({"intent": intent, "status": "completed"});
    call(&mut one, "intent.end", end.clone()).unwrap();
    let twice = call(&mut one, "intent.end", end).unwrap_err();
    assert_eq!(
        (twice.code.clone(), twice.reason_name()),
        (ErrorCode::Conflict, "intent_ended")
    );
}
