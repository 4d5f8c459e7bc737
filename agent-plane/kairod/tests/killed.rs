//! kairod killed at random moments under clients that publish, intend, claim, grant and repeat:
//! nothing acknowledged is lost, no key's effect happens twice, and everything that began is in
//! force or ended by exactly one event.
//!
//! `KAIRO_SEED` chooses another run, `KAIRO_KILLS` how many kills.

#![allow(clippy::unwrap_used)] // Helpers of tests fail the test.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kairo_wire::{Client, ClientError, ErrorInfo, Meta};
use serde_json::{Value, json};
use support::{PATIENCE, System, call};

const KILLS: u64 = 24;
/// Keys are counted for ten minutes: of an identity fewer than kairod allows.
const MAX_KEYS: usize = 100;

/// Numbers that follow from a seed (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (value ^ (value >> 31)) % bound
    }
}

/// What an attempt came to.
enum Outcome {
    Done(Value),
    Refused(ErrorInfo),
    /// kairod is gone; whether it was done is not known.
    Lost,
}

fn attempt(client: &mut Client, method: &str, params: Value, key: Option<&str>) -> Outcome {
    let meta = key.map(|key| Meta {
        idempotency_key: Some(key.into()),
        ..Meta::default()
    });
    match client.call_with_meta(method, params, meta, PATIENCE) {
        Ok(result) => Outcome::Done(result),
        Err(ClientError::Refused(error)) => Outcome::Refused(*error),
        Err(ClientError::Closed | ClientError::Broken(_)) => Outcome::Lost,
        Err(other) => panic!("{method}: {other}"),
    }
}

/// Publishes without a key. `acked` are what it was told is kept.
#[derive(Default)]
struct Publisher {
    next: u64,
    acked: BTreeMap<u64, u64>,
}

impl Publisher {
    fn work(&mut self, client: &mut Client) {
        loop {
            self.next += 1;
            let class = ["synchronous", "batched"][usize::from(!self.next.is_multiple_of(8))];
            let params = json!({"topic": "app.plain", "data": self.next, "class": class});
            match attempt(client, "event.publish", params, None) {
                Outcome::Done(result) => self.acked.insert(self.next, number(&result["seq"])),
                Outcome::Refused(error) => panic!("{error}"),
                Outcome::Lost => return,
            };
        }
    }
}

/// Publishes under keys, and repeats what it has no answer to.
#[derive(Default)]
struct Repeater {
    /// Who it is: somebody else whenever its keys are used up.
    generation: usize,
    keys: usize,
    next: u64,
    pending: Option<(u64, String)>,
    acked: BTreeMap<u64, u64>,
    repeated: u64,
}

impl Repeater {
    /// Its name from now on. What has no answer yet has to be repeated under the same.
    fn name(&mut self) -> String {
        if self.keys >= MAX_KEYS && self.pending.is_none() {
            self.generation += 1;
            self.keys = 0;
        }
        format!("repeater{}", self.generation)
    }

    fn publish(&mut self, client: &mut Client, index: u64, key: &str) -> bool {
        let class = ["synchronous", "batched"][usize::from(!index.is_multiple_of(2))];
        let topic = format!("agent.repeater{}.said", self.generation);
        let params = json!({"topic": topic, "data": index, "class": class});
        match attempt(client, "event.publish", params, Some(key)) {
            Outcome::Done(result) => {
                self.acked.insert(index, number(&result["seq"]));
                self.pending = None;
                true
            }
            // With the event in the same transaction there is always an answer.
            Outcome::Refused(error) => panic!("event {index}: {error}"),
            Outcome::Lost => {
                self.pending = Some((index, key.into()));
                false
            }
        }
    }

    fn work(&mut self, client: &mut Client) {
        if let Some((index, key)) = self.pending.take() {
            self.repeated += 1;
            if !self.publish(client, index, &key) {
                return;
            }
        }
        // A few keys of a life; after them it waits for the end without.
        for round in 0.. {
            if round > 3 {
                if let Outcome::Lost = attempt(client, "kernel.ping", json!({}), None) {
                    return;
                }
                continue;
            }
            self.next += 1;
            self.keys += 1;
            let (index, key) = (self.next, format!("r{}", self.next));
            if !self.publish(client, index, &key) {
                return;
            }
        }
    }
}

