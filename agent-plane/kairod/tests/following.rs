//! Clients that follow events while kairod is killed and started anew under them.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use kairo_wire::{AsyncFollowing, Begin, Client, ClientError, Endpoint, Followed, Following};
use serde_json::{Value, json};
use support::{PATIENCE, System, call};

const TOPIC: &str = "app.n";
/// Events before, between and after the kills.
const PART: u64 = 40;
/// A program that follows, one line for each thing it is given.
const PYTHON: &str = "
import asyncio, sys
import kairo, kairo.aio
from kairo.aio_follow import Following as AsyncFollowing

def say(item):
    print(item.seq if isinstance(item, kairo.Event) else type(item).__name__.lower(), flush=True)

def plain(path):
    with kairo.Client(path) as client:
        following = kairo.Following(client, 'app.n', timeout_s=20)
        print('ready', flush=True)
        for item in following:
            say(item)

async def aio(path):
    async with kairo.aio.Client(path) as client:
        following = AsyncFollowing(client, 'app.n', timeout_s=20)
        await following.open()
        print('ready', flush=True)
        async for item in following:
            say(item)

if sys.argv[2] == 'plain':
    plain(sys.argv[1])
else:
    asyncio.run(aio(sys.argv[1]))
";

fn publish(client: &mut Client, numbers: &mut BTreeSet<u64>) {
    for index in 0..PART {
        let params = json!({"topic": TOPIC, "data": index});
        let published: Value = call(client, "event.publish", params).unwrap();
        numbers.insert(published["seq"].as_u64().unwrap());
    }
}

/// Publishes while kairod is killed twice. Gives the numbers.
fn publish_through_kills(system: &mut System) -> BTreeSet<u64> {
    let mut numbers = BTreeSet::new();
    publish(&mut system.client(), &mut numbers);
    for _ in 0..2 {
        system.restart_kairod();
        publish(&mut system.client(), &mut numbers);
    }
    numbers
}

/// Takes what a follower was given until all of `numbers` are there, each once.
fn check(numbers: &BTreeSet<u64>, mut next: impl FnMut() -> String) {
    let mut given = BTreeSet::new();
    let mut breaks = 0;
    while given.len() < numbers.len() {
        let line = next();
        match line.parse() {
            Ok(seq) => assert!(given.insert(seq), "{seq} came twice"),
            Err(_) if line == "resumed" => breaks += 1,
            Err(_) => panic!("{line}"),
        }
    }
    assert_eq!(given, *numbers);
    // Two kills in a row may be one break for somebody who slept through the first.
    assert!((1..=2).contains(&breaks), "{breaks} breaks");
}

fn line(followed: &Followed) -> String {
    match followed {
        Followed::Event(event) => event.seq.to_string(),
        Followed::Lost { .. } => "lost".into(),
        Followed::Resumed { .. } => "resumed".into(),
    }
}

#[test]
fn a_blocking_client_that_follows_misses_nothing_and_gets_nothing_twice() {
    let mut system = System::start_without_rt();
    let endpoint = Endpoint::Path(system.socket());
    let mut following = Following::begin(endpoint, &[TOPIC], Begin::Now).unwrap();
    let numbers = publish_through_kills(&mut system);
    check(&numbers, || {
        line(&following.next(PATIENCE).unwrap().expect("in time"))
    });
    // One that only subscribed is told, and stays ended.
    let mut plain = system.client();
    call(&mut plain, "event.subscribe", json!({"topics": [TOPIC]})).unwrap();
    system.kill_kairod();
    for _ in 0..2 {
        let ended = plain.next_incoming(PATIENCE);
        assert!(matches!(ended, Err(ClientError::Closed)), "{ended:?}");
    }
    let gone = following.next(std::time::Duration::from_millis(100));
    assert!(matches!(gone, Err(ClientError::Connect { .. })), "{gone:?}");
}

#[test]
fn an_asynchronous_client_that_follows_does_the_same() {
    let mut system = System::start_without_rt();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let endpoint = Endpoint::Path(system.socket());
    let begun = AsyncFollowing::begin(endpoint, &[TOPIC], Begin::Now);
    let mut following = runtime.block_on(begun).unwrap();
    let numbers = publish_through_kills(&mut system);
    check(&numbers, || {
        let next = async { tokio::time::timeout(PATIENCE, following.next()).await };
        line(&runtime.block_on(next).unwrap().unwrap())
    });
}

/// Starts the Python program; none, and said so, where there is no python3.
fn python(system: &System, kind: &str) -> Option<(std::process::Child, Receiver<String>)> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../python/src");
    let started = Command::new("python3")
        .args(["-c", PYTHON])
        .arg(system.socket())
        .arg(kind)
        .env("PYTHONPATH", source)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env_remove("KAIRO_IPC_FD")
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut process) = started else {
        eprintln!("SKIPPED: there is no python3 here");
        return None;
    };
    let output = BufReader::new(process.stdout.take().unwrap());
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if tell.send(line).is_err() {
                return;
            }
        }
    });
    Some((process, told))
}

#[test]
fn python_clients_that_follow_do_the_same() {
    for kind in ["plain", "aio"] {
        let mut system = System::start_without_rt();
        let Some((mut process, told)) = python(&system, kind) else {
            return;
        };
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "ready", "{kind}");
        let numbers = publish_through_kills(&mut system);
        check(&numbers, || told.recv_timeout(PATIENCE).unwrap());
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

#[test]
fn what_retention_removed_is_told_to_a_subscription_that_begins_before_it() {
    let mut system = System::start_without_rt();
    let mut numbers = BTreeSet::new();
    publish(&mut system.client(), &mut numbers);
    let (first, last) = (*numbers.first().unwrap(), *numbers.last().unwrap());
    system.kill_kairod();
    let path = system.directory.path().join("state/events.db");
    let log = kairo_events::rusqlite::Connection::open(path).unwrap();
    // As retention would: everything older than it keeps goes.
    let sql = "UPDATE events SET time_ns = 1600000000000000000,
                   boot_id = (SELECT boot_id + 1 FROM boots)";
    log.execute(sql, []).unwrap();
    drop(log);
    system.begin_kairod();
    let endpoint = Endpoint::Path(system.socket());
    support::eventually("it is removed", || {
        let begin = Begin::Number(first + 1);
        let mut following = Following::begin(endpoint.clone(), &[TOPIC], begin).unwrap();
        let mut fresh = BTreeSet::new();
        publish(&mut system.client(), &mut fresh);
        match following.next(PATIENCE).unwrap().unwrap() {
            Followed::Lost { from_seq, to_seq } => {
                assert_eq!(from_seq, first + 1);
                assert!(to_seq > last, "{to_seq} {last}");
                Some(())
            }
            _ => None,
        }
    });
}
