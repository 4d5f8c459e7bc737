//! Streams that services serve: order, credit, policies, and every way to end.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use std::time::Duration;

use kairo_wire::flow::WINDOW_BYTES;
use kairo_wire::{Client, ErrorCode, ErrorInfo, Incoming, Service, StreamChunk};
use serde_json::{Value, json};
use support::{PATIENCE, System, call, camera, eventually};

/// How long to look whether something stands still.
const A_WHILE: Duration = Duration::from_millis(150);

fn chunk(client: &mut Client) -> StreamChunk {
    match client.next_incoming(PATIENCE).unwrap() {
        Some(Incoming::Chunk(chunk)) => chunk,
        other => panic!("expected a chunk, got {other:?}"),
    }
}

fn open(client: &mut Client, params: Value) -> String {
    let reply = call(client, "camera.frames", params).unwrap();
    reply["subscription"].as_str().unwrap().into()
}

/// The next request, opened as a stream.
fn opened(service: &mut Service) -> String {
    let asked = service.next(PATIENCE).unwrap().unwrap();
    let name = service.open(&asked, "any name", json!({"format": "raw"}));
    name.unwrap().unwrap()
}

/// Byte `offset` of every stream here.
fn content(offset: usize, length: usize) -> Vec<u8> {
    (offset..offset + length)
        .map(|at| (at % 251) as u8)
        .collect()
}

/// Sends until nobody takes more within a while; gives how many bytes were taken.
fn flood(service: &mut Service, name: &str, limit: usize) -> usize {
    let mut sent = 0;
    while sent < limit {
        match service.offer(name, &content(sent, 10_000), false).unwrap() {
            None => return sent,
            Some(Some(taken)) => sent += taken,
            Some(None) => match service.next(A_WHILE).unwrap() {
                // Without a request, `next` takes notices in: there may be credit now.
                None if service.offer(name, &content(sent, 1), false).unwrap() == Some(None) => {
                    return sent;
                }
                None => sent += 1,
                Some(asked) => panic!("a request: {asked:?}"),
            },
        }
    }
    sent
}

#[test]
fn a_stream_arrives_whole_in_order_and_ends() {
    let system = System::start_without_rt();
    let serving = camera::start(&system, &[], |mut service| {
        let name = opened(&mut service);
        let whole = content(0, 1_000_000);
        assert!(
            service
                .send(&name, &whole[..400_000], false, PATIENCE)
                .unwrap()
        );
        assert!(
            service
                .send(&name, &whole[400_000..], true, PATIENCE)
                .unwrap()
        );
        service
    });
    let mut client = system.client();
    let reply = call(&mut client, "camera.frames", json!({"policy": "block"})).unwrap();
    assert_eq!(reply["format"], "raw");
    let (mut seen, mut seq) = (Vec::new(), 0);
    loop {
        let chunk = chunk(&mut client);
        assert_eq!(chunk.subscription, reply["subscription"].as_str().unwrap());
        // The kernel's word, not the service's.
        assert_eq!(chunk.stream, "camera/frames");
        assert_eq!(
            (chunk.seq, chunk.offset, chunk.gap),
            (seq, seen.len() as u64, None)
        );
        seen.extend_from_slice(&chunk.data);
        seq += 1;
        if chunk.end {
            assert_eq!(chunk.error, None);
            break;
        }
    }
    assert!(seen == content(0, 1_000_000));
    serving.join().unwrap();
    // The subscription has ended with it.
    let gone = call(
        &mut client,
        "stream.credit",
        json!({"subscription": "s1", "bytes": 1}),
    );
    assert_eq!(gone.unwrap_err().reason_name(), "unknown_subscription");
}

