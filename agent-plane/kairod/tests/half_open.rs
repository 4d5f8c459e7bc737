//! Clients that are half there: each kind costs itself, an honest client beside it is served, and
//! what kairod spent on it comes back.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use kairo_wire::frame::{FrameKind, header};
use kairo_wire::message::{Message, Response};
use kairo_wire::{Client, Decoder, Limits, passing};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::json;
use support::{System, call, descriptors, eventually, resident_kib};

/// Clients of each kind at once: less than a user may have.
const CLIENTS: usize = 60;

/// `kernel.ping` with this id, as a frame.
fn ping(id: u8) -> Vec<u8> {
    let payload = [b"\x82\xa2id", &[id][..], b"\xa6method\xabkernel.ping"].concat();
    [
        &header(FrameKind::Request, payload.len() as u32)[..],
        &payload,
    ]
    .concat()
}

/// A frame that asks for far more than it is long.
fn introspect() -> Vec<u8> {
    let payload = b"\x82\xa2id\x07\xa6method\xb1kernel.introspect";
    [
        &header(FrameKind::Request, payload.len() as u32)[..],
        payload,
    ]
    .concat()
}

/// Does `harm` while an honest client is served, then checks that all of it comes back.
fn beside_an_honest_client(harm: impl FnOnce(&System) -> Vec<UnixStream>) {
    let system = System::start_without_rt();
    let mut honest = system.client();
    let pid = system.kairod_pid();
    // What is made once, at first use, is not what is measured.
    call(&mut honest, "kernel.introspect", json!({})).unwrap();
    let before = (descriptors(pid), resident_kib(pid));
    let open = harm(&system);
    for _ in 0..20 {
        call(&mut honest, "kernel.ping", json!({})).unwrap();
    }
    let during = resident_kib(pid);
    assert!(
        during < before.1 + 64 * 1024,
        "{during} KiB, {before:?} before"
    );
    drop(open);
    eventually("the descriptors are back", || {
        (descriptors(pid) <= before.0).then_some(())
    });
    eventually("kairod knows the honest client alone", || {
        let diagnostics = call(&mut honest, "kernel.diagnostics", json!({})).unwrap();
        (diagnostics["connections"].as_array().unwrap().len() == 1).then_some(())
    });
}

fn many(system: &System, each: impl Fn(&mut UnixStream)) -> Vec<UnixStream> {
    let make = |_| {
        let mut stream = system.raw();
        each(&mut stream);
        stream
    };
    (0..CLIENTS).map(make).collect()
}

#[test]
fn clients_that_never_send() {
    beside_an_honest_client(|system| many(system, |_| {}));
}

#[test]
fn clients_that_send_half_a_frame() {
    beside_an_honest_client(|system| {
        many(system, |stream| stream.write_all(&ping(1)[..11]).unwrap())
    });
}

#[test]
fn clients_that_announce_the_longest_frame_and_send_little_of_it() {
    beside_an_honest_client(|system| {
        many(system, |stream| {
            stream
                .write_all(&header(FrameKind::Request, 1024 * 1024))
                .unwrap();
            stream.write_all(&[0xc0; 64]).unwrap();
        })
    });
}

#[test]
fn clients_that_send_and_will_hear_nothing() {
    beside_an_honest_client(|system| {
        many(system, |stream| {
            stream.shutdown(Shutdown::Read).unwrap();
            // kairod may have noticed already: then it is closed, which is as good.
            let _ = stream.write_all(&ping(1));
        })
    });
}

#[test]
fn clients_that_ask_for_much_and_never_read() {
    beside_an_honest_client(|system| {
        many(system, |stream| {
            let brief = Some(Duration::from_millis(20));
            stream.set_write_timeout(brief).unwrap();
            for _ in 0..40 {
                if stream.write_all(&introspect()).is_err() {
                    break;
                }
            }
        })
    });
}

