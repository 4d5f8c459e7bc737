//! Every method over a real socket, with right and with wrong parameters.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use kairo_wire::{ErrorCode, Incoming, Meta};
use serde_json::json;
use support::{Order, PATIENCE, System, call, claim, eventually, send};

#[test]
fn every_method_of_introspection_answers_or_refuses_with_a_reason() {
    let system = System::start();
    let mut client = system.client();
    let all = call(&mut client, "kernel.introspect", json!({})).unwrap();
    let methods = all["methods"].as_array().unwrap();
    assert!(methods.len() >= 17, "{}", methods.len());
    for method in methods {
        let name = method["name"].as_str().unwrap();
        for field in ["params", "result"] {
            assert!(method[field].is_object(), "{name} has no schema of {field}");
        }
        let refused = call(&mut client, name, json!({"surprise": 1})).unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidParams, "{name}");
        assert_eq!(refused.reason_name(), "unknown_key", "{name}");
        assert!(refused.message.contains("`surprise`"), "{refused}");
        let required = method["params"]["required"].as_array();
        // A grant is by a request or by all of whom, what and to what: no schema says that simply.
        let needs_some = name == "permission.grant";
        if required.is_none_or(Vec::is_empty) && !needs_some {
            let done = call(&mut client, name, json!({}));
            assert!(done.is_ok(), "{name}: {done:?}");
        } else {
            let refused = call(&mut client, name, json!({})).unwrap_err();
            assert_eq!(refused.code, ErrorCode::InvalidParams, "{name}");
        }
    }
    let one = call(
        &mut client,
        "kernel.introspect",
        json!({"method": "device.send"}),
    )
    .unwrap();
    assert_eq!(one["methods"].as_array().unwrap().len(), 1);
}

#[test]
fn mistyped_names_are_answered_with_the_right_one() {
    let system = System::start();
    let mut client = system.client();
    let method = call(&mut client, "device.lst", json!({})).unwrap_err();
    assert_eq!(method.reason_name(), "unknown_method");
    assert!(method.message.contains("device.list"), "{method}");
    let key = call(&mut client, "device.info", json!({"devcie": "arm"})).unwrap_err();
    assert!(key.message.contains("`device`"), "{key}");
    let device = call(&mut client, "device.info", json!({"device": "amr"})).unwrap_err();
    assert_eq!(device.reason_name(), "unknown_device");
    assert!(device.message.contains("\"arm\""), "{device}");
}

#[test]
fn hello_says_who_the_kernel_sees() {
    let system = System::start();
    let mut client = system.client();
    let hello = call(
        &mut client,
        "kernel.hello",
        json!({"features": ["credit", "x"]}),
    )
    .unwrap();
    assert_eq!(hello["protocol"], 1);
    assert_eq!(hello["features"], json!(["credit"]));
    let identity = &hello["identity"];
    assert_eq!(identity["pid"], std::process::id());
    assert_eq!(identity["uid"], nix::unistd::getuid().as_raw());
}

#[test]
fn the_machine_describes_itself() {
    let system = System::start();
    let mut client = system.client();
    let info = call(&mut client, "system.get_info", json!({})).unwrap();
    assert_eq!(info["robot"], "so101");
    let version = info["kernel"]["version"].as_str().unwrap();
    assert_eq!(info["kernel"]["preempt_rt"], version.contains("PREEMPT_RT"));
    let metrics = call(&mut client, "system.get_metrics", json!({})).unwrap();
    assert!(metrics["memory"]["total_bytes"].as_u64().unwrap() > 0);
    assert!(!metrics["cpus"].as_array().unwrap().is_empty());
}

