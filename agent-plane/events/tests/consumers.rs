//! Durable consumers, effects, retention with its gaps, compaction, projections.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use std::time::Duration;

use kairo_events::projection::{self, Claims, Intents, Processes};
use kairo_events::{
    Class, Delivery, EffectOutcome, Expected, Limits, LostEvents, NewEvent, Options, Pattern,
    Projection, Query, Range, Start, Store, StoreError, digest,
};
use support::{Place, append, done, event, read_all, text};

fn register(store: &Store, name: &str, pattern: &str) {
    let patterns = vec![Pattern::parse(pattern).unwrap()];
    done(store.register(name, patterns, Start::Oldest)).unwrap();
}

fn fetch(store: &Store, name: &str) -> Vec<String> {
    let fetched = done(store.fetch(name, 0, 100)).unwrap();
    let texts = fetched
        .deliveries
        .iter()
        .map(|delivery| text(delivery.event()).to_string());
    texts.collect()
}

#[test]
fn what_was_not_acknowledged_is_delivered_again_after_a_restart() {
    let place = Place::new();
    let store = place.open();
    register(&store, "c", "app.>");
    let seqs: Vec<u64> = ["1", "2", "3"]
        .iter()
        .map(|text| append(&store, event("app.x", text)).unwrap())
        .collect();
    append(&store, event("other", "no")).unwrap();
    assert_eq!(fetch(&store, "c"), ["1", "2", "3"]);
    assert_eq!(done(store.acknowledge("c", seqs[0])).unwrap(), seqs[0]);
    drop(store);
    let store = place.open();
    assert_eq!(fetch(&store, "c"), ["2", "3"]);
    // Never back, and never beyond what there is.
    assert_eq!(done(store.acknowledge("c", 0)).unwrap(), seqs[0]);
    let head = store.status().head;
    assert_eq!(done(store.acknowledge("c", u64::MAX)).unwrap(), head);
    assert_eq!(fetch(&store, "c"), [""; 0]);
    let unknown = done(store.acknowledge("nobody", 1)).unwrap_err();
    assert_eq!(
        unknown,
        StoreError::UnknownConsumer {
            name: "nobody".into()
        }
    );
}

#[test]
fn a_consumer_begins_where_it_says_and_keeps_its_cursor_with_a_new_filter() {
    let place = Place::new();
    let store = place.open();
    let first = append(&store, event("a", "1")).unwrap();
    append(&store, event("b", "2")).unwrap();
    done(store.register("new", vec![], Start::Newest)).unwrap();
    done(store.register("after", vec![], Start::After(first))).unwrap();
    append(&store, event("a", "3")).unwrap();
    assert_eq!(fetch(&store, "new"), ["3"]);
    assert_eq!(fetch(&store, "after"), ["2", "3"]);
    register(&store, "after", "b");
    assert_eq!(fetch(&store, "after"), ["2"]);
    assert_eq!(done(store.consumers()).unwrap().len(), 2);
    done(store.remove_consumer("new")).unwrap();
    assert!(done(store.fetch("new", 0, 1)).is_err());
}

fn count_rows(store: &Store) -> i64 {
    let count = store.read(|reader| {
        let sql = "SELECT count(*) FROM moves";
        Ok(reader.connection().query_row(sql, [], |row| row.get(0))?)
    });
    done(count).unwrap()
}

fn do_effect(store: &Store, delivery: &Delivery, fails: bool) -> Result<EffectOutcome, StoreError> {
    done(store.effect("c", delivery, move |tables| {
        tables.execute("INSERT INTO moves VALUES (1)", [])?;
        if fails {
            let detail = "on purpose".into();
            return Err(StoreError::Internal { detail });
        }
        Ok(())
    }))
}

