//! What calls something off is not held up by what it is about: not by requests that hang, not by
//! a reader that does not read.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use kairo_link::control::Request as LinkRequest;
use kairo_wire::message::{Message, Response};
use kairo_wire::{Client, Decoder, ErrorCode, FrameKind, Id, Limits, Request, Value};
use serde_json::json;
use support::{System, call};

/// Namespaces of services that never answer: each takes so many calls of one connection.
const SERVICES: [&str; 5] = ["one", "two", "three", "four", "five"];
const CALLS_OF_ONE: usize = 16;

/// Services that are registered and never answer.
fn silent_services(system: &System) -> Vec<Client> {
    let register = |namespace: &&str| {
        let mut client = system.confined("service", namespace);
        let schema = json!({"type": "object", "additionalProperties": false, "properties": {}});
        let params = json!({"namespace": namespace, "timeout_ms": 60_000, "methods": [{
            "name": "hang", "summary": "Never answers.", "permission": "observe",
            "params": schema, "result": {"type": "object"},
        }]});
        call(&mut client, "service.register", params).unwrap();
        client
    };
    SERVICES.iter().map(register).collect()
}

/// A connection whose requests and responses are counted by the test itself.
struct Raw {
    stream: UnixStream,
    decoder: Decoder,
}

impl Raw {
    fn new(system: &System) -> Self {
        Self {
            stream: system.raw(),
            decoder: Decoder::default(),
        }
    }

    fn ask(&mut self, id: i64, method: &str, params: &serde_json::Value) {
        let request = Request {
            id: Some(Id::Number(id)),
            method: method.into(),
            params: Some(params.clone()),
            meta: None,
        };
        let frame = request.encode(&Limits::default()).unwrap();
        self.stream.write_all(&frame).unwrap();
    }

    fn answer(&mut self) -> Response {
        let mut bytes = [0; 64 * 1024];
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                assert_eq!(frame.kind, FrameKind::Response);
                return Response::decode(&frame.payload, &Limits::default()).unwrap();
            }
            let count = self.stream.read(&mut bytes).unwrap();
            assert!(count > 0, "kairod closed the connection");
            self.decoder.feed(&bytes[..count]);
        }
    }

    /// The answer to `id`; others that come before are passed over.
    fn answer_to(&mut self, id: i64) -> Result<Value, kairo_wire::ErrorInfo> {
        loop {
            let response = self.answer();
            if response.id == Id::Number(id) {
                return response.into_result();
            }
        }
    }

    /// Sixty-four calls that hang, and sixteen more that wait behind them.
    fn hang(&mut self) -> i64 {
        let mut id = 0;
        for namespace in SERVICES {
            for _ in 0..CALLS_OF_ONE {
                id += 1;
                self.ask(id, &format!("{namespace}.hang"), &json!({}));
            }
        }
        id
    }
}

#[test]
fn a_cancel_and_an_emergency_stop_overtake_calls_that_hang() {
    let system = System::start();
    let _services = silent_services(&system);
    let mut raw = Raw::new(&system);
    let last = raw.hang();
    raw.ask(1000, "rt.estop", &json!({}));
    raw.answer_to(1000).unwrap();
    let stop = |request: &LinkRequest| matches!(request, LinkRequest::Estop { .. });
    system.rt().wait_for(stop);
    // One under way, and one that waits behind all of them.
    for id in [1, last] {
        raw.ask(2000 + id, "kernel.cancel", &json!({"id": id}));
        let canceled = raw.answer_to(id).unwrap_err();
        assert_eq!(canceled.code, ErrorCode::Canceled);
        let said: serde_json::Value =
            kairo_wire::message::typed(&raw.answer_to(2000 + id).unwrap()).unwrap();
        assert_eq!(said["canceled"], true);
    }
    // Others do not notice.
    call(&mut system.client(), "kernel.ping", json!({})).unwrap();
}

#[test]
fn a_device_is_let_go_and_credit_given_behind_calls_that_hang() {
    let system = System::start();
    let _services = silent_services(&system);
    let mut raw = Raw::new(&system);
    raw.ask(500, "device.claim", &json!({"device": "arm"}));
    raw.answer_to(500).unwrap();
    raw.hang();
    raw.ask(
        1000,
        "stream.credit",
        &json!({"subscription": "none", "bytes": 1}),
    );
    let refused = raw.answer_to(1000).unwrap_err();
    assert_eq!(refused.reason_name(), "unknown_subscription");
    raw.ask(1001, "device.release", &json!({"device": "arm"}));
    raw.answer_to(1001).unwrap();
    support::claim(&mut system.client());
}

#[test]
fn ordinary_requests_behind_calls_that_hang_begin_in_their_order_and_none_is_lost() {
    let system = System::start_without_rt();
    let _services = silent_services(&system);
    let mut raw = Raw::new(&system);
    raw.hang();
    for id in 100..140 {
        raw.ask(id, "kernel.ping", &json!({}));
    }
    // As places are freed they begin, in the order in which they came.
    for id in 1..=80 {
        raw.ask(2000 + id, "kernel.cancel", &json!({"id": id}));
    }
    let mut pings = Vec::new();
    while pings.len() < 40 {
        let Id::Number(id) = raw.answer().id else {
            panic!("no id of ours");
        };
        if (100..140).contains(&id) {
            pings.push(id);
        }
    }
    assert_eq!(pings, (100..140).collect::<Vec<_>>());
}

#[test]
fn an_emergency_stop_of_a_peer_that_reads_nothing_takes_effect() {
    let system = System::start();
    let mut raw = Raw::new(&system);
    let brief = Some(Duration::from_millis(300));
    raw.stream.set_write_timeout(brief).unwrap();
    // Far more than its queue takes, in a few requests, and nothing is read.
    for id in 0..12 {
        raw.ask(id, "kernel.introspect", &json!({}));
    }
    raw.ask(1000, "rt.estop", &json!({}));
    let stop = |request: &LinkRequest| matches!(request, LinkRequest::Estop { .. });
    system.rt().wait_for(stop);
    // And when it reads at last, everything is there.
    raw.answer_to(1000).unwrap();
}

#[test]
fn malformed_requests_of_a_peer_that_reads_nothing_cost_a_bounded_amount() {
    let system = System::start_without_rt();
    let mut bystander = system.client();
    let mut raw = Raw::new(&system);
    let brief = Some(Duration::from_millis(300));
    raw.stream.set_write_timeout(brief).unwrap();
    // Well-formed, with an id, and no request: each is refused.
    let payload = b"\x82\xa2id\x07\xa6method\x05";
    let mut frames = Vec::new();
    for _ in 0..1000 {
        frames.extend(kairo_wire::frame::header(
            FrameKind::Request,
            payload.len() as u32,
        ));
        frames.extend_from_slice(payload);
    }
    let mut sent = 0;
    while sent < 200 && raw.stream.write_all(&frames).is_ok() {
        sent += 1;
    }
    assert!(
        sent < 200,
        "kairod must stop reading from a peer that does not"
    );
    let diagnostics = call(&mut bystander, "kernel.diagnostics", json!({})).unwrap();
    let connections = diagnostics["connections"].as_array().unwrap();
    let queued = connections
        .iter()
        .map(|one| one["outgoing_bytes"].as_u64().unwrap());
    assert!(queued.max().unwrap() < 300 * 1024, "{diagnostics}");
}
