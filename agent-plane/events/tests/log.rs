//! Appending and reading: numbers, ids, streams, classes, and every kind of question.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use std::sync::atomic::{AtomicI64, Ordering};

use kairo_events::{Class, Clocks, Event, Expected, NewEvent, Options, Pattern, Query, StoreError};
use support::{Place, append, done, event, read_all, text};

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts
        .iter()
        .map(|text| Pattern::parse(text).unwrap())
        .collect()
}

#[test]
fn what_was_appended_is_read_back_whole() {
    let place = Place::new();
    let store = place.open();
    let mut whole = event("kairo.system.device.added", "arm")
        .id("my-id")
        .stream("device/arm", Expected::None)
        .correlation("c1")
        .class(Class::Synchronous);
    whole.aliases = ["kairo.device.added".to_string()].into();
    whole.causation_id = Some("cause".into());
    whole.traceparent = Some("00-1-2-3".into());
    let (stamp, ticket) = store.append(whole.clone()).unwrap();
    let appended = done(Ok(ticket)).unwrap();
    assert_eq!((appended.seq, appended.version), (stamp.seq, Some(1)));
    drop(store);
    let (events, damaged) = read_all(&place.path(), Query::default());
    assert!(damaged.is_empty());
    let [read] = events.as_slice() else {
        panic!("{events:?}");
    };
    assert_eq!((read.id.as_str(), read.seq), ("my-id", stamp.seq));
    assert_eq!((&read.topic, &read.aliases), (&whole.topic, &whole.aliases));
    let stream = read.stream.as_ref().unwrap();
    assert_eq!((stream.name.as_str(), stream.version), ("device/arm", 1));
    assert_eq!(read.correlation_id, whole.correlation_id);
    assert_eq!(read.causation_id, whole.causation_id);
    assert_eq!(read.traceparent, whole.traceparent);
    assert_eq!((read.class, text(read)), (Class::Synchronous, "arm"));
    let times = (stamp.time_ns, stamp.monotonic_ns);
    assert_eq!((read.time_ns, read.monotonic_ns), times);
}

#[test]
fn numbers_grow_over_restarts_and_volatile_events_leave_holes() {
    let place = Place::new();
    let mut numbers = Vec::new();
    for _ in 0..3 {
        let store = place.open();
        numbers.push(append(&store, event("a", "1")).unwrap());
        let volatile = event("a", "v").class(Class::Volatile);
        numbers.push(append(&store, volatile).unwrap());
        numbers.push(append(&store, event("a", "2")).unwrap());
    }
    // A clean end gives the unused numbers back.
    assert_eq!(numbers, (1..=9).collect::<Vec<u64>>());
    let (events, _) = read_all(&place.path(), Query::default());
    let kept: Vec<u64> = events.iter().map(|event| event.seq).collect();
    assert_eq!(kept, [1, 3, 4, 6, 7, 9]);
}

#[test]
fn the_same_event_again_is_the_first_one_and_another_is_refused() {
    let place = Place::new();
    let store = place.open();
    let first = || event("a", "x").id("i").stream("s", Expected::None);
    let seq = append(&store, first()).unwrap();
    // Again, although the stream is not empty any more: a retry is no conflict.
    let again = done(Ok(store.append(first()).unwrap().1)).unwrap();
    assert_eq!(
        (again.seq, again.version, again.duplicate),
        (seq, Some(1), true)
    );
    let other = event("a", "y").id("i").stream("s", Expected::Any);
    let refused = append(&store, other).unwrap_err();
    assert_eq!(
        refused,
        StoreError::IdConflict {
            id: "i".into(),
            seq
        }
    );
    let (events, _) = read_all(&place.path(), Query::default());
    assert_eq!(events.len(), 1);
}

#[test]
fn an_id_that_the_log_could_make_is_refused() {
    let place = Place::new();
    let store = place.open();
    let seq = append(&store, event("a", "x")).unwrap();
    let forged = event("a", "x").id(&store.id_of(seq + 1));
    let refused = append(&store, forged).unwrap_err();
    assert!(
        matches!(refused, StoreError::Invalid { what: "id", .. }),
        "{refused}"
    );
}