#[test]
fn credit_of_the_caller_holds_up_the_service() {
    let system = System::start_without_rt();
    let mut service = camera::register(&system, &[]);
    let mut client = system.client();
    let asking = std::thread::spawn(move || {
        let name = open(
            &mut client,
            json!({"policy": "block", "credit_bytes": 10_000}),
        );
        (client, name)
    });
    let name = opened(&mut service);
    let (mut client, subscription) = asking.join().unwrap();
    let sent = flood(&mut service, &name, 1_000_000);
    assert!(
        (1..=10_000).contains(&sent),
        "{sent} bytes went on 10 000 bytes of credit"
    );
    let mut seen = 0;
    while seen < sent {
        seen += chunk(&mut client).data.len();
    }
    assert_eq!(seen, sent);
    let grant = json!({"subscription": subscription, "bytes": 50_000});
    call(&mut client, "stream.credit", grant).unwrap();
    let more = flood(&mut service, &name, 1_000_000);
    assert!(
        (sent + 1..=50_000).contains(&more),
        "{more} bytes went on 50 000 bytes of credit"
    );
}

#[test]
fn a_caller_that_does_not_read_stops_its_stream_and_nothing_else() {
    let system = System::start_without_rt();
    let mut service = camera::register(&system, &[]);
    let mut stalled = system.client();
    let asking = std::thread::spawn(move || {
        open(&mut stalled, json!({"policy": "block"}));
        stalled
    });
    let name = opened(&mut service);
    let stalled = asking.join().unwrap();
    let sent = flood(&mut service, &name, 64_000_000);
    // A window, the connection's queue, and what the machine's kernel keeps of two sockets.
    assert!(
        sent < 2_000_000,
        "{sent} bytes went to a reader that does not read"
    );
    // Another's stream flows, over the same service.
    let mut reader = system.client();
    let reading = std::thread::spawn(move || {
        open(&mut reader, json!({"policy": "block"}));
        let mut seen = 0;
        loop {
            let chunk = chunk(&mut reader);
            seen += chunk.data.len();
            if chunk.end {
                return (reader, seen);
            }
        }
    });
    let other = opened(&mut service);
    assert!(
        service
            .send(&other, &content(0, 3_000_000), true, PATIENCE)
            .unwrap()
    );
    let (mut reader, seen) = reading.join().unwrap();
    assert_eq!(seen, 3_000_000);
    // And its calls are answered.
    let calling = std::thread::spawn(move || call(&mut reader, "camera.one", json!({})));
    let asked = service.next(PATIENCE).unwrap().unwrap();
    service.answer(&asked, json!({"well": true})).unwrap();
    assert_eq!(calling.join().unwrap().unwrap()["well"], true);
    // Its connection ends, and the service is told.
    drop(stalled);
    eventually("the stalled stream ends", || {
        service.next(Duration::from_millis(10)).unwrap();
        service
            .offer(&name, b"x", false)
            .unwrap()
            .is_none()
            .then_some(())
    });
}

#[test]
fn with_drop_the_service_is_never_held_up_and_losses_are_told() {
    let system = System::start_without_rt();
    let mut service = camera::register(&system, &[]);
    let mut client = system.client();
    let asking = std::thread::spawn(move || {
        // Room for one chunk of ten thousand bytes, and not for two.
        let name = open(
            &mut client,
            json!({"policy": "drop", "credit_bytes": 12_000}),
        );
        (client, name)
    });
    let name = opened(&mut service);
    let (mut client, subscription) = asking.join().unwrap();
    for at in 0..200 {
        let data = content(at * 10_000, 10_000);
        assert!(service.send(&name, &data, false, PATIENCE).unwrap());
    }
    assert_eq!(chunk(&mut client).data, content(0, 10_000));
    call(
        &mut client,
        "stream.credit",
        json!({"subscription": subscription, "bytes": 100_000}),
    )
    .unwrap();
    assert!(
        service
            .send(&name, &content(2_000_000, 10_000), true, PATIENCE)
            .unwrap()
    );
    let next = chunk(&mut client);
    let gap = next.gap.expect("something was lost");
    assert_eq!(gap.from, 10_000);
    assert_eq!(gap.to, next.offset);
    assert!(next.data == content(next.offset as usize, next.data.len()));
    eventually("the end", || chunk(&mut client).end.then_some(()));
}

