//! `kairo trace`, `kairo diagnostics` and `kairo metrics`, against a scripted kernel, and the
//! export against a collector that is a real HTTP server.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use kairo_wire::message::Message;
use kairo_wire::{Decoder, Limits, Request, Response};
use serde_json::{Value, json};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
/// Longest that anything in a test may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn span(number: u64, id: &str, parent: Value, name: &str, process: &str, start: i64) -> Value {
    json!({
        "number": number, "trace_id": TRACE, "span_id": id, "parent_span_id": parent,
        "name": name, "kind": if number == 2 { "server" } else { "internal" },
        "process": process, "start_unix_ns": 1_700_000_000_000_000_000_i64 + start,
        "duration_ns": 1_500_000, "outcome": "ok", "message": "",
        "attributes": {"caller": "agent \"p\" (uid 7)", "tick": 12},
    })
}

fn spans() -> Vec<Value> {
    let root = json!("b7ad6b7169203331");
    let mut refused = span(
        3,
        "00000000000000c3",
        root.clone(),
        "device.info",
        "kairod",
        9_000_000,
    );
    refused["outcome"] = "E_NOT_FOUND".into();
    refused["message"] = "there is no device leg".into();
    vec![
        span(
            1,
            "00000000000000c1",
            json!("00000000000000c2"),
            "rt.command",
            "kairo-rt",
            400_000,
        ),
        span(2, "00000000000000c2", root, "device.send", "kairod", 0),
        refused,
    ]
}

/// A kernel with three spans, two a page, and a snapshot. Every request's `traceparent` is checked.
fn kernel(directory: &Path) {
    let listener = UnixListener::bind(directory.join("kernel.sock")).unwrap();
    // Ends with the test process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut decoder = Decoder::default();
            let mut bytes = [0; 4096];
            'connection: loop {
                while let Some(frame) = decoder.next_frame().unwrap() {
                    let request: Request =
                        Request::decode(&frame.payload, &Limits::default()).unwrap();
                    let Some(id) = request.id.clone() else {
                        continue;
                    };
                    let response = Response {
                        id,
                        result: Some(answer(&request)),
                        error: None,
                        error_info: None,
                    };
                    let frame = response.encode(&Limits::default()).unwrap();
                    if stream.write_all(&frame).is_err() {
                        break 'connection;
                    }
                }
                match stream.read(&mut bytes) {
                    Ok(0) | Err(_) => break,
                    Ok(count) => decoder.feed(&bytes[..count]),
                }
            }
        }
    });
}

fn answer(request: &Request) -> Value {
    let params = request.params.clone().unwrap_or(kairo_wire::Value::Nil);
    let params: Value = kairo_wire::message::typed(&params).unwrap();
    match request.method.as_str() {
        "kernel.traces" => {
            let traceparent = request.meta.as_ref().unwrap().traceparent.clone().unwrap();
            assert!(
                traceparent.ends_with("-00"),
                "looking must make no spans: {traceparent}"
            );
            let after = params["after"].as_u64().unwrap();
            let limit = params["limit"].as_u64().unwrap().min(2) as usize;
            let mut found: Vec<Value> = spans()
                .into_iter()
                .filter(|span| span["number"].as_u64().unwrap() > after)
                .collect();
            let more = found.len() > limit;
            found.truncate(limit);
            let next = found
                .last()
                .map_or(after, |span| span["number"].as_u64().unwrap());
            let lost = if after == 0 { 4 } else { 0 };
            json!({"spans": found, "next": next, "more": more, "lost": lost, "run": "r",
                   "refused": 0})
        }
        "system.get_info" => json!({"hostname": "robot"}),
        "kernel.diagnostics" => json!({"format": "kairo-diagnostics", "version": 1, "sections": {
            "events": {"available": true, "left_out": true, "data": {}},
            "real_time": {"available": false, "reason": "away", "left_out": false, "data": null},
        }}),
        "system.get_metrics" => json!({
            "load": [0.5, 0.25, 0.125], "cpus": [{"name": "cpu0"}, {"name": "cpu1"}],
            "memory": {"total_bytes": 4_194_304, "available_bytes": 1_048_576},
            "temperatures": [{"sensor": "thermal_zone0", "zone": "cpu", "celsius": 51.25}],
            "batteries": [{"sensor": "BAT0", "percent": 87.0, "status": "Full"}],
            "disk": {"path": "/var/lib/kairo", "total_bytes": 200, "free_bytes": 50},
            "pressure": [], "kairod": {"resident_bytes": 10_485_760}, "sensors_age_s": 0.1,
        }),
        other => panic!("unexpected {other}"),
    }
}

