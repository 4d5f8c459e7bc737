//! One conformance suite for every client: the cases of `agent-plane/conformance`, performed by
//! both Rust clients and by both Python clients against a real kairod and scripted peers.
//!
//! Here lives what the cases mean: steps, patterns, schemas. A client brings a driver that performs
//! one action at a time and judges nothing. Without python3 the Python clients are left out, and
//! that is said; `cargo xtask test` makes sure that it is there.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod asynchronous;
mod case;
mod coverage;
mod driver;
mod examples;
mod pattern;
mod peer;
mod python;
mod schema;
#[path = "../support/mod.rs"]
mod support;
mod wire_json;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use case::{Case, Introspection};
use driver::{Blocking, Driver};
use support::{System, call, eventually};

/// Waits until kairod has noticed that the case's connections are gone: the next one may want the
/// arm, and nothing of it must reach the next one's subscriptions.
fn settle(shared: &System) {
    let mut client = shared.client();
    eventually("the arm is free", || {
        let devices = call(&mut client, "device.list", json!({})).unwrap();
        devices["devices"][0]["holder"].is_null().then_some(())
    });
}

/// Performs every case that `driver` can, and fails with all that went wrong.
fn run_all(driver: &mut dyn Driver) {
    let shared = System::start();
    let known = Introspection::of(&shared);
    let mut failures = Vec::new();
    let mut performed = 0;
    for case in Case::all() {
        if !case.needs.iter().all(|need| driver.offers(need)) {
            continue;
        }
        performed += 1;
        let outcome = case.run(driver, &shared, &known);
        driver.perform(&json!({"do": "reset"}));
        settle(&shared);
        if let Err(why) = outcome {
            failures.push(format!("{}: {}: {why}", case.file, case.name));
        }
    }
    assert!(performed > 40, "only {performed} cases were performed");
    assert!(
        failures.is_empty(),
        "{} of {performed} cases failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

#[test]
fn the_blocking_rust_client_passes_every_case() {
    run_all(&mut Blocking::default());
}

#[test]
fn the_asynchronous_rust_client_passes_every_case() {
    run_all(&mut asynchronous::Asynchronous::new());
}

#[test]
fn the_blocking_python_client_passes_every_case() {
    if let Some(mut client) = python::Client::start("sync", &[]) {
        run_all(&mut client);
    }
}

#[test]
fn the_asyncio_python_client_passes_every_case() {
    let offers = ["together", "cancel"];
    if let Some(mut client) = python::Client::start("asyncio", &offers) {
        run_all(&mut client);
    }
}

#[test]
fn case_names_are_claims_and_given_once() {
    let mut seen = BTreeSet::new();
    for case in Case::all() {
        assert!(case.name.contains(' '), "{}", case.name);
        assert!(seen.insert(case.name.clone()), "{} twice", case.name);
        assert!(!case.steps.is_empty(), "{}", case.name);
    }
}

#[test]
fn a_wrong_answer_fails_a_case() {
    /// Answers every call with the same result.
    struct Liar;
    impl Driver for Liar {
        fn offers(&self, _: &str) -> bool {
            true
        }
        fn perform(&mut self, _: &Value) -> Value {
            json!({"result": {"monotonic_ns": "noon"}})
        }
    }
    let system = System::start();
    let known = Introspection::of(&system);
    let ping = json!([{"call": "kernel.ping", "result": {}}]);
    let case = Case::from_steps("a wrong type is noticed", ping);
    let wrong = case.run(&mut Liar, &system, &known).unwrap_err();
    assert!(wrong.contains("monotonic_ns"), "{wrong}");
    let busy = json!([{"call": "kernel.ping", "error": {"code": "E_BUSY"}}]);
    let case = Case::from_steps("a missing refusal is noticed", busy);
    assert!(case.run(&mut Liar, &system, &known).is_err());
}
