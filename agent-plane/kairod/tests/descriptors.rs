//! Payloads in descriptors: passed on unchanged, checked, bounded, and never leaked.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use kairo_wire::message::Message;
use kairo_wire::{
    Client, Decoder, FrameKind, Id, Incoming, Limits, Request, Response, Sealed, Service,
    StreamChunk, passing,
};
use serde_json::{Value, json};
use support::{PATIENCE, System, call, camera, eventually};

fn chunk(client: &mut Client) -> StreamChunk {
    match client.next_incoming(PATIENCE).unwrap() {
        Some(Incoming::Chunk(chunk)) => chunk,
        other => panic!("expected a chunk, got {other:?}"),
    }
}

/// Descriptors that kairod has open.
fn open_descriptors(system: &System) -> usize {
    let path = format!("/proc/{}/fd", system.kairod_pid());
    std::fs::read_dir(path).unwrap().count()
}

/// Waits until kairod has as many as `before`.
fn settles_at(system: &System, before: usize) {
    eventually("no descriptor is left", || {
        (open_descriptors(system) <= before).then_some(())
    });
}

fn client_with(system: &System, features: &[&str]) -> Client {
    let mut client = system.client();
    client.negotiate(features, PATIENCE).unwrap();
    client
}

/// A stream of a new caller, and what the service knows it by.
fn opened(service: &mut Service, mut client: Client, params: Value) -> (Client, String) {
    let asking = std::thread::spawn(move || {
        call(&mut client, "camera.frames", params).unwrap();
        client
    });
    let asked = service.next(PATIENCE).unwrap().unwrap();
    let name = service.open(&asked, "frames", json!({})).unwrap().unwrap();
    (asking.join().unwrap(), name)
}

#[test]
fn a_payload_arrives_as_the_same_memory_and_whole() {
    let system = System::start_without_rt();
    let before = open_descriptors(&system);
    let mut service = camera::register(&system, &["descriptors"]);
    let client = client_with(&system, &["descriptors"]);
    let (mut client, name) = opened(&mut service, client, json!({"policy": "block"}));
    let picture: Vec<u8> = (0..3_000_000).map(|at| (at % 249) as u8).collect();
    let sealed = Sealed::new(&picture).unwrap();
    let inode = |sealed: &Sealed| inode_of(sealed.descriptor().try_clone_to_owned().unwrap());
    for round in 0..20_u64 {
        assert!(
            service
                .send_sealed(&name, &sealed, round == 19, PATIENCE)
                .unwrap()
        );
        let got = chunk(&mut client);
        let attached = got.attached.as_ref().unwrap();
        assert_eq!((got.seq, got.offset), (round, round * 3_000_000));
        assert_eq!(inode(attached), inode(&sealed), "kairod copied it");
        assert!(*attached.map().unwrap() == *picture);
        assert!(*got.content().unwrap() == *picture);
    }
    assert!(chunk(&mut client).end);
    drop((client, service, sealed));
    settles_at(&system, before);
}

fn inode_of(descriptor: OwnedFd) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::File::from(descriptor).metadata().unwrap().ino()
}

#[test]
fn a_reader_that_stalls_keeps_few_descriptors_and_inline_and_sealed_mix() {
    let system = System::start_without_rt();
    let before = open_descriptors(&system);
    let mut service = camera::register(&system, &["descriptors"]);
    let client = client_with(&system, &["descriptors"]);
    let (mut client, name) = opened(&mut service, client, json!({"policy": "block"}));
    let sealed = Sealed::new(b"a picture").unwrap();
    let mut sent = 0;
    while service
        .send_sealed(&name, &sealed, false, Duration::from_millis(200))
        .is_ok()
    {
        sent += 1;
        assert!(
            sent < 40,
            "{sent} descriptors went to a reader that does not read"
        );
    }
    let held = open_descriptors(&system) - before;
    assert!(held < 16, "kairod holds {held} descriptors");
    for number in 0..sent {
        assert_eq!(chunk(&mut client).seq, number);
    }
    assert!(service.send(&name, b"words", true, PATIENCE).unwrap());
    assert_eq!(chunk(&mut client).data, b"words");
    drop((client, service));
    settles_at(&system, before);
}

