//! What outlives a kill of kairod and a reboot, and what is told of that which does not.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use kairo_events::rusqlite::Connection;
use kairo_wire::{Client, ErrorInfo, Meta};
use serde_json::{Value, json};
use support::{PATIENCE, System, call, claim, eventually};

fn keyed(client: &mut Client, method: &str, params: &Value, key: &str) -> Result<Value, ErrorInfo> {
    let meta = Some(Meta {
        idempotency_key: Some(key.into()),
        ..Meta::default()
    });
    let called = client.call_with_meta(method, params, meta, PATIENCE);
    called.map_err(|error| error.refusal().unwrap().clone())
}

fn grant(target: &str) -> Value {
    let who = json!({"class": "agent"});
    json!({"who": who, "right": "device.read", "target": target, "reason": "r"})
}

/// The data of every event of these topics in the log.
fn told(client: &mut Client, topic: &str) -> Vec<Value> {
    let params = json!({"topics": [topic], "limit": 1000});
    let page = call(client, "event.query", params).unwrap();
    let events = page["events"].as_array().unwrap().iter();
    events.map(|event| event["data"].clone()).collect()
}

/// The rows of the log, while no kairod has it open.
fn tables(system: &System) -> Connection {
    Connection::open(system.directory.path().join("state/events.db")).unwrap()
}

#[test]
fn a_request_repeated_under_its_key_after_a_kill_gets_the_first_result() {
    let mut system = System::start();
    let mut client = system.client();
    let said = json!({"topic": "app.once", "data": 1});
    let fleeting = json!({"topic": "app.fleeting", "class": "volatile"});
    let begin = json!({"name": "once", "detached": true, "deadline_ms": 60_000});
    let requests = [
        ("event.publish", said),
        ("event.publish", fleeting),
        ("intent.begin", begin),
        ("permission.grant", grant("arm")),
    ];
    let ask = |client: &mut Client| -> Vec<Value> {
        let requests = requests.iter().enumerate();
        requests
            .map(|(number, (method, params))| {
                keyed(client, method, params, &format!("k{number}")).unwrap()
            })
            .collect()
    };
    let first = ask(&mut client);
    for _ in 0..2 {
        system.restart_kairod();
        assert_eq!(ask(&mut system.client()), first);
    }
    let mut client = system.client();
    assert_eq!(told(&mut client, "app.once"), [json!(1)]);
    assert_eq!(told(&mut client, "kairo.system.intent.started").len(), 1);
    let granted = told(&mut client, "kairo.system.security.permission.granted");
    assert_eq!(granted.len(), 1);
    let other = keyed(&mut client, "permission.grant", &grant("leg"), "k3").unwrap_err();
    assert_eq!(other.reason_name(), "idempotency_key");
}

#[test]
fn a_request_that_was_begun_when_kairod_was_killed_is_not_done_again() {
    let mut system = System::start();
    let mut client = system.client();
    keyed(&mut client, "permission.grant", &grant("arm"), "k").unwrap();
    system.kill_kairod();
    // As if the kill had come before the result was written. The checksum says so too.
    let changed = tables(&system).execute("UPDATE idempotency SET result = NULL", []);
    assert_eq!(changed.unwrap(), 1);
    system.begin_kairod();
    let mut client = system.client();
    let refused = keyed(&mut client, "permission.grant", &grant("arm"), "k").unwrap_err();
    let said = (
        refused.reason_name(),
        refused.detail("look").unwrap().as_str(),
    );
    assert_eq!(
        said,
        ("outcome_unknown", Some("permission.list")),
        "{refused}"
    );
    // What is looked at shows that it was done.
    let list = call(&mut client, "permission.list", json!({})).unwrap();
    let mut rules = list["rules"].as_array().unwrap().iter();
    assert!(rules.any(|rule| rule["origin"] == "grant:1"));
    let refused = keyed(&mut client, "permission.grant", &grant("leg"), "k").unwrap_err();
    assert_eq!(refused.reason_name(), "idempotency_key");
}

