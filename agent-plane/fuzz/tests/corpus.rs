//! Every input that was worth keeping goes through its target again, on the stable compiler.
//!
//! `KAIRO_BLESS=1 cargo test -p kairo-fuzz` adds the inputs that the conformance suite and the
//! project's own examples give (`seed-*`); what a fuzzer found stays as it is.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use kairo_fuzz::TARGETS;
use serde_json::Value;

/// Most bytes of all inputs: they travel with every copy of the project.
const MAX_CORPUS_BYTES: u64 = 500 * 1024;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn inputs(target: &str) -> Vec<PathBuf> {
    let found = std::fs::read_dir(corpus().join(target)).unwrap();
    let mut inputs: Vec<PathBuf> = found.map(|file| file.unwrap().path()).collect();
    inputs.sort();
    inputs
}

#[test]
fn every_kept_input_still_does_no_harm() {
    if std::env::var_os("KAIRO_BLESS").is_some() {
        seed();
    }
    let mut bytes = 0;
    for target in TARGETS {
        let inputs = inputs(target.name);
        assert!(!inputs.is_empty(), "{} has no inputs", target.name);
        for input in inputs {
            // On failure the last line names the input.
            println!("{}", input.display());
            let content = std::fs::read(&input).unwrap();
            bytes += content.len() as u64;
            (target.run)(&content);
        }
    }
    assert!(bytes <= MAX_CORPUS_BYTES, "{bytes} bytes of inputs");
}

#[test]
fn every_target_has_a_libfuzzer_program_and_no_program_is_alone() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("libfuzzer/fuzz_targets");
    let programs = std::fs::read_dir(directory).unwrap();
    let programs: BTreeSet<String> = programs
        .map(|file| {
            file.unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_str()
                .unwrap()
                .to_string()
        })
        .collect();
    let targets = TARGETS
        .iter()
        .map(|target| target.name.to_string())
        .collect();
    assert_eq!(programs, targets);
}

/// Writes the inputs that follow from the project's own files.
fn seed() {
    let mut seeds: BTreeMap<(&str, String), Vec<u8>> = BTreeMap::new();
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/cases");
    let mut calls: BTreeMap<String, Value> = BTreeMap::new();
    for file in std::fs::read_dir(cases).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        collect(&serde_json::from_str(&text).unwrap(), &mut calls);
    }
    let names = method_names();
    for (index, name) in names.iter().enumerate() {
        let params = calls
            .get(name)
            .cloned()
            .unwrap_or_else(|| serde_json::json!({}));
        let params = rmp_serde::to_vec_named(&params).unwrap();
        for class in 0..2 {
            let input = [&[class, index as u8][..], &params].concat();
            seeds.insert(("requests", format!("{name}-{class}")), input);
        }
    }
    for (name, params) in &calls {
        let request = serde_json::json!({"id": 7, "method": name, "params": params});
        let payload = rmp_serde::to_vec_named(&request).unwrap();
        let mut frame = vec![0x4b, 0x41, 1, 1];
        frame.extend((payload.len() as u32).to_be_bytes());
        frame.extend(&payload);
        seeds.insert(
            ("frames", name.clone()),
            [&b"\x02\x00\x0b\x40"[..], &frame].concat(),
        );
        seeds.insert(("messages", name.clone()), payload);
    }
    for (number, message) in messages().into_iter().enumerate() {
        let payload = rmp_serde::to_vec_named(&message).unwrap();
        seeds.insert(("messages", format!("kind-{number}")), payload);
    }
    for (number, text) in POLICIES.iter().enumerate() {
        seeds.insert(("policy", number.to_string()), text.as_bytes().to_vec());
    }
    for (number, text) in PATTERNS.iter().enumerate() {
        seeds.insert(("patterns", number.to_string()), text.as_bytes().to_vec());
    }
    for what in 0..13_u8 {
        for place in [0_u16, 100, 1023, 4096, 5000] {
            let [low, high] = place.to_le_bytes();
            let edits = [what, low, high, 0, 0x41, 0x10 | what, high, low, 0, 3];
            for target in ["audit_log", "event_log"] {
                seeds.insert((target, format!("{what}-{place}")), edits.to_vec());
            }
        }
    }
    for ((target, name), content) in seeds {
        let directory = corpus().join(target);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(format!("seed-{name}")), content).unwrap();
    }
}

/// The methods, as the target counts them.
fn method_names() -> Vec<String> {
    let daemon = kairod::Daemon::new(
        kairod::Policy::default(),
        kairod::Settings::default(),
        std::path::Path::new("/"),
        None,
    );
    let methods = daemon.router.methods().iter();
    methods.map(|method| method.name.to_string()).collect()
}

/// The first parameters that a method is called with anywhere in `value`.
fn collect(value: &Value, calls: &mut BTreeMap<String, Value>) {
    if let Some(name) = value["call"].as_str() {
        let params = value
            .get("params")
            .cloned()
            .unwrap_or_else(|| serde_json::json!({}));
        calls.entry(name.into()).or_insert(params);
    }
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, calls)),
        Value::Object(entries) => entries.values().for_each(|item| collect(item, calls)),
        _ => {}
    }
}

fn messages() -> Vec<Value> {
    vec![
        serde_json::json!({"id": 1, "result": {"a": [1, 2.5, null, true, "x"]}}),
        serde_json::json!({"id": "one", "result": null, "error": "no", "error_info": {
            "code": "E_BUSY", "message": "no", "details": {"reason": "busy"}, "retryable": true,
            "retry_after_ms": 5}}),
        serde_json::json!({"id": "e-1", "type": "kairo.system.ready", "source": "kairod",
            "specversion": "1.0", "time": "2026-01-01T00:00:00Z", "data": {}, "seq": 1,
            "aliases": ["kairo.ready"], "correlation_id": "i", "stream": "s",
            "stream_version": 1, "replay": true, "subscription": "sub-1"}),
        serde_json::json!({"subscription": "sub-1", "stream": "device/arm/state", "seq": 1,
            "offset": 10, "data": "", "end": true, "gap": {"from": 3, "to": 10}}),
    ]
}

const POLICIES: [&str; 3] = [
    "[[identity]]\nuid = 1000\nclass = 'agent'\nname = 'planner'\n",
    "[[allow]]\nclass = 'agent'\ndevices = ['arm']\nrights = ['claim', 'write']\n\
     limits = { velocity_scale_max = 0.5, ttl_max_ms = 400, joints = ['elbow_flex'] }\n",
    "[[deny]]\nname = 'x'\nmethods = ['rt.>']\npublish = ['a.*']\nsubscribe = ['>']\n\
     serve = ['lidar']\nmemory = ['m.>']\n[[allow]]\nuid = 7\nmethods = ['*.list']\n",
];

const PATTERNS: [&str; 5] = [
    "kairo.system.>\nkairo.system.device.added",
    "kairo.*.added\nkairo.device.added",
    ">\na",
    "*.*\na.b",
    "a.b\na.b.c",
];
