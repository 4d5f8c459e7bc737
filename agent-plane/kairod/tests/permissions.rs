//! Who may do what, over a real socket: every method with every class, devices, grants, limits.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use kairo_wire::{Client, ErrorCode, Incoming, Meta};
use serde_json::{Value, json};
use support::{PATIENCE, System, call, claim, eventually, send};

const CLASSES: [&str; 5] = ["operator", "agent", "skill", "driver", "service"];

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

fn watching(system: &System, pattern: &str) -> Client {
    let mut client = system.client();
    call(&mut client, "event.subscribe", json!({"topics": [pattern]})).unwrap();
    client
}

fn grant(operator: &mut Client, right: &str, target: &str) -> u64 {
    let params = json!({
        "who": {"class": "agent"}, "right": right, "target": target, "reason": "a test",
    });
    let granted = call(operator, "permission.grant", params).unwrap();
    granted["id"].as_u64().unwrap()
}

#[test]
fn every_method_is_open_to_the_classes_of_its_row_and_to_no_other() {
    let system = System::start();
    let mut operator = system.client();
    let all = call(&mut operator, "kernel.introspect", json!({})).unwrap();
    for class in CLASSES {
        let mut client = system.confined(class, "one");
        for method in all["methods"].as_array().unwrap() {
            let name = method["name"].as_str().unwrap();
            let classes = method["classes"].as_array().unwrap();
            let open = classes.contains(&json!(class));
            // The right to call comes first, so a parameter that no method has tells both apart.
            let refused = call(&mut client, name, json!({"surprise": 1})).unwrap_err();
            let expected = match open {
                true => (ErrorCode::InvalidParams, "unknown_key"),
                false => (ErrorCode::PermissionDenied, "denied"),
            };
            let said = (refused.code.clone(), refused.reason_name());
            assert_eq!(said, expected, "{class} calls {name}: {refused}");
        }
    }
}

#[test]
fn an_agent_moves_nothing_until_it_is_granted_and_stops_when_that_is_revoked() {
    let system = System::start();
    let mut operator = watching(&system, "kairo.>");
    let mut agent = system.confined("agent", "planner");
    let refused = call(&mut agent, "device.claim", json!({"device": "arm"})).unwrap_err();
    assert_eq!(refused.code, ErrorCode::PermissionDenied);
    assert_eq!(
        refused.detail("right").unwrap().as_str(),
        Some("device.claim")
    );
    let told = event(&mut operator, "kairo.system.security.permission.denied");
    assert_eq!(told["name"], "planner");
    assert_eq!(told["target"], "arm");

    let mut hands = system.client();
    let claiming = grant(&mut hands, "device.claim", "arm");
    let writing = grant(&mut hands, "device.write", "*");
    // By its alias it is the same device.
    let claimed = call(
        &mut agent,
        "device.claim",
        json!({"device": "agent://device/arm"}),
    )
    .unwrap();
    let epoch = claimed["epoch"].as_u64().unwrap();
    send(&mut agent, epoch, json!({"elbow_flex": 0.1})).unwrap();

    call(&mut hands, "permission.revoke", json!({"id": writing})).unwrap();
    let refused = send(&mut agent, epoch, json!({"elbow_flex": 0.2})).unwrap_err();
    assert_eq!(refused.reason_name(), "denied");
    call(&mut hands, "permission.revoke", json!({"id": claiming})).unwrap();
    let ended = event(&mut operator, "kairo.system.device.released");
    assert_eq!(ended["cause"], "revoked");
    assert_eq!(ended["epoch"], epoch);
}

