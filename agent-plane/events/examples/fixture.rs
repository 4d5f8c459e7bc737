//! Writes the log that `tests/released.rs` opens, as SQL, in the schema of this version.
//!
//! `cargo run -p kairo-events --example fixture > agent-plane/events/tests/fixtures/vN.sql`, once,
//! when schema N is released; files of earlier schemas stay as they are.

use std::time::Duration;

use kairo_events::rusqlite::Connection;
use kairo_events::{Class, Clocks, Expected, Key, NewEvent, Options, Start, Store, projection};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let directory = std::env::temp_dir().join(format!("kairo-fixture-{}", std::process::id()));
    let path = directory.join("events.db");
    write(&path)?;
    let connection = Connection::open(&path)?;
    // Of no machine: where it is tried, it was written in an earlier boot.
    let boot = "UPDATE boots SET uuid = '00000000-0000-0000-0000-000000000000'";
    connection.execute(boot, [])?;
    for pragma in ["application_id", "user_version"] {
        let value: i64 = connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))?;
        println!("PRAGMA {pragma} = {value};");
    }
    dump(&connection)?;
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

/// Twenty events of every kind, a consumer that has acknowledged ten, a key that was begun and one
/// that was done.
fn write(path: &std::path::Path) -> Outcome<()> {
    let clocks = Clocks {
        wall_ns: || 1_790_000_000_000_000_000,
        monotonic_ns: || 5_000_000_000,
    };
    let options = Options {
        clocks,
        projections: projection::built_in(),
        ..Options::default()
    };
    let (store, _) = Store::open(path, options)?;
    for index in 0..20_u32 {
        let mut event = NewEvent::new("app.step", "fixture", format!("{index}").into_bytes());
        event.aliases = ["step".to_string()].into();
        if index % 2 == 0 {
            event = event.stream("even", Expected::Any);
        }
        if index % 3 == 0 {
            event = event.id(&format!("id-{index}")).class(Class::Synchronous);
        }
        if index % 5 == 0 {
            event = event.correlation("five");
        }
        store.append(event)?.1.wait()?;
    }
    for (name, result) in [("begun", None), ("done", Some(b"result".to_vec()))] {
        let key = Key {
            owner: "operator@0".into(),
            key: name.into(),
            method: "permission.grant".into(),
            fingerprint: [7; 32],
        };
        let kept_for = Duration::from_secs(600);
        store.keep_key(key, result, Vec::new(), kept_for)?.wait()?;
    }
    store
        .register("reader", Vec::new(), Start::After(10))?
        .wait()?;
    Ok(())
}

fn dump(connection: &Connection) -> Outcome<()> {
    // Indexes after the rows; SQLite's own tables come by themselves.
    let sql = "SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL
               AND name NOT LIKE 'sqlite_%' ORDER BY type = 'index', rowid";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (name, sql): (String, String) = (row.get(0)?, row.get(1)?);
        println!("{sql};");
        if !sql.starts_with("CREATE TABLE") {
            continue;
        }
        let columns = connection.prepare(&format!("SELECT * FROM {name}"))?;
        let quoted: Vec<String> = columns
            .column_names()
            .map(|column| format!("quote({column})"))
            .collect();
        let sql = format!("SELECT {} FROM {name}", quoted.join("||','||"));
        let mut statement = connection.prepare(&sql)?;
        let values = statement.query_map([], |row| row.get::<_, String>(0))?;
        for values in values {
            println!("INSERT INTO {name} VALUES ({});", values?);
        }
    }
    Ok(())
}
