//! Requests that are well-formed and meant badly: what they name twice, and what they would make
//! kairod keep.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use std::io::Write;

use kairo_wire::message::{Message, Meta, Response};
use kairo_wire::{Decoder, ErrorCode, ErrorInfo, Id, Limits, Request, Value};
use support::{System, claim};

/// Sends a request over a plain connection and reads its response.
fn refused(stream: &mut std::os::unix::net::UnixStream, request: &Request) -> ErrorInfo {
    use std::io::Read;
    let frame = request.encode(&Limits::default()).unwrap();
    stream.write_all(&frame).unwrap();
    let mut decoder = Decoder::default();
    let mut bytes = [0; 4096];
    loop {
        if let Some(frame) = decoder.next_frame().unwrap() {
            let response: Response = Response::decode(&frame.payload, &Limits::default()).unwrap();
            return response.into_result().unwrap_err();
        }
        let count = stream.read(&mut bytes).unwrap();
        assert!(count > 0, "kairod closed the connection");
        decoder.feed(&bytes[..count]);
    }
}

fn request(method: &str, params: Value, meta: Option<Meta>) -> Request {
    Request {
        id: Some(Id::Number(1)),
        method: method.into(),
        params: Some(params),
        meta,
    }
}

fn map(entries: &[(&str, Value)]) -> Value {
    let entries = entries.iter();
    Value::Map(
        entries
            .map(|(key, value)| ((*key).into(), value.clone()))
            .collect(),
    )
}

#[test]
fn metadata_that_would_fill_the_kept_events_is_refused() {
    let system = System::start();
    let mut stream = system.raw();
    let long = || Some("x".repeat(300));
    let metas = [
        Meta {
            correlation_id: long(),
            ..Meta::default()
        },
        Meta {
            causation_id: long(),
            ..Meta::default()
        },
        Meta {
            traceparent: long(),
            ..Meta::default()
        },
    ];
    for meta in metas {
        let params = map(&[("device", "arm".into())]);
        let error = refused(&mut stream, &request("device.claim", params, Some(meta)));
        assert_eq!(error.code, ErrorCode::Limit, "{error:?}");
        assert_eq!(error.reason_name(), "meta_too_long");
    }
    // Nothing was claimed on the way.
    claim(&mut system.client());
}

#[test]
fn a_joint_named_twice_is_refused() {
    let system = System::start();
    let mut stream = system.raw();
    let positions = map(&[("pan", 0.1.into()), ("pan", 0.9.into())]);
    let command = map(&[("mode", "position".into()), ("positions", positions)]);
    let params = map(&[
        ("device", "arm".into()),
        ("epoch", 1.into()),
        ("command", command),
        ("ttl_ms", 500.into()),
    ]);
    let error = refused(&mut stream, &request("device.send", params, None));
    assert_eq!(error.code, ErrorCode::InvalidParams, "{error:?}");
    assert_eq!(error.reason_name(), "duplicate_key");
}