fn kairo(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kairo"))
        .args(arguments)
        .env_clear()
        .env("KAIRO_RUN_DIR", directory)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{output:?}");
    text
}

#[test]
fn traces_are_listed_and_one_is_shown_as_a_tree() {
    let directory = tempfile::tempdir().unwrap();
    kernel(directory.path());
    let list = said(&kairo(directory.path(), &["trace", "list"]));
    let row: Vec<&str> = list.lines().nth(1).unwrap().split("  ").collect();
    let words: Vec<&str> = row
        .iter()
        .map(|word| word.trim())
        .filter(|w| !w.is_empty())
        .collect();
    assert_eq!(words[0], TRACE);
    // From the first begin to the last end; the first failure; the earliest root.
    assert_eq!(words[2..6], ["10.500", "3", "E_NOT_FOUND", "device.send"]);
    let tree = said(&kairo(directory.path(), &["trace", "show", TRACE]));
    let lines: Vec<&str> = tree.lines().collect();
    assert!(lines[2].starts_with("device.send  "), "{tree}");
    assert!(
        lines[3].starts_with("  rt.command  kairo-rt  0.400    1.500"),
        "{tree}"
    );
    assert!(
        lines[4].contains("9.000") && lines[4].contains("there is no device leg"),
        "{tree}"
    );
    let whole = said(&kairo(
        directory.path(),
        &["--json", "trace", "show", TRACE],
    ));
    let whole: Value = serde_json::from_str(&whole).unwrap();
    assert_eq!(whole["spans"].as_array().unwrap().len(), 3);
}

#[test]
fn the_snapshot_is_written_for_its_owner_alone_and_over_nothing() {
    let directory = tempfile::tempdir().unwrap();
    kernel(directory.path());
    let file = directory.path().join("snapshot.json");
    let arguments = ["diagnostics", "--output", file.to_str().unwrap()];
    let line = said(&kairo(directory.path(), &arguments));
    assert!(line.contains("2 sections"), "{line}");
    assert!(
        line.contains("unavailable: real_time; not whole: events"),
        "{line}"
    );
    let written: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(written["format"], "kairo-diagnostics");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let again = kairo(directory.path(), &arguments);
    assert_eq!(again.status.code(), Some(1), "{again:?}");
}

#[test]
fn metrics_are_a_table_of_what_is_there() {
    let directory = tempfile::tempdir().unwrap();
    kernel(directory.path());
    let table = said(&kairo(directory.path(), &["metrics"]));
    for row in [
        "load               0.50        0.25 0.12; 2 CPUs",
        "memory available   25.0  %     1.0 MiB",
        "disk free          25.0  %     /var/lib/kairo",
        "temperature        51.2  °C    cpu",
        "battery            87.0  %     BAT0 Full",
    ] {
        let words: Vec<&str> = row.split_whitespace().collect();
        let is_row = |line: &str| line.split_whitespace().eq(words.iter().copied());
        assert!(table.lines().any(is_row), "{row}\n{table}");
    }
}

/// A request that reached the collector.
struct Posted {
    line: String,
    headers: Vec<String>,
    body: Value,
}

/// A collector that gives these answers, one a request.
fn collector(answers: Vec<&'static str>) -> (String, Receiver<Posted>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, posted) = channel();
    std::thread::spawn(move || {
        let mut answers = answers.into_iter();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            // One request a connection, and the answer says so.
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                match line.trim_end() {
                    "" => break,
                    line => lines.push(line.to_string()),
                }
            }
            let length = lines.iter().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length").then_some(value)
            });
            let mut body = vec![0; length.unwrap().parse().unwrap()];
            reader.read_exact(&mut body).unwrap();
            let body = serde_json::from_slice(&body).unwrap();
            let line = lines.remove(0);
            tell.send(Posted {
                line,
                headers: lines,
                body,
            })
            .unwrap();
            let Some(answer) = answers.next() else { return };
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    (url, posted)
}

