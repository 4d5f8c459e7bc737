//! The event log behind the bus: what is published is kept, found, delivered again, and refused by
//! name where it cannot be.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use std::io::Write;

use kairo_wire::message::Message;
use kairo_wire::{Client, ErrorCode, Event, Incoming, Limits, Request};
use serde_json::{Value, json};
use support::{PATIENCE, System, call, claim, eventually, limit_files};

fn next_event(client: &mut Client) -> Event {
    match client.next_incoming(PATIENCE).unwrap() {
        Some(Incoming::Event(event)) => event,
        other => panic!("expected an event, got {other:?}"),
    }
}

fn publish(client: &mut Client, topic: &str, data: Value) -> u64 {
    let params = json!({"topic": topic, "data": data});
    let published = call(client, "event.publish", params).unwrap();
    published["seq"].as_u64().unwrap()
}

fn subscribe(client: &mut Client, params: Value) -> String {
    let subscribed = call(client, "event.subscribe", params).unwrap();
    subscribed["subscription"].as_str().unwrap().into()
}

/// Every event that a query means, page by page.
fn query(client: &mut Client, mut params: Value) -> Vec<Value> {
    let mut events = Vec::new();
    loop {
        let page = call(client, "event.query", params.clone()).unwrap();
        events.extend(page["events"].as_array().unwrap().iter().cloned());
        if page["next"].is_null() {
            return events;
        }
        params["after_seq"] = page["next"].clone();
    }
}

fn seqs(events: &[Value]) -> Vec<u64> {
    events
        .iter()
        .map(|event| event["seq"].as_u64().unwrap())
        .collect()
}

#[test]
fn what_is_published_reaches_who_listens_and_outlives_a_kill() {
    let mut system = System::start();
    let mut client = system.client();
    let mut listener = system.client();
    subscribe(&mut listener, json!({"topics": ["app.*"]}));
    let mut told = Vec::new();
    for class in ["volatile", "batched", "synchronous"] {
        let params = json!({"topic": "app.said", "data": {"how": class}, "class": class});
        told.push(call(&mut client, "event.publish", params).unwrap()["seq"].clone());
        let event = next_event(&mut listener);
        assert_eq!(
            (json!(event.seq), event.replay),
            (told.last().unwrap().clone(), false)
        );
        let uid = nix::unistd::geteuid();
        assert_eq!(event.source, format!("operator@{uid}"));
    }
    system.restart_kairod();
    let mut client = system.client();
    let kept = query(&mut client, json!({"topics": ["app.>"]}));
    let ways: Vec<&str> = kept
        .iter()
        .map(|event| event["data"]["how"].as_str().unwrap())
        .collect();
    assert_eq!(ways, ["batched", "synchronous"]);
    let later = publish(&mut client, "app.said", json!({}));
    assert!(
        told.iter().all(|seq| seq.as_u64().unwrap() < later),
        "{told:?} {later}"
    );
}

#[test]
fn an_id_or_a_version_decides_once() {
    let system = System::start();
    let mut client = system.client();
    let say = |text: &str| {
        let mut params = json!({"topic": "app.x", "stream": "s", "expected_version": 0, "id": "i"});
        params["data"] = json!(text);
        params
    };
    let first = call(&mut client, "event.publish", say("a")).unwrap();
    assert_eq!(
        (&first["stream_version"], &first["duplicate"]),
        (&json!(1), &json!(false))
    );
    let again = call(&mut client, "event.publish", say("a")).unwrap();
    assert_eq!(
        (&again["seq"], &again["duplicate"]),
        (&first["seq"], &json!(true))
    );
    let other = call(&mut client, "event.publish", say("b")).unwrap_err();
    assert_eq!(
        (other.code.clone(), other.reason_name()),
        (ErrorCode::Conflict, "event_id")
    );
    let params = json!({"topic": "app.x", "stream": "s", "expected_version": 0});
    let late = call(&mut client, "event.publish", params).unwrap_err();
    assert_eq!(late.reason_name(), "stream_version");
    assert_eq!(late.detail("actual").unwrap().as_u64(), Some(1));
    let wrong = call(&mut client, "event.publish", json!({"topic": "a..b"})).unwrap_err();
    assert_eq!(wrong.code, ErrorCode::InvalidParams);
}

