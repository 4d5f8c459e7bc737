//! What `kairo` prints and how it ends, against a kernel that answers from a script.
//!
//! The expected output lies in `tests/golden/`. After a wanted change run the tests once with
//! `KAIRO_BLESS=1` and read the difference.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output};

use kairo_wire::message::Message;
use kairo_wire::{Decoder, ErrorCode, ErrorInfo, Event, Limits, Request, Response, StreamChunk};
use serde_json::{Value, json};

/// What the scripted kernel does on a method.
enum Answer {
    Result(Value),
    Refusal(ErrorInfo),
}

/// A scripted kernel, in a directory of its own.
struct Kernel {
    directory: tempfile::TempDir,
}

impl Kernel {
    fn start(script: Vec<(&'static str, Answer)>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("kernel.sock")).unwrap();
        let script: HashMap<_, _> = script.into_iter().collect();
        // Ends with the test process; it serves one connection after another.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                serve(stream.unwrap(), &script);
            }
        });
        Self { directory }
    }

    fn kairo(&self, arguments: &[&str]) -> Output {
        kairo(self.directory.path(), arguments)
    }
}

fn kairo(run_dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kairo"))
        .args(arguments)
        .env_clear()
        .env("KAIRO_RUN_DIR", run_dir)
        .output()
        .unwrap()
}

fn serve(mut stream: UnixStream, script: &HashMap<&'static str, Answer>) {
    let mut decoder = Decoder::default();
    let mut bytes = [0; 4096];
    loop {
        while let Some(frame) = decoder.next_frame().unwrap() {
            let request: Request = Request::decode(&frame.payload, &Limits::default()).unwrap();
            for frame in answers(&request, script) {
                if stream.write_all(&frame).is_err() {
                    return;
                }
            }
        }
        match stream.read(&mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(count) => decoder.feed(&bytes[..count]),
        }
    }
}

fn answers(request: &Request, script: &HashMap<&'static str, Answer>) -> Vec<Vec<u8>> {
    let Some(id) = request.id.clone() else {
        return Vec::new();
    };
    let limits = Limits::default();
    let mut frames = match script.get(request.method.as_str()) {
        Some(Answer::Result(result)) => {
            let response = Response {
                id,
                result: Some(result),
                error: None,
                error_info: None,
            };
            vec![response.encode(&limits).unwrap()]
        }
        Some(Answer::Refusal(error)) => {
            vec![Response::refuse(id, error.clone()).encode(&limits).unwrap()]
        }
        None => panic!("unexpected {}", request.method),
    };
    match request.method.as_str() {
        "device.subscribe" => frames.push(sample_chunk().encode(&limits).unwrap()),
        "event.subscribe" => frames.push(event().encode(&limits).unwrap()),
        _ => {}
    }
    frames
}

fn subscribed() -> Answer {
    Answer::Result(json!({"subscription": "s1"}))
}

fn sample() -> Value {
    let joint = |position: f64, missed: u64| {
        json!({
            "position_rad": position, "velocity_rad_s": 0.25, "setpoint_rad": position,
            "target_rad": 0.5, "load_ratio": -0.125, "voltage_v": 12.1, "current_a": 0.31,
            "temperature_c": 31.0, "sample_age_us": 800, "status_bits": 0, "missed": missed,
        })
    };
    json!({
        "device": "arm", "status": "ready", "phase": "following", "cause": "none", "tick": 4711,
        "sequence": 5, "moving": true,
        "joints": {"shoulder_pan": joint(0.2996, 0), "elbow_flex": joint(-1.25, 3)},
    })
}

fn sample_chunk() -> StreamChunk {
    StreamChunk {
        subscription: "s1".into(),
        stream: "device/arm/state".into(),
        seq: 0,
        offset: 0,
        data: rmp_serde::to_vec_named(&sample()).unwrap(),
        ..StreamChunk::default()
    }
}

