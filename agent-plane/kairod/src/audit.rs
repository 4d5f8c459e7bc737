//! What is written into the audit log, and when.
//!
//! A row of the method table says how it is audited. *Before*: the attempt is on the disk before
//! anything happens, and where it cannot be, nothing happens. *After*: it happens, and the outcome
//! is written beside it; for what makes the robot safer or must not wait for a disk. Denials are
//! written too, as often as they make events. An entry that could not be written is counted and
//! told.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kairo_audit::{
    AppendError, Entry, Log, OpenReport, Options, Outcome, Phase, Position, Who, Why,
};
use kairo_wire::{ErrorInfo, Meta};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::connection::Connection;
use crate::permission::{Decision, Right};
use crate::reasons::Reason;

/// Name of the log's directory below the state directory.
const DIRECTORY: &str = "audit";

/// How a method is audited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Audited {
    /// Not at all: it changes nothing that outlives its connection.
    No,
    /// Its attempt first, or it does not happen; then its outcome.
    Before,
    /// Its outcome.
    After,
}

/// The audit log, if there is one.
#[derive(Debug)]
pub struct Audit {
    log: Option<Log>,
    directory: PathBuf,
    findings: Vec<String>,
    /// Entries that could not be written.
    lost: Arc<AtomicU64>,
}

/// What opening the log found that somebody should know.
#[derive(Debug, Default)]
pub struct Findings(pub Vec<String>);

impl Audit {
    /// Opens the log in `state_dir`. One that cannot be opened is none: what must be audited before
    /// it happens does not happen then.
    pub fn open(state_dir: Option<&Path>) -> (Self, Findings) {
        let directory = state_dir.map_or_else(PathBuf::new, |dir| dir.join(DIRECTORY));
        let lost = Arc::default();
        let opened = state_dir.map(|_| Log::open(&directory, Options::default()));
        let (log, findings) = match opened {
            None => (None, vec!["no state directory, so no audit log".into()]),
            Some(Err(error)) => (None, vec![error.to_string()]),
            Some(Ok((log, report))) => (Some(log), found(&report)),
        };
        let audit = Self {
            log,
            directory,
            findings: findings.clone(),
            lost,
        };
        (audit, Findings(findings))
    }

    /// Where it is; none without one.
    pub fn directory(&self) -> Option<&Path> {
        self.log.as_ref().map(|_| self.directory.as_path())
    }

    /// How it does; none without one.
    pub fn status(&self) -> Option<kairo_audit::Status> {
        self.log.as_ref().map(Log::status)
    }

    /// What opening it found that somebody should know.
    pub fn findings(&self) -> &[String] {
        &self.findings
    }

    /// Entries that could not be written since the start.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Writes that something is about to be done, and waits until that is on the disk.
    ///
    /// # Errors
    /// It is not on the disk, so it must not be done.
    pub async fn attempt(&self, entry: Entry) -> Result<u64, ErrorInfo> {
        let unavailable = |why: String| {
            let text = format!("this must be audited, and cannot be: {why}");
            Reason::NoAudit.error_retried(text, 1000)
        };
        let Some(log) = &self.log else {
            return Err(unavailable(
                "there is no audit log; see kairod's words".into(),
            ));
        };
        let (tell, told) = oneshot::channel();
        log.append(entry, move |written: Result<Position, AppendError>| {
            // Whoever asked may have gone.
            let _ = tell.send(written);
        });
        match told.await {
            Ok(Ok(position)) => Ok(position.number),
            Ok(Err(error)) => Err(unavailable(error.to_string())),
            Err(_) => Err(unavailable("the audit log's writer has ended".into())),
        }
    }

    /// Writes that something was done or refused; nobody waits for it.
    pub fn note(&self, entry: Entry) {
        let Some(log) = &self.log else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let lost = Arc::clone(&self.lost);
        log.append(entry, move |written| {
            if written.is_err() {
                lost.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
}

/// What opening found, in sentences.
fn found(report: &OpenReport) -> Vec<String> {
    let mut findings = report.mended.clone();
    if report.cut_bytes > 0 {
        let bytes = report.cut_bytes;
        findings.push(format!(
            "{bytes} bytes of unacknowledged entries were cut off"
        ));
    }
    if let Some(broken) = &report.quarantined {
        findings.push(format!(
            "the audit log was broken ({}) and is kept in {}; a new one begins",
            broken.why, broken.directory
        ));
    }
    findings
}

/// The entry of a method.
pub fn entry(connection: &Connection, act: &str, details: String, meta: &Meta) -> Entry {
    let peer = connection.identity.view(connection.number);
    Entry {
        who: Who {
            class: peer.class.name().into(),
            name: peer.name.unwrap_or_default(),
            uid: Some(peer.uid),
            gid: Some(peer.gid),
            pid: u32::try_from(peer.pid).ok(),
            process: peer.process.unwrap_or_default(),
            connection: Some(peer.connection),
        },
        act: act.into(),
        details,
        why: Why {
            correlation: meta.correlation_id.clone().unwrap_or_default(),
            causation: meta.causation_id.clone().unwrap_or_default(),
            ..Why::default()
        },
        ..Entry::default()
    }
}

/// The same entry, once it is known how it ended.
pub fn ended<T>(mut entry: Entry, attempt: Option<u64>, result: &Result<T, ErrorInfo>) -> Entry {
    entry.phase = Phase::Outcome;
    entry.attempt = attempt;
    entry.outcome = Some(match result {
        Ok(_) => Outcome::Ok,
        Err(error) => Outcome::Error {
            code: error.code.name().into(),
            reason: error.message.clone(),
        },
    });
    entry
}

/// The entry of a denial.
pub fn denied(connection: &Connection, right: Right, target: &str, decision: &Decision) -> Entry {
    let mut entry = entry(connection, right.name(), String::new(), &Meta::default());
    entry.phase = Phase::Denied;
    entry.target = target.into();
    entry.why.rule = decision.rule.to_string();
    entry
}
