//! The machine's health over IPC, with sensors that the test moves: a directory laid out like
//! `/proc` and `/sys`.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use std::path::Path;

use kairo_wire::Client;
use serde_json::{Value, json};
use support::{System, call, eventually};

const SETTINGS: &str = "[metrics]\ninterval_s = 1\ntemperature_c = {limit = 80, back = 75}\n\
                        disk_free_percent = {limit = 0, back = 0}\n";

fn write(root: &Path, file: &str, text: &str) {
    let path = root.join("sensors").join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    // In one step, as a sensor never shows half a number.
    std::fs::write(path.with_extension("new"), text).unwrap();
    std::fs::rename(path.with_extension("new"), path).unwrap();
}

fn machine(root: &Path) {
    write(root, "proc/loadavg", "0.10 0.20 0.30 1/2 3\n");
    write(
        root,
        "proc/stat",
        "cpu  10 0 10 80 0 0 0 0\ncpu0 10 0 10 80 0 0 0 0\n",
    );
    write(
        root,
        "proc/meminfo",
        "MemTotal: 1000 kB\nMemAvailable: 800 kB\n",
    );
}

fn zone(root: &Path, millidegrees: i64) {
    write(
        root,
        "sys/class/thermal/thermal_zone0/type",
        "cpu-thermal\n",
    );
    write(
        root,
        "sys/class/thermal/thermal_zone0/temp",
        &format!("{millidegrees}\n"),
    );
}

fn crossings(client: &mut Client) -> Vec<Value> {
    let topics = json!({"topics": ["kairo.metrics.threshold"]});
    let queried = call(client, "event.query", topics).unwrap();
    let events = queried["events"].as_array().unwrap();
    events.iter().map(|event| event["data"].clone()).collect()
}

#[test]
fn a_zone_that_gets_hot_is_told_once_and_once_when_it_is_back() {
    let system = System::start_alone_with(|root| {
        std::fs::write(root.join("observe.toml"), SETTINGS).unwrap();
        machine(root);
        zone(root, 60_000);
    });
    let root = system.directory.path();
    let mut client = system.client();
    let shown = |client: &mut Client, celsius: f64| {
        eventually("the sensor is read", || {
            let metrics = call(client, "system.get_metrics", json!({})).unwrap();
            (metrics["temperatures"][0]["celsius"] == celsius).then_some(metrics)
        })
    };
    let metrics = shown(&mut client, 60.0);
    assert_eq!(metrics["temperatures"][0]["zone"], "cpu-thermal");
    assert_eq!(
        metrics["batteries"],
        json!([]),
        "what is not there is absent"
    );
    assert_eq!(metrics["load"], json!([0.1, 0.2, 0.3]));
    assert!(metrics["disk"]["total_bytes"].as_u64().unwrap() > 0);
    assert_eq!(crossings(&mut client), Vec::<Value>::new());

    zone(root, 81_500);
    let told = eventually("it is told", || {
        let told = crossings(&mut client);
        (!told.is_empty()).then_some(told)
    });
    assert_eq!(
        told,
        [json!({
            "metric": "temperature", "sensor": "thermal_zone0 cpu-thermal", "state": "beyond",
            "value": 81.5, "unit": "°C", "limit": 80.0, "back": 75.0,
        })]
    );
    // Between the bounds nothing is told; the next change is the way back.
    zone(root, 78_000);
    shown(&mut client, 78.0);
    zone(root, 74_000);
    let told = eventually("the way back is told", || {
        let told = crossings(&mut client);
        (told.len() > 1).then_some(told)
    });
    let states: Vec<&Value> = told.iter().map(|data| &data["state"]).collect();
    assert_eq!(states, ["beyond", "back"]);
}

#[test]
fn a_sensor_that_never_answers_costs_its_readers_and_nobody_else() {
    let system = System::start_alone_with(|root| {
        std::fs::write(root.join("observe.toml"), SETTINGS).unwrap();
        machine(root);
        zone(root, 60_000);
        // A driver that never returns: reading waits for a writer that does not come.
        let stuck = root.join("sensors/sys/class/thermal/thermal_zone0/temp");
        std::fs::remove_file(&stuck).unwrap();
        nix::unistd::mkfifo(&stuck, nix::sys::stat::Mode::S_IRWXU).unwrap();
    });
    let mut client = system.client();
    // More often than kairod has helper threads: the one that is stuck is not joined by others.
    for _ in 0..8 {
        let metrics = call(&mut client, "system.get_metrics", json!({})).unwrap();
        assert_eq!(metrics["sensors_age_s"], Value::Null);
        assert_eq!(metrics["temperatures"], json!([]));
    }
    // A helper thread is still there for the event log and the link.
    call(&mut client, "event.publish", json!({"topic": "test.x"})).unwrap();
}

#[test]
fn settings_that_are_wrong_are_refused_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let settings = directory.path().join("observe.toml");
    std::fs::write(&settings, "[metrics]\ninterval = 1\n").unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_kairod"))
        .arg("--run-dir")
        .arg(directory.path())
        .arg("--observe")
        .arg(&settings)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(78));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("observe.toml:2: unknown field `interval`"),
        "{said}"
    );
}
