//! Large frames: negotiated, bounded in memory, and held by nobody.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use std::io::{Read, Write};
use std::time::Duration;

use kairo_wire::frame::LARGE_CONTROL_BYTES;
use kairo_wire::message::Message;
use kairo_wire::{Client, ErrorCode, FrameKind, Limits, Value, frame};
use serde_json::json;
use support::{PATIENCE, System, call, camera, eventually};

/// Answers every request with its parameters.
fn echo(system: &System, features: &[&str]) -> std::thread::JoinHandle<()> {
    camera::start(system, features, |mut service| {
        while let Ok(Some(asked)) = service.next(PATIENCE) {
            let params = asked.params.clone();
            if service.answer(&asked, params).is_err() {
                return;
            }
        }
    })
}

fn large_client(system: &System) -> Client {
    let mut client = system.client();
    let granted = client.negotiate(&["large_frames"], PATIENCE).unwrap();
    assert_eq!(granted, ["large_frames"]);
    client
}

fn parcel(bytes: usize) -> Value {
    Value::Map(vec![("parcel".into(), Value::Binary(vec![7; bytes]))])
}

#[test]
fn a_large_request_and_its_answer_go_through_where_all_three_negotiated() {
    let system = System::start_without_rt();
    let _serving = echo(&system, &["large_frames"]);
    let mut client = large_client(&system);
    for bytes in [10, 2_000_000, LARGE_CONTROL_BYTES - 1000] {
        let back: Value = client.call("camera.echo", parcel(bytes), PATIENCE).unwrap();
        assert!(back == parcel(bytes), "{bytes} bytes came back otherwise");
    }
}

#[test]
fn without_negotiating_nothing_is_large() {
    let system = System::start_without_rt();
    let _serving = echo(&system, &[]);
    // The caller's own side.
    let unsent = system
        .client()
        .call::<Value>("camera.echo", parcel(2_000_000), PATIENCE);
    assert!(unsent.unwrap_err().to_string().contains("exceeds"));
    // The service's side.
    let mut client = large_client(&system);
    let refused = client
        .call::<Value>("camera.echo", parcel(2_000_000), PATIENCE)
        .unwrap_err();
    let refused = refused.refusal().unwrap().clone();
    assert_eq!(
        (refused.code.clone(), refused.reason_name()),
        (ErrorCode::Limit, "too_large")
    );
    // kairod's own methods.
    let params = json!({"topic": "a.b", "data": "x".repeat(2_000_000)});
    let refused = call(&mut client, "event.publish", params).unwrap_err();
    assert_eq!(
        (refused.code.clone(), refused.reason_name()),
        (ErrorCode::Limit, "too_large")
    );
    // Beyond the limit of large frames: closed by the header.
    let mut stream = system.raw();
    let hello = kairo_wire::Request {
        id: Some(kairo_wire::Id::Number(1)),
        method: "kernel.hello".into(),
        params: Some(json!({"features": ["large_frames"]})),
        meta: None,
    };
    stream
        .write_all(&hello.encode(&Limits::default()).unwrap())
        .unwrap();
    let beyond = u32::try_from(LARGE_CONTROL_BYTES + 1).unwrap();
    stream
        .write_all(&frame::header(FrameKind::Request, beyond))
        .unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
}

#[test]
fn an_answer_too_large_for_its_caller_is_refused_and_not_sent() {
    let system = System::start_without_rt();
    let _serving = camera::start(&system, &["large_frames"], |mut service| {
        while let Ok(Some(asked)) = service.next(PATIENCE) {
            service.answer(&asked, parcel(2_000_000)).unwrap();
        }
    });
    let mut client = system.client();
    let refused = call(&mut client, "camera.one", json!({})).unwrap_err();
    assert_eq!(refused.reason_name(), "result_too_large");
    call(&mut client, "kernel.ping", json!({})).unwrap();
}

/// A connection with the header of a large request, and a part of its payload.
fn slow(system: &System) -> std::os::unix::net::UnixStream {
    let mut stream = system.raw();
    let hello = kairo_wire::Request {
        id: None,
        method: "kernel.hello".into(),
        params: Some(json!({"features": ["large_frames"]})),
        meta: None,
    };
    stream
        .write_all(&hello.encode(&Limits::default()).unwrap())
        .unwrap();
    let length = u32::try_from(LARGE_CONTROL_BYTES).unwrap();
    stream
        .write_all(&frame::header(FrameKind::Request, length))
        .unwrap();
    stream.write_all(&[0; 1000]).unwrap();
    stream
}