#[test]
fn an_append_finds_its_stream_where_it_expects_it_or_learns_where_it_is() {
    let place = Place::new();
    let store = place.open();
    let at = |expected| event("a", "x").stream("s", expected);
    append(&store, at(Expected::None)).unwrap();
    append(&store, at(Expected::Exactly(1))).unwrap();
    append(&store, at(Expected::Any)).unwrap();
    for expected in [Expected::None, Expected::Exactly(2), Expected::Exactly(4)] {
        let refused = append(&store, at(expected)).unwrap_err();
        let stream = "s".to_string();
        let conflict = StoreError::VersionConflict {
            stream,
            expected,
            actual: 3,
        };
        assert_eq!(refused, conflict);
    }
    // And after a restart.
    drop(store);
    let store = place.open();
    append(&store, at(Expected::Exactly(3))).unwrap();
    let query = Query {
        stream: Some("s".into()),
        ..Query::default()
    };
    let (events, _) = read_all(&place.path(), query);
    let versions: Vec<u64> = events
        .iter()
        .map(|e| e.stream.as_ref().unwrap().version)
        .collect();
    assert_eq!(versions, [1, 2, 3, 4]);
}

#[test]
fn one_refused_event_takes_no_other_with_it() {
    let place = Place::new();
    let store = place.open();
    // All in one group: the writer is busy until the first job ends.
    let (sender, receiver) = std::sync::mpsc::channel::<()>();
    let busy = store.run(false, move |_| {
        receiver.recv().unwrap();
        Ok(())
    });
    let at = |expected| event("a", "x").stream("s", expected);
    let tickets = [
        store.append(at(Expected::None)).unwrap().1,
        store.append(at(Expected::None)).unwrap().1,
        store.append(at(Expected::Exactly(1))).unwrap().1,
    ];
    let failing = store.run::<()>(false, |log| {
        log.connection()
            .execute_batch("DELETE FROM events; DELETE FROM streams")?;
        Err(StoreError::Internal {
            detail: "on purpose".into(),
        })
    });
    let panicking = store.run::<()>(false, |log| {
        log.connection().execute_batch("DELETE FROM events")?;
        panic!("on purpose");
    });
    let last = store.append(at(Expected::Exactly(2))).unwrap().1;
    sender.send(()).unwrap();
    done(busy).unwrap();
    let outcomes: Vec<bool> = tickets.into_iter().map(|t| done(Ok(t)).is_ok()).collect();
    assert_eq!(outcomes, [true, false, true]);
    assert!(done(failing).is_err() && done(panicking).is_err());
    assert_eq!(done(Ok(last)).unwrap().version, Some(3));
    assert_eq!(read_all(&place.path(), Query::default()).0.len(), 3);
}

/// Two hundred events with a bit of everything.
fn mixed(place: &Place) -> Vec<Event> {
    let store = place.open();
    let topics = ["app.a", "app.b", "kairo.system.device.added", "other"];
    for index in 0..200_usize {
        let mut event = event(topics[index % 4], &index.to_string());
        if index % 4 == 2 {
            event.aliases = ["kairo.device.added".to_string()].into();
        }
        if index % 3 == 0 {
            event = event.stream(&format!("s{}", index % 2), Expected::Any);
        }
        if index % 5 == 0 {
            event = event.correlation(&format!("c{}", index % 7));
        }
        store.post(event).unwrap();
    }
    drop(store);
    let (all, _) = read_all(&place.path(), Query::default());
    assert_eq!(all.len(), 200);
    all
}

/// That a question gives exactly the events that a filter over all of them gives.
fn compare(place: &Place, all: &[Event], query: Query, wanted: &dyn Fn(&Event) -> bool) {
    let wanted = all.iter().filter(|event| wanted(event));
    let wanted: Vec<u64> = wanted.map(|event| event.seq).collect();
    // Small pages, so that their seams are tested too.
    let small = Query {
        limit: 7,
        ..query.clone()
    };
    let (found, _) = read_all(&place.path(), small);
    let found: Vec<u64> = found.iter().map(|event| event.seq).collect();
    assert_eq!(found, wanted, "{query:?}");
}

#[test]
fn questions_by_topic_and_alias_agree_with_a_filter() {
    let place = Place::new();
    let all = mixed(&place);
    let questions = [
        &["app.*"][..],
        &["app.a"],
        &["kairo.device.>"],
        &["app.b", "other"],
        &[">"],
        &["nobody.*"],
    ];
    for texts in questions {
        let patterns = patterns(texts);
        let query = Query {
            patterns: patterns.clone(),
            ..Query::default()
        };
        compare(&place, &all, query, &|event| {
            Pattern::any_matches(&patterns, &event.topic, &event.aliases)
        });
    }
}