/// Begins and ends intents.
#[derive(Default)]
struct Planner {
    begun: BTreeSet<String>,
    completed: BTreeSet<String>,
}

impl Planner {
    fn work(&mut self, client: &mut Client, chance: &mut Chance) {
        let mut live = Vec::new();
        loop {
            if live.len() > 4 || (!live.is_empty() && chance.below(2) == 0) {
                let intent: String = live.swap_remove(chance.below(live.len() as u64) as usize);
                let params = json!({"intent": intent, "status": "completed"});
                match attempt(client, "intent.end", params, None) {
                    Outcome::Done(_) => self.completed.insert(intent),
                    Outcome::Refused(error) => panic!("{error}"),
                    Outcome::Lost => return,
                };
                continue;
            }
            match attempt(client, "intent.begin", json!({"name": "work"}), None) {
                Outcome::Done(result) => {
                    let intent = result["intent"].as_str().unwrap().to_string();
                    self.begun.insert(intent.clone());
                    live.push(intent);
                }
                Outcome::Refused(error) => panic!("{error}"),
                Outcome::Lost => return,
            }
        }
    }
}

/// Claims the arm and gives it back.
#[derive(Default)]
struct Holder {
    epochs: BTreeSet<u64>,
}

impl Holder {
    fn work(&mut self, client: &mut Client, chance: &mut Chance) {
        loop {
            let epoch = match attempt(client, "device.claim", json!({"device": "arm"}), None) {
                Outcome::Done(result) => number(&result["epoch"]),
                // The lease of the kairod before may not have ended yet.
                Outcome::Refused(_) => continue,
                Outcome::Lost => return,
            };
            self.epochs.insert(epoch);
            if chance.below(4) > 0 {
                let params = json!({"device": "arm", "epoch": epoch});
                match attempt(client, "device.release", params, None) {
                    Outcome::Lost => return,
                    Outcome::Refused(error) => panic!("{error}"),
                    Outcome::Done(_) => {}
                }
            } else {
                // Held until kairod dies.
                while !matches!(
                    attempt(client, "kernel.ping", json!({}), None),
                    Outcome::Lost
                ) {
                    std::thread::sleep(Duration::from_millis(2));
                }
                return;
            }
        }
    }
}

/// Grants under keys and without, and revokes.
#[derive(Default)]
struct Granter {
    next: usize,
    pending: Option<(String, String)>,
    /// Target to grant, as acknowledged.
    granted: BTreeMap<String, u64>,
    /// Targets that were granted under a key.
    keyed: BTreeSet<String>,
    /// Grants whose revocation was asked for, and those for which it was acknowledged.
    asked: BTreeSet<u64>,
    revoked: BTreeSet<u64>,
    unknown: u64,
}

impl Granter {
    fn grant(&mut self, client: &mut Client, target: &str, key: Option<&str>) -> bool {
        let who = json!({"class": "agent"});
        let params = json!({
            "who": who, "right": "device.read", "target": target, "reason": "r", "ttl_s": 3600,
        });
        match attempt(client, "permission.grant", params, key) {
            Outcome::Done(result) => {
                self.granted.insert(target.into(), number(&result["id"]));
            }
            // Those that nobody has an answer to stay in force.
            Outcome::Refused(error) if error.reason_name() == "grants" => {}
            Outcome::Refused(error) => {
                assert_eq!(error.reason_name(), "outcome_unknown", "{error}");
                self.unknown += 1;
            }
            Outcome::Lost => {
                self.pending = key.map(|key| (target.into(), key.into()));
                return false;
            }
        }
        true
    }