#[test]
fn clients_that_connect_and_die_by_the_thousand() {
    beside_an_honest_client(|system| {
        for round in 0..3000_u32 {
            let mut stream = system.raw();
            match round % 3 {
                0 => {}
                1 => drop(stream.write_all(&ping(1)[..5])),
                _ => drop(stream.write_all(&introspect())),
            }
        }
        Vec::new()
    });
}

#[test]
fn a_client_that_closed_its_sending_half_gets_what_is_due() {
    let system = System::start_without_rt();
    let mut stream = system.raw();
    // Far more than its queue takes, so that most of it still waits when the end comes.
    let mut asked: Vec<u8> = (0..12).flat_map(|_| introspect()).collect();
    asked.extend((0..50).flat_map(|id| ping(50 + id)));
    stream.write_all(&asked).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let mut decoder = Decoder::default();
    decoder.feed(&bytes);
    let mut answered = Vec::new();
    while let Some(frame) = decoder.next_frame().unwrap() {
        let response: Response = Response::decode(&frame.payload, &Limits::default()).unwrap();
        answered.push(response.id);
    }
    assert_eq!(answered.len(), 62);
    assert_eq!(answered.last(), Some(&kairo_wire::Id::Number(99)));
}

#[test]
fn a_client_of_a_byte_a_second_is_given_up_and_delays_nobody() {
    let system = System::start_without_rt();
    let mut honest = system.client();
    let mut slow = system.raw();
    let frame = ping(7);
    // So much that it can be told by its id.
    let (first, rest) = frame.split_at(16);
    slow.write_all(first).unwrap();
    let mut bytes = rest.iter();
    // Alive all the time, and never whole within the time of a frame.
    let began = Instant::now();
    eventually("it is given up", || {
        let byte = bytes.next().expect("the whole frame was taken");
        let sent = slow.write_all(&[*byte]);
        call(&mut honest, "kernel.ping", json!({})).unwrap();
        std::thread::sleep(Duration::from_secs(1));
        (sent.is_err() || began.elapsed() > Duration::from_secs(12)).then_some(())
    });
    let mut said = Vec::new();
    // What it was told is there, whether its last byte made the machine reset it or not.
    let _ = slow.read_to_end(&mut said);
    let mut decoder = Decoder::default();
    decoder.feed(&said);
    let frame = decoder.next_frame().unwrap().expect("it was told why");
    let response: Response = Response::decode(&frame.payload, &Limits::default()).unwrap();
    let error = response.into_result().unwrap_err();
    assert_eq!(error.reason_name(), "slow_frame");
    let mut late = Client::connect_path(&system.socket()).unwrap();
    call(&mut late, "kernel.ping", json!({})).unwrap();
}

/// A TCP socket that keeps whoever closes it last for an hour: it has unsent bytes that nobody
/// takes, and lingers. With it what it is connected to, whose end lets it go.
fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    socket.set_nonblocking(true).unwrap();
    while socket.write(&[0; 64 * 1024]).is_ok() {}
    let hour = libc::linger {
        l_onoff: 1,
        l_linger: 3600,
    };
    setsockopt(&socket, sockopt::Linger, &hour).unwrap();
    (socket.into(), far)
}

#[test]
fn a_descriptor_that_is_slow_to_close_delays_nobody() {
    let system = System::start();
    let mut honest = system.client();
    let ping = |honest: &mut Client| {
        call(honest, "kernel.ping", json!({})).unwrap();
    };
    ping(&mut honest);
    // Read where nothing was negotiated.
    let peer = system.raw();
    let (slow, far) = lingering();
    passing::send(&peer, b"K", Some(slow.as_fd())).unwrap();
    drop(slow);
    ping(&mut honest);
    // Lying unread when the connection is closed: behind what ends it.
    let second = system.raw();
    let (slow, far_too) = lingering();
    (&second).write_all(b"this is no frame at all").unwrap();
    passing::send(&second, b"K", Some(slow.as_fd())).unwrap();
    drop(slow);
    let mut rest = Vec::new();
    let _ = (&second).read_to_end(&mut rest);
    drop(second);
    ping(&mut honest);
    let mut third = system.client();
    ping(&mut third);
    drop((far, far_too, peer));
    ping(&mut honest);
}
