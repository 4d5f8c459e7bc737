//! What the audit log says of privileged requests, and what happens where there is none.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use kairo_wire::ErrorCode;
use serde_json::{Value, json};
use support::{System, call, claim, eventually, send};

/// The entries of the log whose act is `act`.
fn entries(system: &System, act: &str) -> Vec<Value> {
    let page = call(
        &mut system.client(),
        "permission.audit",
        json!({"limit": 500}),
    )
    .unwrap();
    let records = page["records"].as_array().unwrap().clone();
    let entries = records
        .into_iter()
        .map(|record| record["record"]["entry"].clone());
    entries.filter(|entry| entry["act"] == act).collect()
}

fn grant(system: &System) -> Result<Value, kairo_wire::ErrorInfo> {
    let params = json!({
        "who": {"class": "agent"}, "right": "device.read", "target": "arm", "reason": "a test",
    });
    call(&mut system.client(), "permission.grant", params)
}

#[test]
fn a_privileged_act_is_written_before_and_after_it_is_done() {
    let system = System::start_without_rt();
    grant(&system).unwrap();
    let written = eventually("both entries are written", || {
        let all = entries(&system, "permission.grant");
        (all.len() == 2).then_some(all)
    });
    assert_eq!(written[0]["phase"], "attempt");
    assert_eq!(written[0]["who"]["class"], "operator");
    assert_eq!(written[0]["who"]["pid"], std::process::id());
    assert!(
        written[0]["details"]
            .as_str()
            .unwrap()
            .contains("device.read")
    );
    assert_eq!(written[1]["phase"], "outcome");
    assert_eq!(written[1]["outcome"], "ok");
    assert!(written[1]["attempt"].as_u64().unwrap() > 0);
}

#[test]
fn a_denial_is_written_with_its_rule() {
    let system = System::start_without_rt();
    let mut agent = system.confined("agent", "rogue");
    call(&mut agent, "permission.list", json!({})).unwrap_err();
    let denied = eventually("the denial is written", || {
        entries(&system, "method.call").into_iter().next()
    });
    assert_eq!(denied["phase"], "denied");
    assert_eq!(denied["target"], "permission.list");
    assert_eq!(denied["who"]["name"], "rogue");
    assert_eq!(denied["why"]["rule"], "default");
}

#[test]
fn an_act_whose_caller_gives_it_up_is_written_all_the_same() {
    let system = System::start();
    let meta = kairo_wire::Meta {
        deadline_ms: Some(0),
        ..kairo_wire::Meta::default()
    };
    // The stop has left for the real-time plane before its deadline is looked at.
    let given_up = system.client().call_with_meta::<Value>(
        "rt.estop",
        json!({}),
        Some(meta),
        support::PATIENCE,
    );
    drop(given_up);
    let written = eventually("the stop is written", || {
        entries(&system, "rt.estop").into_iter().next()
    });
    assert_eq!(written["phase"], "outcome");
}

#[test]
fn an_agent_fills_no_log() {
    let system = System::start_without_rt();
    let mut agent = system.confined("agent", "noisy");
    for _ in 0..300 {
        call(&mut agent, "kernel.confine", json!({"class": "skill"})).unwrap_err();
    }
    grant(&system).unwrap();
    eventually("the grant is written", || {
        entries(&system, "permission.grant").into_iter().next()
    });
    let noise = entries(&system, "kernel.confine");
    assert!(noise.len() < 60, "{} entries", noise.len());
}

#[test]
fn without_a_log_nothing_privileged_happens_and_the_robot_still_moves_and_stops() {
    // A file where the state directory should be: nothing can be kept.
    let system = System::start_with_file("state", "in the way");
    let refused = grant(&system).unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unavailable);
    assert_eq!(refused.reason_name(), "no_audit");
    let mut client = system.client();
    let epoch = claim(&mut client);
    send(&mut client, epoch, json!({"elbow_flex": 0.1})).unwrap();
    call(&mut client, "rt.estop", json!({})).unwrap();
}

#[test]
fn a_killed_kairod_leaves_a_log_that_is_whole() {
    let mut system = System::start();
    for _ in 0..3 {
        grant(&system).unwrap();
        system.restart_kairod();
    }
    let directory = system.directory.path().join("state/audit");
    let report = kairo_audit::verify(&directory, &kairo_audit::VerifyOptions::default()).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let attempts = entries(&system, "permission.grant");
    let attempts = attempts.iter().filter(|entry| entry["phase"] == "attempt");
    assert_eq!(attempts.count(), 3);
}

#[test]
fn a_long_log_is_read_page_by_page() {
    let system = System::start_without_rt();
    let mut operator = system.client();
    // Each refusal is an entry with as many details as one keeps.
    let long = "x".repeat(4_000);
    for _ in 0..300 {
        call(&mut operator, "intent.cancel", json!({"intent": long})).unwrap_err();
    }
    let (mut after, mut found) = (0, 0);
    eventually("every entry was read", || {
        let page = json!({"after": after, "limit": 500});
        let page = call(&mut operator, "permission.audit", page).unwrap();
        for record in page["records"].as_array().unwrap() {
            after = record["number"].as_u64().unwrap();
            found += usize::from(record["record"]["entry"]["act"] == "intent.cancel");
        }
        (found == 300 && page["more"] == false).then_some(())
    });
}