#[test]
fn an_end_is_told_also_without_credit_and_with_what_was_lost() {
    let system = System::start_without_rt();
    let mut service = camera::register(&system, &[]);
    let mut client = system.client();
    let asking = std::thread::spawn(move || {
        open(&mut client, json!({"policy": "drop", "credit_bytes": 0}));
        client
    });
    let name = opened(&mut service);
    let mut client = asking.join().unwrap();
    assert!(
        service
            .send(&name, &content(0, 100), false, PATIENCE)
            .unwrap()
    );
    let error = ErrorInfo::new(ErrorCode::Unavailable, "the lens cap is on").reason("dark");
    service.fail(&name, error).unwrap();
    let end = chunk(&mut client);
    let gap = end.gap.unwrap();
    assert_eq!((end.end, gap.from, gap.to), (true, 0, 100));
    assert_eq!(end.error.unwrap().reason_name(), "dark");
}

#[test]
fn unsubscribing_and_cancelling_an_intent_end_the_stream_at_the_service() {
    let system = System::start_without_rt();
    let mut service = camera::register(&system, &[]);
    let ended = |service: &mut Service, name: &str| {
        eventually("the service is told", || {
            assert_eq!(service.next(Duration::from_millis(10)).unwrap(), None);
            service
                .offer(name, b"", false)
                .unwrap()
                .is_none()
                .then_some(())
        });
    };
    let mut client = system.client();
    let asking = std::thread::spawn(move || {
        let name = open(&mut client, json!({}));
        (client, name)
    });
    let name = opened(&mut service);
    let (mut client, subscription) = asking.join().unwrap();
    call(
        &mut client,
        "event.unsubscribe",
        json!({"subscription": subscription}),
    )
    .unwrap();
    ended(&mut service, &name);

    let begun = call(&mut client, "intent.begin", json!({"name": "look"})).unwrap();
    let intent = begun["intent"].as_str().unwrap().to_string();
    let meta = kairo_wire::Meta {
        correlation_id: Some(intent.clone()),
        ..kairo_wire::Meta::default()
    };
    let asking = std::thread::spawn(move || {
        let method = "camera.frames";
        let reply = client.call_with_meta::<Value>(method, json!({}), Some(meta), PATIENCE);
        reply.unwrap();
        client
    });
    let name = opened(&mut service);
    let mut client = asking.join().unwrap();
    let canceled = call(&mut client, "intent.cancel", json!({"intent": intent})).unwrap();
    assert_eq!(canceled["canceled"]["subscriptions"], 1);
    ended(&mut service, &name);
    let status = call(&mut client, "service.status", json!({})).unwrap();
    assert_eq!(status["services"][0]["streams"], 0);
}

#[test]
fn a_service_that_dies_ends_its_streams_with_the_reason() {
    let system = System::start_without_rt();
    let mut service = camera::register(&system, &[]);
    let mut client = system.client();
    let asking = std::thread::spawn(move || {
        open(&mut client, json!({"policy": "block"}));
        client
    });
    let name = opened(&mut service);
    let mut client = asking.join().unwrap();
    assert!(service.send(&name, b"before", false, PATIENCE).unwrap());
    drop(service);
    assert_eq!(chunk(&mut client).data, b"before");
    let end = chunk(&mut client);
    assert!(end.end);
    assert_eq!(end.error.unwrap().reason_name(), "service_gone");
    assert_eq!(end.offset, 6);
}