#[test]
fn who_did_not_negotiate_gets_none_and_what_it_sends_is_closed_at_once() {
    let system = System::start_without_rt();
    let mut service = camera::register(&system, &["descriptors"]);
    let (mut client, name) = opened(&mut service, system.client(), json!({}));
    assert!(!service.takes_descriptors(&name));
    let before = open_descriptors(&system);
    let sealed = Sealed::new(b"unasked").unwrap();
    // A service that does it all the same loses the stream.
    service
        .send_sealed(&name, &sealed, false, PATIENCE)
        .unwrap();
    let end = chunk(&mut client);
    assert_eq!(end.error.unwrap().reason_name(), "service_fault");
    // A client that negotiated nothing.
    let plain = system.raw();
    let ping = request("kernel.ping", json!({}));
    for _ in 0..50 {
        exchange(&plain, &ping, Some(&sealed));
    }
    // Its socket and its process, and what kairod has open for a moment; not fifty more.
    assert!(open_descriptors(&system) <= before + 10);
    drop(plain);
    // One that negotiated them and announces none: its connection closes.
    let mut stray = system.raw();
    let hello = request("kernel.hello", json!({"features": ["descriptors"]}));
    exchange(&stray, &hello, None);
    passing::send(&stray, &ping, Some(sealed.descriptor())).unwrap();
    let _ = stray.read_to_end(&mut Vec::new());
    settles_at(&system, before);
}

fn request(method: &str, params: Value) -> Vec<u8> {
    let request = Request {
        id: Some(Id::Number(1)),
        method: method.into(),
        params: Some(params),
        meta: None,
    };
    request.encode(&Limits::default()).unwrap()
}

/// Sends a request and reads its answer.
fn exchange(mut stream: &UnixStream, frame: &[u8], beside: Option<&Sealed>) {
    let sent = passing::send(stream, frame, beside.map(Sealed::descriptor)).unwrap();
    stream.write_all(&frame[sent..]).unwrap();
    let mut decoder = Decoder::default();
    let mut bytes = [0; 4096];
    while decoder.next_frame().unwrap().is_none() {
        let count = stream.read(&mut bytes).unwrap();
        assert!(count > 0, "kairod closed the connection");
        decoder.feed(&bytes[..count]);
    }
}

/// A service over a plain connection, with one stream open to a caller.
struct Rogue {
    stream: UnixStream,
    decoder: Decoder,
    name: String,
    caller: Client,
}

impl Rogue {
    fn start(system: &System) -> Self {
        let mut rogue = Self {
            stream: system.raw(),
            decoder: Decoder::default(),
            name: String::new(),
            caller: client_with(system, &["descriptors"]),
        };
        let confine = json!({"class": "service", "name": "camera"});
        for (method, params) in [
            ("kernel.confine", confine),
            ("kernel.hello", json!({"features": ["descriptors"]})),
            ("service.register", camera::registration()),
        ] {
            exchange(&rogue.stream, &request(method, params), None);
        }
        let mut caller = system.client();
        caller.negotiate(&["descriptors"], PATIENCE).unwrap();
        let asking = std::thread::spawn(move || {
            call(&mut caller, "camera.frames", json!({"policy": "block"})).unwrap();
            caller
        });
        let asked: Value = rmp_serde::from_slice(&rogue.frame()).unwrap();
        rogue.name = asked["meta"]["stream"]["subscription"]
            .as_str()
            .unwrap()
            .into();
        let response = Response {
            id: Id::Number(asked["id"].as_i64().unwrap()),
            result: Some(json!({})),
            error: None,
            error_info: None,
        };
        let frame = response.encode(&Limits::default()).unwrap();
        rogue.stream.write_all(&frame).unwrap();
        rogue.caller = asking.join().unwrap();
        rogue
    }

    fn frame(&mut self) -> Vec<u8> {
        let mut bytes = [0; 4096];
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                assert_eq!(frame.kind, FrameKind::Request);
                return frame.payload;
            }
            let count = self.stream.read(&mut bytes).unwrap();
            assert!(count > 0, "kairod closed the connection");
            self.decoder.feed(&bytes[..count]);
        }
    }

    fn chunk(&self) -> StreamChunk {
        StreamChunk {
            subscription: self.name.clone(),
            stream: "frames".into(),
            ..StreamChunk::default()
        }
    }

    /// Sends a chunk, with descriptors beside it.
    fn send(&self, chunk: &StreamChunk, beside: &[&OwnedFd]) {
        let frame = chunk.encode(&Limits::default()).unwrap();
        let mut frame = frame.as_slice();
        for descriptor in beside {
            let sent = passing::send(&self.stream, &frame[..1], Some(descriptor.as_fd()));
            // It may have closed in the middle.
            frame = &frame[sent.unwrap_or(0)..];
        }
        let _ = (&self.stream).write_all(frame);
    }

    /// The connection closes, and its caller hears that it did.
    fn ends_closed(mut self) {
        let mut rest = Vec::new();
        // A reset is an end too.
        let _ = self.stream.read_to_end(&mut rest);
        loop {
            let chunk = chunk(&mut self.caller);
            if chunk.end {
                let error = chunk.error.unwrap();
                assert_eq!(error.reason_name(), "service_gone");
                return;
            }
        }
    }
}

fn plain_file() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

