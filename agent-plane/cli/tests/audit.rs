//! `kairo audit` on real logs: what it prints, and how it ends.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

use std::path::Path;
use std::process::{Command, Output};

use kairo_audit::{Entry, Log, Options, Outcome, Phase, Who, Why};
use serde_json::Value;

fn kairo(state: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kairo"))
        .args(arguments)
        .env_clear()
        .env("KAIRO_STATE_DIR", state)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn append(state: &Path, entries: Vec<Entry>) {
    let (log, _) = Log::open(&state.join("audit"), Options::default()).unwrap();
    for entry in entries {
        log.append_and_wait(entry).unwrap();
    }
}

fn claim() -> Entry {
    Entry {
        phase: Phase::Outcome,
        who: Who {
            class: "agent".to_owned(),
            name: "planner".to_owned(),
            uid: Some(1000),
            pid: Some(4242),
            ..Who::default()
        },
        act: "device.claim".to_owned(),
        target: "arm".to_owned(),
        why: Why {
            rule: "agents/claim".to_owned(),
            ..Why::default()
        },
        outcome: Some(Outcome::Ok),
        ..Entry::default()
    }
}

fn hostile() -> Entry {
    Entry {
        phase: Phase::Denied,
        act: "permission.grant".to_owned(),
        target: "\x1b[2J\u{202e}arm\r\n9  2026-01-01T00:00:00Z  forged".to_owned(),
        outcome: Some(Outcome::Error {
            code: "E_PERMISSION_DENIED".to_owned(),
            reason: "no rule".to_owned(),
        }),
        ..Entry::default()
    }
}

fn state() -> tempfile::TempDir {
    let state = tempfile::tempdir().unwrap();
    append(state.path(), vec![claim(), hostile(), claim()]);
    state
}

/// A line without its number and time.
fn said(line: &str) -> &str {
    line.splitn(3, "  ").nth(2).unwrap()
}

#[test]
fn list_says_who_did_what_and_no_entry_steers_the_terminal() {
    let state = state();
    let output = kairo(state.path(), &["audit", "list"]);
    assert_eq!(code(&output), 0, "{output:?}");
    let shown = text(&output);
    assert!(
        shown
            .chars()
            .all(|shown| shown == '\n' || !shown.is_control()),
        "{shown:?}"
    );
    let lines: Vec<&str> = shown.lines().map(said).collect();
    assert_eq!(lines[0], "log begun");
    assert_eq!(
        lines[4],
        "outcome agent:planner uid=1000 pid=4242 device.claim arm rule=agents/claim ok"
    );
    assert_eq!(
        lines[5],
        "denied  - permission.grant \\u{1b}[2J\\u{202e}arm\\u{d}\\u{a}9  2026-01-01T00:00:00Z  \
         forged E_PERMISSION_DENIED: no rule"
    );
}

#[test]
fn list_keeps_what_was_asked_for_and_json_is_what_the_file_says() {
    let state = state();
    let count = |arguments: &[&str]| {
        let output = kairo(state.path(), &[&["audit", "list"], arguments].concat());
        assert_eq!(code(&output), 0, "{output:?}");
        text(&output).lines().count()
    };
    assert_eq!(count(&["--method", "device.claim"]), 2);
    assert_eq!(count(&["--method", "device.*"]), 2);
    assert_eq!(count(&["--method", "dev.*"]), 0);
    assert_eq!(count(&["--method", "device.claim", "--count", "1"]), 1);
    assert_eq!(count(&["--after", "6"]), count(&[]) - 6);
    let output = kairo(state.path(), &["--json", "audit", "list"]);
    let file = std::fs::read(state.path().join("audit/audit-000001.log")).unwrap();
    assert!(output.stdout == file);
}

#[test]
fn verify_ends_with_0_on_an_intact_log_1_on_a_damaged_one_and_2_on_wrong_usage() {
    let state = state();
    let output = kairo(state.path(), &["audit", "verify"]);
    assert_eq!(code(&output), 0, "{output:?}");
    assert!(
        text(&output).starts_with("intact: records 8, segments 1, key "),
        "{output:?}"
    );
    for wrong in [
        &["audit", "verify", "--expect-head", "yesterday"][..],
        &["audit", "verify", "--public-key", "/does/not/exist"],
        &["audit", "verify", "--since"],
    ] {
        assert_eq!(code(&kairo(state.path(), wrong)), 2, "{wrong:?}");
    }
    let segment = state.path().join("audit/audit-000001.log");
    let mut lines: Vec<String> = std::fs::read_to_string(&segment)
        .unwrap()
        .split_inclusive('\n')
        .map(str::to_owned)
        .collect();
    let offset: usize = lines[..5].iter().map(String::len).sum();
    lines.remove(5);
    std::fs::write(&segment, lines.concat()).unwrap();
    let output = kairo(state.path(), &["audit", "verify"]);
    assert_eq!(code(&output), 1);
    let place = format!("audit-000001.log:6 (byte {offset}): entries 6 to 6 are missing\n");
    assert!(text(&output).starts_with(&place), "{output:?}");
    let output = kairo(state.path(), &["audit", "verify", "--json"]);
    assert_eq!(code(&output), 1);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["intact"], false);
    let finding = &report["findings"][0];
    assert_eq!(finding["finding"]["finding"], "missing_entry");
    assert_eq!(
        (&finding["finding"]["from"], &finding["place"]["line"]),
        (&6.into(), &6.into())
    );
}

