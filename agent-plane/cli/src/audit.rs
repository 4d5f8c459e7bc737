//! `kairo audit list|verify|checkpoint`: the audit log, from its files.
//!
//! Needs no kernel and changes nothing. Whatever an entry holds, nothing of it steers the terminal:
//! what is printed went through [`plain`], and JSON escapes it.

use std::path::PathBuf;

use kairo_audit::{
    Body, Entry, HeadError, Outcome, PublicKey, Record, Report, VerifyOptions, Who, plain,
};
use serde_json::{Value, json};

use crate::arguments::{AuditListOptions, AuditPlace, AuditVerifyOptions};
use crate::failure::Failure;
use crate::terminal::{Terminal, Tone};

/// Records that are read at once.
const PAGE_RECORDS: usize = 1000;

fn directory(place: &AuditPlace) -> PathBuf {
    let directory = place.directory.clone();
    directory.unwrap_or_else(|| place.state_dir.join("audit"))
}

fn not_done(error: impl std::fmt::Display) -> Failure {
    Failure::NotDone(error.to_string())
}

/// `audit list`.
pub fn list(terminal: &Terminal, options: &AuditListOptions) -> Result<(), Failure> {
    let directory = directory(&options.place);
    let mut left = options.count.unwrap_or(u64::MAX);
    let mut after = options.after;
    loop {
        let page = kairo_audit::read(&directory, after, PAGE_RECORDS).map_err(not_done)?;
        for record in &page.records {
            if left == 0 {
                return Ok(());
            }
            if is_wanted(record, options.method.as_deref()) {
                show(terminal, record)?;
                left -= 1;
            }
        }
        if page.damaged.is_some() {
            terminal.warn("lines that are no records were left out; see `kairo audit verify`");
        }
        match page.records.last() {
            Some(last) if page.has_more => after = last.number.max(after + 1),
            _ => return Ok(()),
        }
    }
}

fn is_wanted(record: &Record, method: Option<&str>) -> bool {
    let Some(method) = method else { return true };
    let Body::Entry(entry) = &record.record else {
        return false;
    };
    match method.strip_suffix(".*") {
        None => entry.act == method,
        Some(namespace) => {
            let rest = entry.act.strip_prefix(namespace);
            rest.is_some_and(|rest| rest.starts_with('.'))
        }
    }
}

fn show(terminal: &Terminal, record: &Record) -> Result<(), Failure> {
    if terminal.json {
        let text = record.to_json();
        return terminal.line(text);
    }
    // Seconds are enough for people.
    let time = record.time.get(..19).unwrap_or(&record.time);
    let what = match &record.record {
        Body::Begin(begin) => match begin.broken.last() {
            None => "log begun".to_owned(),
            Some(broken) => format!(
                "log begun after a broken one, kept in {}: {}",
                broken.directory, broken.why
            ),
        },
        Body::Segment(segment) => format!("segment {}", segment.index),
        Body::Checkpoint(checkpoint) => format!("checkpoint, key {}", checkpoint.key),
        Body::Retired(old) => format!(
            "segment {} retired, records {} to {}",
            old.segment, old.first, old.last
        ),
        Body::Entry(entry) => sentence(entry),
    };
    let line = format!("{}  {time}Z  {what}", record.number);
    terminal.line(plain(&line))
}

/// An entry as one line.
fn sentence(entry: &Entry) -> String {
    let mut words = vec![
        format!("{:7}", entry.phase.name()),
        who(&entry.who),
        entry.act.clone(),
    ];
    let named = [
        ("", &entry.target),
        ("details=", &entry.details),
        ("reason=", &entry.why.reason),
        ("rule=", &entry.why.rule),
        ("correlation=", &entry.why.correlation),
        ("causation=", &entry.why.causation),
    ];
    for (name, value) in named {
        if !value.is_empty() {
            words.push(format!("{name}{value}"));
        }
    }
    words.extend(entry.attempt.map(|attempt| format!("of={attempt}")));
    match &entry.outcome {
        Some(Outcome::Ok) => words.push("ok".to_owned()),
        Some(Outcome::Error { code, reason }) => words.push(format!("{code}: {reason}")),
        None => {}
    }
    words.join(" ")
}