#[test]
fn a_durable_consumer_gets_what_it_has_not_acknowledged_again() {
    let mut system = System::start();
    let mut client = system.client();
    let wanted = json!({"topics": ["job.*"], "consumer": "worker", "from": "start"});
    let first = publish(&mut client, "job.made", json!(1));
    let second = publish(&mut client, "job.made", json!(2));
    let mut worker = system.client();
    let name = subscribe(&mut worker, wanted.clone());
    assert_eq!(next_event(&mut worker).seq, first);
    assert_eq!(next_event(&mut worker).seq, second);
    // Somebody else with the same consumer would get half of them.
    let mut rival = system.client();
    let busy = call(&mut rival, "event.subscribe", wanted.clone()).unwrap_err();
    assert_eq!(busy.reason_name(), "consumer_busy");
    let params = json!({"subscription": name, "seq": first});
    assert_eq!(
        call(&mut worker, "event.ack", params).unwrap()["cursor"],
        first
    );
    system.restart_kairod();
    let mut worker = system.client();
    let name = subscribe(&mut worker, wanted.clone());
    assert_eq!(next_event(&mut worker).seq, second);
    let mut client = system.client();
    let third = publish(&mut client, "job.made", json!(3));
    assert_eq!(next_event(&mut worker).seq, third);
    // Forgotten, it begins anew.
    let params = json!({"subscription": name, "forget": true});
    call(&mut worker, "event.unsubscribe", params).unwrap();
    subscribe(&mut worker, wanted);
    assert_eq!(next_event(&mut worker).seq, first);
}

#[test]
fn a_subscription_from_the_past_goes_on_into_the_present_without_a_seam() {
    let system = System::start();
    let mut client = system.client();
    let mut expected: Vec<u64> = (0..300)
        .map(|index| publish(&mut client, "app.n", json!(index)))
        .collect();
    let mut reader = system.client();
    subscribe(
        &mut reader,
        json!({"topics": ["app.n"], "from": "start", "policy": "block"}),
    );
    expected.extend((0..300).map(|index| publish(&mut client, "app.n", json!(index))));
    let got: Vec<u64> = expected
        .iter()
        .map(|_| next_event(&mut reader).seq)
        .collect();
    assert_eq!(got, expected);
    let mut reader = system.client();
    let from = json!({"topics": ["app.n"], "from": expected[590], "policy": "block"});
    subscribe(&mut reader, from);
    assert_eq!(next_event(&mut reader).seq, expected[590]);
}

#[test]
fn a_replay_says_so_and_ends() {
    let system = System::start();
    let mut client = system.client();
    let first = publish(&mut client, "app.a", json!(1));
    let second = publish(&mut client, "app.a", json!(2));
    publish(&mut client, "app.a", json!(3));
    let params = json!({"topics": ["app.>"], "from_seq": first, "until_seq": second});
    let replaying = call(&mut client, "event.replay", params).unwrap();
    for seq in [first, second] {
        let event = next_event(&mut client);
        assert_eq!((event.seq, event.replay), (seq, true));
    }
    let end = next_event(&mut client);
    assert_eq!(end.topic, "kairo.system.event.replayed");
    let facts: Value = kairo_wire::message::typed(&end.data).unwrap();
    assert_eq!(
        (&facts["events"], &facts["until_seq"]),
        (&json!(2), &json!(second))
    );
    let gone = json!({"subscription": replaying["subscription"]});
    eventually("it is over", || {
        call(&mut client, "event.unsubscribe", gone.clone()).err()
    });
}

#[test]
fn a_reader_that_spills_misses_nothing_however_far_it_falls_behind() {
    let system = System::start();
    let mut client = system.client();
    let mut reader = system.client();
    let params = json!({"topics": ["app.n"], "policy": "spill", "credit_bytes": 2000});
    let name = subscribe(&mut reader, params);
    // More than the ring holds.
    let expected: Vec<u64> = (0..1500)
        .map(|index| publish(&mut client, "app.n", json!(index)))
        .collect();
    let credit = json!({"subscription": name, "bytes": 100_000_000});
    call(&mut reader, "stream.credit", credit).unwrap();
    let got: Vec<u64> = expected
        .iter()
        .map(|_| next_event(&mut reader).seq)
        .collect();
    assert_eq!(got, expected);
}