    fn work(&mut self, client: &mut Client, chance: &mut Chance) {
        if let Some((target, key)) = self.pending.take()
            && !self.grant(client, &target, Some(&key))
        {
            return;
        }
        loop {
            self.next += 1;
            let target = format!("d{}", self.next);
            let key = (self.keyed.len() < MAX_KEYS && chance.below(3) == 0).then(|| {
                self.keyed.insert(target.clone());
                target.clone()
            });
            if !self.grant(client, &target, key.as_deref()) {
                return;
            }
            let live = self.granted.values().filter(|id| !self.asked.contains(id));
            let live: Vec<u64> = live.copied().collect();
            if live.len() > 8 {
                let id = live[chance.below(live.len() as u64) as usize];
                self.asked.insert(id);
                match attempt(client, "permission.revoke", json!({"id": id}), None) {
                    Outcome::Done(_) => self.revoked.insert(id),
                    Outcome::Refused(error) => panic!("{error}"),
                    Outcome::Lost => return,
                };
            }
        }
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap()
}

/// Every event of a topic: its number and its data.
fn events(client: &mut Client, topic: &str) -> Vec<(u64, Value)> {
    let mut params = json!({"topics": [topic], "limit": 1000});
    let mut found = Vec::new();
    loop {
        let page = call(client, "event.query", params.clone()).unwrap();
        assert_eq!(page["damaged"], json!([]));
        let events = page["events"].as_array().unwrap().iter();
        found.extend(events.map(|event| (number(&event["seq"]), event["data"].clone())));
        if page["next"].is_null() {
            return found;
        }
        params["after_seq"] = page["next"].clone();
    }
}

/// How often each value of `field` occurs.
fn count(events: &[(u64, Value)], field: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (_, data) in events {
        *counts.entry(data[field].to_string()).or_default() += 1;
    }
    counts
}

/// That what was acknowledged is there under its number, and nothing is there twice.
fn check_published(found: &[(u64, Value)], acked: &BTreeMap<u64, u64>) {
    let mut by_data = BTreeMap::new();
    for (seq, data) in found {
        let twice = by_data.insert(number(data), *seq);
        assert_eq!(twice, None, "event {data} is there twice");
    }
    for (data, seq) in acked {
        assert_eq!(
            by_data.get(data),
            Some(seq),
            "event {data} was acknowledged"
        );
    }
}

/// That everything in `began` occurs once, and ended once unless it is one of `open`.
fn check_ended(
    began: &BTreeMap<String, usize>,
    ended: &BTreeMap<String, usize>,
    open: &BTreeSet<String>,
) {
    for (name, times) in began {
        assert_eq!(*times, 1, "{name} began more than once");
        let ends = ended.get(name).copied().unwrap_or_default();
        assert_eq!(ends, usize::from(!open.contains(name)), "ends of {name}");
    }
}

#[derive(Default)]
struct Work {
    publisher: Publisher,
    repeater: Repeater,
    planner: Planner,
    holder: Holder,
    granter: Granter,
}

impl Work {
    /// Works until kairod is killed, after a while that `chance` gives.
    fn until_a_kill(&mut self, system: &mut System, chance: &mut Chance) {
        let client = || system.client();
        let (mut one, mut two, mut three, mut four) = (client(), client(), client(), client());
        let mut agent = system.confined("agent", &self.repeater.name());
        let mut seeds = [(); 3].map(|()| Chance(chance.below(u64::MAX)));
        let [plan, hold, grants] = &mut seeds;
        let until = Duration::from_micros(chance.below(120_000));
        std::thread::scope(|scope| {
            scope.spawn(|| self.publisher.work(&mut one));
            scope.spawn(|| self.repeater.work(&mut agent));
            scope.spawn(|| self.planner.work(&mut two, plan));
            scope.spawn(|| self.holder.work(&mut three, hold));
            scope.spawn(|| self.granter.work(&mut four, grants));
            std::thread::sleep(until);
            system.kill_kairod();
        });
        system.begin_kairod();
    }