#[test]
fn a_right_that_is_taken_away_ends_the_stream() {
    let system = System::start();
    let mut service = camera::register(&system, &[]);
    let mut operator = system.client();
    let mut client = system.confined("driver", "eye");
    let refused = call(&mut client, "camera.secret", json!({})).unwrap_err();
    assert_eq!(refused.code, ErrorCode::PermissionDenied);
    let granted = json!({"who": {"class": "driver"}, "right": "method.call",
                         "target": "camera.secret", "ttl_s": 60, "reason": "a test"});
    let grant = call(&mut operator, "permission.grant", granted).unwrap();
    let asking = std::thread::spawn(move || {
        call(&mut client, "camera.secret", json!({"policy": "block"})).unwrap();
        client
    });
    let name = opened(&mut service);
    let mut client = asking.join().unwrap();
    assert!(service.send(&name, b"seen", false, PATIENCE).unwrap());
    assert_eq!(chunk(&mut client).data, b"seen");
    call(
        &mut operator,
        "permission.revoke",
        json!({"id": grant["id"]}),
    )
    .unwrap();
    let end = chunk(&mut client);
    assert_eq!(end.error.unwrap().code, ErrorCode::PermissionDenied);
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let system = System::start_without_rt();
    let _service = camera::register(&system, &[]);
    let mut client = system.client();
    let mut refuse = |params: Value| call(&mut client, "camera.frames", params).unwrap_err();
    let spill = refuse(json!({"policy": "spill"}));
    assert_eq!(
        (spill.code.clone(), spill.reason_name()),
        (ErrorCode::Unsupported, "policy")
    );
    for (wrong, key) in [
        (json!({"policy": "sometimes"}), "`policy`"),
        (json!({"credit_bytes": -1}), "`credit_bytes`"),
        (json!({"colour": "red"}), "`colour`"),
    ] {
        let error = refuse(wrong);
        assert_eq!(error.code, ErrorCode::InvalidParams);
        assert!(error.message.contains(key), "{}", error.message);
    }
    // Nothing of that is left.
    let diagnostics = call(&mut client, "kernel.diagnostics", json!({})).unwrap();
    assert!(!diagnostics.to_string().contains("\"s1\""), "{diagnostics}");
    // A method may not take for itself what is kairod's.
    let mut other = system.confined("service", "eye");
    let registration = json!({"namespace": "eye", "methods": [{
        "name": "see", "summary": "Sees.", "stream": true, "result": {},
        "params": {"properties": {"policy": {}}},
    }]});
    let refused = call(&mut other, "service.register", registration).unwrap_err();
    assert!(refused.message.contains("`policy`"), "{}", refused.message);
}

#[test]
fn a_caller_that_opens_and_leaves_leaves_nothing_behind() {
    let system = System::start_without_rt();
    let serving = camera::start(&system, &[], |mut service| {
        let mut told = 0;
        while let Ok(Some(asked)) = service.next(Duration::from_millis(500)) {
            match service.open(&asked, "frames", json!({})).unwrap() {
                Some(name) => {
                    let _ = service.offer(&name, &[1; 1000], false).unwrap();
                }
                None => panic!("no stream"),
            }
            told += 1;
        }
        told
    });
    let mut client = system.client();
    // More than may be open at once, each given up.
    for _ in 0..100 {
        let name = open(&mut client, json!({}));
        call(
            &mut client,
            "event.unsubscribe",
            json!({"subscription": name}),
        )
        .unwrap();
    }
    for _ in 0..100 {
        let mut passing = system.client();
        open(&mut passing, json!({"policy": "block"}));
    }
    assert_eq!(serving.join().unwrap(), 200);
    eventually("no stream is left", || {
        let status = call(&mut client, "service.status", json!({})).unwrap();
        status["services"]
            .as_array()
            .unwrap()
            .is_empty()
            .then_some(())
    });
}

#[test]
fn one_caller_cannot_take_every_place() {
    let system = System::start_without_rt();
    let _serving = camera::start(&system, &[], |mut service| {
        while let Ok(Some(asked)) = service.next(PATIENCE) {
            service.open(&asked, "frames", json!({})).unwrap();
        }
    });
    let mut greedy = system.client();
    let refused = eventually("it is refused", || {
        call(&mut greedy, "camera.frames", json!({"policy": "block"})).err()
    });
    assert_eq!(
        (refused.code.clone(), refused.reason_name()),
        (ErrorCode::Limit, "streams")
    );
    open(&mut system.client(), json!({}));
}