#[test]
fn the_arm_is_claimed_commanded_and_released() {
    let system = System::start();
    let mut client = system.client();
    let info = call(
        &mut client,
        "device.info",
        json!({"device": "agent://device/arm"}),
    )
    .unwrap();
    assert_eq!(info["id"], "arm");
    assert_eq!(info["status"], "ready");
    assert_eq!(info["joints"][2]["name"], "elbow_flex");
    assert_eq!(info["joints"][2]["position_max_rad"], 1.5);

    let epoch = claim(&mut client);
    let first = send(&mut client, epoch, json!([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])).unwrap();
    assert!(first["expires_ns"].as_u64() > first["applied_ns"].as_u64());
    let second = send(&mut client, epoch, json!({"elbow_flex": -0.2})).unwrap();
    assert!(second["sequence"].as_u64() > first["sequence"].as_u64());
    let joint = |state: &serde_json::Value, name: &str| state["joints"][name]["target_rad"].clone();
    let state = eventually("the state shows both commands", || {
        let info = call(&mut client, "device.info", json!({"device": "arm"})).unwrap();
        (joint(&info["state"], "elbow_flex") == -0.2).then(|| info["state"].clone())
    });
    // The joints that were not named kept their targets.
    assert_eq!(joint(&state, "gripper"), 0.6);
    assert_eq!(joint(&state, "shoulder_pan"), 0.1);
    assert!(state["phase_since_ns"].as_u64() >= first["applied_ns"].as_u64());

    let stop = json!({"device": "arm", "epoch": epoch, "ttl_ms": 100, "command": {"mode": "stop"}});
    call(&mut client, "device.send", stop).unwrap();
    call(&mut client, "device.release", json!({"device": "arm"})).unwrap();
    let late = send(&mut client, epoch, json!([0.0, 0.0, 0.0, 0.0, 0.0, 0.0])).unwrap_err();
    assert_eq!(late.code, ErrorCode::Conflict);
    assert_eq!(late.reason_name(), "stale_epoch");
}

#[test]
fn every_mode_goes_to_the_real_time_plane_and_limits_come_back_with_their_units() {
    let system = System::start();
    let mut client = system.client();
    let epoch = claim(&mut client);
    let mut order = |command: serde_json::Value| {
        let params = json!({"device": "arm", "epoch": epoch, "command": command, "ttl_ms": 500});
        call(&mut client, "device.send", params)
    };
    order(json!({"mode": "velocity", "velocities": {"elbow_flex": -0.5}})).unwrap();
    order(json!({"mode": "velocity", "velocities": [0.1, 0.0, 0.0, 0.0, 0.0, 0.0]})).unwrap();
    order(json!({"mode": "reset"})).unwrap();
    let gently = json!({
        "mode": "position", "positions": {"gripper": 0.1}, "acceleration_rad_s2": 2.0,
        "jerk_rad_s3": 20.0,
    });
    order(gently).unwrap();

    let fast = order(json!({"mode": "velocity", "velocities": {"elbow_flex": 2.5}})).unwrap_err();
    assert_eq!(
        (fast.code.clone(), fast.reason_name()),
        (ErrorCode::Limit, "velocity_limit")
    );
    assert_eq!(fast.detail("joint").unwrap().as_str(), Some("elbow_flex"));
    assert_eq!(fast.detail("unit").unwrap().as_str(), Some("rad/s"));
    assert_eq!(fast.detail("value").unwrap().as_f64(), Some(2.5));
    assert_eq!(fast.detail("max").unwrap().as_f64(), Some(1.5));
    let rough = json!({"mode": "position", "positions": {"gripper": 0.1}, "jerk_rad_s3": 500.0});
    let rough = order(rough).unwrap_err();
    assert_eq!(rough.reason_name(), "jerk_limit");
    assert!(
        rough.message.contains("500 rad/s³") && rough.message.contains("160 rad/s³"),
        "{}",
        rough.message
    );

    for mixed in [
        json!({"mode": "velocity", "positions": {"elbow_flex": 0.1}}),
        json!({"mode": "position", "velocities": {"elbow_flex": 0.1}}),
        json!({"mode": "reset", "positions": {"elbow_flex": 0.1}}),
        json!({"mode": "torque"}),
    ] {
        assert_eq!(order(mixed).unwrap_err().code, ErrorCode::InvalidParams);
    }
}