#[test]
fn an_agent_speaks_and_hears_only_where_it_may() {
    let system = System::start();
    let mut operator = system.client();
    let mut agent = system.confined("agent", "planner");
    for topic in ["kairo.system.device.added", "kairo.device.added", "skill.x"] {
        let refused = call(&mut agent, "event.publish", json!({"topic": topic})).unwrap_err();
        assert_eq!(refused.reason_name(), "denied", "{topic}");
    }
    let nobody = json!({"topic": "kairo.device.added"});
    let refused = call(&mut operator, "event.publish", nobody).unwrap_err();
    assert_eq!(refused.detail("rule").unwrap().as_str(), Some("reserved"));
    let refused = call(
        &mut agent,
        "event.subscribe",
        json!({"topics": ["secret.x"]}),
    );
    assert_eq!(refused.unwrap_err().reason_name(), "denied");

    subscribe(&mut agent, json!({"topics": [">"]}));
    publish(&mut operator, "secret.x", json!("hidden"));
    let heard = publish(&mut agent, "agent.planner.said", json!("hello"));
    let event = next_event(&mut agent);
    let uid = nix::unistd::geteuid();
    let source = format!("agent/planner@{uid}");
    assert_eq!((event.seq, event.source), (heard, source));
    let found = query(&mut agent, json!({"topics": ["secret.>", "agent.>"]}));
    assert_eq!(seqs(&found), [heard]);
    // Consumers of others have other names.
    let params = json!({"topics": [">"], "consumer": "c"});
    subscribe(&mut agent, params.clone());
    subscribe(&mut operator, params);
}

#[test]
fn questions_by_stream_correlation_and_time_are_answered() {
    let system = System::start();
    let mut client = system.client();
    let marked = json!({"topic": "app.a", "stream": "s"});
    let streamed = call(&mut client, "event.publish", marked).unwrap()["seq"].clone();
    publish(&mut client, "app.b", json!(null));
    let found = query(&mut client, json!({"stream": "s"}));
    assert_eq!((found.len(), &found[0]["seq"]), (1, &streamed));
    assert_eq!(
        (&found[0]["stream"], &found[0]["stream_version"]),
        (&json!("s"), &json!(1))
    );
    let all = query(&mut client, json!({"topics": ["app.>"], "limit": 1}));
    assert_eq!(all.len(), 2);
    let future = json!({"since": "2100-01-01T00:00:00Z"});
    assert_eq!(query(&mut client, future), [] as [Value; 0]);
    let wrong = call(&mut client, "event.query", json!({"since": "noon"})).unwrap_err();
    assert!(wrong.message.contains("2026-11-21T16:00:00Z"), "{wrong}");
    let wrong = call(&mut client, "event.query", json!({"limit": 1001})).unwrap_err();
    assert_eq!(wrong.code, ErrorCode::InvalidParams);
}

#[test]
fn a_claim_that_died_with_kairod_is_ended_by_an_event() {
    let mut system = System::start();
    let mut client = system.client();
    let epoch = claim(&mut client);
    // It is in the log before kairod dies.
    publish(&mut client, "app.after", json!(null));
    system.restart_kairod();
    let mut client = system.client();
    let released = json!({"topics": ["kairo.system.device.released"]});
    let found = eventually("the event", || {
        let found = query(&mut client, released.clone());
        (!found.is_empty()).then_some(found)
    });
    assert_eq!(found[0]["data"]["cause"], "kairod_restarted");
    assert_eq!(found[0]["data"]["epoch"], epoch);
}

#[test]
fn without_a_store_what_needs_one_is_refused_and_devices_are_served() {
    let system = System::start_with(|directory| {
        std::fs::write(directory.join("state"), "in the way").unwrap();
    });
    let mut client = system.client();
    for (method, params) in [
        ("event.publish", json!({"topic": "app.a"})),
        ("event.query", json!({})),
        ("event.replay", json!({"topics": [">"]})),
        ("event.subscribe", json!({"topics": [">"], "from": "start"})),
        ("event.subscribe", json!({"topics": [">"], "consumer": "c"})),
        (
            "event.subscribe",
            json!({"topics": [">"], "policy": "spill"}),
        ),
    ] {
        let refused = call(&mut client, method, params).unwrap_err();
        let said = (refused.code.clone(), refused.reason_name());
        assert_eq!(said, (ErrorCode::Unavailable, "no_store"), "{method}");
    }
    subscribe(&mut client, json!({"topics": ["app.a"]}));
    let volatile = json!({"topic": "app.a", "class": "volatile"});
    let seq = call(&mut client, "event.publish", volatile).unwrap()["seq"].clone();
    assert_eq!(json!(next_event(&mut client).seq), seq);
    claim(&mut client);
}