#[test]
fn a_window_is_all_that_kairod_takes_ahead() {
    let system = System::start_without_rt();
    let mut service = camera::register(&system, &[]);
    let mut client = system.client();
    let asking = std::thread::spawn(move || {
        let credit = 100 * WINDOW_BYTES;
        let params = json!({"policy": "block", "credit_bytes": credit});
        call(&mut client, "camera.frames", params).unwrap_err()
    });
    let asked = service.next(PATIENCE).unwrap().unwrap();
    assert_eq!(
        asked.meta.stream.as_ref().unwrap().credit_bytes,
        WINDOW_BYTES
    );
    service
        .refuse(&asked, ErrorInfo::new(ErrorCode::Busy, "no film"))
        .unwrap();
    assert_eq!(asking.join().unwrap().code, ErrorCode::Busy);
    // There is no stream, and what comes of it is for nobody.
    let status = call(&mut system.client(), "service.status", json!({})).unwrap();
    assert_eq!(status["services"][0]["streams"], 0);
}

/// Serves every stream it is asked for, each in a task of its own.
async fn serve_all(mut service: kairo_wire::AsyncService) {
    let replies = service.replies();
    while let Some(asked) = service.next().await {
        let replies = replies.clone();
        tokio::spawn(async move {
            let stream = replies.open(&asked, "frames", json!({})).await.unwrap();
            let stream = stream.unwrap();
            assert!(stream.takes_descriptors);
            assert!(stream.send(&content(0, 500_000), false).await.unwrap());
            let sealed = kairo_wire::Sealed::new(&content(500_000, 500_000)).unwrap();
            assert!(stream.send_sealed(&sealed, true).await.unwrap());
        });
    }
}

#[test]
fn the_asynchronous_client_serves_and_receives_many_streams_at_once() {
    use kairo_wire::{AsyncClient, AsyncService};
    let system = System::start_without_rt();
    let socket = system.socket();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let connect = async || {
            let client = AsyncClient::connect_path(&socket).await.unwrap();
            let features = ["large_frames", "descriptors"];
            let granted = client.negotiate(&features, PATIENCE).await.unwrap();
            assert_eq!(granted, features);
            client
        };
        let serving = connect().await;
        let confine = json!({"class": "service", "name": "camera"});
        let _: Value = serving
            .call("kernel.confine", confine, PATIENCE)
            .await
            .unwrap();
        let registration = camera::registration();
        let service = AsyncService::register(serving, registration, PATIENCE)
            .await
            .unwrap();
        tokio::spawn(serve_all(service));
        let client = connect().await;
        let mut stalled = client
            .clone()
            .subscribe("camera.frames", json!({}), PATIENCE)
            .await;
        let mut reading = Vec::new();
        for _ in 0..8 {
            let client = client.clone();
            reading.push(tokio::spawn(async move {
                let params = json!({"policy": "block", "credit_bytes": 100_000});
                let opened = client.subscribe("camera.frames", params, PATIENCE).await;
                let mut chunks = opened.unwrap();
                let mut seen = Vec::new();
                while let Some(item) = chunks.next().await {
                    let Incoming::Chunk(chunk) = item.unwrap() else {
                        panic!("no chunk");
                    };
                    seen.extend_from_slice(&chunk.content().unwrap());
                    if chunk.end {
                        break;
                    }
                    chunks.grant(chunk.content_bytes() + 1000).await.unwrap();
                }
                assert!(seen == content(0, 1_000_000));
            }));
        }
        for reader in reading {
            tokio::time::timeout(PATIENCE, reader)
                .await
                .unwrap()
                .unwrap();
        }
        assert!(stalled.as_mut().unwrap().next().await.is_some());
    });
}

#[test]
fn a_refused_call_costs_the_next_callers_stream_nothing() {
    let system = System::start_without_rt();
    let serving = camera::start(&system, &[], |mut service| {
        let name = opened(&mut service);
        service.send(&name, b"whole", true, PATIENCE).unwrap()
    });
    let mut careless = system.client();
    let wrong = json!({"policy": "block", "cuont": 1});
    let refused = call(&mut careless, "camera.frames", wrong).unwrap_err();
    assert_eq!(refused.reason_name(), "unknown_key");
    // It was never asked, so its number is the next call's.
    let mut client = system.client();
    call(&mut client, "camera.frames", json!({"policy": "block"})).unwrap();
    assert_eq!(chunk(&mut client).data, b"whole");
    assert!(serving.join().unwrap(), "the service takes it for unread");
}
