//! Bad input and trouble: what one client does to kairod stays with that client, and what happens
//! to the real-time plane or to a holder ends claims at once.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kairo_link::control::Request as LinkRequest;
use kairo_wire::frame::{FrameKind, header};
use kairo_wire::message::Message;
use kairo_wire::{Client, Decoder, ErrorCode, Event, Incoming, Limits, Request, Response};
use serde_json::{Value, json};
use support::{FakeRt, Order, PATIENCE, System, call, claim, eventually, send};

/// Reads what comes until the peer closes, as whole frames.
fn read_to_end(stream: &mut UnixStream) -> Vec<Response> {
    let mut decoder = Decoder::default();
    let mut bytes = [0; 4096];
    let mut responses = Vec::new();
    loop {
        let count = match stream.read(&mut bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => 0,
            Err(error) => panic!("kairod did not close the connection: {error}"),
        };
        if count == 0 {
            return responses;
        }
        decoder.feed(&bytes[..count]);
        while let Some(frame) = decoder.next_frame().unwrap() {
            responses.push(Response::decode(&frame.payload, &Limits::default()).unwrap());
        }
    }
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(FrameKind::Request, payload.len() as u32).to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

fn next_event(client: &mut Client, topic: &str) -> (Event, Value) {
    let until = Instant::now() + PATIENCE;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let Some(incoming) = client.next_incoming(left).unwrap() else {
            panic!("no event {topic}");
        };
        if let Incoming::Event(event) = incoming
            && event.topic == topic
        {
            let data = kairo_wire::message::typed(&event.data).unwrap();
            return (event, data);
        }
    }
}

#[test]
fn garbage_closes_its_connection_and_no_other() {
    let system = System::start_without_rt();
    let mut bystander = system.client();
    let oversized = {
        let mut bytes = header(FrameKind::Request, 2 * 1024 * 1024).to_vec();
        bytes.extend_from_slice(b"\x82\xa2id\x07\xa6method\xabkernel.ping");
        bytes
    };
    let deep = {
        let mut payload = b"\x83\xa2id\x07\xa6method\xa1m\xa6params".to_vec();
        payload.extend_from_slice(&[0x91; 100]);
        payload.push(0xc0);
        framed(&payload)
    };
    let bomb = framed(b"\x83\xa2id\x07\xa6method\xa1m\xa6params\xdf\xff\xff\xff\xff");
    let cases: [(&str, Vec<u8>, bool); 8] = [
        ("no frame", b"GET / HTTP/1.1\r\n\r\n".to_vec(), false),
        ("other version", vec![0x4b, 0x41, 9, 1, 0, 0, 0, 0], false),
        ("other type", vec![0x4b, 0x41, 1, 9, 0, 0, 0, 0], false),
        (
            "a response",
            vec![0x4b, 0x41, 1, 2, 0, 0, 0, 1, 0xc0],
            false,
        ),
        ("no message", framed(b"\xc1\xc1\xc1"), false),
        ("oversized", oversized, true),
        ("too deep", deep, true),
        ("length bomb", bomb, true),
    ];
    for (what, bytes, id_known) in cases {
        let mut stream = system.raw();
        stream.write_all(&bytes).unwrap();
        let responses = read_to_end(&mut stream);
        assert_eq!(responses.len(), usize::from(id_known), "{what}");
        for response in responses {
            assert_eq!(response.id, kairo_wire::Id::Number(7), "{what}");
            let error = response.into_result().unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidRequest, "{what}");
        }
        call(&mut bystander, "kernel.ping", json!({})).unwrap();
    }
}

#[test]
fn a_whole_frame_that_is_no_request_is_answered_and_the_next_one_served() {
    let system = System::start_without_rt();
    let mut stream = system.raw();
    stream
        .write_all(&framed(b"\x82\xa2id\x07\xa6method\x05"))
        .unwrap();
    let ping: Request = Request {
        id: Some(kairo_wire::Id::Number(8)),
        method: "kernel.ping".into(),
        params: None,
        meta: None,
    };
    let bytes = ping.encode(&Limits::default()).unwrap();
    stream.write_all(&bytes).unwrap();
    // A half-closed connection still gets what is due to it.
    stream.shutdown(Shutdown::Write).unwrap();
    let responses = read_to_end(&mut stream);
    assert_eq!(responses.len(), 2);
    assert!(responses[0].error.is_some() && responses[1].error.is_none());
}