fn who(who: &Who) -> String {
    let mut text = match who.name.is_empty() {
        true => who.class.clone(),
        false => format!("{}:{}", who.class, who.name),
    };
    if text.is_empty() {
        text.push('-');
    }
    let numbers = [
        ("uid", who.uid.map(u64::from)),
        ("pid", who.pid.map(u64::from)),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            text.push_str(&format!(" {name}={number}"));
        }
    }
    text
}

/// `audit verify`.
pub fn verify(terminal: &Terminal, options: &AuditVerifyOptions) -> Result<(), Failure> {
    let public_key = options.public_key.as_deref().map(PublicKey::from_file);
    let wanted = VerifyOptions {
        public_key: public_key
            .transpose()
            .map_err(|error| Failure::Usage(error.to_string()))?,
        expect_head: options.expect_head,
        since: options.since,
    };
    let directory = directory(&options.place);
    let report = kairo_audit::verify(&directory, &wanted).map_err(not_done)?;
    if terminal.json {
        terminal.json_page(&as_json(&report))?;
    } else {
        say(terminal, &report)?;
    }
    if report.is_intact() {
        return Ok(());
    }
    Err(Failure::NotDone(format!(
        "the audit log in {} is not as it was written",
        directory.display()
    )))
}

fn as_json(report: &Report) -> Value {
    let findings = report.findings.iter().map(|finding| {
        json!({
            "finding": finding.kind, "place": finding.place, "text": finding.to_string(),
        })
    });
    let remarks = report
        .remarks
        .iter()
        .map(|remark| json!({"remark": remark, "text": remark.to_string()}));
    let anchor = report.last.map(|(number, hash)| format!("{number}:{hash}"));
    json!({
        "intact": report.is_intact(),
        "findings": findings.collect::<Vec<_>>(),
        "findings_left_out": report.findings_left_out,
        "remarks": remarks.collect::<Vec<_>>(),
        "key": report.key, "segments": report.segments, "records": report.records,
        "checkpoints": report.checkpoints, "first": report.first, "last": anchor,
    })
}

fn say(terminal: &Terminal, report: &Report) -> Result<(), Failure> {
    for finding in &report.findings {
        terminal.line(plain(&finding.to_string()))?;
    }
    for remark in &report.remarks {
        terminal.line(format!("(not damage) {}", plain(&remark.to_string())))?;
    }
    let count = report.findings.len() as u64 + report.findings_left_out;
    let verdict = match count {
        0 => terminal.paint(Tone::Good, "intact"),
        1 => format!("{}: 1 finding", terminal.paint(Tone::Bad, "DAMAGED")),
        _ => format!("{}: {count} findings", terminal.paint(Tone::Bad, "DAMAGED")),
    };
    terminal.line(format!(
        "{verdict}{} records {}, segments {}, key {}",
        if count == 0 { ":" } else { ";" },
        report.records,
        report.segments,
        report.key.as_deref().unwrap_or("unknown"),
    ))?;
    match report.last.filter(|_| report.is_intact()) {
        Some((number, hash)) => terminal.line(format!("ends at {number}:{hash}")),
        None => Ok(()),
    }
}

/// `audit checkpoint`.
pub fn checkpoint(terminal: &Terminal, place: &AuditPlace) -> Result<(), Failure> {
    let directory = directory(place);
    let found = kairo_audit::newest_checkpoint(&directory);
    let (head, key) = found.map_err(|error: HeadError| not_done(error))?;
    let anchor = head.anchor().to_string();
    if terminal.json {
        return terminal.json_page(&json!({
            "anchor": anchor, "number": head.number, "hash": head.hash, "time": head.time,
            "segment": head.segment, "closed": head.closed, "key": key.id(),
            "public_key": key.to_text().trim_end(),
        }));
    }
    terminal.line(anchor)
}
