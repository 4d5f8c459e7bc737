//! Requests under way: cancelled, repeated, and with an id that is taken.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use kairo_wire::message::{Message, Response};
use kairo_wire::{Decoder, ErrorCode, Id, Limits, Request, Value};
use support::{Order, System};

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
