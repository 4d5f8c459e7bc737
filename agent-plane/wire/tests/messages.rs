//! The wire format as published: golden bytes, round trips, and hostile payloads.
#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

use kairo_wire::message::Message;
use kairo_wire::{ErrorCode, ErrorInfo, Event, Gap, Id, Limits, Meta, Request, Response};
use kairo_wire::{StreamChunk, Value};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};

const LIMITS: Limits = Limits {
    control_bytes: 1024 * 1024,
    chunk_bytes: 16 * 1024 * 1024,
    depth: 64,
    values: 65_536,
};

fn decoded<M: Message + for<'de> serde::Deserialize<'de>>(frame: &[u8]) -> M {
    M::decode(&frame[8..], &LIMITS).unwrap()
}

#[test]
fn a_ping_is_these_bytes() {
    let request: Request<Value> = Request {
        id: Some(Id::Number(1)),
        method: "kernel.ping".into(),
        params: None,
        meta: None,
    };
    let golden = b"KA\x01\x01\x00\x00\x00\x18\x82\xa2id\x01\xa6method\xabkernel.ping";
    assert_eq!(request.encode(&LIMITS).unwrap(), golden);
    assert_eq!(decoded::<Request>(golden), request);
}

#[test]
fn a_refusal_is_these_bytes() {
    let error = ErrorInfo::new(ErrorCode::Busy, "taken").retry(Some(5));
    let bytes = Response::refuse(Id::Text("a".into()), error)
        .encode(&LIMITS)
        .unwrap();
    let golden = b"\x84\xa2id\xa1a\xa6result\xc0\xa5error\xa5taken\xaaerror_info\
        \x85\xa4code\xa6E_BUSY\xa7message\xa5taken\xa7details\x80\xa9retryable\xc3\
        \xaeretry_after_ms\x05";
    assert_eq!(bytes[8..], golden[..]);
}

#[test]
fn a_chunk_carries_binary_and_says_what_was_lost() {
    let chunk = StreamChunk {
        subscription: "s1".into(),
        stream: "state".into(),
        seq: 3,
        offset: 20,
        data: vec![0, 255],
        end: true,
        gap: Some(Gap { from: 10, to: 20 }),
        ..StreamChunk::default()
    };
    let bytes = chunk.encode(&LIMITS).unwrap();
    assert_eq!(bytes[3], 4);
    let binary = b"\xa4data\xc4\x02\x00\xff";
    assert!(bytes.windows(binary.len()).any(|window| window == binary));
    assert_eq!(decoded::<StreamChunk>(&bytes), chunk);
}

#[test]
fn a_misspelt_envelope_key_is_refused_by_name() {
    let payload = b"\x83\xa2id\x01\xa6method\xa1m\xa5param\x80";
    let refused = Request::<Value>::decode(payload, &LIMITS).unwrap_err();
    assert!(refused.to_string().contains("`param`"), "{refused}");
}

#[test]
fn ids_are_whole_numbers_or_short_texts() {
    for (payload, fine) in [
        (&b"\x82\xa2id\xff\xa6method\xa1m"[..], true),
        (b"\x82\xa2id\xcb\x3f\xf0\0\0\0\0\0\0\xa6method\xa1m", false),
        (b"\x82\xa2id\x90\xa6method\xa1m", false),
    ] {
        assert_eq!(Request::<Value>::decode(payload, &LIMITS).is_ok(), fine);
    }
    let long: Request<Value> = Request {
        id: Some(Id::Text("x".repeat(129))),
        method: "m".into(),
        params: None,
        meta: None,
    };
    let bytes = long.encode(&LIMITS).unwrap();
    assert!(Request::<Value>::decode(&bytes[8..], &LIMITS).is_err());
}

#[test]
fn a_message_beyond_its_limit_is_not_sent() {
    let request = Request {
        id: None,
        method: "m".into(),
        params: Some("x".repeat(1024 * 1024)),
        meta: None,
    };
    assert!(request.encode(&LIMITS).is_err());
}

fn request(id: Id, params: Value) -> Request {
    Request {
        id: Some(id),
        method: "m".into(),
        params: Some(params),
        meta: None,
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1.0e9..1.0e9_f64).prop_map(Value::from),
        "[a-zé☃]{0,8}".prop_map(Value::from),
        prop::collection::vec(any::<u8>(), 0..16).prop_map(Value::Binary),
    ];
    leaf.prop_recursive(5, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::vec(("[a-z]{1,6}".prop_map(Value::from), inner), 0..6)
                .prop_map(Value::Map),
        ]
    })
}

fn id() -> impl Strategy<Value = Id> {
    prop_oneof![
        any::<i64>().prop_map(Id::Number),
        "[ -~]{0,40}".prop_map(Id::Text),
    ]
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        failure_persistence: None, ..Default::default()
    })]

    #[test]
    fn requests_survive_the_round_trip(
        id in prop::option::of(id()),
        method in "[a-z.]{1,20}",
        params in value(),
        deadline_ms in prop::option::of(any::<u64>()),
    ) {
        let meta = deadline_ms.map(|_| Meta { deadline_ms, ..Meta::default() });
        // Nil params read back as absent: both mean "no parameters".
        let params = Some(params).filter(|params| !params.is_nil());
        let request = Request { id, method, params, meta };
        let bytes = request.encode(&LIMITS).unwrap();
        assert_eq!(decoded::<Request>(&bytes), request);
    }

    #[test]
    fn responses_and_events_survive_the_round_trip(
        id in id(), data in value(), seq in any::<u64>(),
    ) {
        let result = Some(data.clone()).filter(|data| !data.is_nil());
        let response = Response { id, result, error: None, error_info: None };
        assert_eq!(decoded::<Response>(&response.encode(&LIMITS).unwrap()), response);
        let event = Event {
            id: "1".into(), topic: "kairo.system.ready".into(), source: "kairod".into(),
            specversion: "1.0".into(), time: "2026-01-01T00:00:00Z".into(), data, seq,
            aliases: vec!["kairo.ready".into()], correlation_id: None, causation_id: None,
            traceparent: None, stream: None, stream_version: None, replay: false,
            subscription: Some("s1".into()),
        };
        assert_eq!(decoded::<Event>(&event.encode(&LIMITS).unwrap()), event);
    }

    /// A message cut anywhere is an error, never a shorter message.
    #[test]
    fn truncation_is_always_an_error(
        id in id(), params in value(), cut in any::<prop::sample::Index>(),
    ) {
        let request = request(id, params);
        let bytes = request.encode(&LIMITS).unwrap();
        let payload = &bytes[8..];
        let kept = &payload[..cut.index(payload.len())];
        assert!(Request::<Value>::decode(kept, &LIMITS).is_err());
    }

    /// Hostile payloads, random or damaged, end in an error or in a message, never in a panic.
    #[test]
    fn damaged_messages_cannot_panic(
        params in value(), at in any::<prop::sample::Index>(), with in any::<u8>(),
    ) {
        let request = request(Id::Number(1), params);
        let mut bytes = request.encode(&LIMITS).unwrap().split_off(8);
        let index = at.index(bytes.len());
        bytes[index] = with;
        let _ = Request::<Value>::decode(&bytes, &LIMITS);
        let _ = Response::<Value>::decode(&bytes, &LIMITS);
        let _ = Event::decode(&bytes, &LIMITS);
        let _ = StreamChunk::decode(&bytes, &LIMITS);
    }
}