fn event() -> Event {
    Event {
        id: "1".into(),
        topic: "kairo.system.device.removed".into(),
        source: "kairod".into(),
        specversion: "1.0".into(),
        time: "2026-01-02T03:04:05.678Z".into(),
        data: rmpv_of(&json!({"cause": "bus_lost", "device": "arm"})),
        seq: 9,
        aliases: vec!["kairo.device.removed".into()],
        correlation_id: None,
        causation_id: None,
        traceparent: None,
        stream: None,
        stream_version: None,
        replay: false,
        subscription: Some("s1".into()),
    }
}

fn rmpv_of(value: &Value) -> kairo_wire::Value {
    rmp_serde::from_slice(&rmp_serde::to_vec_named(value).unwrap()).unwrap()
}

fn device() -> Value {
    json!({
        "id": "arm", "alias": "agent://device/arm", "kind": "servo-arm", "bus": "servo",
        "path": "/dev/ttyUSB0", "status": "ready", "phase": "holding", "cause": "none",
        "epoch": 7, "holder": {"connection": 2, "uid": 1000, "gid": 1000, "pid": 321,
        "process": "planner", "pinned": true},
    })
}

fn device_info() -> Value {
    let mut info = device();
    let joint = |name: &str, servo_id: u8| {
        json!({
            "name": name, "servo_id": servo_id, "position_min_rad": -1.9199,
            "position_max_rad": 1.9199, "velocity_max_rad_s": 2.0, "acceleration_max_rad_s2": 8.0,
            "jerk_max_rad_s3": 160.0, "following_error_max_rad": 0.5,
            "following_error_time_ms": 1000, "rest_position_rad": null,
        })
    };
    info["control_loop"] = json!("arm-loop");
    info["safe_action"] = json!("hold");
    info["torque_at_start"] = json!(true);
    info["fault"] = json!({
        "cause": "following_error", "joint": "elbow_flex", "value": 0.62, "limit": 0.5,
        "unit": "rad", "since_ns": 1, "explanation": "elbow_flex was 0.620 rad from its setpoint",
    });
    info["ttl_max_ms"] = json!(1000);
    info["joints"] = json!([joint("shoulder_pan", 1), joint("elbow_flex", 3)]);
    info["state"] = sample();
    info
}

fn quantiles(p50: f64, max: f64) -> Value {
    json!({"count": 1000, "mean": p50, "p50": p50, "p99": max / 2.0, "p999": max, "max": max})
}

fn rt_status() -> Value {
    let call = json!({
        "number": 1, "name": "write", "tick": 123, "block": "pan-gear", "program_offset": 4096,
    });
    let thread = json!({
        "first_system_call": call, "tid": 77, "minor_faults": 0, "major_faults": 0,
        "voluntary_switches": 1000,
        "involuntary_switches": 2, "allocations": 0,
    });
    let servo = |id: u8, timeouts: u64| {
        json!({
            "id": id, "replies": 998, "timeouts": timeouts, "bad_packets": 1, "status_errors": 0,
        })
    };
    json!({
        "connected": true, "build": "0.1.0", "robot": "so101", "armed": true,
        "armed_for_s": 4.0, "locked_bytes": 20_971_520,
        "bringup": [
            {"scope": "process", "check": "kernel", "wanted": "PREEMPT_RT", "found": "PREEMPT",
             "ok": false, "required": false, "fix": "boot the KairoOS kernel"},
            {"scope": "arm-loop", "check": "policy", "wanted": "SCHED_FIFO 80",
             "found": "SCHED_FIFO 80", "ok": true, "required": true, "fix": ""},
        ],
        "loops": [{
            "name": "arm-loop", "period_us": 4000, "phase_us": 250,
            "priority": 80, "core": 1, "ticks": 1000,
            "skipped": 3, "identity_holds": true, "overruns_late_wake": 1,
            "overruns_long_execution": 0, "overruns_bus": 4, "budget_us": 1000.0,
            "lateness_us": quantiles(9.0, 42.0),
            "execution_us": quantiles(7.5, 21.0), "command_age_us": quantiles(900.0, 4000.0),
            "thread": thread,
        }],
        "buses": [{
            "name": "servo", "port": "serial:usb-1-1", "path": "/dev/ttyUSB0", "connected": true,
            "cycles": 1000, "losses": 0, "garbage_bytes": 12,
            "round_trip_us": quantiles(1900.0, 2600.0), "thread": thread,
            "servos": [servo(1, 0), servo(3, 2)],
        }],
        "devices": [{
            "id": "arm", "status": "ready", "phase": "holding", "cause": "none",
            "phase_for_ms": 3950, "lease_epoch": 0,
        }],
    })
}