const OK: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}";
const BUSY: &str = "HTTP/1.1 503 Busy\r\nConnection: close\r\nRetry-After: 0\r\n\
                    Content-Length: 0\r\n\r\n";
const PARTIAL: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 41\r\n\r\n\
                       {\"partialSuccess\":{\"rejectedSpans\":\"1\"}}\n";
const WRONG: &str = "HTTP/1.1 400 Bad\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

#[test]
fn spans_reach_a_collector_in_the_shape_that_otlp_demands() {
    let directory = tempfile::tempdir().unwrap();
    kernel(directory.path());
    let (url, posted) = collector(vec![BUSY, OK, PARTIAL]);
    let arguments = ["--json", "trace", "export", "--once", "--otlp", &url];
    let output = kairo(directory.path(), &arguments);
    let result: Value = serde_json::from_str(&said(&output)).unwrap();
    assert_eq!(result, json!({"sent": 2, "dropped": 1, "lost": 4}));
    let requests: Vec<Posted> = (0..3)
        .map(|_| posted.recv_timeout(PATIENCE).unwrap())
        .collect();
    // The one that was put off comes again as it was.
    assert_eq!(requests[0].body, requests[1].body);
    let first = &requests[1];
    assert_eq!(first.line, "POST /v1/traces HTTP/1.1");
    let json_header =
        |header: &String| header.eq_ignore_ascii_case("content-type: application/json");
    assert!(first.headers.iter().any(json_header), "{:?}", first.headers);
    // opentelemetry-proto, trace/v1/trace.proto, in its JSON mapping.
    let resources = first.body["resourceSpans"].as_array().unwrap();
    let of = |process: &str| {
        let named = |resource: &&Value| {
            let attributes = resource["resource"]["attributes"].as_array().unwrap();
            attributes.contains(&json!({"key": "service.name", "value": {"stringValue": process}}))
        };
        let resource = resources.iter().find(named).unwrap();
        resource["scopeSpans"][0]["spans"]
            .as_array()
            .unwrap()
            .clone()
    };
    let send = of("kairod")[0].clone();
    assert_eq!(send["traceId"], TRACE);
    assert_eq!(send["spanId"], "00000000000000c2");
    assert_eq!(send["parentSpanId"], "b7ad6b7169203331");
    assert_eq!(send["kind"], 2);
    assert_eq!(send["startTimeUnixNano"], "1700000000000000000");
    assert_eq!(send["endTimeUnixNano"], "1700000000001500000");
    assert_eq!(send["status"], json!({"code": 1}));
    let attributes = send["attributes"].as_array().unwrap();
    assert!(attributes.contains(&json!({"key": "kairo.tick", "value": {"intValue": "12"}})));
    assert!(
        attributes.contains(&json!({"key": "rpc.method", "value": {"stringValue": "device.send"}}))
    );
    assert_eq!(of("kairo-rt")[0]["parentSpanId"], "00000000000000c2");
    let second = &requests[2].body["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    assert_eq!(second["status"]["code"], 2);
    assert_eq!(
        second["status"]["message"],
        "E_NOT_FOUND there is no device leg"
    );
}

#[test]
fn a_collector_that_refuses_for_good_is_not_asked_again() {
    let directory = tempfile::tempdir().unwrap();
    kernel(directory.path());
    let (url, posted) = collector(vec![WRONG, WRONG]);
    let output = kairo(
        directory.path(),
        &["--json", "trace", "export", "--once", "--otlp", &url],
    );
    let result: Value = serde_json::from_str(&said(&output)).unwrap();
    assert_eq!(result, json!({"sent": 0, "dropped": 3, "lost": 4}));
    assert_eq!(posted.try_iter().count(), 2, "each of the two batches once");
}

#[test]
fn a_collector_that_is_not_there_is_a_failure_once_and_https_is_wrong_usage() {
    let directory = tempfile::tempdir().unwrap();
    kernel(directory.path());
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", closed.local_addr().unwrap());
    drop(closed);
    let output = kairo(
        directory.path(),
        &["trace", "export", "--once", "--otlp", &url],
    );
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let output = kairo(
        directory.path(),
        &["trace", "export", "--otlp", "https://c:4318"],
    );
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
