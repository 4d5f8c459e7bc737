//! Methods that another process serves: called like any other, and gone with their process.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use kairo_wire::message::{Message, Response};
use kairo_wire::{Decoder, ErrorCode, FrameKind, Id, Limits, Request, Value};
use serde_json::json;
use support::{System, call};

/// A service over a plain connection.
struct Vision {
    stream: UnixStream,
    decoder: Decoder,
}

impl Vision {
    /// Registers `vision.find`.
    fn register(system: &System, timeout_ms: u64) -> Self {
        let mut vision = Self {
            stream: system.raw(),
            decoder: Decoder::default(),
        };
        let schema = json!({
            "type": "object", "additionalProperties": false,
            "properties": {"colour": {"type": "string"}},
        });
        vision.tell(
            "kernel.confine",
            &json!({"class": "service", "name": "vision"}),
        );
        vision.tell(
            "service.register",
            &json!({"namespace": "vision", "timeout_ms": timeout_ms, "methods": [{
                "name": "find", "summary": "Finds things.", "permission": "observe",
                "params": schema, "result": {"type": "object"},
            }]}),
        );
        vision
    }

    /// Calls a method of the kernel.
    fn tell(&mut self, method: &str, params: &serde_json::Value) -> Value {
        let request = Request {
            id: Some(Id::Number(1)),
            method: method.into(),
            params: Some(params.clone()),
            meta: None,
        };
        self.send(&request);
        let payload = self.frame(FrameKind::Response);
        let response = Response::decode(&payload, &Limits::default()).unwrap();
        response.into_result().unwrap()
    }

    fn send(&mut self, message: &impl Message) {
        let frame = message.encode(&Limits::default()).unwrap();
        self.stream.write_all(&frame).unwrap();
    }

    fn frame(&mut self, kind: FrameKind) -> Vec<u8> {
        let mut bytes = [0; 4096];
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                assert_eq!(frame.kind, kind);
                return frame.payload;
            }
            let count = self.stream.read(&mut bytes).unwrap();
            assert!(count > 0, "kairod closed the connection");
            self.decoder.feed(&bytes[..count]);
        }
    }

    /// The next request of others, as it travels: with the caller in its metadata.
    fn asked(&mut self) -> serde_json::Value {
        let payload = self.frame(FrameKind::Request);
        rmp_serde::from_slice(&payload).unwrap()
    }

    fn answer(&mut self, request: &serde_json::Value, result: Value) {
        self.send(&Response {
            id: Id::Number(request["id"].as_i64().unwrap()),
            result: Some(result),
            error: None,
            error_info: None,
        });
    }
}

#[test]
fn a_served_method_is_called_and_introspected_like_any_other() {
    let system = System::start_without_rt();
    let mut vision = Vision::register(&system, 5000);
    let mut client = system.client();
    let asking = std::thread::spawn(move || {
        let found = call(&mut client, "vision.find", json!({"colour": "red"}));
        (client, found)
    });
    let request = vision.asked();
    assert_eq!(request["method"], "vision.find");
    assert_eq!(request["params"], json!({"colour": "red"}));
    // Who asks is the kernel's word.
    assert_eq!(request["meta"]["caller"]["pid"], std::process::id());
    assert_eq!(request["meta"]["caller"]["class"], "operator");
    vision.answer(&request, Value::from("there"));
    let (mut client, found) = asking.join().unwrap();
    assert_eq!(found.unwrap(), "there");

    let mistyped = call(&mut client, "vision.find", json!({"color": "red"})).unwrap_err();
    assert!(mistyped.message.contains("`colour`"), "{mistyped}");
    let one = call(
        &mut client,
        "kernel.introspect",
        json!({"method": "vision.find"}),
    )
    .unwrap();
    assert_eq!(one["methods"][0]["summary"], "Finds things.");
    let status = call(&mut client, "service.status", json!({})).unwrap();
    assert_eq!(status["services"][0]["answered"], 1);
}

#[test]
fn a_service_that_dies_answers_its_callers_and_leaves_its_namespace() {
    let system = System::start_without_rt();
    let mut vision = Vision::register(&system, 60_000);
    let mut client = system.client();
    let asking = std::thread::spawn(move || {
        let found = call(&mut client, "vision.find", json!({}));
        (client, found)
    });
    vision.asked();
    drop(vision);
    let (mut client, found) = asking.join().unwrap();
    let gone = found.unwrap_err();
    assert_eq!(gone.code, ErrorCode::Unavailable);
    assert_eq!(gone.reason_name(), "service_gone");
    let unknown = call(&mut client, "vision.find", json!({})).unwrap_err();
    assert_eq!(unknown.reason_name(), "unknown_method");
    // The namespace is free for its successor.
    Vision::register(&system, 5000);
}

#[test]
fn a_service_that_is_late_is_told_and_counted_as_ailing() {
    let system = System::start_without_rt();
    let mut vision = Vision::register(&system, 20);
    let mut client = system.client();
    for _ in 0..3 {
        let late = call(&mut client, "vision.find", json!({})).unwrap_err();
        assert_eq!(late.reason_name(), "service_late");
        let request = vision.asked();
        let notice = vision.asked();
        assert_eq!(notice["method"], "service.canceled");
        assert_eq!(notice["params"]["id"], request["id"]);
        // What comes too late is for nobody.
        vision.answer(&request, Value::from("late"));
    }
    let status = call(&mut client, "service.status", json!({})).unwrap();
    assert_eq!(status["services"][0]["well"], false);
    assert_eq!(status["services"][0]["late"], 3);
}

