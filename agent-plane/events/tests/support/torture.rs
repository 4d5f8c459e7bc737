//! A process that appends, consumes and does effects until it is killed, and one that kills it and
//! then checks what the log kept. Used by a test and by the benchmark `event_torture`.
//!
//! The child tells what it was promised on its standard output, one line each, written before
//! anything that could depend on it: `A id seq` an append was acknowledged, `S seq` a number was
//! given to a volatile event, `E id` an effect was said to be done.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kairo_events::{
    Class, EffectOutcome, Expected, LogReader, NewEvent, Options, Query, Start, Store, StoreError,
    Ticket,
};

/// The log's directory, for the child.
pub const DIRECTORY_VARIABLE: &str = "KAIRO_EVENTS_TORTURE";
/// The child's seed.
pub const SEED_VARIABLE: &str = "KAIRO_EVENTS_TORTURE_SEED";

/// Numbers that follow from a seed (splitmix64).
pub struct Chance(pub u64);

impl Chance {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        value ^ (value >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What many kills led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Toll {
    pub kills: u64,
    pub acknowledged: u64,
    pub lost: u64,
    pub effects: u64,
    pub duplicate_effects: u64,
    pub lost_effects: u64,
    pub reused_numbers: u64,
}

fn say(line: &str) {
    // One write: a line is told as a whole or not at all.
    let mut output = std::io::stdout().lock();
    let told = output.write_all(format!("\n{line}\n").as_bytes());
    told.and_then(|()| output.flush()).unwrap();
}

/// The child: never returns by itself.
pub fn child(directory: &Path, seed: u64) {
    let mut chance = Chance(seed);
    let (store, _) = Store::open(&directory.join("events.db"), Options::default()).unwrap();
    let made = store.run(true, |log| {
        let sql = "CREATE TABLE IF NOT EXISTS effect_rows (event_id TEXT NOT NULL)";
        log.connection().execute_batch(sql)?;
        Ok(())
    });
    made.unwrap().wait().unwrap();
    let registered = store.register("torture", Vec::new(), Start::Oldest);
    registered.unwrap().wait().unwrap();
    say("ready");
    let mut waiting: Vec<(String, Ticket<_>)> = Vec::new();
    for index in 0.. {
        let id = format!("{seed:016x}.{index}");
        match chance.below(10) {
            0 => {
                let event = NewEvent::new("torture.volatile", "child", vec![]);
                let stamp = store.post(event.class(Class::Volatile)).unwrap();
                say(&format!("S {}", stamp.seq));
            }
            1 | 2 => {
                let event = make(&id).class(Class::Synchronous);
                let appended = store.append(event).unwrap().1.wait().unwrap();
                say(&format!("A {id} {}", appended.seq));
            }
            3 => consume(&store),
            _ => {
                let event = make(&id).stream(&format!("s{}", chance.below(4)), Expected::Any);
                waiting.push((id, store.append(event).unwrap().1));
            }
        }
        if waiting.len() > 20 {
            for (id, ticket) in waiting.drain(..) {
                say(&format!("A {id} {}", ticket.wait().unwrap().seq));
            }
        }
    }
}

fn make(id: &str) -> NewEvent {
    NewEvent::new("torture.event", "child", id.as_bytes().to_vec()).id(id)
}

/// Does the effects of what comes next, and now and then of what was done already.
fn consume(store: &Store) {
    let fetched = store.fetch("torture", 0, 16).unwrap().wait().unwrap();
    for delivery in &fetched.deliveries {
        for _ in 0..2 {
            let id = delivery.event().id.clone();
            let effect = store.effect("torture", delivery, move |tables| {
                let sql = "INSERT INTO effect_rows (event_id) VALUES (?1)";
                tables.execute(sql, [id])?;
                Ok::<(), StoreError>(())
            });
            if effect.unwrap().wait().unwrap() == EffectOutcome::Done {
                say(&format!("E {}", delivery.event().id));
            }
        }
    }
}

/// Starts the child `kills` times, kills it each time somewhere, and checks the log each time.
pub fn parent(directory: &Path, kills: u64, seed: u64, start: impl Fn() -> Command) -> Toll {
    let mut chance = Chance(seed);
    let mut promised: BTreeMap<String, u64> = BTreeMap::new();
    let mut numbers: BTreeSet<u64> = BTreeSet::new();
    let mut effects: BTreeSet<String> = BTreeSet::new();
    let mut toll = Toll::default();
    for _ in 0..kills {
        let mut child = start()
            .env(DIRECTORY_VARIABLE, directory)
            .env(SEED_VARIABLE, chance.next().to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let id = child.id();
        // Some die while they open the log, most somewhere in their work.
        let life = Duration::from_micros(chance.below(250_000));
        let in_work = chance.below(8) != 0;
        let mut killer = (!in_work).then(|| kill_after(id, life));
        for line in lines.lines().map_while(Result::ok) {
            let mut words = line.split(' ');
            match (words.next(), words.next(), words.next()) {
                (Some("ready"), ..) if killer.is_none() => killer = Some(kill_after(id, life)),
                (Some("A"), Some(id), Some(seq)) => {
                    let seq = seq.parse().unwrap();
                    toll.reused_numbers += u64::from(!numbers.insert(seq));
                    promised.insert(id.into(), seq);
                }
                (Some("S"), Some(seq), _) => {
                    toll.reused_numbers += u64::from(!numbers.insert(seq.parse().unwrap()));
                }
                (Some("E"), Some(id), _) => {
                    effects.insert(id.into());
                }
                _ => {}
            }
        }
        if let Some(killer) = killer {
            killer.join().unwrap();
        }
        child.wait().unwrap();
        toll.kills += 1;
        check(directory, &promised, &effects, &mut toll);
    }
    toll.acknowledged = promised.len() as u64;
    toll.effects = effects.len() as u64;
    toll
}

fn kill_after(id: u32, life: Duration) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        std::thread::sleep(life);
        // It has not been waited for, so the number is still the child's.
        let id = nix::unistd::Pid::from_raw(i32::try_from(id).unwrap());
        let _ = nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGKILL);
    })
}

