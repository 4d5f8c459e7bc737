//! The snapshot: whole where everything is there, in pieces where something is away, bounded
//! whatever clients put into it, and without the secrets that they put there too.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use kairo_wire::{Client, Meta};
use serde_json::{Value, json};
use support::{PATIENCE, System, call, claim};

/// What must not come out, in any clothing. No word of it sounds like a secret.
const CANARY: &str = "canary7Xq";

const SECTIONS: [&str; 15] = [
    "audit",
    "configuration",
    "denials",
    "devices",
    "event_store",
    "events",
    "intents",
    "logs",
    "metrics",
    "permissions",
    "processes",
    "real_time",
    "services",
    "system",
    "traces",
];

fn snapshot(client: &mut Client) -> Value {
    call(client, "kernel.diagnostics", json!({})).unwrap()
}

fn unavailable(snapshot: &Value) -> Vec<&String> {
    let sections = snapshot["sections"].as_object().unwrap();
    let away = sections
        .iter()
        .filter(|(_, section)| section["available"] == false);
    away.map(|(name, _)| name).collect()
}

#[test]
fn everything_is_in_one_answer() {
    let system = System::start();
    let mut client = system.client();
    claim(&mut client);
    let mut agent = system.confined("agent", "nosy");
    call(&mut agent, "kernel.diagnostics", json!({})).unwrap_err();
    let whole = snapshot(&mut client);
    assert_eq!(whole["format"], "kairo-diagnostics");
    assert_eq!(whole["version"], 1);
    let sections = whole["sections"].as_object().unwrap();
    assert_eq!(sections.keys().collect::<Vec<_>>(), SECTIONS);
    assert!(unavailable(&whole).is_empty(), "{:?}", unavailable(&whole));
    let data = |name: &str| &sections[name]["data"];
    assert_eq!(data("real_time")["armed"], true);
    assert_eq!(
        data("devices")["devices"][0]["holder"]["pid"],
        std::process::id()
    );
    assert_eq!(data("events")["from"], "log");
    let newest = data("events")["events"].as_array().unwrap();
    assert!(
        newest
            .iter()
            .any(|event| event["type"] == "kairo.system.device.claimed")
    );
    let denial = &data("denials")["denials"][0]["denial"];
    assert_eq!(
        (&denial["name"], &denial["target"]),
        (&json!("nosy"), &json!("kernel.diagnostics"))
    );
    assert!(data("audit")["head"]["number"].as_u64().unwrap() > 0);
    assert!(data("event_store")["head_seq"].as_u64().unwrap() > 0);
    let records = data("logs")["records"].as_array().unwrap();
    assert!(records.iter().any(|record| {
        record["component"] == "kairod.daemon"
            && record["message"] == "denied"
            && record["fields"]["caller"]
                .as_str()
                .unwrap()
                .contains("nosy")
    }));
    let pids = data("processes")["peers"].as_array().unwrap();
    assert!(pids.iter().any(|peer| peer["pid"] == std::process::id()));
    assert_eq!(
        data("configuration")["settings"]["metrics"]["interval_s"],
        0
    );
}

#[test]
fn what_is_away_says_so_and_the_rest_stays() {
    let directory = |path: &std::path::Path| {
        // A file where the state directory should be: neither events nor audit.
        std::fs::write(path.join("state"), "in the way").unwrap();
    };
    let system = System::start_alone_with(directory);
    let mut client = system.client();
    let whole = snapshot(&mut client);
    assert_eq!(unavailable(&whole), ["audit", "event_store", "real_time"]);
    let sections = &whole["sections"];
    let reason = sections["real_time"]["reason"].as_str().unwrap();
    assert!(reason.contains("kairo-rt"), "{reason}");
    assert_eq!(sections["events"]["data"]["from"], "memory");
    let events = sections["events"]["data"]["events"].as_array().unwrap();
    assert!(
        events
            .iter()
            .any(|event| event["type"] == "kairo.system.ready"),
        "{events:?}"
    );
}