#[test]
fn a_damaged_log_is_salvaged_at_the_start_and_that_is_told() {
    let mut system = System::start();
    let mut client = system.client();
    let seq = publish(&mut client, "app.kept", json!("x"));
    assert!(system.stop_kairod());
    let path = system.directory.path().join("state/events.db");
    let whole = std::fs::metadata(&path).unwrap().len();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(whole - 4096).unwrap();
    system.restart_kairod();
    let mut client = system.client();
    eventually("it says so", || {
        let told = query(&mut client, json!({"topics": ["kairo.system.event.store"]}));
        let salvaged = |event: &Value| event["data"]["state"] == "salvaged";
        told.iter().any(salvaged).then_some(())
    });
    let kept = query(&mut client, json!({"topics": ["app.kept"]}));
    // The last page may have been the one with the event.
    assert!(kept.is_empty() || seqs(&kept) == [seq]);
    assert!(publish(&mut client, "app.kept", json!("y")) > seq);
}

/// Overwrites tables of a log that is in use. Its writer reads them again with its next
/// transaction, because somebody else has written.
fn damage(path: &std::path::Path, tables: &[&str]) {
    let other = kairo_events::rusqlite::Connection::open(path).unwrap();
    other.busy_timeout(PATIENCE).unwrap();
    other
        .execute_batch("UPDATE consumers SET seen_ns = 1")
        .unwrap();
    // Until nothing lies in the write-ahead log, from which pages would be read otherwise.
    eventually("the file is whole", || {
        let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
        let busy: i64 = other.query_row(sql, [], |row| row.get(0)).unwrap();
        (busy == 0).then_some(())
    });
    let number = |sql: &str| -> u64 {
        let number: i64 = other.query_row(sql, [], |row| row.get(0)).unwrap();
        number.unsigned_abs()
    };
    let page_bytes = number("PRAGMA page_size");
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    for table in tables {
        let sql = format!("SELECT rootpage FROM sqlite_schema WHERE name = '{table}'");
        let rubbish = vec![0xa5; page_bytes as usize];
        let at = (number(&sql) - 1) * page_bytes;
        std::os::unix::fs::FileExt::write_all_at(&file, &rubbish, at).unwrap();
    }
}

#[test]
fn a_log_damaged_at_work_is_opened_anew_under_those_who_read_it() {
    let system = System::start();
    let mut client = system.client();
    let first = publish(&mut client, "job.made", json!(1));
    let mut worker = system.client();
    let wanted = json!({"topics": ["job.*"], "consumer": "worker", "from": "start"});
    let name = subscribe(&mut worker, wanted);
    assert_eq!(next_event(&mut worker).seq, first);
    let params = json!({"subscription": name, "seq": first});
    call(&mut worker, "event.ack", params).unwrap();
    // It waits for credit that nobody grants.
    let stalled = json!({"topics": [">"], "credit_bytes": 0});
    call(&mut client, "event.replay", stalled).unwrap();

    let path = system.directory.path().join("state/events.db");
    damage(&path, &["events", "consumers"]);
    let synchronous = json!({"topic": "app.a", "class": "synchronous"});
    let refused = eventually("it is noticed", || {
        call(&mut client, "event.publish", synchronous.clone()).err()
    });
    assert_eq!(refused.reason_name(), "no_store", "{refused}");
    let params = json!({"topic": "job.made", "data": 2});
    let second = eventually("there is a log again", || {
        call(&mut client, "event.publish", params.clone()).ok()
    });
    let second = second["seq"].as_u64().unwrap();
    assert!(second > first);
    // The log has lost the consumer; its subscription has not.
    assert_eq!(next_event(&mut worker).seq, second);
    let params = json!({"subscription": name, "seq": second});
    let acknowledged = call(&mut worker, "event.ack", params).unwrap();
    assert_eq!(acknowledged["cursor"], second);
}

#[test]
fn a_disk_that_fills_up_refuses_durable_events_and_nothing_else() {
    let system = System::start();
    let mut client = system.client();
    publish(&mut client, "app.before", json!(null));
    limit_files(system.kairod_pid(), 1);
    subscribe(
        &mut client,
        json!({"topics": ["app.v", "kairo.system.event.store"]}),
    );
    let durable = json!({"topic": "app.a", "class": "synchronous"});
    let refused = call(&mut client, "event.publish", durable.clone()).unwrap_err();
    let said = (refused.code.clone(), refused.reason_name());
    assert_eq!(said, (ErrorCode::Unavailable, "no_store"), "{refused}");
    let told: Value = kairo_wire::message::typed(&next_event(&mut client).data).unwrap();
    assert_eq!(told["state"], "failing");
    let volatile = json!({"topic": "app.v", "class": "volatile"});
    call(&mut client, "event.publish", volatile).unwrap();
    assert_eq!(next_event(&mut client).topic, "app.v");
    claim(&mut client);
    limit_files(system.kairod_pid(), libc::RLIM_INFINITY);
    call(&mut client, "event.publish", durable).unwrap();
}