#[test]
fn an_effect_is_done_once_and_never_for_a_replay() {
    let place = Place::new();
    let store = place.open();
    let made = store.run(true, |log| {
        log.connection().execute_batch("CREATE TABLE moves (x)")?;
        Ok(())
    });
    done(made).unwrap();
    register(&store, "c", ">");
    append(&store, event("a", "1")).unwrap();
    let fetched = done(store.fetch("c", 0, 1)).unwrap();
    let delivery = &fetched.deliveries[0];
    let replayed = Delivery::replayed(delivery.event().clone());
    assert_eq!(
        do_effect(&store, &replayed, false),
        Ok(EffectOutcome::Replay)
    );
    // What fails leaves nothing behind, not even the acknowledgement.
    assert!(do_effect(&store, delivery, true).is_err());
    assert_eq!(count_rows(&store), 0);
    assert_eq!(fetch(&store, "c"), ["1"]);
    assert_eq!(do_effect(&store, delivery, false), Ok(EffectOutcome::Done));
    assert_eq!(
        do_effect(&store, delivery, false),
        Ok(EffectOutcome::AlreadyDone)
    );
    assert_eq!(fetch(&store, "c"), [""; 0]);
    drop(store);
    // A delivery that outlived a restart, as one held by somebody else would.
    let store = place.open();
    assert_eq!(
        do_effect(&store, delivery, false),
        Ok(EffectOutcome::AlreadyDone)
    );
    assert_eq!(count_rows(&store), 1);
}

fn small(max_bytes: u64, held_bytes: u64) -> Options {
    Options {
        limits: Limits {
            max_bytes,
            held_bytes,
            ..Limits::default()
        },
        ..Options::default()
    }
}