#[test]
fn a_namespace_needs_a_right_and_is_never_the_kernels() {
    let system = System::start_without_rt();
    let methods = json!([{
        "name": "find", "summary": "Finds.", "params": {}, "result": {},
    }]);
    let attempt = |class: &str, namespace: &str| {
        let mut client = system.confined(class, "vision");
        let params = json!({"namespace": namespace, "methods": methods});
        call(&mut client, "service.register", params)
    };
    let kernel = attempt("operator", "device").unwrap_err();
    assert_eq!(kernel.reason_name(), "namespace_reserved");
    let other = attempt("service", "planner").unwrap_err();
    assert_eq!(other.reason_name(), "denied");
    assert_eq!(
        attempt("agent", "vision").unwrap_err().reason_name(),
        "denied"
    );
    attempt("service", "vision").unwrap();

    let _first = Vision::register(&system, 5000);
    let mut second = system.confined("service", "vision");
    let params = json!({"namespace": "vision", "methods": methods});
    let taken = call(&mut second, "service.register", params).unwrap_err();
    assert_eq!(taken.reason_name(), "namespace_taken");
}

#[test]
fn a_flood_of_calls_is_bounded_and_costs_no_other_method() {
    let system = System::start_without_rt();
    let mut vision = Vision::register(&system, 60_000);
    let mut flood = system.raw();
    let asking = |id: i64| Request {
        id: Some(Id::Number(id)),
        method: "vision.find".into(),
        params: None::<Value>,
        meta: None,
    };
    for id in 0..40 {
        let frame = asking(id).encode(&Limits::default()).unwrap();
        flood.write_all(&frame).unwrap();
    }
    // One caller has sixteen under way, and another's calls come through beside them.
    for _ in 0..16 {
        vision.asked();
    }
    let mut client = system.client();
    let calling = std::thread::spawn(move || {
        let found = call(&mut client, "vision.find", json!({}));
        call(&mut client, "kernel.ping", json!({})).unwrap();
        found
    });
    let request = vision.asked();
    vision.answer(&request, Value::from("here"));
    assert_eq!(calling.join().unwrap().unwrap(), "here");
}

#[test]
fn an_error_of_a_service_however_long_reaches_its_caller() {
    let system = System::start_without_rt();
    let mut vision = Vision::register(&system, 60_000);
    let mut client = system.client();
    let asking = std::thread::spawn(move || call(&mut client, "vision.find", json!({})));
    let request = vision.asked();
    let error = kairo_wire::ErrorInfo::new(ErrorCode::Conflict, "x".repeat(600_000));
    vision.send(&Response {
        id: Id::Number(request["id"].as_i64().unwrap()),
        result: None::<Value>,
        error: None,
        error_info: Some(error),
    });
    let refused = asking.join().unwrap().unwrap_err();
    assert_eq!(refused.code, ErrorCode::Conflict);
    assert!(refused.message.len() < 5_000);
}

#[test]
fn an_answer_that_comes_after_the_end_of_a_service_harms_nobody() {
    let system = System::start_without_rt();
    let mut vision = Vision::register(&system, 60_000);
    let mut client = system.client();
    let asking = std::thread::spawn(move || call(&mut client, "vision.find", json!({})));
    let request = vision.asked();
    vision.tell("service.unregister", &json!({}));
    assert_eq!(
        asking.join().unwrap().unwrap_err().reason_name(),
        "service_gone"
    );
    vision.answer(&request, Value::from("late"));
    // The connection is still there.
    vision.tell("kernel.ping", &json!({}));
}

#[test]
fn a_call_is_passed_on_in_the_callers_trace() {
    let system = System::start_without_rt();
    let mut vision = Vision::register(&system, 5000);
    let mut client = system.client();
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let meta = kairo_wire::Meta {
        traceparent: Some(format!("00-{trace}-b7ad6b7169203331-01")),
        ..kairo_wire::Meta::default()
    };
    let asking = std::thread::spawn(move || {
        let found = client.call_with_meta::<serde_json::Value>(
            "vision.find",
            json!({"colour": "red"}),
            Some(meta),
            support::PATIENCE,
        );
        found.unwrap();
    });
    let request = vision.asked();
    let passed_on = request["meta"]["traceparent"].as_str().unwrap().to_string();
    vision.answer(&request, Value::from("there"));
    asking.join().unwrap();
    let page = json!({"trace_id": trace});
    let page = call(&mut system.client(), "kernel.traces", page).unwrap();
    let spans = page["spans"].as_array().unwrap();
    assert_eq!(spans.len(), 2, "{spans:#?}");
    let of_kind = |kind: &str| spans.iter().find(|span| span["kind"] == kind).unwrap();
    let (server, to_service) = (of_kind("server"), of_kind("client"));
    assert_eq!(server["parent_span_id"], "b7ad6b7169203331");
    assert_eq!(to_service["parent_span_id"], server["span_id"]);
    assert_eq!(to_service["attributes"]["service"], "vision");
    let span = to_service["span_id"].as_str().unwrap();
    assert_eq!(passed_on, format!("00-{trace}-{span}-01"));
}