/// Memory that anybody can still write.
fn unsealed() -> OwnedFd {
    let memory = nix::sys::memfd::memfd_create("test", nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
    let mut file = std::fs::File::from(memory.unwrap());
    file.write_all(b"0123456789").unwrap();
    file.into()
}

#[test]
fn what_is_not_sealed_memory_of_that_length_costs_the_service_its_connection() {
    let system = System::start_without_rt();
    let before = open_descriptors(&system);
    let sealed = Sealed::new(b"0123456789").unwrap();
    let sealed: OwnedFd = sealed.descriptor().try_clone_to_owned().unwrap();
    let attempts: [(OwnedFd, u64); 4] = [
        (unsealed(), 10),
        (plain_file(), 10),
        (sealed.try_clone().unwrap(), 11),
        (sealed, u64::MAX),
    ];
    for (descriptor, claimed) in attempts {
        let rogue = Rogue::start(&system);
        let mut chunk = rogue.chunk();
        chunk.attached_bytes = Some(claimed);
        rogue.send(&chunk, &[&descriptor]);
        rogue.ends_closed();
    }
    // And one that announces a descriptor and brings none, and one that brings what it does not
    // announce, and many.
    let rogue = Rogue::start(&system);
    let mut chunk = rogue.chunk();
    chunk.attached_bytes = Some(10);
    rogue.send(&chunk, &[]);
    rogue.ends_closed();
    let rogue = Rogue::start(&system);
    rogue.send(&rogue.chunk(), &[&plain_file()]);
    rogue.ends_closed();
    let rogue = Rogue::start(&system);
    let files: Vec<OwnedFd> = (0..40).map(|_| plain_file()).collect();
    let files: Vec<&OwnedFd> = files.iter().collect();
    rogue.send(&rogue.chunk(), &files);
    rogue.ends_closed();
    call(&mut system.client(), "kernel.ping", json!({})).unwrap();
    settles_at(&system, before);
}

#[test]
fn a_service_that_lies_about_its_stream_loses_it_or_its_connection() {
    let system = System::start_without_rt();
    // What a stream cannot be: the stream ends, and the service goes on.
    type Change = fn(&mut StreamChunk);
    let lies: [Change; 5] = [
        |chunk| chunk.offset = 7,
        |chunk| chunk.seq = 3,
        |chunk| chunk.gap = Some(kairo_wire::Gap { from: 5, to: 0 }),
        |chunk| (chunk.offset, chunk.gap) = (9, Some(kairo_wire::Gap { from: 1, to: 9 })),
        |chunk| {
            let from = 0;
            (chunk.offset, chunk.gap) = (u64::MAX, Some(kairo_wire::Gap { from, to: u64::MAX }));
        },
    ];
    for lie in lies {
        let mut rogue = Rogue::start(&system);
        let mut lying = rogue.chunk();
        lying.data = vec![1; 10];
        lie(&mut lying);
        rogue.send(&lying, &[]);
        let end = chunk(&mut rogue.caller);
        assert!(end.end && end.data.is_empty());
        assert_eq!(end.error.unwrap().reason_name(), "service_fault");
        let told: Value = rmp_serde::from_slice(&rogue.frame()).unwrap();
        assert_eq!(told["method"], "stream.ended");
        // What was on its way is passed over; the connection stays.
        rogue.send(&rogue.chunk(), &[]);
        exchange(&rogue.stream, &request("kernel.ping", json!({})), None);
    }
    // What it has no credit for, was never asked for, or is no chunk: the connection closes.
    let rogue = Rogue::start(&system);
    let mut flood = rogue.chunk();
    flood.data = vec![0; 200_000];
    for number in 0..40 {
        (flood.seq, flood.offset) = (number, number * 200_000);
        rogue.send(&flood, &[]);
    }
    rogue.ends_closed();
    for foreign in ["1000000", "s1", "-1", ""] {
        let rogue = Rogue::start(&system);
        let mut chunk = rogue.chunk();
        chunk.subscription = foreign.into();
        rogue.send(&chunk, &[]);
        rogue.ends_closed();
    }
    let rogue = Rogue::start(&system);
    (&rogue.stream)
        .write_all(b"KA\x01\x04\x00\x00\x00\x01\x80")
        .unwrap();
    rogue.ends_closed();
    // Not even the beginning of a chunk that is longer than any credit.
    let rogue = Rogue::start(&system);
    (&rogue.stream)
        .write_all(b"KA\x01\x04\x00\x80\x00\x00")
        .unwrap();
    rogue.ends_closed();
    call(&mut system.client(), "kernel.ping", json!({})).unwrap();
}

#[test]
fn a_client_that_sends_chunks_is_refused() {
    let system = System::start_without_rt();
    let mut stream = system.raw();
    let chunk = StreamChunk {
        subscription: "s1".into(),
        ..StreamChunk::default()
    };
    stream
        .write_all(&chunk.encode(&Limits::default()).unwrap())
        .unwrap();
    assert_eq!(stream.read(&mut [0; 64]).unwrap(), 0);
}