#[test]
fn a_frame_that_never_ends_is_given_up_and_delays_nobody() {
    let system = System::start_without_rt();
    let mut slow = system.raw();
    let whole = framed(b"\x82\xa2id\x07\xa6method\xabkernel.ping");
    slow.write_all(&whole[..whole.len() - 1]).unwrap();
    let mut bystander = system.client();
    for _ in 0..20 {
        call(&mut bystander, "kernel.ping", json!({})).unwrap();
    }
    let responses = read_to_end(&mut slow);
    assert_eq!(responses.len(), 1);
    let error = responses[0].clone().into_result().unwrap_err();
    assert_eq!(error.reason_name(), "slow_frame");
}

#[test]
fn a_hundred_connections_are_served_while_one_reads_nothing() {
    let system = System::start();
    // It asks for far more than its queue holds and never reads.
    let mut stalled = system.raw();
    stalled
        .set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let ask = framed(b"\x82\xa2id\x07\xa6method\xb1kernel.introspect");
    let mut asked = 0;
    while asked < 4000 && stalled.write_all(&ask).is_ok() {
        asked += 1;
    }
    assert!(
        asked < 4000,
        "kairod must stop taking requests from a peer that does not read"
    );

    let mut clients: Vec<Client> = (0..99).map(|_| system.client()).collect();
    for client in &mut clients {
        call(client, "device.list", json!({})).unwrap();
    }
    let diagnostics = call(&mut clients[0], "kernel.diagnostics", json!({})).unwrap();
    let connections = diagnostics["connections"].as_array().unwrap();
    assert!(connections.len() >= 100);
    let queued = connections
        .iter()
        .map(|c| c["outgoing_bytes"].as_u64().unwrap())
        .max();
    // The limit, and one response more.
    assert!(queued.unwrap() < 512 * 1024, "{queued:?}");
}

#[test]
fn connections_beyond_the_limit_are_turned_away_and_the_others_live() {
    let system = System::start_without_rt();
    let mut first = system.client();
    let crowd: Vec<UnixStream> = (0..200).map(|_| system.raw()).collect();
    let turned_away = eventually("some are turned away", || {
        let diagnostics = call(&mut first, "kernel.diagnostics", json!({})).unwrap();
        diagnostics["refused_connections"]
            .as_u64()
            .filter(|count| *count > 0)
    });
    assert!(turned_away >= 70, "{turned_away}");
    drop(crowd);
    eventually("places are free again", || {
        let mut late = Client::connect_path(&system.socket()).ok()?;
        late.call::<Value>("kernel.ping", (), PATIENCE).ok()
    });
}

#[test]
fn a_claim_ends_with_its_connection_and_can_be_taken_over() {
    let system = System::start();
    let mut watcher = system.client();
    call(
        &mut watcher,
        "event.subscribe",
        json!({"topics": ["kairo.device.*"]}),
    )
    .unwrap();
    let mut holder = system.client();
    let epoch = claim(&mut holder);
    let (event, data) = next_event(&mut watcher, "kairo.system.device.claimed");
    assert_eq!(event.aliases, ["kairo.device.claimed"]);
    assert_eq!(data["epoch"], epoch);
    drop(holder);
    let (_, data) = next_event(&mut watcher, "kairo.system.device.released");
    assert_eq!(data["cause"], "holder_gone");
    let gone = LinkRequest::CloseLease {
        epoch,
        holder_gone: true,
    };
    system.rt().wait_for(|request| *request == gone);
    let mut successor = system.client();
    let next = claim(&mut successor);
    assert!(next > epoch);
    let stale = send(&mut successor, epoch, json!(vec![0.0; 6])).unwrap_err();
    assert_eq!(stale.code, ErrorCode::Conflict);
    assert_eq!(stale.detail("epoch_in_force").unwrap().as_u64(), Some(next));
}

