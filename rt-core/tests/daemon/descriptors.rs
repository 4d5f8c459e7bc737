//! Descriptors that a peer attaches although nobody asked for any: closing one may block for as
//! long as the peer likes, and none may take a place in kairo-rt's table.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot set itself up has failed"
)]

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;

use kairo_link::control::{ControlSocket, Notice, Request};
use kairo_link::operator::OperatorRequest;
use kairo_link::segment::VERSION;
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use crate::HOME;
use crate::NEAR_RAD;
use crate::harness::{PATIENCE, Robot, eventually, has_arrived};

/// How long closing the socket may take, s: much longer than the patience of a test.
const LINGER_S: i32 = 600;

/// A socket with unsent data whose close waits for its reader, and the reader, who never reads.
fn lingering() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (reader, _) = listener.accept().unwrap();
    sender.set_nonblocking(true).unwrap();
    let junk = [0; 65_536];
    while sender.write(&junk).is_ok() {}
    sender.set_nonblocking(false).unwrap();
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: LINGER_S,
    };
    setsockopt(&sender, sockopt::Linger, &linger).unwrap();
    (sender, reader)
}

/// A connection, with a hello that is welcome or without.
fn connect(directory: &Path, greets: bool) -> ControlSocket {
    // "busy" until the server has noticed that the one before is gone.
    eventually("a connection", || {
        let socket = ControlSocket::connect(&directory.join("rt.sock")).ok()?;
        let patience = TimeVal::new(PATIENCE.as_secs().cast_signed(), 0);
        setsockopt(&socket.as_fd(), sockopt::ReceiveTimeout, &patience).unwrap();
        if !greets {
            return Some(socket);
        }
        let hello = Request::Hello { version: VERSION };
        socket.send(&hello, &[]).ok()?;
        let welcome = matches!(socket.receive::<Notice>(), Ok((Notice::Welcome(_), _)));
        welcome.then_some(socket)
    })
}

/// Attaches the only descriptor of a socket that lingers to a message, behind a message that is
/// refused or not, and hangs up. The daemon sees all of it at once. Returns the reader.
fn attach(robot: &Robot, greets: bool, garbage: bool) -> TcpStream {
    eventually("a descriptor is on its way", || {
        let (sender, reader) = lingering();
        let peer = connect(&robot.directory, greets);
        robot.signal(Signal::SIGSTOP);
        let sent = match garbage {
            true => peer.send(&"nonsense", &[]),
            false => Ok(()),
        };
        let sent = sent.and_then(|()| peer.send(&Request::Mapped, &[sender.as_fd()]));
        if sent.is_err() {
            // Sent away for being late. Without its reader the socket lingers no more.
            drop(reader);
            robot.signal(Signal::SIGCONT);
            return None;
        }
        // From here on the only reference is the one on its way.
        drop(sender);
        drop(peer);
        robot.signal(Signal::SIGCONT);
        Some(reader)
    })
}

#[test]
fn a_descriptor_whose_close_blocks_stalls_nobody() {
    let robot = Robot::start();
    drop(robot.connect_ready());
    let mut readers = Vec::new();
    // Of a peer that has not said hello and of one that is welcome, with its next message, and
    // behind one that is refused.
    for (greets, garbage) in [(false, false), (false, true), (true, false), (true, true)] {
        readers.push(attach(&robot, greets, garbage));
        let mut plane = robot.connect();
        let mut lease = plane.open_lease();
        plane.stream(&mut lease, HOME, |state| {
            has_arrived(state, &HOME, NEAR_RAD)
        });
    }
    drop(readers);
}

#[test]
fn more_closes_that_block_than_there_are_threads_keep_newcomers_out_and_nobody_else() {
    let robot = Robot::start();
    let mut plane = robot.connect_ready();
    let mut lease = plane.open_lease();
    let mut readers = Vec::new();
    // Eight close at a time, sixteen wait; the kernel keeps those waiting that are not let in.
    for _ in 0..28 {
        readers.push(attach(&robot, false, false));
        plane.stream(&mut lease, HOME, |state| {
            has_arrived(state, &HOME, NEAR_RAD)
        });
    }
    let asked = robot.operator(&OperatorRequest::Status);
    assert!(asked.expect("it answers").done);
    drop(plane);
    // What blocked ends.
    drop(readers);
    robot.connect();
}
