//! Logs of every released schema open in this version, with everything in them.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use kairo_events::rusqlite::Connection;
use kairo_events::{Expected, Options, Query, SCHEMA, Store};
use support::{Place, append, done, event, read_all, text};

/// Written by `examples/fixture.rs` when the schema was released.
const RELEASED: &[(u32, &str)] = &[(1, include_str!("fixtures/v1.sql"))];

#[test]
fn every_released_schema_has_a_log_to_try() {
    let schemas: Vec<u32> = RELEASED.iter().map(|(schema, _)| *schema).collect();
    assert_eq!(schemas, (1..=SCHEMA).collect::<Vec<u32>>());
}

#[test]
fn a_log_of_every_released_schema_opens_whole() {
    for (schema, sql) in RELEASED {
        let place = Place::new();
        Connection::open(place.path())
            .unwrap()
            .execute_batch(sql)
            .unwrap();
        let (store, report) = Store::open(&place.path(), Options::default()).unwrap();
        assert_eq!(report.salvage, None);
        assert_eq!(report.backup.is_some(), *schema < SCHEMA);
        let (events, damaged) = read_all(&place.path(), Query::default());
        assert_eq!(damaged, [0; 0], "schema {schema}");
        let texts: Vec<&str> = events.iter().map(text).collect();
        let expected: Vec<String> = (0..20).map(|index| index.to_string()).collect();
        assert_eq!(texts, expected);
        assert_eq!(
            (events[3].id.as_str(), &*events[3].aliases),
            ("id-3", &["step".into()][..])
        );
        assert_eq!(done(store.consumers()).unwrap()[0].cursor, 10);
        let next = event("app.step", "next").stream("even", Expected::Exactly(10));
        assert!(append(&store, next).unwrap() > events[19].seq);
    }
}