#[test]
fn questions_by_stream_correlation_and_range_agree_with_a_filter() {
    let place = Place::new();
    let all = mixed(&place);
    let stream = Query {
        stream: Some("s1".into()),
        ..Query::default()
    };
    let in_stream = |event: &Event| event.stream.as_ref().is_some_and(|s| s.name == "s1");
    compare(&place, &all, stream.clone(), &in_stream);
    let both = Query {
        patterns: patterns(&["app.>"]),
        ..stream
    };
    compare(&place, &all, both, &|event| {
        in_stream(event) && event.topic.starts_with("app.")
    });
    let correlation = Query {
        correlation_id: Some("c5".into()),
        ..Query::default()
    };
    compare(&place, &all, correlation, &|event| {
        event.correlation_id.as_deref() == Some("c5")
    });
    let range = Query {
        after: 20,
        until: Some(140),
        ..Query::default()
    };
    compare(&place, &all, range, &|event| {
        event.seq > 20 && event.seq <= 140
    });
}

#[test]
fn pages_are_bounded_in_rows_looked_at() {
    let place = Place::new();
    let store = place.open();
    let rows = kairo_events::query::MAX_PAGE_ROWS + 10;
    let mut last = None;
    for index in 0..rows {
        let topic = if index + 1 == rows { "rare" } else { "common" };
        let event = NewEvent::new(topic, "t", vec![]);
        loop {
            match store.append(event.clone()) {
                Ok((_, ticket)) => break last = Some(ticket),
                Err(StoreError::Full { .. }) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    }
    done(Ok(last.unwrap())).unwrap();
    // Two topics, so that no index answers alone; one of them unknown.
    append(&store, event("rarer", "x")).unwrap();
    let query = Query {
        patterns: patterns(&["rare", "rarer"]),
        ..Query::default()
    };
    let page = done(store.query(query.clone())).unwrap();
    assert!(page.events.is_empty() && page.next.is_some(), "{page:?}");
    let (events, _) = read_all(&place.path(), query);
    assert_eq!(events.len(), 2);
}

static WALL_NS: AtomicI64 = AtomicI64::new(0);

#[test]
fn setting_the_clock_reorders_nothing() {
    let place = Place::new();
    let clocks = Clocks {
        wall_ns: || WALL_NS.load(Ordering::Relaxed),
        ..Clocks::default()
    };
    let store = place.open_with(Options {
        clocks,
        ..Options::default()
    });
    let hour = 3_600_000_000_000_i64;
    // The clock goes a day ahead, then two days back.
    for hours in [100, 101, 125, 126, 77, 78, 102] {
        WALL_NS.store(hours * hour, Ordering::Relaxed);
        append(&store, event("a", &hours.to_string())).unwrap();
    }
    drop(store);
    let (events, _) = read_all(&place.path(), Query::default());
    let order: Vec<&str> = events.iter().map(text).collect();
    assert_eq!(order, ["100", "101", "125", "126", "77", "78", "102"]);
    assert!(
        events
            .windows(2)
            .all(|pair| pair[0].monotonic_ns <= pair[1].monotonic_ns)
    );
    // Wall time is still a way to ask.
    let query = Query {
        since_ns: Some(100 * hour),
        before_ns: Some(103 * hour),
        ..Query::default()
    };
    let (events, _) = read_all(&place.path(), query);
    let found: Vec<&str> = events.iter().map(text).collect();
    assert_eq!(found, ["100", "101", "102"]);
}

#[test]
fn a_log_is_one_process_s() {
    let place = Place::new();
    let _store = place.open();
    let second = kairo_events::Store::open(&place.path(), Options::default());
    assert!(matches!(second, Err(StoreError::Io { .. })));
}

#[test]
fn closing_writes_what_waits() {
    let place = Place::new();
    let store = place.open();
    for index in 0..1000 {
        store.post(event("a", &index.to_string())).unwrap();
    }
    assert!(store.close(support::PATIENCE));
    assert_eq!(read_all(&place.path(), Query::default()).0.len(), 1000);
}