#[test]
fn a_refused_request_leaves_its_key_free_also_after_a_kill() {
    let mut system = System::start();
    let mut client = system.client();
    let unknown = json!({"id": 77});
    let refused = keyed(&mut client, "permission.revoke", &unknown, "k").unwrap_err();
    assert_eq!(refused.reason_name(), "unknown_grant");
    // A durable event behind it: what was queued before is written.
    let settled = json!({"topic": "app.settled", "class": "synchronous"});
    call(&mut client, "event.publish", settled).unwrap();
    system.restart_kairod();
    keyed(&mut system.client(), "permission.grant", &grant("arm"), "k").unwrap();
}

#[test]
fn without_a_store_a_key_that_should_outlive_a_connection_is_refused() {
    let system = System::start_with(|directory| {
        std::fs::write(directory.join("state"), "in the way").unwrap();
    });
    let mut client = system.client();
    let volatile = json!({"topic": "app.a", "class": "volatile"});
    for (method, params) in [
        ("intent.begin", json!({"name": "x"})),
        ("event.publish", volatile),
    ] {
        let refused = keyed(&mut client, method, &params, "k").unwrap_err();
        assert_eq!(refused.reason_name(), "no_store", "{method}: {refused}");
        // The caller may do without.
        call(&mut client, method, params).unwrap();
    }
    let device = json!({"device": "arm"});
    let first = keyed(&mut client, "device.claim", &device, "k").unwrap();
    assert_eq!(
        keyed(&mut client, "device.claim", &device, "k").unwrap(),
        first
    );
}

/// Opens one of everything that a kairod's end ends.
fn open_everything(system: &System) -> (Vec<Client>, u64, String) {
    let mut operator = system.client();
    let epoch = claim(&mut operator);
    let mut agent = system.confined("agent", "planner");
    let begun = call(&mut agent, "intent.begin", json!({"name": "tidy up"})).unwrap();
    let intent = begun["intent"].as_str().unwrap().to_string();
    let mut driver = system.confined("driver", "gripper");
    let methods = json!([{"name": "open", "summary": "Opens.", "params": {}, "result": {}}]);
    let params = json!({"namespace": "gripper", "methods": methods});
    call(&mut driver, "service.register", params).unwrap();
    // Batched facts are on the disk with a synchronous one behind them.
    let settled = json!({"topic": "agent.planner.said", "class": "synchronous"});
    call(&mut agent, "event.publish", settled).unwrap();
    (vec![agent, driver, operator], epoch, intent)
}

/// That each of them ended with one event, and why.
fn check_ends(client: &mut Client, cause: &str, epoch: u64, intent: &str) {
    let released = eventually("the ends are told", || {
        let released = told(client, "kairo.system.device.released");
        (!released.is_empty()).then_some(released)
    });
    assert_eq!(
        released,
        [json!({"device": "arm", "epoch": epoch, "cause": cause})]
    );
    let ended = told(client, "kairo.system.intent.ended");
    assert_eq!(ended.len(), 1);
    let facts = (&ended[0]["intent"], &ended[0]["status"], &ended[0]["cause"]);
    assert_eq!(
        facts,
        (&json!(intent), &json!("interrupted"), &json!(cause))
    );
    let removed = told(client, "kairo.system.service.removed");
    assert_eq!(removed, [json!({"namespace": "gripper", "cause": cause})]);
    let begun = told(client, "kairo.system.session.started");
    let ended = told(client, "kairo.system.session.ended");
    assert_eq!((begun.len(), ended.len()), (2, 2));
    for (begun, ended) in begun.iter().zip(&ended) {
        assert_eq!(begun["connection"], ended["connection"]);
        assert_eq!(ended["cause"], cause);
    }
}

#[test]
fn a_kill_ends_what_was_open_with_one_event_each() {
    let mut system = System::start();
    let (_clients, epoch, intent) = open_everything(&system);
    for _ in 0..2 {
        // The second one finds nothing more to end.
        system.restart_kairod();
        check_ends(&mut system.client(), "kairod_restarted", epoch, &intent);
    }
}