#[test]
fn a_claim_ends_with_its_process_even_if_the_connection_lives_on() {
    let system = System::start();
    let mut watcher = system.client();
    let hello = call(&mut watcher, "kernel.hello", json!({})).unwrap();
    if hello["identity"]["pinned"] != true {
        eprintln!("skipped: this kernel has no SO_PEERPIDFD");
        return;
    }
    // This test binary again, as a process that connects, leaves the connection to a child that
    // outlives it, and ends.
    let exe = std::env::current_exe().unwrap();
    let mut parent = Command::new(exe)
        .args([
            "--exact",
            "connects_and_leaves_the_connection_to_a_child",
            "--nocapture",
        ])
        .env("KAIRO_TEST_SOCKET", system.socket())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let listed = eventually("the connection of the dead process is gone", || {
        let status = parent.try_wait().unwrap()?;
        assert!(status.success());
        let diagnostics = call(&mut watcher, "kernel.diagnostics", json!({})).unwrap();
        let connections = diagnostics["connections"].as_array().unwrap();
        let pids: Vec<u64> = connections
            .iter()
            .filter_map(|c| c["peer"]["pid"].as_u64())
            .collect();
        (!pids.contains(&u64::from(parent.id()))).then_some(pids)
    });
    assert!(listed.contains(&u64::from(std::process::id())));
}

/// The other half of the test above; alone it does nothing.
#[test]
#[allow(clippy::zombie_processes)] // That the child outlives us is the point.
fn connects_and_leaves_the_connection_to_a_child() {
    let Some(socket) = std::env::var_os("KAIRO_TEST_SOCKET") else {
        return;
    };
    let stream = UnixStream::connect(socket).unwrap();
    let inherited = Stdio::from(std::os::fd::OwnedFd::from(stream));
    let mut child = Command::new("sleep");
    // Dies by itself soon after the test, whatever happens to it.
    child
        .arg("30")
        .stdin(inherited)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    #[expect(
        clippy::zombie_processes,
        reason = "it outlives the test on purpose, briefly"
    )]
    child.spawn().unwrap();
}

#[test]
fn a_restarted_kairod_knows_no_old_claim() {
    let mut system = System::start();
    let mut holder = system.client();
    let epoch = claim(&mut holder);
    send(&mut holder, epoch, json!(vec![0.1; 6])).unwrap();
    system.restart_kairod();
    assert!(holder.call::<Value>("kernel.ping", (), PATIENCE).is_err());
    let mut client = system.client();
    let unclaimed = send(&mut client, epoch, json!(vec![0.0; 6])).unwrap_err();
    assert_eq!(unclaimed.reason_name(), "not_claimed");
    let next = claim(&mut client);
    assert!(next > epoch);
    let stale = send(&mut client, epoch, json!(vec![0.0; 6])).unwrap_err();
    assert_eq!(stale.reason_name(), "stale_epoch");
    send(&mut client, next, json!(vec![0.0; 6])).unwrap();
}

#[test]
fn a_lost_link_voids_claims_and_a_new_one_brings_the_devices_back() {
    let mut system = System::start();
    let mut client = system.client();
    let epoch = claim(&mut client);
    call(
        &mut client,
        "event.subscribe",
        json!({"topics": ["kairo.system.>"]}),
    )
    .unwrap();
    system.rt = None;
    let (_, data) = next_event(&mut client, "kairo.system.device.released");
    assert_eq!(data["cause"], "rt_lost");
    next_event(&mut client, "kairo.system.rt.lost");
    let away = send(&mut client, epoch, json!(vec![0.0; 6])).unwrap_err();
    assert_eq!(away.reason_name(), "rt_away");
    let info = call(&mut client, "device.info", json!({"device": "arm"})).unwrap();
    assert_eq!(info["status"], "unavailable");
    assert_eq!(info["state"], Value::Null);

    system.rt = Some(FakeRt::start(system.directory.path(), 100));
    next_event(&mut client, "kairo.system.rt.connected");
    let stale = send(&mut client, epoch, json!(vec![0.0; 6])).unwrap_err();
    assert_eq!(stale.reason_name(), "stale_epoch");
    let next = claim(&mut client);
    send(&mut client, next, json!(vec![0.0; 6])).unwrap();
}