#[test]
fn refusals_of_the_real_time_plane_are_typed() {
    let system = System::start();
    let mut client = system.client();
    let epoch = claim(&mut client);
    let outside = send(&mut client, epoch, json!({"elbow_flex": 2.5})).unwrap_err();
    assert_eq!(outside.code, ErrorCode::Limit);
    assert_eq!(outside.reason_name(), "position_limit");
    assert_eq!(
        outside.detail("joint").unwrap().as_str(),
        Some("elbow_flex")
    );
    assert_eq!(outside.detail("value_rad").unwrap().as_f64(), Some(2.5));
    assert_eq!(outside.detail("max_rad").unwrap().as_f64(), Some(1.5));

    let zero = [0.0; 6];
    let send_with = |client: &mut _, ttl_ms: u64, positions: serde_json::Value| {
        let command = json!({"mode": "position", "positions": positions});
        let params = json!({"device": "arm", "epoch": epoch, "command": command, "ttl_ms": ttl_ms});
        call(client, "device.send", params).unwrap_err()
    };
    assert_eq!(
        send_with(&mut client, 0, json!(zero)).reason_name(),
        "ttl_out_of_range"
    );
    assert_eq!(
        send_with(&mut client, u64::MAX, json!(zero)).reason_name(),
        "ttl_out_of_range"
    );
    assert_eq!(
        send_with(&mut client, 100, json!([0.0])).reason_name(),
        "joint_count"
    );
    assert_eq!(
        send_with(&mut client, 100, json!({"knee": 0.0})).reason_name(),
        "unknown_joint"
    );
    assert_eq!(
        send_with(&mut client, 100, json!({})).code,
        ErrorCode::InvalidParams
    );
    let text = send_with(&mut client, 100, json!("up"));
    assert!(text.message.contains("a map of joint names"), "{text}");
}

#[test]
fn a_command_without_a_claim_is_refused() {
    let system = System::start();
    let mut client = system.client();
    let refused = send(&mut client, 1, json!(vec![0.0; 6])).unwrap_err();
    assert_eq!(refused.code, ErrorCode::PermissionDenied);
    assert_eq!(refused.reason_name(), "not_claimed");

    let mut holder = system.client();
    let epoch = claim(&mut holder);
    for refused in [
        send(&mut client, epoch, json!(vec![0.0; 6])).unwrap_err(),
        call(&mut client, "device.claim", json!({"device": "arm"})).unwrap_err(),
        call(&mut client, "device.release", json!({"device": "arm"})).unwrap_err(),
    ] {
        assert_eq!(refused.code, ErrorCode::Busy, "{refused}");
        let who: serde_json::Value = kairo_wire::message::typed(&refused.details).unwrap();
        assert_eq!(who["holder"]["pid"], std::process::id());
    }
    let again = call(&mut holder, "device.claim", json!({"device": "arm"})).unwrap_err();
    assert_eq!(again.reason_name(), "already_claimed");
    assert_eq!(again.detail("epoch").unwrap().as_u64(), Some(epoch));
}

#[test]
fn a_deadline_is_taken_at_its_word() {
    let system = System::start();
    let mut client = system.client();
    let epoch = claim(&mut client);
    system.rt().order(Order::Mute);
    let params = json!({
        "device": "arm", "epoch": epoch, "ttl_ms": 500,
        "command": {"mode": "position", "positions": [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]},
    });
    // The order may come a tick after a first command.
    let refused = eventually("the muted plane stops answering", || {
        let meta = Some(Meta {
            deadline_ms: Some(40),
            ..Meta::default()
        });
        let sent = client.call_with_meta::<serde_json::Value>(
            "device.send",
            params.clone(),
            meta,
            PATIENCE,
        );
        sent.err()
    });
    assert_eq!(refused.refusal().unwrap().code, ErrorCode::Timeout);
}

