//! Who gets a connection: one user cannot take them all, whatever it does, and an operator always
//! gets in. kairod's memory and descriptors come back when the crowd has gone.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kairo_wire::{Client, ClientError, ErrorCode};
use serde_json::{Value, json};
use support::{PATIENCE, System, call, descriptors, eventually, resident_kib};

/// A user who is no operator. Any will do that is neither root nor ours.
const STRANGER: u32 = 54321;
/// What the test's other half is told by.
const CROWD_SOCKET: &str = "KAIRO_TEST_CROWD_SOCKET";
const CROWD_ROUNDS: &str = "KAIRO_TEST_CROWD_ROUNDS";
/// Connections that the other half has open at once.
const CROWD: usize = 250;

/// Lets every user connect: the test is about what happens then.
fn open_to_all(system: &System) {
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(system.directory.path(), 0o755);
    open(&system.socket(), 0o666);
}

/// This test binary again as another user, which connects `rounds` times [`CROWD`] and then waits.
/// None where we may not become another user.
fn crowd(system: &System, rounds: usize) -> Option<Child> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: becoming another user needs root");
        return None;
    }
    open_to_all(system);
    // A copy where the other user may read it.
    let exe = system.directory.path().join("crowd");
    std::fs::copy(std::env::current_exe().unwrap(), &exe).unwrap();
    std::fs::set_permissions(&exe, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new(exe);
    command
        .args(["--exact", "connects_again_and_again", "--nocapture"])
        .env(CROWD_SOCKET, system.socket())
        .env(CROWD_ROUNDS, rounds.to_string())
        .current_dir("/")
        .uid(STRANGER)
        .gid(STRANGER)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    Some(command.spawn().unwrap())
}

/// The other half; alone it does nothing. Says "full" when it has connected as often as it should,
/// with the last round still open, and ends with its standard input.
#[test]
fn connects_again_and_again() {
    let Some(socket) = std::env::var_os(CROWD_SOCKET) else {
        return;
    };
    let rounds: usize = std::env::var(CROWD_ROUNDS).unwrap().parse().unwrap();
    let until = Instant::now() + 3 * PATIENCE;
    let mut open: Vec<UnixStream> = Vec::new();
    for _ in 0..rounds {
        open.clear();
        while open.len() < CROWD && Instant::now() < until {
            open.extend(UnixStream::connect(&socket));
        }
    }
    println!("full");
    let mut nothing = Vec::new();
    std::io::stdin().read_to_end(&mut nothing).unwrap();
}

fn wait_until_full(crowd: &mut Child) {
    let mut said = [0; 1];
    let mut text = String::new();
    while !text.contains("full") {
        let count = crowd.stdout.as_mut().unwrap().read(&mut said).unwrap();
        assert!(count > 0, "the crowd died: {text}");
        text.push(char::from(said[0]));
    }
}

fn end(mut crowd: Child) {
    drop(crowd.stdin.take());
    crowd.wait().unwrap();
}

fn connections(client: &mut Client) -> Vec<Value> {
    let diagnostics = call(client, "kernel.diagnostics", json!({})).unwrap();
    diagnostics["connections"].as_array().unwrap().clone()
}

#[test]
fn ten_thousand_connections_of_one_user_keep_no_operator_out() {
    let system = System::start();
    let mut bystander = system.client();
    let pid = system.kairod_pid();
    let before = descriptors(pid);
    let Some(mut crowd) = crowd(&system, 10_000 / CROWD) else {
        return;
    };
    let began = resident_kib(pid);
    let mut most = (0, 0);
    // While they come, others are served and an operator gets in and stops the robot.
    for round in 0..40 {
        call(&mut bystander, "kernel.ping", json!({})).unwrap();
        let mut operator = Client::connect_path(&system.socket()).unwrap();
        call(&mut operator, "kernel.ping", json!({})).unwrap();
        if round % 10 == 0 {
            call(&mut operator, "rt.estop", json!({})).unwrap();
        }
        most = (most.0.max(descriptors(pid)), most.1.max(resident_kib(pid)));
    }
    wait_until_full(&mut crowd);
    let diagnostics = call(&mut bystander, "kernel.diagnostics", json!({})).unwrap();
    let open = connections(&mut bystander);
    let theirs = open.iter().filter(|one| one["peer"]["uid"] == STRANGER);
    assert_eq!(theirs.count(), 32, "its share and no more");
    // All of them came: those that were let in and had gone again, and those that were not.
    let newest = open
        .iter()
        .map(|one| one["peer"]["connection"].as_u64().unwrap());
    let came = newest.max().unwrap() + diagnostics["refused_share"].as_u64().unwrap();
    assert!(came >= 10_000, "{came}");
    assert_eq!(diagnostics["failed_accepts"], 0);
    most = (most.0.max(descriptors(pid)), most.1.max(resident_kib(pid)));
    assert!(
        most.0 < before + 2 * 64 + 32,
        "{most:?} descriptors, {before} before"
    );
    assert!(most.1 < began + 16 * 1024, "{most:?} KiB, {began} before");
    end(crowd);
    eventually("the descriptors are back", || {
        (descriptors(pid) <= before + 4).then_some(())
    });
}

