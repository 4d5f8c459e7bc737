//! Requests under way: cancelled, repeated, and with an id that is taken.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use kairo_wire::message::{Message, Response};
use kairo_wire::{Decoder, ErrorCode, Id, Limits, Request, Value};
use support::{Order, System, call};

fn ask(stream: &mut UnixStream, id: i64, method: &str, params: &[(&str, Value)]) {
    let params = params.iter();
    let params = params.map(|(key, value)| ((*key).into(), value.clone()));
    let request = Request {
        id: Some(Id::Number(id)),
        method: method.into(),
        params: Some(Value::Map(params.collect())),
        meta: None,
    };
    stream
        .write_all(&request.encode(&Limits::default()).unwrap())
        .unwrap();
}

/// The next response.
fn answer(stream: &mut UnixStream, decoder: &mut Decoder) -> Response {
    let mut bytes = [0; 4096];
    loop {
        if let Some(frame) = decoder.next_frame().unwrap() {
            return Response::decode(&frame.payload, &Limits::default()).unwrap();
        }
        let count = stream.read(&mut bytes).unwrap();
        assert!(count > 0, "kairod closed the connection");
        decoder.feed(&bytes[..count]);
    }
}

#[test]
fn a_request_under_way_can_be_cancelled_and_its_id_is_free_again() {
    let system = System::start();
    system.rt().order(Order::IgnoreClaims);
    let mut stream = system.raw();
    let mut decoder = Decoder::default();
    ask(&mut stream, 1, "device.claim", &[("device", "arm".into())]);
    // The same id again: refused, and the first goes on.
    ask(&mut stream, 1, "kernel.ping", &[]);
    let taken = answer(&mut stream, &mut decoder).into_result().unwrap_err();
    assert_eq!(taken.reason_name(), "duplicate_id");

    ask(&mut stream, 2, "kernel.cancel", &[("id", 1.into())]);
    let canceled = answer(&mut stream, &mut decoder);
    assert_eq!(canceled.id, Id::Number(1));
    assert_eq!(
        canceled.into_result().unwrap_err().code,
        ErrorCode::Canceled
    );
    assert_eq!(answer(&mut stream, &mut decoder).id, Id::Number(2));

    ask(&mut stream, 1, "kernel.ping", &[]);
    let ping = answer(&mut stream, &mut decoder);
    assert_eq!(ping.id, Id::Number(1));
    ping.into_result().unwrap();
    ask(&mut stream, 3, "kernel.cancel", &[("id", 99.into())]);
    let nothing = answer(&mut stream, &mut decoder).into_result().unwrap();
    assert_eq!(nothing, Value::Map(vec![("canceled".into(), false.into())]));
}

#[test]
fn a_stop_answers_what_is_under_way_and_begins_nothing_new() {
    let mut system = System::start();
    system.rt().order(Order::IgnoreClaims);
    let mut watcher = system.client();
    let topics = serde_json::json!({"topics": ["kairo.system.stopping", "kairo.intent.ended"]});
    call(&mut watcher, "event.subscribe", topics).unwrap();
    let begin = serde_json::json!({"name": "open"});
    call(&mut watcher, "intent.begin", begin).unwrap();
    let mut stream = system.raw();
    let mut decoder = Decoder::default();
    ask(&mut stream, 1, "device.claim", &[("device", "arm".into())]);
    // Answered after the claim was begun, so that is under way now.
    ask(&mut stream, 2, "kernel.ping", &[]);
    assert_eq!(answer(&mut stream, &mut decoder).id, Id::Number(2));

    let stopping = std::thread::spawn(move || system.stop_kairod());
    let mut topics = Vec::new();
    while let Ok(Some(kairo_wire::Incoming::Event(event))) =
        watcher.next_incoming(support::PATIENCE)
    {
        if event.topic == "kairo.system.stopping" {
            ask(&mut stream, 3, "kernel.ping", &[]);
        }
        topics.push(event.topic);
    }
    assert_eq!(
        topics,
        ["kairo.system.stopping", "kairo.system.intent.ended"]
    );
    let refused = answer(&mut stream, &mut decoder);
    assert_eq!(refused.id, Id::Number(3));
    assert_eq!(refused.into_result().unwrap_err().reason_name(), "draining");
    let ended = answer(&mut stream, &mut decoder);
    assert_eq!(ended.id, Id::Number(1));
    assert_eq!(ended.into_result().unwrap_err().code, ErrorCode::Canceled);
    assert!(stopping.join().unwrap(), "kairod ends with status 0");
}