#[test]
fn the_real_time_plane_is_shown_as_it_counts() {
    let system = System::start();
    let mut client = system.client();
    let status = call(&mut client, "rt.status", json!({})).unwrap();
    assert_eq!(status["connected"], true);
    assert_eq!(status["bringup"][0]["check"], "policy");
    assert_eq!(status["loops"][0]["lateness_us"]["count"], 3);
    assert_eq!(status["loops"][0]["identity_holds"], true);
    assert_eq!(status["buses"][0]["servos"].as_array().unwrap().len(), 6);
    assert_eq!(status["devices"][0]["id"], "arm");
    let line = &status["lines"]["lines"][0];
    assert_eq!(
        (&line["name"], &line["good"]),
        (&json!("front"), &json!(true))
    );
    assert_eq!(status["lines"]["line_stops"], 0);

    let lateness = call(&mut client, "rt.histogram", json!({})).unwrap();
    assert_eq!(lateness["source"], "arm");
    assert_eq!(lateness["kind"], "lateness");
    assert_eq!(lateness["max"], 90.0);
    let filled = lateness["buckets"].as_array().unwrap();
    assert_eq!(
        filled
            .iter()
            .map(|b| b["count"].as_u64().unwrap())
            .sum::<u64>(),
        3
    );
    let all = call(&mut client, "rt.histogram", json!({"all": true})).unwrap();
    assert_eq!(
        (&all["source"], &all["count"]),
        (&lateness["source"], &lateness["count"])
    );
    let both = call(
        &mut client,
        "rt.histogram",
        json!({"all": true, "loop": "arm"}),
    )
    .unwrap_err();
    assert_eq!(both.code, ErrorCode::InvalidParams);
    let bus = call(&mut client, "rt.histogram", json!({"bus": "servo"})).unwrap();
    assert_eq!(bus["kind"], "round_trip");
    let unknown = call(&mut client, "rt.histogram", json!({"loop": "leg"})).unwrap_err();
    assert_eq!(unknown.reason_name(), "unknown_source");
    let wrong = json!({"bus": "servo", "kind": "lateness"});
    let mismatch = call(&mut client, "rt.histogram", wrong).unwrap_err();
    assert_eq!(mismatch.code, ErrorCode::InvalidParams);
}

#[test]
fn a_reset_counts_from_now_on_and_leaves_the_real_time_plane_alone() {
    let system = System::start();
    let mut client = system.client();
    let before = call(&mut client, "rt.status", json!({})).unwrap();
    assert_eq!(before["loops"][0]["lateness_us"]["count"], 3);
    let reset = call(&mut client, "rt.reset", json!({})).unwrap();
    assert!(reset["reset_ns"].as_u64().unwrap() > 0);
    let after = call(&mut client, "rt.status", json!({})).unwrap();
    assert_eq!(after["loops"][0]["lateness_us"]["count"], 0);
    assert_eq!(
        after["loops"][0]["period_us"],
        before["loops"][0]["period_us"]
    );
    let lateness = call(&mut client, "rt.histogram", json!({})).unwrap();
    assert_eq!(
        (&lateness["count"], &lateness["max"]),
        (&json!(0), &json!(0.0))
    );
    assert_eq!(lateness["buckets"], json!([]));
}

#[test]
fn without_a_real_time_plane_everything_else_answers() {
    let system = System::start_without_rt();
    let mut client = system.client();
    let status = call(&mut client, "rt.status", json!({})).unwrap();
    assert_eq!(status["connected"], false);
    let devices = call(&mut client, "device.list", json!({})).unwrap();
    assert_eq!(devices["devices"], json!([]));
    let refused = call(&mut client, "device.claim", json!({"device": "arm"})).unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unavailable);
    assert_eq!(refused.reason_name(), "rt_away");
    assert!(refused.retryable);
    let refused = call(&mut client, "rt.reset", json!({})).unwrap_err();
    assert_eq!(refused.reason_name(), "rt_away");
}

#[test]
fn an_estop_reaches_the_real_time_plane_is_shown_and_refuses_claims() {
    let system = System::start();
    let mut client = system.client();
    let pattern = json!({"topics": ["kairo.rt.failsafe"]});
    call(&mut client, "event.subscribe", pattern).unwrap();
    let stopped = call(&mut client, "rt.estop", json!({})).unwrap();
    assert_eq!(stopped, json!({"estop": true}));
    let event = match client.next_incoming(PATIENCE).unwrap() {
        Some(Incoming::Event(event)) => event,
        other => panic!("expected an event, got {other:?}"),
    };
    assert_eq!(event.topic, "kairo.system.rt.failsafe");
    let status = call(&mut client, "rt.status", json!({})).unwrap();
    assert_eq!(status["estop"], true);
    assert_eq!(status["devices"][0]["failsafe"]["live"], json!(["estop"]));
    let refused = call(&mut client, "device.claim", json!({"device": "arm"})).unwrap_err();
    assert_eq!(refused.code, ErrorCode::Conflict);
    assert_eq!(refused.reason_name(), "estopped");
    let cleared = call(&mut client, "rt.clear_estop", json!({})).unwrap();
    assert_eq!(cleared, json!({"estop": false}));
    claim(&mut client);
}