#[test]
fn a_checkpoint_kept_elsewhere_finds_a_log_that_was_put_back() {
    let state = state();
    let earlier = tempfile::tempdir().unwrap();
    let names = ["audit-000001.log", "audit.head", "audit.key", "audit.pub"];
    for name in names {
        std::fs::copy(
            state.path().join("audit").join(name),
            earlier.path().join(name),
        )
        .unwrap();
    }
    append(state.path(), vec![claim()]);
    let output = kairo(state.path(), &["audit", "checkpoint"]);
    let anchor = text(&output).trim_end().to_owned();
    let verify = |anchor: &str| {
        let arguments = ["audit", "verify", "--expect-head", anchor];
        kairo(state.path(), &arguments)
    };
    assert_eq!(code(&verify(&anchor)), 0);
    let (_, hash) = anchor.split_once(':').unwrap();
    assert_eq!(code(&verify(hash)), 0);
    for name in names {
        std::fs::copy(
            earlier.path().join(name),
            state.path().join("audit").join(name),
        )
        .unwrap();
    }
    assert_eq!(
        code(&kairo(state.path(), &["audit", "verify"])),
        0,
        "whole from within"
    );
    let output = verify(&anchor);
    assert_eq!(code(&output), 1);
    assert!(text(&output).contains("is not in this log"), "{output:?}");
}

#[test]
fn a_copy_is_verified_with_the_public_key_alone() {
    let state = state();
    let copy = tempfile::tempdir().unwrap();
    for name in ["audit-000001.log", "audit.head", "audit.pub"] {
        std::fs::copy(
            state.path().join("audit").join(name),
            copy.path().join(name),
        )
        .unwrap();
    }
    let directory = copy.path().to_str().unwrap();
    let key = state.path().join("audit/audit.pub");
    let arguments = [
        "audit",
        "verify",
        directory,
        "--public-key",
        key.to_str().unwrap(),
    ];
    let output = kairo(Path::new("/nowhere"), &arguments);
    assert_eq!(code(&output), 0, "{output:?}");
    let absent = kairo(Path::new("/nowhere"), &["audit", "verify"]);
    assert_eq!(code(&absent), 1);
    assert!(
        String::from_utf8_lossy(&absent.stderr).contains("/nowhere/audit"),
        "{absent:?}"
    );
}