#[test]
fn a_refused_connection_is_told_why_before_it_is_closed() {
    let system = System::start_without_rt();
    let mut first = system.client();
    let mut crowd: Vec<Client> = Vec::new();
    let refused = loop {
        let mut next = Client::connect_path(&system.socket()).unwrap();
        match next.call::<Value>("kernel.ping", json!({}), PATIENCE) {
            Ok(_) => crowd.push(next),
            Err(error) => break error,
        }
    };
    let ClientError::Refused(info) = refused else {
        panic!("{refused}");
    };
    assert_eq!(
        (info.code.clone(), info.reason_name()),
        (ErrorCode::Busy, "share")
    );
    assert!(info.retryable && info.message.contains("112"), "{info}");
    // Whoever is there goes on being served, and a place that is given back is a place.
    call(&mut first, "kernel.ping", json!({})).unwrap();
    crowd.pop();
    eventually("there is a place again", || {
        let mut late = Client::connect_path(&system.socket()).ok()?;
        late.call::<Value>("kernel.ping", (), PATIENCE).ok()
    });
}

#[test]
fn without_descriptors_kairod_waits_and_nobody_is_lost() {
    // Fewer than its own files and the fewest places need.
    let system = System::start_with_descriptors(44);
    let pid = system.kairod_pid();
    let mut first = system.client();
    call(&mut first, "kernel.diagnostics", json!({})).unwrap();
    let before = descriptors(pid);
    let mut crowd: Vec<UnixStream> = Vec::new();
    eventually("descriptors run out", || {
        if crowd.len() < 100 {
            crowd.push(system.raw());
        }
        let diagnostics = call(&mut first, "kernel.diagnostics", json!({})).unwrap();
        (diagnostics["failed_accepts"].as_u64().unwrap() > 0).then_some(())
    });
    call(&mut first, "kernel.ping", json!({})).unwrap();
    drop(crowd);
    let mut late = eventually("others are accepted again", || {
        let mut late = Client::connect_path(&system.socket()).ok()?;
        late.call::<Value>("kernel.ping", (), PATIENCE).ok()?;
        Some(late)
    });
    call(&mut late, "kernel.ping", json!({})).unwrap();
    drop(late);
    // The event log may have opened its files meanwhile; the crowd had more than twice as many.
    eventually("the descriptors are back", || {
        (descriptors(pid) <= before + 8).then_some(())
    });
}

#[test]
fn who_never_says_anything_gives_its_place_up_to_its_own_user() {
    let system = System::start_without_rt();
    let Some(mut crowd) = crowd(&system, 1) else {
        return;
    };
    wait_until_full(&mut crowd);
    let mut operator = system.client();
    // It has its share, silent. After the time of a frame another of it gets in.
    let mut second = eventually("another of that user is served", || {
        std::thread::sleep(Duration::from_millis(500));
        let diagnostics = call(&mut operator, "kernel.diagnostics", json!({})).unwrap();
        let mut child = crowd_again(&system);
        wait_until_full(&mut child);
        let after = call(&mut operator, "kernel.diagnostics", json!({})).unwrap();
        let closed = |value: &Value| value["closed_silent"].as_u64().unwrap();
        match closed(&after) > closed(&diagnostics) {
            true => Some(child),
            false => {
                end(child);
                None
            }
        }
    });
    let theirs = connections(&mut operator);
    let theirs = theirs.iter().filter(|one| one["peer"]["uid"] == STRANGER);
    assert!(theirs.count() <= 32);
    drop(second.stdin.take());
    second.wait().unwrap();
    end(crowd);
}

fn crowd_again(system: &System) -> Child {
    // Once is enough: its first connections take the places of those that are silent.
    let exe = system.directory.path().join("crowd");
    Command::new(exe)
        .args(["--exact", "connects_again_and_again", "--nocapture"])
        .env(CROWD_SOCKET, system.socket())
        .env(CROWD_ROUNDS, "1")
        .current_dir("/")
        .uid(STRANGER)
        .gid(STRANGER)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}