    fn check(&self, client: &mut Client) {
        check_published(&events(client, "app.plain"), &self.publisher.acked);
        check_published(&events(client, "agent.*.said"), &self.repeater.acked);
        self.check_intents(client);
        let claimed = count(&events(client, "kairo.system.device.claimed"), "epoch");
        let released = count(&events(client, "kairo.system.device.released"), "epoch");
        check_ended(&claimed, &released, &BTreeSet::new());
        for epoch in &self.holder.epochs {
            assert!(claimed.contains_key(&epoch.to_string()), "claim {epoch}");
        }
        self.check_grants(client);
    }

    fn check_intents(&self, client: &mut Client) {
        let ends = events(client, "kairo.system.intent.ended");
        let began = count(&events(client, "kairo.system.intent.started"), "intent");
        check_ended(&began, &count(&ends, "intent"), &BTreeSet::new());
        for intent in &self.planner.begun {
            assert!(began.contains_key(&format!("{intent:?}")), "{intent}");
        }
        for intent in &self.planner.completed {
            let end = ends.iter().find(|(_, data)| data["intent"] == **intent);
            assert_eq!(end.unwrap().1["status"], "completed", "{intent}");
        }
    }

    fn check_grants(&self, client: &mut Client) {
        let list = call(client, "permission.list", json!({})).unwrap();
        let rules = list["rules"].as_array().unwrap().iter();
        let mut targets = BTreeMap::new();
        let mut in_force = BTreeSet::new();
        for rule in rules {
            if let Some(id) = rule["origin"].as_str().unwrap().strip_prefix("grant:") {
                in_force.insert(id.to_string());
                let target = rule["target"].as_str().unwrap().to_string();
                *targets.entry(target).or_insert(0) += 1;
            }
        }
        let told = count(
            &events(client, "kairo.system.security.permission.granted"),
            "grant",
        );
        let revoked = count(
            &events(client, "kairo.system.security.permission.revoked"),
            "grant",
        );
        check_ended(&told, &revoked, &in_force);
        for (target, id) in &self.granter.granted {
            let is_there = in_force.contains(&id.to_string());
            let may_be_gone = self.granter.asked.contains(id);
            assert!(is_there || may_be_gone, "grant {id} of {target} is lost");
            assert!(
                !(is_there && self.granter.revoked.contains(id)),
                "{id} is back"
            );
        }
        for target in &self.granter.keyed {
            let times = targets.get(target).copied().unwrap_or(0);
            assert!(times <= 1, "{target} was granted {times} times");
        }
    }
}

#[test]
fn kills_at_random_moments_lose_nothing_acknowledged_and_do_nothing_twice() {
    let number = |name: &str, usual: u64| {
        std::env::var(name).map_or(usual, |text| text.parse::<u64>().unwrap())
    };
    let (seed, kills) = (
        number("KAIRO_SEED", 20_261_128),
        number("KAIRO_KILLS", KILLS),
    );
    eprintln!("seed {seed}, {kills} kills; KAIRO_SEED and KAIRO_KILLS choose others");
    let mut chance = Chance(seed);
    let mut system = System::start();
    let mut work = Work::default();
    for kill in 0..kills {
        work.until_a_kill(&mut system, &mut chance);
        if kill % 8 == 7 || kill + 1 == kills {
            work.check(&mut system.client());
        }
    }
    eprintln!(
        "{} plain and {} keyed events, {} repeated; {} intents, {} claims, {} grants, {} unknown",
        work.publisher.acked.len(),
        work.repeater.acked.len(),
        work.repeater.repeated,
        work.planner.begun.len(),
        work.holder.epochs.len(),
        work.granter.granted.len(),
        work.granter.unknown
    );
    assert!(work.publisher.acked.len() > 10 && work.repeater.acked.len() > 10);
    assert!(!work.planner.begun.is_empty() && !work.holder.epochs.is_empty());
    assert!(system.stop_kairod());
    let audit = system.directory.path().join("state/audit");
    let report = kairo_audit::verify(&audit, &kairo_audit::VerifyOptions::default()).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}