/// Every clothing that is promised to be seen through.
fn clothed() -> Vec<String> {
    vec![
        format!("sh_vault_{CANARY}"),
        format!("Bearer {CANARY}"),
        format!("password={CANARY}"),
        format!("https://me:{CANARY}@host/"),
        format!("{{\"token\": \"{CANARY}\", \"deep\": [{{\"api_key\": \"{CANARY}\"}}]}}"),
        format!("says {{\\\"client_secret\\\": \\\"{CANARY}\\\"}}"),
        format!("-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----"),
        format!("ghp_0123456789{CANARY}"),
    ]
}

#[test]
fn no_secret_that_a_client_puts_anywhere_comes_out() {
    let system = System::start();
    let mut client = system.client();
    let mut agent = system.confined("agent", "a");
    for text in clothed() {
        let traced = Meta {
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            correlation_id: Some(text.clone()),
            causation_id: Some(text.clone()),
            ..Meta::default()
        };
        let data = json!({
            "text": text, "nested": {"list": [text.clone()], "token": CANARY},
            "password": {"deep": [CANARY]}, (text.clone()): 1,
        });
        let params = json!({"topic": "test.x", "data": data, "id": text.replace('\n', " ")});
        // What is refused leaves traces too.
        let _ =
            client.call_with_meta::<Value>("event.publish", params, Some(traced.clone()), PATIENCE);
        let begun = call(&mut client, "intent.begin", json!({"name": text})).unwrap();
        let end = json!({"intent": begun["intent"], "status": "failed", "reason": text});
        call(&mut client, "intent.end", end).unwrap();
        let who = json!({"class": "agent", "name": "a"});
        let reason = text.replace('\n', " ");
        let grant = json!({"who": who, "right": "device.read", "target": "arm", "reason": reason});
        call(&mut client, "permission.grant", grant).unwrap();
        for (method, params) in [
            (text.as_str(), json!({})),
            ("device.info", json!({"device": text})),
            ("kernel.introspect", json!({(text.clone()): 1})),
        ] {
            for who in [&mut client, &mut agent] {
                let asked = who.call_with_meta::<Value>(
                    method,
                    params.clone(),
                    Some(traced.clone()),
                    PATIENCE,
                );
                asked.unwrap_err();
            }
        }
    }
    let whole = snapshot(&mut client).to_string();
    let at = whole.find(CANARY);
    let around = at.map(|at| &whole[at.saturating_sub(200)..(at + 60).min(whole.len())]);
    assert_eq!(around, None);
    assert!(whole.contains("[redacted]"));
    // Also not where the spans are read.
    let spans = call(&mut client, "kernel.traces", json!({}))
        .unwrap()
        .to_string();
    assert!(!spans.contains(CANARY), "{spans}");
}

#[test]
fn whatever_clients_publish_the_snapshot_fits_into_a_frame() {
    let system = System::start();
    let mut client = system.client();
    let mut deep = json!("bottom");
    for _ in 0..40 {
        deep = json!([deep]);
    }
    for data in [
        json!("x".repeat(200_000)),
        json!(vec![0; 60_000]),
        json!(vec![json!({"k": "é".repeat(40)}); 2500]),
        deep,
    ] {
        for _ in 0..30 {
            call(
                &mut client,
                "event.publish",
                json!({"topic": "test.x", "data": data}),
            )
            .unwrap();
        }
    }
    for number in 0..200 {
        let name = format!("{number} {}", "n".repeat(90));
        call(&mut client, "intent.begin", json!({"name": name})).unwrap();
    }
    let whole = snapshot(&mut client);
    assert_eq!(whole["sections"]["events"]["left_out"], true);
    assert_eq!(whole["sections"]["intents"]["left_out"], true);
    // The newest are the ones that are there.
    let events = whole["sections"]["events"]["data"]["events"]
        .as_array()
        .unwrap();
    assert!(events.len() > 5, "{}", events.len());
    assert_eq!(events[0]["type"], "kairo.system.intent.started");
    let bytes = whole.to_string().len();
    assert!(bytes < 1024 * 1024, "{bytes}");
}