#[test]
fn a_reboot_is_told_apart_from_a_kill() {
    let mut system = System::start();
    let (mut clients, epoch, intent) = open_everything(&system);
    let said = json!({"topic": "agent.planner.once"});
    let first = keyed(&mut clients[0], "event.publish", &said, "k").unwrap();
    system.kill_kairod();
    // As if the machine had been another boot until now, and its clock ahead.
    tables(&system)
        .execute_batch(
            "UPDATE boots SET uuid = 'the-boot-before';
             UPDATE projected_claims SET boot = 'the-boot-before';
             UPDATE projected_intents SET boot = 'the-boot-before';
             UPDATE projected_open SET boot = 'the-boot-before';
             UPDATE idempotency SET monotonic_ns = 9000000000000000000;",
        )
        .unwrap();
    system.begin_kairod();
    check_ends(&mut system.client(), "rebooted", epoch, &intent);
    let mut agent = system.confined("agent", "planner");
    assert_eq!(
        keyed(&mut agent, "event.publish", &said, "k").unwrap(),
        first
    );
}

#[test]
fn an_orderly_stop_ends_everything_itself() {
    let mut system = System::start();
    let (_clients, _, _) = open_everything(&system);
    assert!(system.stop_kairod());
    system.begin_kairod();
    let mut client = system.client();
    let causes = |client: &mut Client, topic: &str| -> Vec<Value> {
        let all = told(client, topic);
        all.iter().map(|data| data["cause"].clone()).collect()
    };
    let ended = causes(&mut client, "kairo.system.session.ended");
    assert_eq!(ended, [json!("kairod_stopped"), json!("kairod_stopped")]);
    let removed = causes(&mut client, "kairo.system.service.removed");
    assert_eq!(removed, [json!("kairod_stopped")]);
    assert_eq!(told(&mut client, "kairo.system.intent.ended").len(), 1);
    assert_eq!(told(&mut client, "kairo.system.device.released").len(), 1);
}

#[test]
fn a_grant_that_is_gone_without_a_word_is_told_as_revoked() {
    let mut system = System::start();
    let mut client = system.client();
    call(&mut client, "permission.grant", grant("arm")).unwrap();
    let settled = json!({"topic": "app.settled", "class": "synchronous"});
    call(&mut client, "event.publish", settled).unwrap();
    system.kill_kairod();
    std::fs::remove_file(system.directory.path().join("state/grants.json")).unwrap();
    for _ in 0..2 {
        system.begin_kairod();
        let revoked = eventually("it is told", || {
            let topic = "kairo.system.security.permission.revoked";
            let revoked = told(&mut system.client(), topic);
            (!revoked.is_empty()).then_some(revoked)
        });
        let expected = json!({"grant": 1, "by": null, "cause": "kairod_restarted"});
        assert_eq!(revoked, [expected]);
        system.kill_kairod();
    }
}

/// As kairod 0.1 wrote it: one without an end, one whose end is past, one with limits until 2100.
const GRANTS_1: &str = include_str!("fixtures/grants-v1.json");

#[test]
fn grants_of_the_first_released_format_are_in_force_again() {
    let system = System::start_with(|directory| {
        std::fs::create_dir(directory.join("state")).unwrap();
        std::fs::write(directory.join("state/grants.json"), GRANTS_1).unwrap();
    });
    let mut client = system.client();
    let list = call(&mut client, "permission.list", json!({})).unwrap();
    let rules = list["rules"].as_array().unwrap().iter();
    let grants: Vec<&Value> = rules
        .filter(|rule| rule["origin"].as_str().unwrap().starts_with("grant:"))
        .collect();
    let origins: Vec<&Value> = grants.iter().map(|grant| &grant["origin"]).collect();
    assert_eq!(origins, ["grant:3", "grant:1"]);
    assert_eq!(grants[0]["limits"]["velocity_scale_max"], 0.5);
    let next = call(&mut client, "permission.grant", grant("arm")).unwrap();
    assert_eq!(next["id"], 4);
}

#[test]
fn an_agent_that_connects_all_the_time_makes_few_events() {
    let system = System::start_without_rt();
    for _ in 0..60 {
        drop(system.confined("agent", "restless"));
    }
    let mut client = system.client();
    let begun = told(&mut client, "kairo.system.session.started").len();
    assert!((20..60).contains(&begun), "{begun}");
    eventually("each of them ended", || {
        let ended = told(&mut client, "kairo.system.session.ended").len();
        (ended == begun).then_some(())
    });
}
