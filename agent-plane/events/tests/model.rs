//! The store against a model that a reader can see through: a list of events in memory.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use kairo_events::{
    Class, EffectOutcome, Event, Expected, NewEvent, Pattern, Query, Range, Start, Store,
    StoreError,
};
use proptest::prelude::*;
use support::{Place, done, read_all, text};

#[derive(Clone, Debug)]
enum Step {
    Append {
        topic: usize,
        id: Option<u8>,
        stream: Option<(u8, Option<u64>)>,
        class: usize,
        text: u8,
    },
    Acknowledge(u64),
    Effect,
    Compact(u8, u64),
    Restart,
}

const TOPICS: [&str; 3] = ["app.a", "app.b", "sys.c"];
const CLASSES: [Class; 3] = [Class::Volatile, Class::Batched, Class::Synchronous];

fn step() -> impl Strategy<Value = Step> {
    let stream = prop::option::of((0..3_u8, prop::option::of(0..6_u64)));
    let append = (
        0..3_usize,
        prop::option::of(0..6_u8),
        stream,
        0..3_usize,
        0..3_u8,
    );
    prop_oneof![
        12 => append.prop_map(|(topic, id, stream, class, text)| {
            Step::Append { topic, id, stream, class, text }
        }),
        2 => (0..40_u64).prop_map(Step::Acknowledge),
        3 => Just(Step::Effect),
        1 => (0..3_u8, 0..40_u64).prop_map(|(stream, until)| Step::Compact(stream, until)),
        1 => Just(Step::Restart),
    ]
}

/// An event as the model keeps it.
#[derive(Clone, Debug, PartialEq)]
struct Kept {
    seq: u64,
    id: Option<String>,
    topic: &'static str,
    stream: Option<(String, u64)>,
    text: String,
}

#[derive(Debug, Default)]
struct Model {
    kept: Vec<Kept>,
    next: u64,
    versions: BTreeMap<String, u64>,
    cursor: u64,
    effects: usize,
    ledger: BTreeSet<String>,
}

impl Model {
    fn head(&self) -> u64 {
        self.kept.last().map_or(0, |kept| kept.seq)
    }

    fn append(&mut self, new: &NewEvent, topic: &'static str) -> Result<u64, &'static str> {
        if new.class == Class::Volatile && new.stream.is_some() {
            return Err("invalid");
        }
        let seq = self.next;
        self.next += 1;
        if new.class == Class::Volatile {
            return Ok(seq);
        }
        let content = String::from_utf8(new.data.clone()).unwrap();
        if let Some(id) = &new.id
            && let Some(kept) = self.kept.iter().find(|kept| kept.id.as_ref() == Some(id))
        {
            let stream = kept.stream.as_ref().map(|(name, _)| name.clone());
            let same = kept.topic == topic && stream == new.stream && kept.text == content;
            return if same { Ok(kept.seq) } else { Err("id") };
        }
        let mut place = None;
        if let Some(name) = &new.stream {
            let version = self.versions.get(name).copied().unwrap_or(0);
            if !new.expected.admits(version) {
                return Err("version");
            }
            self.versions.insert(name.clone(), version + 1);
            place = Some((name.clone(), version + 1));
        }
        self.kept.push(Kept {
            seq,
            id: new.id.clone(),
            topic,
            stream: place,
            text: content,
        });
        Ok(seq)
    }

    fn compact(&mut self, name: &str, until: u64) -> Result<u64, &'static str> {
        let is_in = |kept: &Kept| {
            kept.seq <= until
                && kept
                    .stream
                    .as_ref()
                    .is_some_and(|(stream, _)| stream == name)
        };
        let last = self.kept.iter().rfind(|kept| is_in(kept));
        let Some(last) = last.cloned() else {
            return Err("invalid");
        };
        if self.cursor < last.seq {
            return Err("unacknowledged");
        }
        self.kept.retain(|kept| !is_in(kept));
        let summary = Kept {
            id: Some("?".into()),
            topic: "sum",
            text: "sum".into(),
            ..last
        };
        let at = self.kept.partition_point(|kept| kept.seq < summary.seq);
        self.kept.insert(at, summary);
        Ok(last.seq)
    }
}

fn name_of(error: &StoreError) -> &'static str {
    match error {
        StoreError::Invalid { .. } => "invalid",
        StoreError::IdConflict { .. } => "id",
        StoreError::VersionConflict { .. } => "version",
        StoreError::Unacknowledged { .. } => "unacknowledged",
        _ => "other",
    }
}