/// Compares the log with what was promised.
fn check(
    directory: &Path,
    promised: &BTreeMap<String, u64>,
    effects: &BTreeSet<String>,
    toll: &mut Toll,
) {
    let path = directory.join("events.db");
    // A child that was killed first of all may have left nothing.
    let Ok((store, report)) = Store::open(&path, Options::default()) else {
        panic!("a killed log does not open");
    };
    assert_eq!(report.salvage, None, "a kill is no damage");
    drop(store);
    let mut reader = LogReader::open(&path).unwrap();
    let mut kept = BTreeMap::new();
    let mut query = Query::default();
    loop {
        let page = reader.page(&query).unwrap();
        assert!(page.damaged.is_empty(), "{:?}", page.damaged);
        kept.extend(page.events.into_iter().map(|event| (event.id, event.seq)));
        let Some(next) = page.next else { break };
        query.after = next;
    }
    let lost = promised
        .iter()
        .filter(|(id, seq)| kept.get(*id) != Some(seq));
    toll.lost += lost.count() as u64;
    let mut done: BTreeMap<String, u64> = BTreeMap::new();
    if let Ok(mut statement) = reader
        .connection()
        .prepare("SELECT event_id FROM effect_rows")
    {
        let rows = statement.query_map([], |row| row.get::<_, String>(0));
        for id in rows.unwrap() {
            *done.entry(id.unwrap()).or_default() += 1;
        }
    }
    toll.duplicate_effects += done.values().filter(|count| **count > 1).count() as u64;
    let missing = effects.iter().filter(|id| !done.contains_key(*id));
    toll.lost_effects += missing.count() as u64;
}