fn fill(store: &Store, count: usize) {
    for index in 0..count {
        let event = NewEvent::new("fill", "t", vec![7; 1000]).id(&format!("fill-{index}"));
        loop {
            match store.post(event.clone()) {
                Ok(_) => break,
                Err(StoreError::Full { .. }) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    }
    append(store, event("end", "x").class(Class::Synchronous)).unwrap();
}

/// The limits are kept between two groups: after the second one the writer has looked at them.
fn let_it_tidy_up(store: &Store) {
    for _ in 0..2 {
        append(store, event("end", "x").class(Class::Synchronous)).unwrap();
    }
}

#[test]
fn the_file_stays_within_its_limit_however_much_is_written() {
    let place = Place::new();
    let store = place.open_with(small(2 * 1024 * 1024, 0));
    for _ in 0..4 {
        fill(&store, 5000);
        let_it_tidy_up(&store);
    }
    assert!(store.close(support::PATIENCE));
    let bytes = std::fs::metadata(place.path()).unwrap().len();
    // 20 MB went through. One group between two looks at the limits is 4096 events.
    assert!(bytes < 16 * 1024 * 1024, "{bytes}");
    let store = place.open_with(small(2 * 1024 * 1024, 0));
    let_it_tidy_up(&store);
    assert!(
        store.status().used_bytes < 4 * 1024 * 1024,
        "{:?}",
        store.status()
    );
}

#[test]
fn the_file_stays_within_its_limit_when_single_events_are_large() {
    let place = Place::new();
    let store = place.open_with(small(2 * 1024 * 1024, 0));
    for _ in 0..100 {
        let large = NewEvent::new("large", "t", vec![7; 256 * 1024]);
        append(&store, large.class(Class::Synchronous)).unwrap();
    }
    let_it_tidy_up(&store);
    assert!(store.close(support::PATIENCE));
    // 25 MB went through.
    let bytes = std::fs::metadata(place.path()).unwrap().len();
    assert!(bytes < 4 * 1024 * 1024, "{bytes}");
}

#[test]
fn a_consumer_holds_events_back_up_to_a_limit_and_is_then_told_the_gap() {
    let place = Place::new();
    let options = || small(1024 * 1024, 2 * 1024 * 1024);
    let store = place.open_with(options());
    register(&store, "slow", "first");
    let first = append(&store, event("first", "1")).unwrap();
    fill(&store, 1200);
    drop(store);
    let store = place.open_with(options());
    let_it_tidy_up(&store);
    // Beyond the first limit and not beyond the second: it is still there.
    assert_eq!(fetch(&store, "slow"), ["1"]);
    fill(&store, 9000);
    drop(store);
    let store = place.open_with(options());
    let_it_tidy_up(&store);
    let fetched = done(store.fetch("slow", 0, 10)).unwrap();
    assert!(fetched.deliveries.is_empty());
    let LostEvents { from, to } = fetched.gap.expect("it lost event 1");
    assert!(from <= first && to > first, "{from} to {to}");
    // Told until it acknowledges that.
    done(store.acknowledge("slow", to)).unwrap();
    assert_eq!(done(store.fetch("slow", 0, 10)).unwrap().gap, None);
}

#[test]
fn age_takes_old_events_and_leaves_young_ones() {
    let place = Place::new();
    let limits = Limits {
        max_age: Some(Duration::ZERO),
        held_age: Duration::ZERO,
        ..Limits::default()
    };
    let store = place.open();
    append(&store, event("a", "old").stream("s", Expected::None)).unwrap();
    drop(store);
    let store = place.open_with(Options {
        limits,
        ..Options::default()
    });
    let_it_tidy_up(&store);
    drop(store);
    let (events, _) = read_all(&place.path(), Query::default());
    assert!(
        events.iter().all(|event| text(event) != "old"),
        "{events:?}"
    );
    // Its stream is forgotten with it, and begins anew.
    let store = place.open();
    append(&store, event("a", "new").stream("s", Expected::None)).unwrap();
}

#[test]
fn a_summary_stands_in_the_place_of_what_it_replaced_and_says_so() {
    let place = Place::new();
    let store = place.open();
    for index in 1..=6 {
        let step = event("app.step", &index.to_string());
        append(&store, step.stream("job", Expected::Any)).unwrap();
        append(&store, event("app.other", "between")).unwrap();
    }
    let (before, _) = read_all(
        &place.path(),
        Query {
            stream: Some("job".into()),
            until: Some(8),
            ..Query::default()
        },
    );
    let range = Range::Stream {
        name: "job".into(),
        until: 8,
    };
    let summary = event("app.summary", "sum");
    done(store.register("c", vec![], Start::Oldest)).unwrap();
    let refused = done(store.compact(range.clone(), summary.clone())).unwrap_err();
    assert!(
        matches!(refused, StoreError::Unacknowledged { cursor: 0, .. }),
        "{refused}"
    );
    done(store.acknowledge("c", 8)).unwrap();
    let compacted = done(store.compact(range, summary)).unwrap();
    let replaced = compacted.replaced;
    assert_eq!(
        (compacted.seq, replaced.from_seq, replaced.count),
        (7, 1, 4)
    );
    assert_eq!(replaced.sha256, digest(&before));
    let query = Query {
        stream: Some("job".into()),
        ..Query::default()
    };
    let (after, damaged) = read_all(&place.path(), query.clone());
    assert!(damaged.is_empty());
    let seen: Vec<(u64, &str)> = after.iter().map(|event| (event.seq, text(event))).collect();
    assert_eq!(seen, [(7, "sum"), (9, "5"), (11, "6")]);
    assert_eq!(after[0].replaced, Some(replaced));
    assert_eq!(after[0].stream.as_ref().unwrap().version, 4);
    // The stream goes on where it was, and can be compacted again.
    let next = event("app.step", "7").stream("job", Expected::Exactly(6));
    append(&store, next).unwrap();
    done(store.acknowledge("c", 11)).unwrap();
    let range = Range::Stream {
        name: "job".into(),
        until: 11,
    };
    let again = done(store.compact(range, event("app.summary", "sum2"))).unwrap();
    assert_eq!((again.replaced.from_seq, again.replaced.count), (1, 6));
    assert_eq!(read_all(&place.path(), query).0.len(), 2);
}

fn facts(topic: &str, facts: serde_json::Value) -> NewEvent {
    NewEvent::new(topic, "kairod", rmp_serde::to_vec_named(&facts).unwrap())
}

fn with_projections() -> Options {
    Options {
        projections: projection::built_in(),
        ..Options::default()
    }
}

#[test]
fn projections_follow_the_log_and_ignore_what_they_do_not_understand() {
    use serde_json::json;
    let place = Place::new();
    let store = place.open_with(with_projections());
    let say = |topic: &str, data| append(&store, facts(topic, data)).unwrap();
    say(
        "kairo.system.device.claimed",
        json!({"device": "arm", "epoch": 3}),
    );
    say(
        "kairo.system.device.claimed",
        json!({"device": "base", "epoch": 4}),
    );
    say("kairo.system.device.released", json!({"device": "base"}));
    say("kairo.system.device.claimed", json!({"dev": 1}));
    say("kairo.system.intent.started", json!({"intent": "i1"}));
    say(
        "kairo.system.intent.started",
        json!({"intent": "i2", "parent": "i1"}),
    );
    say(
        "kairo.system.intent.ended",
        json!({"intent": "i2", "status": "done"}),
    );
    say(
        "kairo.system.process.spawned",
        json!({"process": "p", "pid": 7}),
    );
    let all = store.read(|reader| {
        let tables = reader.connection();
        Ok((
            Claims::read(tables, 10)?,
            Intents::running(tables, 10)?,
            Processes::read(tables, 10)?,
        ))
    });
    let (claims, intents, processes) = done(all).unwrap();
    assert_eq!(
        (claims.len(), claims[0].device.as_str(), claims[0].epoch),
        (1, "arm", 3)
    );
    assert_eq!((intents.len(), intents[0].intent.as_str()), (1, "i1"));
    assert_eq!((processes.len(), processes[0].pid), (1, Some(7)));
    say("kairo.system.rt.lost", json!({"cause": "test"}));
    let claims = store.read(|reader| Ok(Claims::read(reader.connection(), 10)?));
    assert_eq!(done(claims).unwrap(), []);
}

/// Counts events of `count.me`, by another rule in each version.
struct Counter(u32);

impl Projection for Counter {
    fn name(&self) -> &'static str {
        "counter"
    }
    fn version(&self) -> u32 {
        self.0
    }
    fn topics(&self) -> &'static [&'static str] {
        &["count.me"]
    }
    fn create(
        &self,
        tables: &kairo_events::rusqlite::Connection,
    ) -> kairo_events::rusqlite::Result<()> {
        tables.execute_batch(
            "DROP TABLE IF EXISTS counter; CREATE TABLE counter (n INTEGER);
             INSERT INTO counter VALUES (0)",
        )
    }
    fn apply(
        &mut self,
        _: &kairo_events::Event,
        tables: &kairo_events::rusqlite::Connection,
    ) -> kairo_events::rusqlite::Result<()> {
        tables.execute("UPDATE counter SET n = n + ?1", [self.0])?;
        Ok(())
    }
}

#[test]
fn a_projection_of_another_version_is_built_anew_from_the_log() {
    let place = Place::new();
    let counted = |version: u32| {
        let options = Options {
            projections: vec![Box::new(Counter(version))],
            ..Options::default()
        };
        let (store, report) = Store::open(&place.path(), options).unwrap();
        append(&store, event("count.me", "x")).unwrap();
        append(&store, event("count.not", "x")).unwrap();
        let count = store.read(|reader| {
            let sql = "SELECT n FROM counter";
            Ok(reader
                .connection()
                .query_row(sql, [], |row| row.get::<_, i64>(0))?)
        });
        (report.rebuilt, done(count).unwrap())
    };
    assert_eq!(counted(1), (vec!["counter"], 1));
    assert_eq!(counted(1), (vec![], 2));
    assert_eq!(counted(10), (vec!["counter"], 30));
}
