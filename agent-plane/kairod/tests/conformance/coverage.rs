//! What the cases do not cover is named, with the test that does, or with the reason why none can.
//!
//! `without-case.json` has three tables: methods that no case sees succeed, topics and reasons that
//! no case sees. An entry is `test: FILE NAME`, a test of kairod in which the name stands, or a
//! sentence. A new method, topic or reason without either fails here; so does an entry that is not
//! needed any more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use crate::case::{self, Case, Introspection};
use crate::support::System;

/// Whether `entry` of `name` says enough: none, or what is wrong with it.
fn trouble(name: &str, entry: &str) -> Option<String> {
    let Some(place) = entry.strip_prefix("test: ") else {
        return (entry.len() <= 40).then(|| format!("{name}: {entry:?} is no reason"));
    };
    let (file, test) = place.split_once(' ')?;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let Ok(text) = std::fs::read_to_string(&path) else {
        return Some(format!("{name}: there is no {}", path.display()));
    };
    let Some(at) = text.find(&format!("fn {test}(")) else {
        return Some(format!("{name}: {file} has no test {test}"));
    };
    let body = &text[at..];
    let end = body
        .find("\n}\n")
        .or(body.find("\n    }\n"))
        .unwrap_or(body.len());
    let word = name.rsplit(' ').next().unwrap_or(name);
    let short = word.replacen("kairo.system.", "kairo.", 1);
    let said = body[..end].contains(word) || body[..end].contains(&short);
    (!said).then(|| format!("{name}: {file} {test} does not say {word:?}"))
}

/// Fails unless each of `all` is in `covered` or in the table `part`, and none in both.
fn check(part: &str, all: &BTreeSet<String>, covered: &BTreeSet<String>) {
    let table = case::read("without-case.json")[part].clone();
    let entries: BTreeMap<String, String> = serde_json::from_value(table).unwrap();
    let mut wrong: Vec<String> = all
        .iter()
        .filter(|name| !covered.contains(*name) && !entries.contains_key(*name))
        .map(|name| format!("{name}: no case of agent-plane/conformance/cases/ sees it"))
        .collect();
    for (name, entry) in &entries {
        if !all.contains(name) {
            wrong.push(format!("{name}: introspection has none"));
        } else if covered.contains(name) {
            wrong.push(format!("{name}: has a case, the entry is not needed"));
        }
        wrong.extend(trouble(name, entry));
    }
    let many = wrong.len();
    assert!(
        wrong.is_empty(),
        "{many} {part}; add a case, or an entry to without-case.json:\n{}",
        wrong.join("\n")
    );
}

fn known() -> Introspection {
    Introspection::of(&System::start())
}

#[test]
fn every_method_has_a_case_or_a_reason_for_having_none() {
    let all = known().methods().map(String::from).collect();
    let covered = Case::all()
        .iter()
        .flat_map(Case::methods_that_succeed)
        .collect();
    check("methods", &all, &covered);
}

#[test]
fn every_topic_is_seen_by_a_case_or_by_a_named_test() {
    let all = known().topics().map(String::from).collect();
    let patterns = Case::all()
        .iter()
        .flat_map(Case::patterns)
        .collect::<Vec<Value>>();
    let types = patterns.iter().filter_map(|one| one["type"].as_str());
    check("topics", &all, &types.map(String::from).collect());
}

#[test]
fn every_reason_is_seen_by_a_case_or_by_a_named_test() {
    let all = known().reasons().collect();
    let patterns = Case::all()
        .iter()
        .flat_map(Case::patterns)
        .collect::<Vec<Value>>();
    let seen = patterns.iter().filter_map(|one| {
        let (code, reason) = (one["code"].as_str()?, one["details"]["reason"].as_str()?);
        Some(format!("{code} {reason}"))
    });
    check("reasons", &all, &seen.collect());
}
