//! The blocking client against a scripted peer on a socket pair.
#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::Duration;

use kairo_wire::message::Message;
use kairo_wire::{
    Client, ClientError, Decoder, ErrorCode, ErrorInfo, Event, Id, Incoming, Limits, Request,
    Response, Value,
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A client, and a peer that runs `script` on its end.
fn with_peer(script: impl FnOnce(Peer) + Send + 'static) -> (Client, JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    let decoder = Decoder::default();
    let peer = std::thread::spawn(move || {
        script(Peer {
            stream: theirs,
            decoder,
        });
    });
    (Client::from_stream(ours).unwrap(), peer)
}

struct Peer {
    stream: UnixStream,
    decoder: Decoder,
}

impl Peer {
    fn request(&mut self) -> Request {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Request::decode(&frame.payload, &Limits::default()).unwrap();
            }
            let mut bytes = [0; 512];
            let count = self.stream.read(&mut bytes).unwrap();
            assert!(count > 0, "the client went away");
            self.decoder.feed(&bytes[..count]);
        }
    }

    fn send(&mut self, message: &impl Message) {
        let bytes = message.encode(&Limits::default()).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    fn answer(&mut self, id: Id, result: Value) {
        self.send(&Response {
            id,
            result: Some(result),
            error: None,
            error_info: None,
        });
    }
}

fn event(subscription: &str, seq: u64) -> Event {
    Event {
        id: seq.to_string(),
        topic: "kairo.system.ready".into(),
        source: "test".into(),
        specversion: "1.0".into(),
        time: "2026-01-01T00:00:00Z".into(),
        data: Value::Nil,
        seq,
        aliases: Vec::new(),
        correlation_id: None,
        causation_id: None,
        traceparent: None,
        stream: None,
        stream_version: None,
        replay: false,
        subscription: Some(subscription.into()),
    }
}

#[test]
fn a_call_gives_the_result_and_keeps_what_came_before_it() {
    let (mut client, peer) = with_peer(|mut peer| {
        let request = peer.request();
        assert_eq!(request.method, "system.get_info");
        peer.send(&event("s", 1));
        peer.answer(Id::Number(999), Value::from("not ours"));
        peer.answer(request.id.unwrap(), Value::from("ours"));
    });
    let result: String = client.call("system.get_info", (), PATIENCE).unwrap();
    assert_eq!(result, "ours");
    let kept = client.next_incoming(PATIENCE).unwrap().unwrap();
    assert_eq!(kept, Incoming::Event(event("s", 1)));
    peer.join().unwrap();
}

#[test]
fn a_refusal_keeps_its_code_and_details() {
    let (mut client, peer) = with_peer(|mut peer| {
        let id = peer.request().id.unwrap();
        let error = ErrorInfo::new(ErrorCode::Limit, "too far").reason("position_limit");
        peer.send(&Response::refuse(id, error));
    });
    let refused = client
        .call::<Value>("device.send", (), PATIENCE)
        .unwrap_err();
    let info = refused.refusal().unwrap();
    assert_eq!(info.code, ErrorCode::Limit);
    assert_eq!(info.reason_name(), "position_limit");
    peer.join().unwrap();
}

#[test]
fn a_silent_kernel_is_a_deadline_and_a_late_answer_disturbs_nothing() {
    let (mut client, peer) = with_peer(|mut peer| {
        let late = peer.request().id.unwrap();
        let next = peer.request().id.unwrap();
        peer.answer(late, Value::from(1));
        peer.answer(next, Value::from(2));
    });
    let short = Duration::from_millis(30);
    let silent = client.call::<Value>("kernel.ping", (), short);
    assert!(matches!(silent, Err(ClientError::Deadline(_))));
    let second: u64 = client.call("kernel.ping", (), PATIENCE).unwrap();
    assert_eq!(second, 2);
    peer.join().unwrap();
}

#[test]
fn a_closed_connection_and_a_foreign_peer_are_told_apart() {
    let (mut client, peer) = with_peer(|mut peer| {
        peer.request();
    });
    let closed = client.call::<Value>("kernel.ping", (), PATIENCE);
    assert!(matches!(closed, Err(ClientError::Closed)), "{closed:?}");
    peer.join().unwrap();

    let (mut client, peer) = with_peer(|mut peer| {
        peer.request();
        peer.stream.write_all(b"HTTP/1.1 400\r\n").unwrap();
    });
    let foreign = client.call::<Value>("kernel.ping", (), PATIENCE);
    assert!(matches!(foreign, Err(ClientError::Frame(_))), "{foreign:?}");
    peer.join().unwrap();
}

#[test]
fn a_subscription_gives_its_own_items_and_grants_credit() {
    let (mut client, peer) = with_peer(|mut peer| {
        let id = peer.request().id.unwrap();
        peer.send(&event("mine", 1));
        let name = Value::Map(vec![("subscription".into(), "mine".into())]);
        peer.answer(id, name);
        peer.send(&event("other", 2));
        peer.send(&event("mine", 3));
        let credit = peer.request();
        assert_eq!((credit.id, credit.method.as_str()), (None, "stream.credit"));
    });
    let mut items = client.subscribe("event.subscribe", (), PATIENCE).unwrap();
    for expected in [1, 3] {
        let item = items.next().unwrap().unwrap();
        assert_eq!(item, Incoming::Event(event("mine", expected)));
    }
    items.grant(100).unwrap();
    peer.join().unwrap();
}

#[test]
fn a_missing_socket_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("kernel.sock");
    let error = Client::connect_path(&path).unwrap_err();
    assert!(error.to_string().contains("kernel.sock"), "{error}");
}