fn resident_bytes(client: &mut Client) -> u64 {
    let metrics = call(client, "system.get_metrics", json!({})).unwrap();
    metrics["kairod"]["resident_bytes"].as_u64().unwrap()
}

#[test]
fn a_flood_of_events_costs_a_bounded_amount_whatever_they_hold() {
    let system = System::start();
    let mut client = system.client();
    let mut reader = system.client();
    subscribe(&mut reader, json!({"topics": ["app.n"]}));
    let nothing = vec![Value::Null; 60_000];
    let params = json!({"topic": "app.n", "class": "volatile", "data": nothing});
    call(&mut client, "event.publish", params.clone()).unwrap();
    let before = resident_bytes(&mut client);
    for _ in 0..60 {
        call(&mut client, "event.publish", params.clone()).unwrap();
    }
    let grown = resident_bytes(&mut client).saturating_sub(before);
    assert!(grown < 64 * 1024 * 1024, "{grown} bytes more");
    // They are still delivered, as they were published.
    let got: Vec<Option<u8>> = kairo_wire::message::typed(&next_event(&mut reader).data).unwrap();
    assert_eq!(got, vec![None; 60_000]);
}

#[test]
fn a_name_that_looks_like_a_uid_is_not_somebody_without_a_name() {
    let system = System::start();
    let uid = nix::unistd::geteuid();
    let mut named = system.confined("agent", &format!("uid-{uid}"));
    let mut nameless = system.client();
    call(&mut nameless, "kernel.confine", json!({"class": "agent"})).unwrap();
    let params = json!({"topics": ["app.*"], "consumer": "c"});
    // One consumer would be busy for the second.
    subscribe(&mut named, params.clone());
    subscribe(&mut nameless, params);
}

#[test]
fn an_agent_that_floods_is_held_to_a_rate_and_an_operator_is_not() {
    let system = System::start();
    let mut operator = system.client();
    let stream = system.raw();
    let mut wire = stream.try_clone().unwrap();
    let mut agent = Client::from_stream(stream).unwrap();
    let planner = json!({"class": "agent", "name": "planner"});
    call(&mut agent, "kernel.confine", planner).unwrap();
    let params = json!({
        "topic": "agent.planner.said", "class": "volatile", "data": "x".repeat(250 * 1024),
    });
    let notification = Request {
        id: None,
        method: "event.publish".into(),
        params: Some(&params),
        meta: None,
    };
    let frame = notification.encode(&Limits::default()).unwrap();
    let refused = eventually("the refusal", || {
        // Two seconds' worth, encoded once and without answers: far faster than the rate.
        for _ in 0..128 {
            wire.write_all(&frame).unwrap();
        }
        call(&mut agent, "event.publish", params.clone()).err()
    });
    let said = (refused.code.clone(), refused.reason_name());
    assert_eq!(said, (ErrorCode::Limit, "publish_rate"), "{refused}");
    assert!(refused.retry_after_ms.is_some_and(|time_ms| time_ms > 0));
    call(&mut operator, "event.publish", params).unwrap();
    // It is a rate, not an end.
    let short = json!({"topic": "agent.planner.said", "class": "volatile"});
    eventually("it may speak again", || {
        call(&mut agent, "event.publish", short.clone()).ok()
    });
}

#[test]
fn one_stalled_reader_of_a_hundred_delays_none_and_costs_a_bounded_amount() {
    let system = System::start();
    let mut client = system.client();
    let mut readers: Vec<Client> = (0..100).map(|_| system.client()).collect();
    for reader in &mut readers {
        subscribe(reader, json!({"topics": ["app.n"], "policy": "block"}));
    }
    let text = "x".repeat(2000);
    let before = resident_bytes(&mut client);
    for _ in 0..4 {
        let sent: Vec<u64> = (0..100)
            .map(|_| publish(&mut client, "app.n", json!(text)))
            .collect();
        // The first one never reads.
        for reader in &mut readers[1..] {
            let got: Vec<u64> = sent.iter().map(|_| next_event(reader).seq).collect();
            assert_eq!(got, sent);
        }
    }
    let grown = resident_bytes(&mut client).saturating_sub(before);
    assert!(grown < 32 * 1024 * 1024, "{grown} bytes more");
}
