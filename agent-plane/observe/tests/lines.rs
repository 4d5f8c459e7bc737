//! What a program that logs writes to its standard error, seen from outside: the test runs itself.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

use std::process::Command;

const CHILD: &str = "KAIRO_TEST_SPEAKS";

/// What the child says.
fn speak() {
    kairo_observe::log::start(Some("info"));
    tracing::info!(
        caller = "agent\nx",
        pid = 7,
        my_token = "abc",
        trace_id = tracing::field::Empty,
        "it is up: sh_vault_abc"
    );
    tracing::debug!("is not said");
    for number in 0..100 {
        tracing::warn!(number, "flood");
    }
    let records = kairo_observe::log::recent();
    assert_eq!(records.len(), 1 + kairo_observe::log::BURST as usize);
    assert_eq!(records[0].component, "lines");
    let floods = kairo_observe::log::floods();
    assert_eq!(floods[0].left_out, 80);
    assert!(floods[0].place.starts_with("lines:"), "{floods:?}");
}

#[test]
fn a_program_writes_one_bounded_line_a_record() {
    if std::env::var_os(CHILD).is_some() {
        return speak();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_program_writes_one_bounded_line_a_record",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| line.starts_with("ts="))
        .collect();
    assert_eq!(
        lines.len(),
        1 + kairo_observe::log::BURST as usize,
        "{said}"
    );
    let (_, first) = lines[0].split_once(" level=").unwrap();
    let (head, rest) = first.split_once(" pid=").unwrap();
    assert_eq!(head, "info component=lines");
    let (_, rest) = rest.split_once(' ').unwrap();
    assert_eq!(
        rest,
        "msg=\"it is up: [redacted]\" caller=\"agent\\\\nx\" peer_pid=7 \
         my_token=\"[redacted]\""
    );
    assert!(!said.contains("is not said"));
}