#[test]
fn a_policy_says_how_far_a_command_may_go() {
    let system = System::start_with_policy(
        "[[allow]]\nclass = 'agent'\ndevices = ['arm']\n\
         limits = { velocity_scale_max = 0.5, ttl_max_ms = 400, joints = ['elbow_flex'] }\n",
    );
    let mut agent = system.confined("agent", "planner");
    let epoch = claim(&mut agent);
    let mut try_it = |command: Value, ttl_ms: u64| {
        let params = json!({
            "device": "arm", "epoch": epoch, "command": command, "ttl_ms": ttl_ms,
        });
        call(&mut agent, "device.send", params)
    };
    let elbow = json!({"mode": "position", "positions": {"elbow_flex": 0.1}});
    try_it(elbow.clone(), 400).unwrap();
    let long = try_it(elbow, 401).unwrap_err();
    assert_eq!(long.reason_name(), "grant_limit");
    let positions = json!({"elbow_flex": 0.1});
    let fast = json!({"mode": "position", "positions": positions, "velocity_scale": 0.6});
    assert_eq!(try_it(fast, 400).unwrap_err().reason_name(), "grant_limit");
    for beyond in [
        json!({"gripper": 0.1}),
        json!([0.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
    ] {
        let command = json!({"mode": "position", "positions": beyond});
        assert_eq!(
            try_it(command, 400).unwrap_err().reason_name(),
            "grant_joint"
        );
    }
    // A stop is never refused for the sake of a limit.
    try_it(json!({"mode": "stop"}), 9_000).unwrap();
    let reset = try_it(json!({"mode": "reset"}), 400).unwrap_err();
    assert_eq!(reset.reason_name(), "grant_joint");
}

#[test]
fn only_an_operators_connection_says_what_it_becomes() {
    // A name and a class are what rules go by: nobody gives itself one.
    let system = System::start_with_file(
        "policy.toml",
        "[[allow]]\nname = 'planner'\ndevices = ['arm']\n\
         [[deny]]\nclass = 'agent'\nmethods = ['rt.estop']\n",
    );
    let mut client = system.client();
    call(&mut client, "kernel.confine", json!({"class": "agent"})).unwrap();
    for params in [
        json!({"class": "agent", "name": "planner"}),
        json!({"class": "skill"}),
        json!({"class": "operator"}),
    ] {
        let refused = call(&mut client, "kernel.confine", params).unwrap_err();
        assert_eq!(refused.reason_name(), "more");
    }
    let refused = call(&mut client, "device.claim", json!({"device": "arm"})).unwrap_err();
    assert_eq!(refused.reason_name(), "denied");
    let hello = call(&mut client, "kernel.hello", json!({})).unwrap();
    assert_eq!(hello["identity"]["class"], "agent");
    assert_eq!(hello["identity"]["name"], Value::Null);
}

#[test]
fn what_is_in_force_does_not_outlive_a_confinement() {
    let system = System::start();
    let become_agent = json!({"class": "agent"});
    let mut holder = system.client();
    claim(&mut holder);
    let refused = call(&mut holder, "kernel.confine", become_agent.clone()).unwrap_err();
    assert_eq!(refused.reason_name(), "in_use");
    let mut watcher = watching(&system, ">");
    let refused = call(&mut watcher, "kernel.confine", become_agent).unwrap_err();
    assert_eq!(refused.reason_name(), "in_use");
}

#[test]
fn what_rests_on_a_grant_ends_with_it() {
    let system = System::start();
    let mut operator = watching(&system, "kairo.>");
    let mut agent = system.confined("agent", "brief");
    let params = json!({
        "who": {"class": "agent"}, "right": "device.claim", "target": "arm", "reason": "a test",
        "ttl_s": 1,
    });
    call(&mut system.client(), "permission.grant", params).unwrap();
    let epoch = claim(&mut agent);
    let ended = event(&mut operator, "kairo.system.device.released");
    assert_eq!(ended["epoch"], epoch);
    assert_eq!(ended["cause"], "revoked");
    let list = call(&mut system.client(), "permission.list", json!({})).unwrap();
    let rules = list["rules"].as_array().unwrap().iter();
    let left = rules.filter(|rule| rule["origin"].as_str().unwrap().starts_with("grant"));
    assert_eq!(left.count(), 0);
}

#[test]
fn whoever_may_no_longer_claim_can_still_let_go() {
    let system = System::start();
    let mut operator = system.client();
    let claiming = grant(&mut operator, "device.claim", "arm");
    let mut agent = system.confined("agent", "polite");
    claim(&mut agent);
    // Taken away together with the claim: what is left to release is nothing, and says so.
    call(&mut operator, "permission.revoke", json!({"id": claiming})).unwrap();
    let gone = call(&mut agent, "device.release", json!({"device": "arm"})).unwrap_err();
    assert_eq!(gone.reason_name(), "not_claimed");
}

#[test]
fn grants_outlive_kairod_and_revoked_ones_do_not_come_back() {
    let mut system = System::start();
    let mut operator = system.client();
    let kept = grant(&mut operator, "device.claim", "arm");
    let gone = grant(&mut operator, "device.write", "arm");
    call(&mut operator, "permission.revoke", json!({"id": gone})).unwrap();
    system.restart_kairod();
    let mut operator = system.client();
    let list = call(&mut operator, "permission.list", json!({})).unwrap();
    let rules = list["rules"].as_array().unwrap();
    let origins: Vec<&str> = rules
        .iter()
        .map(|rule| rule["origin"].as_str().unwrap())
        .filter(|origin| origin.starts_with("grant"))
        .collect();
    assert_eq!(origins, [format!("grant:{kept}")]);
    let agent = json!({"class": "agent"});
    let ask = |right: &str| json!({"right": right, "target": "arm", "who": agent});
    let claim = call(&mut operator, "permission.check", ask("device.claim")).unwrap();
    assert_eq!(claim["allowed"], true);
    let write = call(&mut operator, "permission.check", ask("device.write")).unwrap();
    assert_eq!(write["rule"], "default");
}

#[test]
fn a_repeated_request_with_its_key_takes_effect_once() {
    let system = System::start();
    let keyed = |client: &mut Client, target: &str| {
        let params = json!({
            "who": {"class": "agent"}, "right": "device.read", "target": target, "reason": "r",
        });
        let meta = Some(Meta {
            idempotency_key: Some("k1".into()),
            ..Meta::default()
        });
        client.call_with_meta::<Value>("permission.grant", params, meta, PATIENCE)
    };
    let first = keyed(&mut system.client(), "arm").unwrap();
    // Another connection of the same identity: the first answer may have been lost with its own.
    let second = keyed(&mut system.client(), "arm").unwrap();
    assert_eq!(first, second);
    let other = keyed(&mut system.client(), "leg").unwrap_err();
    assert_eq!(other.refusal().unwrap().code, ErrorCode::Conflict);
    let list = call(&mut system.client(), "permission.list", json!({})).unwrap();
    let rules = list["rules"].as_array().unwrap().iter();
    let made = rules.filter(|rule| rule["origin"].as_str().unwrap().starts_with("grant"));
    assert_eq!(made.count(), 1);
}

#[test]
fn a_policy_that_cannot_be_read_to_its_end_stops_kairod_with_the_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("policy.toml");
    std::fs::write(&path, "[[allow]]\nclass = 'agent'\nmethodz = ['>']\n").unwrap();
    let private = <std::fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o600);
    std::fs::set_permissions(&path, private).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_kairod"))
        .arg("--run-dir")
        .arg(directory.path())
        .arg("--policy")
        .arg(&path)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("policy.toml:3") && said.contains("methodz"),
        "{said}"
    );
}

#[test]
fn a_flood_of_forbidden_requests_makes_few_events() {
    let system = System::start();
    let mut operator = watching(&system, "kairo.system.security.>");
    let mut agent = system.confined("agent", "noisy");
    for _ in 0..500 {
        let refused = call(&mut agent, "permission.list", json!({})).unwrap_err();
        assert_eq!(refused.reason_name(), "denied");
    }
    // Some time later one more is told, and it says how many were not.
    let untold = eventually("an event says how many were left out", || {
        call(&mut agent, "permission.list", json!({})).unwrap_err();
        std::thread::sleep(std::time::Duration::from_millis(100));
        let told = event(&mut operator, "kairo.system.security.permission.denied");
        told["untold"].as_u64().filter(|untold| *untold > 0)
    });
    assert!(untold > 300, "{untold}");
}