fn resident_bytes(system: &System) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/statm", system.kairod_pid())).unwrap();
    let pages: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * 4096
}

#[test]
fn many_large_frames_at_once_stay_within_the_total_and_all_come_through() {
    let system = System::start_without_rt();
    let _serving = echo(&system, &["large_frames"]);
    let before = resident_bytes(&system);
    let callers: Vec<_> = (0..12)
        .map(|_| {
            let mut client = large_client(&system);
            std::thread::spawn(move || {
                let sent = parcel(4_000_000);
                let back: Value = client.call("camera.echo", sent.clone(), PATIENCE).unwrap();
                assert!(back == sent);
            })
        })
        .collect();
    let mut most = 0;
    while callers.iter().any(|caller| !caller.is_finished()) {
        most = most.max(resident_bytes(&system).saturating_sub(before));
        std::thread::sleep(Duration::from_millis(1));
    }
    for caller in callers {
        caller.join().unwrap();
    }
    // Twelve of them, there and back, are 96 MB and in memory up to three times.
    assert!(most < 64_000_000, "kairod grew by {most} bytes");
}

#[test]
fn slow_senders_of_large_frames_delay_no_small_one_and_are_let_go() {
    let system = System::start_without_rt();
    let _serving = echo(&system, &["large_frames"]);
    let mut client = large_client(&system);
    // They have all the memory for large frames there is.
    let held = slow(&system);
    eventually("it is being read", || {
        let seen = call(&mut client, "kernel.diagnostics", json!({})).unwrap();
        (seen["connections"].as_array().unwrap().len() >= 3).then_some(())
    });
    let back: Value = client.call("camera.echo", parcel(100), PATIENCE).unwrap();
    assert!(back == parcel(100));
    // A large one waits until their time is over, and then goes through.
    let back: Value = client
        .call("camera.echo", parcel(2_000_000), 2 * PATIENCE)
        .unwrap();
    assert!(back == parcel(2_000_000));
    drop(held);
}

#[test]
fn a_caller_that_does_not_read_its_large_answer_is_let_go() {
    let system = System::start_without_rt();
    let _serving = echo(&system, &["large_frames"]);
    let mut stream = system.raw();
    let request = |id: i64, method: &str, params: Value| kairo_wire::Request {
        id: Some(kairo_wire::Id::Number(id)),
        method: method.into(),
        params: Some(params),
        meta: None,
    };
    let features = Value::Map(vec![(
        "features".into(),
        Value::Array(vec!["large_frames".into()]),
    )]);
    let large = Limits {
        control_bytes: LARGE_CONTROL_BYTES,
        ..Limits::default()
    };
    for message in [
        request(1, "kernel.hello", features),
        request(2, "camera.echo", parcel(6_000_000)),
    ] {
        stream.write_all(&message.encode(&large).unwrap()).unwrap();
    }
    let mut other = system.client();
    eventually("its connection ends", || {
        let seen = call(&mut other, "kernel.diagnostics", json!({})).unwrap();
        let waiting = |view: &serde_json::Value| view["outgoing_bytes"].as_u64() > Some(1_000_000);
        let connections = seen["connections"].as_array().unwrap();
        (connections.len() <= 2 && !connections.iter().any(waiting)).then_some(())
    });
}

#[test]
fn a_large_frame_that_will_never_be_whole_and_one_that_nobody_asked_for_keep_no_share() {
    let system = System::start_without_rt();
    let _serving = echo(&system, &["large_frames"]);
    let mut client = large_client(&system);
    // Its sender has said its last word.
    let held = slow(&system);
    held.shutdown(std::net::Shutdown::Write).unwrap();
    // A response, of somebody who serves nothing.
    let mut unasked = system.raw();
    let hello = kairo_wire::Request {
        id: None,
        method: "kernel.hello".into(),
        params: Some(json!({"features": ["large_frames"]})),
        meta: None,
    };
    let length = u32::try_from(LARGE_CONTROL_BYTES).unwrap();
    let header = frame::header(FrameKind::Response, length);
    let hello = hello.encode(&Limits::default()).unwrap();
    unasked.write_all(&[&hello[..], &header].concat()).unwrap();
    let mut rest = Vec::new();
    unasked.read_to_end(&mut rest).unwrap();
    let back: Value = client
        .call("camera.echo", parcel(2_000_000), PATIENCE)
        .unwrap();
    assert!(back == parcel(2_000_000));
    drop(held);
}