fn open(place: &Place) -> Store {
    let store = place.open();
    let made = store.run(false, |log| {
        let sql = "CREATE TABLE IF NOT EXISTS effect_rows (x)";
        Ok(log.connection().execute_batch(sql)?)
    });
    done(made).unwrap();
    let patterns = vec![Pattern::parse("app.>").unwrap()];
    done(store.register("c", patterns, Start::Oldest)).unwrap();
    store
}

fn run(store: &Store, model: &mut Model, step: &Step) {
    match step {
        Step::Append {
            topic,
            id,
            stream,
            class,
            text,
        } => {
            let topic = TOPICS[*topic];
            let mut new = NewEvent::new(topic, "m", text.to_string().into_bytes());
            new.class = CLASSES[*class];
            new.id = id.map(|id| format!("i{id}"));
            if let Some((stream, expected)) = stream {
                new.stream = Some(format!("s{stream}"));
                new.expected = expected.map_or(Expected::Any, Expected::Exactly);
            }
            let wanted = model.append(&new, topic);
            let got = store.append(new).and_then(|(_, ticket)| done(Ok(ticket)));
            let got = got
                .map(|appended| appended.seq)
                .map_err(|error| name_of(&error));
            assert_eq!(got, wanted);
        }
        Step::Acknowledge(seq) => {
            model.cursor = model.cursor.max((*seq).min(model.head()));
            assert_eq!(done(store.acknowledge("c", *seq)).unwrap(), model.cursor);
        }
        Step::Effect => {
            let fetched = done(store.fetch("c", 0, 1)).unwrap();
            let wanted = model
                .kept
                .iter()
                .find(|kept| kept.seq > model.cursor && kept.topic.starts_with("app."));
            let got = fetched.deliveries.first();
            assert_eq!(got.map(|d| d.event().seq), wanted.map(|kept| kept.seq));
            let Some(delivery) = got else { return };
            let outcome = done(store.effect("c", delivery, |tables| {
                tables.execute("INSERT INTO effect_rows VALUES (1)", [])?;
                Ok(())
            }));
            // By its id: a retry whose first event was compacted away is another event, and still
            // no reason to do its effect again.
            let new = model.ledger.insert(delivery.event().id.clone());
            let wanted = match new {
                true => EffectOutcome::Done,
                false => EffectOutcome::AlreadyDone,
            };
            assert_eq!(outcome.unwrap(), wanted);
            model.effects += usize::from(new);
            model.cursor = delivery.event().seq;
        }
        Step::Compact(stream, until) => {
            let name = format!("s{stream}");
            let wanted = model.compact(&name, *until);
            let range = Range::Stream {
                name,
                until: *until,
            };
            let summary = NewEvent::new("sum", "m", b"sum".to_vec());
            let got = done(store.compact(range, summary)).map(|compacted| compacted.seq);
            assert_eq!(got.map_err(|error| name_of(&error)), wanted);
        }
        Step::Restart => {}
    }
}

fn kept(event: &Event) -> Kept {
    let made = event.id.ends_with(&format!("-{}", event.seq));
    let summary = event.replaced.is_some();
    Kept {
        seq: event.seq,
        id: match (summary, made) {
            (true, _) => Some("?".into()),
            (false, true) => None,
            (false, false) => Some(event.id.clone()),
        },
        topic: TOPICS
            .iter()
            .find(|topic| **topic == &*event.topic)
            .copied()
            .unwrap_or("sum"),
        stream: event
            .stream
            .clone()
            .map(|place| (place.name, place.version)),
        text: text(event).into(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does(steps in prop::collection::vec(step(), 1..60)) {
        let place = Place::new();
        let mut model = Model { next: 1, ..Model::default() };
        let mut store = open(&place);
        for step in &steps {
            run(&store, &mut model, step);
            if matches!(step, Step::Restart) {
                drop(store);
                store = open(&place);
            }
        }
        let sql = "SELECT count(*) FROM effect_rows";
        let effects = store.read(|reader| {
            Ok(reader.connection().query_row(sql, [], |row| row.get::<_, i64>(0))?)
        });
        prop_assert_eq!(done(effects).unwrap() as usize, model.effects);
        drop(store);
        let (events, damaged) = read_all(&place.path(), Query::default());
        prop_assert!(damaged.is_empty());
        let events: Vec<Kept> = events.iter().map(kept).collect();
        prop_assert_eq!(events, model.kept);
    }
}
