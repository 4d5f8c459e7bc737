//! What must go, in every clothing; what must stay; and that no text breaks the walk.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const CANARY: &str = "canary7Xq";

fn gone(what: &str) {
    let shown = text(what);
    assert!(!shown.contains(CANARY), "{what:?} is shown as {shown:?}");
    assert!(shown.contains(REDACTED), "{shown}");
}

#[test]
fn secrets_are_found_by_their_shape() {
    for what in [
        format!("the handle sh_vault_{CANARY} is used"),
        format!("agent/SH_VAULT_{CANARY}"),
        format!("-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----"),
        format!("x-----BEGIN RSA PRIVATE KEY-----\\n{CANARY}"),
        format!("Authorization: Bearer {CANARY}"),
        format!("sent bearer {CANARY} to it"),
        format!("authorization: Basic {CANARY}=="),
        format!("http://user:{CANARY}@host/path"),
        format!("ghp_0123456789{CANARY}"),
        format!("eyJhbGciOi.{CANARY}.x"),
        format!("q8Zr2LkT0vWx5YbN1mPcJ7hGfD3sA6eU{CANARY}"),
    ] {
        gone(&what);
    }
}

#[test]
fn secrets_are_found_by_the_name_before_them() {
    for what in [
        format!("password={CANARY}"),
        format!("password = correct horse {CANARY}"),
        format!("api_key: {CANARY}, more"),
        format!("Cookie: a=b; c={CANARY}"),
        format!("{{\"token\": \"{CANARY}\", broken"),
        format!("said {{\"token\":\"a\\\"{CANARY}\"}}"),
        format!("said {{\\\"client_secret\\\":\\\"{CANARY}\\\"}}"),
        format!("?access_token={CANARY}&x=1"),
        format!("secret => '{CANARY}'"),
        format!("secret: {{a: {CANARY}}}"),
    ] {
        gone(&what);
    }
    let shown = text("api_key: abc, more");
    assert_eq!(shown, "api_key: [redacted], more");
}

#[test]
fn what_is_no_secret_stays() {
    for what in [
        "the link to kairo-rt is up",
        "/var/lib/kairo/events.db",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "0197a1f0-4c1e-7b2a-9c3d-0123456789ab",
        "kairo.system.security.permission.denied",
        "http://127.0.0.1:4318/v1/traces",
        "a token bucket is no token",
        "see agent-plane/kairod/src/permission/policy.rs:120",
        "Grüße, 東京",
    ] {
        assert_eq!(text(what), what);
    }
}

#[test]
fn documents_lose_what_stands_under_secret_names_and_what_looks_like_one() {
    let document = json!({
        "token": CANARY, "Private-Key": {"deep": [CANARY]}, "is_secret": true, "pin": 7,
        "nested": [{"auth": {"x": CANARY}}],
        "text": format!("{{\"\\u0074oken\": \"{CANARY}\"}}"),
        (format!("sh_vault_{CANARY}")): 1, (format!("sh_vault_{CANARY}2")): 2,
        "joint": "elbow",
    });
    let shown = json(&document, &mut Budget::default());
    assert!(!shown.to_string().contains(CANARY), "{shown}");
    assert_eq!(shown["joint"], "elbow");
    assert_eq!(shown["is_secret"], true);
    assert_eq!(shown["pin"], REDACTED);
    assert_eq!(shown[REDACTED], 1);
    assert_eq!(shown["[redacted]#2"], 2);
    // The same as it travels.
    let travels = Wire::from(vec![
        (Wire::from("token"), Wire::from(CANARY)),
        (Wire::from("data"), Wire::Binary(CANARY.into())),
        (Wire::from("half"), Wire::F64(f64::NAN)),
    ]);
    let shown = wire(&travels, &mut Budget::default());
    assert_eq!(
        shown,
        json!({"token": REDACTED, "data": "[9 bytes]", "half": null})
    );
}

#[test]
fn a_budget_and_a_depth_bound_what_is_shown() {
    let mut budget = Budget {
        values: 10,
        bytes: 1000,
    };
    let shown = json(&json!(vec![0; 1000]), &mut budget);
    assert_eq!(shown.as_array().unwrap().len(), 9);
    assert!(budget.is_used_up());
    let mut deep = json!("bottom");
    for _ in 0..MAX_DEPTH + 5 {
        deep = json!([deep]);
    }
    let shown = json(&deep, &mut Budget::default()).to_string();
    assert!(shown.contains(LEFT_OUT) && !shown.contains("bottom"));
}

proptest! {
    #[test]
    fn no_text_breaks_the_walk(parts in prop::collection::vec(
        prop_oneof![
            "\\PC{0,12}", Just("token=\\\"".to_string()), Just("://".into()), Just("é@".into()),
            Just("-----BEGIN ".into()), Just("-----END".into()), Just("Bearer ".into()),
            Just("sh_vault_".into()), Just("key: ".into()), Just("\\\\\"".into()),
        ],
        0..12,
    )) {
        let whole = parts.concat();
        let once = text(&whole).into_owned();
        // A second look finds nothing of the first one's secrets again.
        prop_assert!(once.len() <= whole.len() * 12 + 64);
    }

    #[test]
    fn a_handle_goes_wherever_it_stands(
        before in "\\PC{0,30}",
        after in "[^A-Za-z0-9_.+/~-]\\PC{0,20}",
    ) {
        let whole = format!("{before}sh_vault_{CANARY}{after}");
        prop_assert!(!text(&whole).contains(CANARY));
    }
}