fn histogram() -> Value {
    json!({
        "source": "arm-loop", "kind": "lateness", "unit": "us", "count": 1000, "mean": 11.0,
        "max": 95.0, "period_us": 4000, "skipped": 3,
        "quantiles": {"p50": 10.0, "p90": 12.0, "p99": 30.0, "p999": 90.0, "p9999": 95.0},
        "buckets": [
            {"upper": 9.0, "count": 200}, {"upper": 10.0, "count": 500},
            {"upper": 12.0, "count": 280}, {"upper": 30.0, "count": 18},
            {"upper": 95.0, "count": 2},
        ],
    })
}

fn system_info() -> Value {
    json!({
        "os": {"id": "kairoos", "name": "KairoOS", "version": "0.1"},
        "kernel": {"release": "6.12.95-kairo", "version": "#1 SMP PREEMPT_RT",
                   "preempt_rt": true},
        "version": "0.1.0", "commit": "abc1234", "hostname": "kairo", "machine": "x86_64",
        "cpus": 2, "uptime_s": 61.2, "kairod_uptime_s": 60.0, "robot": "so101",
    })
}

/// Compares output with its golden file.
fn golden(name: &str, output: &Output, status: i32) {
    let text = format!(
        "{}--- stderr\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let path = directory.join(format!("{name}.txt"));
    if std::env::var_os("KAIRO_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{} differs; see the header", path.display());
    assert_eq!(output.status.code(), Some(status));
}

#[test]
fn status_is_one_page() {
    let kernel = Kernel::start(vec![
        ("system.get_info", Answer::Result(system_info())),
        ("rt.status", Answer::Result(rt_status())),
        (
            "device.list",
            Answer::Result(json!({"devices": [device()]})),
        ),
    ]);
    golden("status", &kernel.kairo(&["status"]), 0);
    let json = kernel.kairo(&["status", "--json"]);
    let whole: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(whole["devices"][0]["id"], "arm");
    assert_eq!(whole["system"]["commit"], "abc1234");
}

#[test]
fn a_real_time_plane_that_is_away_is_said_first() {
    let away = json!({"connected": false, "loops": [], "buses": [], "devices": []});
    let kernel = Kernel::start(vec![
        ("system.get_info", Answer::Result(system_info())),
        ("rt.status", Answer::Result(away)),
        ("device.list", Answer::Result(json!({"devices": []}))),
    ]);
    golden("status_away", &kernel.kairo(&["status"]), 0);
    golden("rt_status_away", &kernel.kairo(&["rt", "status"]), 0);
}

#[test]
fn devices_are_listed_and_described() {
    let kernel = Kernel::start(vec![
        (
            "device.list",
            Answer::Result(json!({"devices": [device()]})),
        ),
        ("device.info", Answer::Result(device_info())),
    ]);
    golden("device_list", &kernel.kairo(&["device", "list"]), 0);
    golden("device_info", &kernel.kairo(&["device", "info", "arm"]), 0);
}

#[test]
fn watching_shows_joints_in_command_order() {
    let kernel = Kernel::start(vec![
        ("device.info", Answer::Result(device_info())),
        ("device.subscribe", subscribed()),
    ]);
    let watched = kernel.kairo(&["device", "watch", "arm", "--count", "1"]);
    golden("device_watch", &watched, 0);
    let json = kernel.kairo(&["device", "watch", "arm", "--count", "1", "--json"]);
    assert_eq!(
        serde_json::from_slice::<Value>(&json.stdout).unwrap(),
        sample()
    );
}

fn claimed() -> (&'static str, Answer) {
    let claimed = json!({"device": "arm", "epoch": 7, "ttl_max_ms": 1000});
    ("device.claim", Answer::Result(claimed))
}

fn released() -> (&'static str, Answer) {
    let released = json!({"device": "arm", "epoch": 7});
    ("device.release", Answer::Result(released))
}

#[test]
fn a_motion_that_does_not_arrive_is_a_failure() {
    let sent = json!({"sequence": 5, "tick": 4700, "applied_ns": 1, "expires_ns": 2});
    let kernel = Kernel::start(vec![
        claimed(),
        ("device.send", Answer::Result(sent)),
        ("device.info", Answer::Result(device_info())),
        released(),
    ]);
    let send = |position: &str| {
        let arguments = [
            "device",
            "send",
            "arm",
            "--position",
            position,
            "--ttl",
            "30ms",
            "--hold",
            "10ms",
            "--json",
        ];
        let output = kernel.kairo(&arguments);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        (report["reached"].clone(), output.status.code())
    };
    assert_eq!(
        send("shoulder_pan=0.3,elbow_flex=-1.25"),
        (json!(true), Some(0))
    );
    assert_eq!(send("shoulder_pan=0.4"), (json!(false), Some(1)));
}

#[test]
fn a_refusal_by_the_real_time_plane_ends_with_status_3() {
    let text = "elbow_flex = 2.5000 rad is outside its limits, -1.5000 to 1.5000 rad; the \
        command was not applied";
    let refused = ErrorInfo::new(ErrorCode::Limit, text).reason("position_limit");
    let kernel = Kernel::start(vec![
        claimed(),
        ("device.send", Answer::Refusal(refused)),
        released(),
    ]);
    let output = kernel.kairo(&["device", "send", "arm", "--position", "elbow_flex=2.5"]);
    golden("device_send_refused", &output, 3);
}

#[test]
fn a_program_inherits_the_claim() {
    let kernel = Kernel::start(vec![claimed(), released()]);
    let binary = env!("CARGO_BIN_EXE_kairo");
    let script = format!("echo epoch $KAIRO_CLAIM_EPOCH; '{binary}' device release arm");
    let output = kernel.kairo(&["device", "claim", "arm", "--", "/bin/sh", "-c", &script]);
    golden("device_claim_program", &output, 0);
    let failing = kernel.kairo(&["device", "claim", "arm", "--", "/bin/false"]);
    assert_eq!(failing.status.code(), Some(1));
}

#[test]
fn the_real_time_plane_is_shown_in_tables() {
    let kernel = Kernel::start(vec![
        ("rt.status", Answer::Result(rt_status())),
        ("rt.histogram", Answer::Result(histogram())),
    ]);
    golden("rt_status", &kernel.kairo(&["rt", "status"]), 0);
    golden("rt_histogram", &kernel.kairo(&["rt", "histogram"]), 0);
    let plot = kernel.directory.path().join("plot.svg");
    let path = plot.to_str().unwrap();
    let drawn = kernel.kairo(&["rt", "histogram", "--svg", path, "--json"]);
    assert!(drawn.status.success());
    assert!(std::fs::read_to_string(plot).unwrap().starts_with("<svg"));
}

#[test]
fn latency_alone_says_why_and_counts_only_its_own_window() {
    let kernel = Kernel::start(vec![
        ("rt.status", Answer::Result(rt_status())),
        ("rt.histogram", Answer::Result(histogram())),
    ]);
    let output = kernel.kairo(&["latency", "--seconds", "1", "--alone", "--json"]);
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["loop"], "arm-loop");
    // The scripted histogram stands still: nothing of what was there before is in the window.
    assert_eq!(report["kairo_rt"]["count"], 0);
    assert_eq!(report["cyclictest"], Value::Null);
    assert!(
        report["note"].as_str().unwrap().contains("--alone"),
        "{report}"
    );
    let wrong = kernel.kairo(&["latency", "--loop", "leg-loop"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("arm-loop"));
}

#[test]
fn histograms_are_written_in_the_shape_of_cyclictest() {
    let kernel = Kernel::start(vec![
        ("rt.status", Answer::Result(rt_status())),
        ("rt.histogram", Answer::Result(histogram())),
        ("rt.reset", Answer::Result(json!({"reset_ns": 5}))),
        ("system.get_info", Answer::Result(system_info())),
    ]);
    let file = kernel.directory.path().join("loops.json");
    let path = file.to_str().unwrap();
    let written = kernel.kairo(&["rt", "histogram", "--cyclictest-json", path]);
    assert!(written.status.success(), "{written:?}");
    let document: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let thread = &document["thread"]["0"];
    assert_eq!(document["num_threads"], 1);
    assert_eq!(document["sysinfo"]["realtime"], 1);
    assert_eq!(
        (&thread["cycles"], &thread["cpu"]),
        (&json!(1000), &json!(1))
    );
    assert_eq!(thread["histogram"]["10"], 500);
    let reset = kernel.kairo(&["rt", "reset"]);
    assert_eq!(reset.stdout, b"counters and histograms begin anew\n");
}

#[test]
fn the_doctor_shows_what_kairo_rt_read_back_and_fails_for_required_checks_only() {
    let mut status = rt_status();
    let kernel = Kernel::start(vec![("rt.status", Answer::Result(status.clone()))]);
    golden("doctor_rt", &kernel.kairo(&["doctor", "--rt"]), 0);
    status["armed"] = json!(false);
    status["bringup"][1]["ok"] = json!(false);
    status["bringup"][1]["found"] = json!("SCHED_OTHER 0");
    status["bringup"][1]["fix"] = json!("setcap cap_sys_nice+ep kairo-rt");
    let kernel = Kernel::start(vec![("rt.status", Answer::Result(status))]);
    golden("doctor_rt_failed", &kernel.kairo(&["doctor", "--rt"]), 1);
    let json = kernel.kairo(&["doctor", "--rt", "--json"]);
    let report: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(
        (&report["source"], &report["ok"]),
        (&json!("kairo-rt"), &json!(false))
    );
    assert_eq!(report["failed_required"], json!(["arm-loop policy"]));
    assert_eq!(json.status.code(), Some(1));
}

#[test]
fn without_kairo_rt_the_doctor_looks_at_the_machine() {
    let nowhere = tempfile::tempdir().unwrap();
    let output = kairo(nowhere.path(), &["doctor", "--rt", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["source"], "machine");
    let checks = report["checks"].as_array().unwrap();
    let named = |name: &str| checks.iter().any(|check| check["check"] == name);
    for name in [
        "kernel",
        "memlock_limit",
        "rt_throttling",
        "rt_group_sched",
        "governor",
    ] {
        assert!(named(name), "{name} is missing: {report:#}");
    }
    for check in checks {
        assert_eq!(check["ok"] == true, check["fix"] == "", "{check}");
    }
    // Whether this machine is fit is its own affair; the status must say so.
    let failed = |check: &&Value| check["ok"] == false && check["required"] == true;
    let expected = i32::from(checks.iter().any(|check| failed(&check)));
    assert_eq!(output.status.code(), Some(expected));
    let robot = "[robot]\nname = \"x\"\n[[loop]]\nname = \"l\"\nperiod_us = 1000\npriority = 80\n\
                 core = 1000\noverrun = \"skip\"\n";
    let file = nowhere.path().join("robot.toml");
    std::fs::write(&file, robot).unwrap();
    let path = file.to_str().unwrap();
    let output = kairo(nowhere.path(), &["doctor", "--rt", "--config", path]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("core 1000 (robot.toml:4)"), "{text}");
    assert_eq!(output.status.code(), Some(1));
    let output = kairo(nowhere.path(), &["config", "check", path, "--machine"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        kairo(nowhere.path(), &["config", "check", path])
            .status
            .code(),
        Some(0)
    );
}

#[test]
fn a_wrong_robot_file_is_refused_with_every_problem() {
    let nowhere = tempfile::tempdir().unwrap();
    let file = nowhere.path().join("robot.toml");
    let robot = "[robot]\nname = \"x\"\n[[loop]]\nname = \"l\"\nperiod_us = 1000\npriority = 800\n\
                 overrun = \"burts\"\nburst_max = 3\n";
    std::fs::write(&file, robot).unwrap();
    let path = file.to_str().unwrap();
    let output = kairo(nowhere.path(), &["config", "check", path, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let problems = report["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 2, "{report:#}");
    assert_eq!(
        (&problems[0]["line"], &problems[0]["key"]),
        (&json!(6), &json!("loop.priority"))
    );
    assert!(
        problems[1]["fix"]
            .as_str()
            .unwrap()
            .contains("did you mean"),
        "{report:#}"
    );
    let text = kairo(nowhere.path(), &["config", "check", path]);
    let errors = String::from_utf8_lossy(&text.stderr).into_owned();
    assert!(errors.contains("robot.toml:6:"), "{errors}");
}

#[test]
fn events_are_one_line_each() {
    let kernel = Kernel::start(vec![("event.subscribe", subscribed())]);
    golden(
        "events",
        &kernel.kairo(&["events", "tail", "--count", "1"]),
        0,
    );
    let tail = ["events", "tail", "kairo.device.*", "--count", "1", "--json"];
    let json = kernel.kairo(&tail);
    let event: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(event["type"], "kairo.system.device.removed");
    assert_eq!(event["data"]["device"], "arm");
}

#[test]
fn events_of_the_log_come_page_by_page_with_their_numbers() {
    let event = |seq: u64, topic: &str, data: Value| {
        json!({
            "id": format!("e{seq}"), "type": topic, "source": "agent/a", "specversion": "1.0",
            "time": "2026-01-02T03:04:05.678Z", "data": data, "seq": seq,
        })
    };
    let page = json!({
        "events": [
            event(7, "app.moved", json!({"joint": "elbow", "to": 0.5})),
            event(1200, "app.said", json!("hello")),
        ],
        "next": null, "head_seq": 1200, "damaged": [],
    });
    let kernel = Kernel::start(vec![("event.query", Answer::Result(page.clone()))]);
    golden(
        "events_query",
        &kernel.kairo(&["events", "query", "app.>"]),
        0,
    );
    let mut damaged = page;
    damaged["damaged"] = json!([9]);
    let kernel = Kernel::start(vec![("event.query", Answer::Result(damaged))]);
    let output = kernel.kairo(&["events", "query"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("1 events"));
}

#[test]
fn trouble_names_its_cause_and_the_next_command() {
    let nowhere = tempfile::tempdir().unwrap();
    let output = kairo(nowhere.path(), &["status"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("kernel.sock") && text.contains("cargo xtask run"),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(1));

    let kernel = Kernel::start(vec![(
        "kernel.ping",
        Answer::Result(json!({"monotonic_ns": 5})),
    )]);
    golden("call", &kernel.kairo(&["call", "kernel.ping"]), 0);
    for wrong in [
        &["call", "kernel.ping", "{"][..],
        &["call", "kernel.ping", "[]"],
        &["device", "send", "arm"],
        &["device", "send", "arm", "--position", "elbow_flex"],
        &["device", "send", "arm", "--position", "elbow_flex=nan"],
        &["device", "send", "arm", "--position", "pan=1,pan=2"],
        &["device", "send", "arm", "--stop", "--velocity-scale", "nan"],
        &["device", "send", "arm", "--stop", "--tolerance", "nan"],
        &["device", "watch", "arm", "--rate", "inf"],
        &["dance"],
        &["status", "--socket", "tcp:192.0.2.1:1"],
    ] {
        let output = kernel.kairo(wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(!output.stderr.is_empty(), "{wrong:?}");
    }
}

#[test]
fn help_begins_with_a_sentence() {
    let nowhere = tempfile::tempdir().unwrap();
    for noun in [
        &["--help"][..],
        &["device", "--help"],
        &["device", "send", "--help"],
    ] {
        let output = kairo(nowhere.path(), noun);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let first = text.lines().next().unwrap();
        assert!(
            first.len() > 20 && first.starts_with(char::is_uppercase),
            "{noun:?}: {first}"
        );
        assert!(output.status.success());
    }
}

#[test]
fn a_timeline_is_simulated_without_a_kernel() {
    let nowhere = tempfile::tempdir().unwrap();
    let timeline = [
        "failsafe",
        "simulate",
        "--from-start",
        "--at",
        "1s",
        "reset",
        "--at",
        "2s",
        "cause=low-battery",
        "--at",
        "9s",
        "takeover=operator",
    ];
    let output = kairo(nowhere.path(), &timeline);
    golden("failsafe_simulate", &output, 0);
    let json = kairo(nowhere.path(), &[&["--json"], &timeline[..]].concat());
    let page: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(page["rows"][0]["cleared"], json!(["estop"]));
    assert_eq!(
        page["rows"][2]["t_ms"], 7000,
        "the escalation comes by itself"
    );
}

#[test]
fn a_timeline_that_means_nothing_is_wrong_usage() {
    let nowhere = tempfile::tempdir().unwrap();
    for wrong in [
        ["0ms", "cause=estopp"],
        ["soon", "reset"],
        ["1s", "takeover=me"],
    ] {
        let arguments = [&["failsafe", "simulate", "--at"], &wrong[..]].concat();
        assert_eq!(
            kairo(nowhere.path(), &arguments).status.code(),
            Some(2),
            "{wrong:?}"
        );
    }
}

#[test]
fn a_program_runs_over_a_connection_that_was_confined_first() {
    let kernel = Kernel::start(vec![
        ("kernel.confine", Answer::Result(json!({"class": "agent"}))),
        ("kernel.ping", Answer::Result(json!({"monotonic_ns": 7}))),
    ]);
    let kairo = env!("CARGO_BIN_EXE_kairo");
    // The inner command has no way to the kernel but the connection that it inherits.
    let output = kernel.kairo(&["run", "--name", "p", "--", kairo, "call", "kernel.ping"]);
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("\"monotonic_ns\": 7"));

    let refused = Kernel::start(vec![(
        "kernel.confine",
        Answer::Refusal(ErrorInfo::new(
            ErrorCode::PermissionDenied,
            "that would be more",
        )),
    )]);
    let output = refused.kairo(&["run", "--", "/bin/echo", "started"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(output.stdout.is_empty(), "the program did not start");
}

#[test]
fn permission_check_says_which_rule_and_its_exit_status_is_the_answer() {
    let answer = |allowed: bool| {
        let checked = json!({"allowed": allowed, "rule": "grant:3", "limits": {"ttl_max_ms": 400}});
        Kernel::start(vec![("permission.check", Answer::Result(checked))])
    };
    let arguments = [
        "permission",
        "check",
        "device.write",
        "arm",
        "--class",
        "agent",
    ];
    let output = answer(true).kairo(&arguments);
    assert!(output.status.success());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said, "allowed by rule grant:3, within ttl_max_ms 400\n");
    let output = answer(false).kairo(&arguments);
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn intents_are_shown_as_a_tree() {
    let intent = |id: &str, name: &str, parent: Value| {
        json!({"intent": id, "name": name, "parent": parent, "owner": "agent \"p\" (uid 7)",
               "status": "live", "reason": ""})
    };
    let all = json!({"intents": [
        intent("i1", "tidy up", Value::Null),
        intent("i3", "grasp", json!("i1")),
        intent("i2", "look", Value::Null),
    ]});
    let kernel = Kernel::start(vec![("intent.list", Answer::Result(all))]);
    let output = kernel.kairo(&["intent", "list"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let names: Vec<&str> = said.lines().skip(1).map(|line| &line[16..24]).collect();
    assert_eq!(names, ["tidy up ", "  grasp ", "look    "], "{said}");
}