#[test]
fn a_pulled_cable_is_told_typed_and_needs_a_new_claim() {
    let system = System::start();
    let mut client = system.client();
    let epoch = claim(&mut client);
    call(
        &mut client,
        "event.subscribe",
        json!({"topics": ["kairo.device.>"]}),
    )
    .unwrap();
    system.rt().order(Order::LoseBus);
    next_event(&mut client, "kairo.system.device.released");
    let (_, degraded) = next_event(&mut client, "kairo.system.device.degraded");
    assert_eq!(degraded["status"], "lost");
    let (_, removed) = next_event(&mut client, "kairo.system.device.removed");
    assert_eq!(
        (&removed["device"], &removed["cause"]),
        (&json!("arm"), &json!("bus_lost"))
    );
    let lost = send(&mut client, epoch, json!(vec![0.0; 6])).unwrap_err();
    assert_eq!(lost.code, ErrorCode::Unavailable);
    assert_eq!(lost.reason_name(), "bus_lost");
    let refused = call(&mut client, "device.claim", json!({"device": "arm"})).unwrap_err();
    assert_eq!(refused.reason_name(), "bus_lost");

    system.rt().order(Order::FindBus);
    let (_, added) = next_event(&mut client, "kairo.system.device.added");
    assert_eq!(
        added["path"], "/dev/ttyFAKE1",
        "a replugged cable may come back elsewhere"
    );
    let stale = send(&mut client, epoch, json!(vec![0.0; 6])).unwrap_err();
    assert_eq!(stale.reason_name(), "stale_epoch");
    let next = eventually("the device is ready", || {
        let claimed = call(&mut client, "device.claim", json!({"device": "arm"})).ok()?;
        claimed["epoch"].as_u64()
    });
    send(&mut client, next, json!(vec![0.0; 6])).unwrap();
}

#[test]
fn a_real_time_plane_that_ignores_claims_costs_the_link_and_not_kairod() {
    let system = System::start();
    let mut client = system.client();
    system.rt().order(Order::IgnoreClaims);
    let refused = eventually("claims are ignored", || {
        match call(&mut client, "device.claim", json!({"device": "arm"})) {
            Ok(_) => {
                call(&mut client, "device.release", json!({"device": "arm"})).unwrap();
                None
            }
            Err(refused) => Some(refused),
        }
    });
    assert_eq!(refused.reason_name(), "rt_away");
    call(&mut client, "kernel.ping", json!({})).unwrap();
}

#[test]
fn a_terminated_kairod_closes_its_leases_and_takes_its_socket_away() {
    let mut system = System::start();
    let mut client = system.client();
    let epoch = claim(&mut client);
    assert!(system.stop_kairod(), "ends with status 0");
    let closed = LinkRequest::CloseLease {
        epoch,
        holder_gone: true,
    };
    system.rt().wait_for(|request| *request == closed);
    assert!(!system.socket().exists());
}

#[test]
fn while_nobody_looks_the_bell_is_left_alone_and_who_looks_sees_the_newest_state() {
    let system = System::start();
    let mut client = system.client();
    // The double rings every 2 ms: so many rings are seconds of silence.
    let left_alone = || (system.rt.as_ref().unwrap().unanswered_rings() > 100).then_some(());
    eventually("the bell is left alone", left_alone);
    let age = |client: &mut Client| {
        let info = call(client, "device.info", json!({"device": "arm"})).unwrap();
        let joint = &info["state"]["joints"]["elbow_flex"];
        (info["state"]["tick"].as_u64().unwrap(), joint.clone())
    };
    let (first, _) = age(&mut client);
    let before = first;
    eventually("states are followed again", || {
        (system.rt.as_ref().unwrap().unanswered_rings() < 50 && age(&mut client).0 > before + 10)
            .then_some(())
    });
    let epoch = claim(&mut client);
    // A claim is followed however long nobody asks for anything.
    let until = Instant::now() + Duration::from_secs(7);
    while Instant::now() < until {
        assert!(
            system.rt.as_ref().unwrap().unanswered_rings() < 1000,
            "a claim is not followed"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    let released = json!({"device": "arm", "epoch": epoch});
    call(&mut client, "device.release", released).unwrap();
    eventually("the bell is left alone again", left_alone);
}
